//! Addresses as people write them: `:80`, `80` and `localhost:80` are several.
//!
//! Knows: what a host's name stands for here. Refuses to know: what listens there.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    path::Path,
};

use ringwire::Address;

/// All addresses that are meant by one text. A port alone is every address of the host, of both
/// families, and a name is whatever it stands for.
///
/// # Errors
///
/// Why it is no address, as the end of a sentence.
pub fn addresses(text: &str) -> Result<Vec<Address>, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port.parse::<u16>().ok();
    let is_address = text.starts_with("unix:") || text.parse::<IpAddr>().is_ok();
    let Some(port) = port.filter(|_| !is_address) else {
        return Ok(vec![as_it_is(text)?]);
    };
    match host {
        "" | "*" => {
            let v4 = Some(SocketAddr::from(([0, 0, 0, 0], port)));
            let v6 = has_ipv6().then(|| SocketAddr::from(([0; 16], port)));
            Ok(v4.into_iter().chain(v6).map(Address::Inet).collect())
        }
        _ if host.starts_with('[') || host.parse::<IpAddr>().is_ok() => Ok(vec![as_it_is(text)?]),
        _ => {
            let found = (host, port).to_socket_addrs();
            let found = found.map_err(|error| format!("nothing is known of '{host}': {error}"))?;
            let found: BTreeSet<SocketAddr> = found.collect();
            if found.is_empty() {
                return Err(format!("'{host}' has no address"));
            }
            Ok(found.into_iter().map(Address::Inet).collect())
        }
    }
}

fn as_it_is(text: &str) -> Result<Address, String> {
    text.parse::<Address>().map_err(|error| {
        format!("{error}; :PORT stands for all addresses of this host, NAME:PORT for a name's")
    })
}

/// Whether the kernel has IPv6 (`proc_net(5)`): where it has not, nothing can listen there.
fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Vec<String>, String> {
        let found = addresses(text)?;
        Ok(found.iter().map(Address::to_string).collect())
    }

    #[test]
    fn a_port_alone_is_every_address_of_both_families() {
        let mut expected = vec!["0.0.0.0:80"];
        if has_ipv6() {
            expected.push("[::]:80");
        }
        for text in [":80", "80", "*:80"] {
            assert_eq!(said(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_name_is_what_it_stands_for_and_an_address_itself() {
        let local = said("localhost:80").unwrap();
        assert!(local.contains(&"127.0.0.1:80".to_owned()), "{local:?}");
        for text in ["127.0.0.1:80", "[::1]:80", "unix:/run/it.sock"] {
            assert_eq!(said(text).unwrap(), [text]);
        }
    }

    #[test]
    fn what_is_no_address_is_told_what_one_is() {
        for text in [
            "localhost",
            "::1",
            "127.0.0.1",
            "1.2.3.4:x",
            "unix:",
            "[::1",
        ] {
            let why = said(text).unwrap_err();
            assert!(why.contains("is not an address"), "{text}: {why}");
        }
        let why = said("no-such-name.invalid:80").unwrap_err();
        assert!(
            why.contains("nothing is known of 'no-such-name.invalid'"),
            "{why}"
        );
    }
}
