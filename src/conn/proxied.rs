//! What proxies say of whom they speak for: before a connection's first byte, by the PROXY
//! protocol, or in a header of each request.
//!
//! Knows: whose word is taken, a PROXY header of version 1 or 2 that comes whole or in pieces, and
//! the two headers of requests. Refuses to know: what is made of the address.
//!
//! The invariant: nobody but a trusted proxy can say where a connection is from. Of what stands in
//! a request only that counts which the proxy itself has added, in the one header that it writes.
//!
//! Source: the PROXY protocol, versions 1 and 2, of HAProxy (2020/03/05).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use proxy_header::{Error, ParseConfig, ProxyHeader};

use crate::{proto::handshake::Request, ring::PeerAddress};

/// A header may be so long: what version 2 adds to two addresses is certificates and names.
const HEADER_BYTES_MAX: usize = 4096;

/// Proxies that say whom they speak for: with the PROXY protocol, or in requests.
///
/// ```
/// use ringwire::Proxies;
///
/// # fn main() -> Result<(), ringwire::ProxyError> {
/// let proxies = Proxies::default().trust("10.0.0.0/8")?.trust("::1")?.trust("unix")?;
/// # let _ = proxies;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Those whose connections begin with a header.
    with_header: Trusted,
    /// Those who say in requests whom they are for.
    in_requests: Trusted,
    /// They say so in `Forwarded`.
    write_forwarded: bool,
}

/// Whose word is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Trusted {
    networks: Vec<IpNet>,
    has_unix: bool,
}

impl Trusted {
    fn add(&mut self, text: &str) -> Result<(), ProxyError> {
        if text == "unix" {
            self.has_unix = true;
            return Ok(());
        }
        let network = text.parse::<IpNet>().ok();
        let network = network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let text = text.to_owned();
        self.networks.push(network.ok_or(ProxyError { text })?);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.has_unix
    }

    fn has_ip(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }

    fn has(&self, peer: PeerAddress) -> bool {
        match peer.ip() {
            Some(ip) => self.has_ip(ip),
            None => self.has_unix && peer == PeerAddress::Unix,
        }
    }
}

/// Neither a network nor an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyError {
    text: String,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is no network of proxies; write an address (192.0.2.1, ::1), a network \
             (10.0.0.0/8, fd00::/8), or unix for Unix sockets",
            self.text
        )
    }
}

impl std::error::Error for ProxyError {}

impl Proxies {
    /// Trusts those of this network or address as well, or those at Unix sockets: `unix`. Each of
    /// their connections has to begin with a header.
    ///
    /// # Errors
    ///
    /// When the text is none of them.
    pub fn trust(mut self, text: &str) -> Result<Self, ProxyError> {
        self.with_header.add(text)?;
        Ok(self)
    }

    /// Trusts what those of this network say in requests: [`client`](Self::client). Their
    /// connections are not counted for their own address. They write `X-Forwarded-For`, unless
    /// [`write_forwarded`](Self::write_forwarded) says otherwise.
    ///
    /// # Errors
    ///
    /// As [`trust`](Self::trust).
    pub fn trust_requests(mut self, text: &str) -> Result<Self, ProxyError> {
        self.in_requests.add(text)?;
        Ok(self)
    }

    /// Says that they write `Forwarded` (RFC 7239) and not `X-Forwarded-For`. Only one of the two
    /// is read: a proxy passes the other one on as a client has written it.
    #[must_use]
    pub fn write_forwarded(mut self) -> Self {
        self.write_forwarded = true;
        self
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.with_header.is_empty() && self.in_requests.is_empty()
    }

    /// Whether connections from there begin with a header.
    pub fn has(&self, peer: PeerAddress) -> bool {
        self.with_header.has(peer)
    }

    /// Whether who is there says in requests whom they are for.
    pub fn forwards(&self, peer: PeerAddress) -> bool {
        self.in_requests.has(peer)
    }

    /// The client that a request is for, if `peer` may say so: the last address of the header that
    /// is not a trusted proxy's. What stands before that may have been written by anybody. `None`:
    /// nobody is named, or by something that is no address.
    pub fn client(&self, request: &Request<'_>, peer: PeerAddress) -> Option<IpAddr> {
        if !self.forwards(peer) {
            return None;
        }
        let (name, address): (_, fn(&str) -> Option<IpAddr>) = match self.write_forwarded {
            true => ("forwarded", forwarded_for),
            false => ("x-forwarded-for", address_of),
        };
        let values = request.header_values(name);
        // No address has a comma, in quotes or not.
        let elements = values.flat_map(|value| value.split(|&byte| byte == b','));
        let elements = elements.map(|element| element.trim_ascii());
        let hops = elements.filter(|element| !element.is_empty());
        // What is no text is no address.
        let hops = hops.map(|hop| address(std::str::from_utf8(hop).ok()?));
        let hops: Vec<_> = hops.collect();
        let mut hops = hops.into_iter().rev();
        let client = hops.find(|hop| !hop.is_some_and(|ip| self.in_requests.has_ip(ip)));
        client.flatten()
    }
}

/// Whom an element of `Forwarded` is for (RFC 7239 section 4).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address_of(node)
}

/// The address of a node (RFC 7239 section 6), with or without a port.
fn address_of(node: &str) -> Option<IpAddr> {
    let node = node.trim().trim_matches('"');
    let ip = node.parse::<IpAddr>().ok();
    let ip = ip.or_else(|| Some(node.parse::<SocketAddr>().ok()?.ip()));
    let in_brackets = || node.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    ip.or_else(in_brackets).map(|ip| ip.to_canonical())
}

/// What there is of a header.
#[derive(Debug, Default)]
pub struct Header(Vec<u8>);

/// What a header has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whom the proxy speaks for; `None`: for itself, to see whether we are there.
    pub source: Option<SocketAddr>,
    /// How many of the bytes that came last belong to the header.
    pub used: usize,
}

/// A header that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHeader;

impl fmt::Display for NoHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a trusted proxy did not begin with a PROXY header; have it send one (HAProxy: \
             send-proxy-v2, nginx: proxy_protocol on), or do not name it among those that do",
        )
    }
}

impl Header {
    /// Takes bytes. Returns what the header says once it is whole.
    ///
    /// # Errors
    ///
    /// When it cannot become one.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Said>, NoHeader> {
        let before = self.0.len();
        // A header is short, and often comes with what is behind it.
        let room = HEADER_BYTES_MAX - before;
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        match ProxyHeader::parse(&self.0, ParseConfig::default()) {
            Ok((header, len)) if len >= before => Ok(Some(Said {
                source: header.proxied_address().map(|proxied| proxied.source),
                used: len - before,
            })),
            Err(Error::BufferTooShort) if self.0.len() < HEADER_BYTES_MAX => Ok(None),
            _ => Err(NoHeader),
        }
    }

    /// Bytes of memory that it takes.
    pub fn held_bytes(&self) -> usize {
        self.0.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n";
    /// The signature, PROXY and TCP over IPv6, 36 bytes of addresses and 5 of something else.
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x29\
        \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\
        \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x13\x88\x01\xbb\x04\0\x02xy";

    fn said(header: &[u8], pieces: usize) -> Result<Option<Said>, NoHeader> {
        let mut gathered = Header::default();
        let mut all = header.to_vec();
        all.extend_from_slice(b"GET /");
        let mut last = Ok(None);
        for piece in all.chunks(all.len().div_ceil(pieces)) {
            last = gathered.push(piece);
            if last != Ok(None) {
                break;
            }
        }
        last
    }

    #[test]
    fn a_header_is_read_whole_or_in_pieces() {
        for (header, source) in [(V1, "192.0.2.7:5000"), (V2, "[2001:db8::7]:5000")] {
            let source = Some(source.parse().unwrap());
            for pieces in [1, 2, 3, 10, header.len() + 5] {
                let said = said(header, pieces).unwrap().unwrap();
                assert_eq!(said.source, source, "{pieces}");
                if pieces == 1 {
                    assert_eq!(said.used, header.len());
                }
            }
        }
        // The checks of HAProxy and of those who have no address.
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        for header in [&local[..], b"PROXY UNKNOWN\r\n"] {
            let said = said(header, 1).unwrap().unwrap();
            assert_eq!((said.source, said.used), (None, header.len()));
        }
    }

    #[test]
    fn what_is_no_header_is_told_from_one_that_is_not_whole() {
        assert_eq!(said(b"GET / HTTP/1.1\r\nHost: a\r\n", 1), Err(NoHeader));
        assert_eq!(said(b"\x16\x03\x01\x02\0\x01\0\x01\xfc", 1), Err(NoHeader));
        let mut gathered = Header::default();
        assert_eq!(gathered.push(&V1[..20]), Ok(None));
        // Nobody gathers what has no end.
        let mut gathered = Header::default();
        let long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff";
        assert_eq!(gathered.push(long), Ok(None));
        let mut pushes = 0;
        while gathered.push(&[0; 500]) == Ok(None) {
            pushes += 1;
        }
        assert!(pushes < 10 && gathered.held_bytes() <= 2 * HEADER_BYTES_MAX);
        let mut gathered = Header::default();
        let line = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        assert_eq!(gathered.push(&line), Err(NoHeader));
    }

    #[test]
    fn whatever_comes_is_judged_alike_whole_and_in_pieces() {
        let mut random = 1_u64;
        let mut below = |bound: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % bound
        };
        let mut seen = [0; 3];
        for round in 0..20_000 {
            let mut bytes = [V1, V2][round % 2].to_vec();
            for _ in 0..below(4) {
                let at = below(bytes.len());
                bytes[at] = below(256) as u8;
            }
            bytes.truncate(1 + below(bytes.len() + 20));
            let whole = Header::default().push(&bytes);
            let (mut header, mut at, mut last) = (Header::default(), 0, Ok(None));
            while at < bytes.len() && last == Ok(None) {
                let piece = &bytes[at..bytes.len().min(at + 1 + below(20))];
                last = header.push(piece);
                at += match last {
                    Ok(Some(said)) => said.used,
                    _ => piece.len(),
                };
            }
            match whole {
                Ok(None) => assert_eq!(last, Ok(None)),
                Ok(Some(said)) => {
                    assert_eq!(last.unwrap().unwrap().source, said.source);
                    assert_eq!(at, said.used);
                }
                Err(NoHeader) => assert_eq!(last, Err(NoHeader)),
            }
            seen[match whole {
                Ok(None) => 0,
                Ok(Some(_)) => 1,
                Err(NoHeader) => 2,
            }] += 1;
        }
        assert!(seen.iter().all(|&times| times > 100), "{seen:?}");
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_ours() {
        let proxies = ["10.0.0.0/8", "fd00::/8", "unix"].iter();
        let proxies = proxies.fold(Proxies::default(), |all, text| {
            all.trust_requests(text).unwrap()
        });
        let by_forwarded = proxies.clone().write_forwarded();
        let ours = PeerAddress::Inet("10.0.0.1:9".parse().unwrap());
        let client_by = |proxies: &Proxies, peer: PeerAddress, lines: &[&str]| {
            let head = format!(
                "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n",
                lines.join("\r\n")
            );
            // One byte for each character, of which some are no UTF-8.
            let head: Vec<u8> = head.chars().map(|it| it as u8).collect();
            let request = Request::parse(&head).unwrap();
            proxies.client(&request, peer).map(|ip| ip.to_string())
        };
        let client = |peer: PeerAddress, lines: &[&str]| client_by(&proxies, peer, lines);
        for (lines, expected) in [
            (&["X-Forwarded-For: 192.0.2.7"][..], Some("192.0.2.7")),
            // What a client has written itself stands before what our proxy adds.
            (
                &["X-Forwarded-For: 203.0.113.1, 192.0.2.7"],
                Some("192.0.2.7"),
            ),
            (&["X-Forwarded-For: \u{e9}, 192.0.2.7"], Some("192.0.2.7")),
            (
                &["X-Forwarded-For: 192.0.2.7, 10.0.0.3,10.0.0.2"],
                Some("192.0.2.7"),
            ),
            (
                &["X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 192.0.2.7"],
                Some("192.0.2.7"),
            ),
            (&["X-Forwarded-For: 192.0.2.7:4711"], Some("192.0.2.7")),
            (&["X-Forwarded-For: 2001:db8::7"], Some("2001:db8::7")),
            (&["X-Forwarded-For: 203.0.113.1, unknown"], None),
            (&["X-Forwarded-For: 10.0.0.3"], None),
            (&["X-Forwarded-For: "], None),
            (&["X: y"], None),
            // Our proxy does not write it, so that the client has.
            (&["Forwarded: for=203.0.113.1"], None),
            (
                &["Forwarded: for=203.0.113.1", "X-Forwarded-For: 192.0.2.7"],
                Some("192.0.2.7"),
            ),
        ] {
            assert_eq!(client(ours, lines).as_deref(), expected, "{lines:?}");
        }
        for (lines, expected) in [
            (
                &["Forwarded: for=192.0.2.7;proto=https;by=10.0.0.1"][..],
                Some("192.0.2.7"),
            ),
            (
                &["Forwarded: For=\"[2001:db8::7]:4711\""],
                Some("2001:db8::7"),
            ),
            (
                &["Forwarded: for=\"[2001:db8::7]\", for=10.1.1.1"],
                Some("2001:db8::7"),
            ),
            (&["Forwarded: proto=https"], None),
            (&["Forwarded: for=_hidden"], None),
            (&["X-Forwarded-For: 203.0.113.1"], None),
        ] {
            let client = client_by(&by_forwarded, ours, lines);
            assert_eq!(client.as_deref(), expected, "{lines:?}");
        }
        let line = &["X-Forwarded-For: 192.0.2.7"];
        let stranger = PeerAddress::Inet("192.0.2.9:9".parse().unwrap());
        assert_eq!(client(stranger, line), None, "anybody can say so");
        assert_eq!(
            client(PeerAddress::Unix, line).as_deref(),
            Some("192.0.2.7")
        );
    }

    #[test]
    fn networks_and_addresses_and_unix_sockets_are_trusted() {
        let all = ["10.0.0.0/8", "192.0.2.1", "fd00::/8", "unix"];
        let proxies = all
            .iter()
            .try_fold(Proxies::default(), |all, text| all.trust(text));
        let proxies = proxies.unwrap();
        let has = |text: &str| {
            let address = SocketAddr::new(text.parse().unwrap(), 80);
            proxies.has(PeerAddress::Inet(address))
        };
        assert!(has("10.1.2.3") && has("192.0.2.1") && has("fd01::1") && has("::ffff:10.0.0.1"));
        assert!(!has("11.0.0.1") && !has("192.0.2.2") && !has("::1"));
        assert!(proxies.has(PeerAddress::Unix) && !proxies.has(PeerAddress::Unknown));
        assert!(!Proxies::default().has(PeerAddress::Unix));
        for wrong in ["", "10.0.0.0/33", "localhost", "10.0.0.0/8,::1"] {
            let error = Proxies::default().trust(wrong).unwrap_err();
            assert!(error.to_string().contains("is no network of proxies"));
        }
    }
}
