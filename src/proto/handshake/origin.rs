//! Origins (RFC 6454): the site that the page behind a request came from.
//!
//! Knows their syntax, and when one is the site that a `Host` names. Refuses to know which are
//! welcome.
//!
//! ```text
//!  https://chat.example.com:8443
//!  scheme  '---- host ----' port
//! ```

use super::request::Authority;

/// An origin that is a scheme, a host and a port (RFC 6454 section 6.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Origin<'a> {
    scheme: &'a str,
    authority: Authority<'a>,
}

impl<'a> Origin<'a> {
    /// Reads an `Origin` header. `None` for what is no such triple: `null`, `file://`, and anything
    /// with a path.
    pub fn parse(text: &'a str) -> Option<Origin<'a>> {
        let (scheme, rest) = text.split_once("://")?;
        let authority = Authority::parse(rest)?;
        is_scheme(scheme).then_some(Origin { scheme, authority })
    }

    /// The scheme, as sent.
    pub const fn scheme(&self) -> &'a str {
        self.scheme
    }

    /// The host, as sent; an IPv6 address in its brackets.
    pub const fn host(&self) -> &'a str {
        self.authority.host
    }

    /// The port, or the scheme's own one. `None` when neither is known.
    pub fn port(&self) -> Option<u16> {
        self.authority.port.or_else(|| default_port(self.scheme))
    }

    /// Whether this is the site that a request with this `Host` goes to. The scheme is that of the
    /// origin: a proxy may have taken TLS off, so that a server does not know its own. A `Host`
    /// without a port is that of every port: a proxy may have left it out (nginx' `$host`), and
    /// what a browser sends along does not tell ports apart (RFC 6265 section 8.5).
    pub fn is_of_host(&self, host: &str) -> bool {
        let port_of =
            |authority: Authority<'_>| authority.port.or_else(|| default_port(self.scheme));
        Authority::parse(host).is_some_and(|host| {
            let is_of_port = host.port.is_none() || port_of(host) == port_of(self.authority);
            is_of_port && host.host.eq_ignore_ascii_case(self.authority.host)
        })
    }
}

/// RFC 3986 section 3.1.
fn is_scheme(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(inside)
}

fn default_port(scheme: &str) -> Option<u16> {
    let ports = [("http", 80), ("https", 443), ("ws", 80), ("wss", 443)];
    ports
        .iter()
        .find_map(|(name, port)| scheme.eq_ignore_ascii_case(name).then_some(*port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6454_section_6_2_serialisations() {
        let cases = [
            ("http://example.com", "http", "example.com", Some(80)),
            ("https://Example.com", "https", "Example.com", Some(443)),
            (
                "https://example.com:8443",
                "https",
                "example.com",
                Some(8443),
            ),
            ("http://[::1]:9001", "http", "[::1]", Some(9001)),
            (
                "chrome-extension://abcdef",
                "chrome-extension",
                "abcdef",
                None,
            ),
        ];
        for (text, scheme, host, port) in cases {
            let origin = Origin::parse(text).expect(text);
            assert_eq!((origin.scheme(), origin.host()), (scheme, host));
            assert_eq!(origin.port(), port, "{text}");
        }
        for text in [
            "",
            "null",
            "*",
            "example.com",
            "://example.com",
            "1http://example.com",
            "ht tp://example.com",
            "http*://example.com",
            "file://",
            "http://",
            "http://:80",
            "http://example.com/",
            "http://example.com?",
            "http://user@example.com",
            "http://example.com:99999",
            "http://[::1",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_host_of_a_request() {
        let cases = [
            ("http://example.com", "example.com", true),
            ("http://example.com", "EXAMPLE.com:80", true),
            ("https://example.com", "example.com", true),
            ("https://example.com:443", "example.com", true),
            ("https://example.com", "example.com:443", true),
            ("http://example.com:8080", "example.com:8080", true),
            ("http://[::1]:9001", "[::1]:9001", true),
            ("http://example.com", "example.com:443", false),
            ("https://example.com", "example.com:80", false),
            ("http://example.com:8080", "example.com", true),
            ("http://example.com:8080", "example.com:80", false),
            ("http://example.com:8080", "www.example.com", false),
            ("http://www.example.com", "example.com", false),
            ("http://example.com", "", false),
            ("app://example.com", "example.com", true),
        ];
        for (origin, host, same) in cases {
            let origin = Origin::parse(origin).expect(origin);
            assert_eq!(origin.is_of_host(host), same, "{origin:?} {host}");
        }
    }
}
