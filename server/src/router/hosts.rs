//! Which host a route is for.
//!
//! Knows: names, and names below others. Refuses to know: what is served there.

use std::{collections::BTreeMap, net::Ipv6Addr};

/// A host that routes are for, as it is compared: small letters, no port, no dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// `example.com`.
    Named(String),
    /// `*.example.com`: what ends with `.example.com`.
    Below(String),
    /// Every host.
    Any,
}

impl Host {
    /// Reads what a person writes for a host.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        if text.contains("://") || text.contains('/') {
            return Err("has to be a host alone, without a scheme and a path".to_owned());
        }
        if name.starts_with('[') || name.parse::<Ipv6Addr>().is_ok() {
            let inner = name.trim_start_matches('[').trim_end_matches(']');
            return match inner.parse::<Ipv6Addr>() {
                Ok(address) if name == text => Ok(Self::Named(format!("[{address}]"))),
                _ => Err("has to be an address without a port, such as [::1]".to_owned()),
            };
        }
        if name.contains(':') {
            return Err("has to be a host without its port".to_owned());
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(is_name) || name.starts_with('.') {
            return Err(
                "has to be a host's name, *. and a name for all below it, or left out for \
                        every host"
                    .to_owned(),
            );
        }
        let name = canonical(name);
        Ok(match name.len() < text.trim_end_matches('.').len() {
            true => Self::Below(format!(".{name}")),
            false => Self::Named(name),
        })
    }
}

/// A name as it is compared.
fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Something for each host, found by the `Host` of a request.
#[derive(Debug)]
pub struct Hosts<T> {
    named: BTreeMap<String, T>,
    /// The longest first.
    below: Vec<(String, T)>,
    any: T,
}

impl<T: Default> Default for Hosts<T> {
    fn default() -> Self {
        Self {
            named: BTreeMap::new(),
            below: Vec::new(),
            any: T::default(),
        }
    }
}

impl<T: Default> Hosts<T> {
    /// What there is for this host, with a place for it.
    pub fn entry(&mut self, host: Host) -> &mut T {
        match host {
            Host::Any => &mut self.any,
            Host::Named(name) => self.named.entry(name).or_default(),
            Host::Below(end) => {
                let found = self.below.iter().position(|(other, _)| *other == end);
                let at = found.unwrap_or_else(|| {
                    let longer = |(other, _): &(String, T)| other.len() >= end.len();
                    let at = self.below.partition_point(longer);
                    self.below.insert(at, (end, T::default()));
                    at
                });
                &mut self.below[at].1
            }
        }
    }

    /// What there is for the host of a request, the most particular first.
    pub fn find<'h>(&'h self, host: Option<&str>) -> impl Iterator<Item = &'h T> {
        let name = host.map_or_else(String::new, |host| canonical(without_port(host)));
        let named = self.named.get(&name);
        let below = self.below.iter().filter(move |(end, _)| {
            // Below it, and not itself.
            name.len() > end.len() && name.ends_with(end.as_str())
        });
        let below = below.map(|(_, it)| it);
        named.into_iter().chain(below).chain([&self.any])
    }
}

fn without_port(host: &str) -> &str {
    match host.rfind(']') {
        Some(end) => &host[..=end],
        None => host.split(':').next().unwrap_or(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_what_is_below_names() {
        let named = |name: &str| Ok(Host::Named(name.to_owned()));
        assert_eq!(Host::parse("Example.COM."), named("example.com"));
        assert_eq!(Host::parse("localhost"), named("localhost"));
        assert_eq!(Host::parse("::1"), named("[::1]"));
        assert_eq!(Host::parse("[0::1]"), named("[::1]"));
        let below = Host::Below(".example.com".to_owned());
        assert_eq!(Host::parse("*.example.com"), Ok(below));
        for wrong in [
            "", "*", "*.", "a:80", "http://a", "a/b", "[::1]:80", "a*b", ".a",
        ] {
            assert!(Host::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_most_particular_host_is_asked_first() {
        let mut hosts = Hosts::<&str>::default();
        for (host, what) in [
            ("*.example.com", "below"),
            ("*.eu.example.com", "further below"),
            ("a.eu.example.com", "named"),
            ("[::1]", "address"),
        ] {
            *hosts.entry(Host::parse(host).unwrap()) = what;
        }
        *hosts.entry(Host::Any) = "any";
        let found = |host| hosts.find(Some(host)).copied().collect::<Vec<_>>();
        assert_eq!(
            found("A.eu.example.com:8080"),
            ["named", "further below", "below", "any"]
        );
        assert_eq!(found("b.example.com."), ["below", "any"]);
        assert_eq!(found("example.com"), ["any"]);
        assert_eq!(found("notexample.com"), ["any"]);
        assert_eq!(found("[::1]:80"), ["address", "any"]);
        assert_eq!(hosts.find(None).count(), 1);
    }
}
