//! Limits by address and over all shards: who is turned away, and that others are not.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};

use ringwire::Address;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::{
    common::{PATIENCE, Peer, request},
    guard::in_a_folder,
    peer::until,
    routes::Served,
    serve::ENGINES,
};

/// Connects from an address of this host: all of 127.0.0.0/8 are.
fn connect_from(last: u8, address: &Address) -> Peer {
    let Address::Inet(SocketAddr::V4(address)) = address else {
        panic!("{address} is not of IPv4");
    };
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(
        &socket,
        &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0),
    )
    .unwrap();
    connect(&socket, address).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    Peer {
        stream,
        pending: Vec::new(),
        start: 0,
    }
}

/// The status of the answer to an opening handshake from there, and who got it.
fn asked_from(last: u8, address: &Address) -> (u16, Peer) {
    let mut peer = connect_from(last, address);
    peer.write(request("/").as_bytes());
    let head = peer.read_head();
    (head[9..12].parse().unwrap(), peer)
}

#[test]
fn an_address_has_so_many_connections_over_all_shards() {
    for engine in ENGINES {
        in_a_folder(|folder| {
            let served = Served::start(folder, engine, "address_connections_max = 3\n");
            let address = served.address();
            let mut open: Vec<_> = (0..3).map(|_| asked_from(5, address)).collect();
            assert!(open.iter().all(|(status, _)| *status == 101));
            // Whoever says nothing counts as well, and who is turned away does not.
            for _ in 0..5 {
                assert_eq!(asked_from(5, address).0, 429);
            }
            let mut neighbours: Vec<_> = (0..3).map(|_| asked_from(6, address)).collect();
            for (status, peer) in &mut neighbours {
                assert_eq!(*status, 101);
                peer.echo("another address");
            }
            let (_, leaves) = open.pop().unwrap();
            leaves.close();
            let mut last = None;
            until("there is room for another one", || {
                let (status, peer) = asked_from(5, address);
                last = Some(peer);
                status == 101
            });
            last.unwrap().echo("in its place");
            for (_, peer) in &mut open {
                peer.echo("nobody was disturbed");
            }
            // It changes while the server runs, for those who are there too.
            served.reload(
                "address_connections_max = 5\n",
                "address_connections_max is 5 now",
            );
            drop(open.pop());
            until("there is room for more", || {
                let (status, peer) = asked_from(5, address);
                open.push((status, peer));
                open.iter().filter(|(status, _)| *status == 101).count() == 4
            });
            served.stop();
        });
    }
}

#[test]
fn an_address_opens_so_many_connections_in_a_second() {
    for engine in ENGINES {
        in_a_folder(|folder| {
            let served = Served::start(folder, engine, "address_accepts_max = 5\n");
            let address = served.address();
            let (mut let_in, mut turned_away) = (0, 0);
            for _ in 0..40 {
                match asked_from(7, address).0 {
                    101 => let_in += 1,
                    429 => turned_away += 1,
                    other => panic!("{other}"),
                }
            }
            // Five at once, and some more in the time that the others took.
            assert!(let_in >= 5 && turned_away >= 10, "{let_in} {turned_away}");
            let (status, mut neighbour) = asked_from(8, address);
            assert_eq!(status, 101);
            neighbour.echo("not held against others");
            until("it may open one again", || asked_from(7, address).0 == 101);
            served.stop();
        });
    }
}

#[test]
fn all_shards_have_so_many_connections_together() {
    for engine in ENGINES {
        in_a_folder(|folder| {
            let served = Served::start(folder, engine, "connections_max = 4\n");
            let address = served.address();
            let mut open: Vec<_> = (0..4).map(|last| asked_from(10 + last, address)).collect();
            for (status, peer) in &mut open {
                assert_eq!(*status, 101);
                peer.echo("one of four");
            }
            assert_eq!(asked_from(20, address).0, 503);
            drop(open.pop());
            until("there is room for another one", || {
                asked_from(20, address).0 == 101
            });
            served.stop();
        });
    }
}
