//! The PROXY protocol: whose word is taken, and who is told from whom by it.

use std::io::Write as _;

use ringwire::Address;

use crate::{
    common::{Peer, request},
    guard::in_a_folder,
    peer::until,
    routes::{self, Served},
    serve::ENGINES,
};

const SETTINGS: &str = "proxy_protocol_from = ['127.0.0.1', 'unix']\n\
                      address_connections_max = 2\nhandshake_timeout_ms = 2000\n";

fn v1(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 192.0.2.1 5000 80\r\n").into_bytes()
}

/// Version 2, PROXY and TCP over IPv6, from 2001:db8::7.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x13\x88\x01\xbb";

/// Version 2, LOCAL: HAProxy looks whether we are there.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn asked(address: &Address, header: &[u8]) -> (u16, Peer) {
    let mut peer = Peer::connect(address);
    peer.write(&[header, request("/").as_bytes()].concat());
    let head = peer.read_head();
    (head[9..12].parse().unwrap(), peer)
}

#[test]
fn clients_behind_a_proxy_are_told_apart() {
    for engine in ENGINES {
        in_a_folder(|folder| {
            let unix = folder.join(format!("{engine}.sock"));
            let unix = format!("unix:{}", unix.display());
            let served = Served::start_at(folder, engine, &["127.0.0.1:0", &unix], SETTINGS);
            let address = served.address();
            let first = v1("192.0.2.7");
            let mut open: Vec<_> = (0..2).map(|_| asked(address, &first)).collect();
            for (status, peer) in &mut open {
                assert_eq!(*status, 101);
                peer.echo("one of two");
            }
            assert_eq!(asked(address, &first).0, 429);
            let at_unix = &served.ringwire.addresses[1];
            assert_eq!(
                asked(at_unix, &first).0,
                429,
                "the same client by another way"
            );
            assert_eq!(asked(at_unix, &v1("192.0.2.8")).0, 101);
            assert_eq!(asked(address, V2).0, 101);
            // Its own looks are nobody's.
            for _ in 0..5 {
                assert_eq!(asked(address, LOCAL).0, 101);
                assert_eq!(asked(address, b"PROXY UNKNOWN\r\n").0, 101);
            }
            drop(open.pop());
            until("there is room for another one", || {
                asked(address, &first).0 == 101
            });
            served.stop();
        });
    }
}

#[test]
fn clients_that_a_proxy_names_in_requests_are_told_apart() {
    let settings = "forwarded_from = '127.0.0.1'\naddress_connections_max = 2\n";
    for engine in ENGINES {
        in_a_folder(|folder| {
            let served = Served::start(folder, engine, settings);
            let address = served.address();
            let asked = |lines: &[&str]| routes::asked(address, "/", lines);
            let status = |lines: &[&str]| asked(lines).0[9..12].to_owned();
            let first = "X-Forwarded-For: 203.0.113.1, 192.0.2.7";
            let mut open: Vec<_> = (0..2).map(|_| asked(&[first])).collect();
            for (head, peer) in &mut open {
                assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
                peer.echo("one of two");
            }
            // What the proxy does not write is the client's word.
            assert_eq!(status(&["Forwarded: for=192.0.2.9", first]), "429");
            assert_eq!(status(&["X-Forwarded-For: 192.0.2.8"]), "101");
            // The proxy itself is nobody's client.
            let own: Vec<_> = (0..5).map(|_| asked(&[])).collect();
            assert!(
                own.iter()
                    .all(|(head, _)| head.starts_with("HTTP/1.1 101 "))
            );
            drop(open.pop());
            until("there is room for another one", || {
                status(&[first]) == "101"
            });
            // A request that is refused for another reason takes no place.
            drop(open);
            for _ in 0..5 {
                // The server may not know yet who has gone.
                until("its path is looked at", || {
                    let (head, _) = routes::asked(address, "/nowhere", &[first]);
                    head.starts_with("HTTP/1.1 404 ")
                });
            }
            until("it has all of its places", || status(&[first]) == "101");
            served.stop();
        });
    }
}

#[test]
fn a_header_may_come_in_pieces_and_has_to_come() {
    for engine in ENGINES {
        in_a_folder(|folder| {
            let served = Served::start(folder, engine, SETTINGS);
            let address = served.address();
            let mut slow = Peer::connect(address);
            slow.drip(&[&v1("192.0.2.7"), request("/").as_bytes()].concat());
            assert!(slow.read_head().starts_with("HTTP/1.1 101 "));
            slow.echo("in pieces");
            // What is no header is told so.
            let (status, _) = asked(address, b"");
            assert_eq!(status, 400);
            let mut silent = Peer::connect(address);
            silent.stream.write_all(b"PROXY TCP4 ").unwrap();
            until("its time is over", || {
                matches!(silent.fill(), Ok(false) | Err(_))
            });
            let log = served.stop();
            assert!(log.contains("did not begin with a PROXY header"), "{log}");
        });
    }
}

#[cfg(feature = "tls")]
#[test]
fn tls_begins_behind_the_header() {
    use std::io::Read as _;

    use ringwire::tls::ClientTls;

    use crate::{authority::Authority, tls_peer::TlsPeer};

    for engine in ENGINES {
        in_a_folder(|folder| {
            let authority = Authority::new();
            let pair = authority.issue(&["localhost"]);
            let client = ClientTls::builder().authorities(&authority.file);
            let client = client.load().unwrap();
            let settings = format!(
                "{SETTINGS}tls_listen = '127.0.0.1:0'\ntls_cert = '{}'\ntls_key = '{}'\n",
                pair.certificate.display(),
                pair.key.display()
            );
            let served = Served::start(folder, engine, &settings);
            let address = &served.ringwire.tls_addresses[0];
            let mut open = Vec::new();
            for pieces in [usize::MAX, 7] {
                let mut peer = TlsPeer::connect(address, &client);
                for piece in v1("192.0.2.7").chunks(pieces.min(40)) {
                    peer.stream.write_all(piece).unwrap();
                }
                peer.open(pieces);
                open.push(peer);
            }
            let mut third = TlsPeer::connect(address, &client);
            third.stream.write_all(&v1("192.0.2.7")).unwrap();
            third.handshake(usize::MAX);
            third.write(request("/").as_bytes());
            third.flush(usize::MAX);
            let head = String::from_utf8(third.read_until(b"later.\n")).unwrap();
            assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
            // TLS without a header is told so in plain words, as who looks for the mistake needs.
            let mut without = TlsPeer::connect(address, &client);
            without.flush(usize::MAX);
            let mut said = String::new();
            let _ = without.stream.read_to_string(&mut said);
            assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
            served.stop();
        });
    }
}
