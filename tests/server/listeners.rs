//! Where a server listens, how often, and when not.

use std::{
    fs,
    net::TcpListener,
    os::unix::net::{UnixListener, UnixStream},
    time::Duration,
};

use ringwire::{
    Address, Config, Server, StartError,
    conn::places::{BEYOND_MAX, WAITING_MAX},
    service::Echo,
};

use crate::{
    common::{PATIENCE, Peer, request},
    guard::{guarded, in_a_folder},
    host::{Engine, Host, Obedient, config, host, host_at, on_each_engine, on_each_plain_engine},
    peer::until,
    ports::{has_ipv6, reachable},
};

on_each_engine! {
    a_shard_with_all_its_connections_lets_others_wait
    newcomers_are_told_when_no_place_gets_free
}

on_each_plain_engine! {
    many_addresses_are_served_at_once
    newcomers_that_say_nothing_keep_nobody_from_being_told
}

fn many_addresses_are_served_at_once(engine: Engine) {
    in_a_folder(|folder| {
        let paths = [folder.join("one"), folder.join("two")];
        let unix = paths
            .each_ref()
            .map(|path| format!("unix:{}", path.display()));
        let mut listen = vec!["127.0.0.1:0", &unix[0], "127.0.0.1:0", &unix[1]];
        if has_ipv6() {
            listen.extend(["[::1]:0", "[::]:0", "0.0.0.0:0"]);
        }
        // A server that was killed leaves its path behind.
        drop(UnixListener::bind(&paths[1]).unwrap());
        assert!(paths[1].exists());
        host_at(engine, &listen, config(|_| {}), Obedient::default, |host| {
            assert_eq!(host.addresses().len(), listen.len());
            let mut open: Vec<Peer> = Vec::new();
            for (address, asked) in host.addresses().iter().zip(&listen) {
                match address {
                    Address::Inet(inet) => {
                        let port = inet.port();
                        assert_ne!(port, 0);
                        assert_eq!(asked.replace(":0", &format!(":{port}")), inet.to_string());
                    }
                    Address::Unix(_) => assert_eq!(*asked, address.to_string()),
                }
                for _ in 0..4 {
                    open.push(Peer::open(address, "/"));
                }
            }
            for peer in &mut open {
                peer.echo("hello");
            }
            for peer in open {
                peer.close();
            }
        });
        assert!(
            !paths[0].exists() && !paths[1].exists(),
            "paths are removed"
        );
    });
}

/// With more shards than one, who is full is up to the kernel.
fn of_one_shard(engine: Engine) -> Engine {
    match engine {
        Engine::Server => Engine::ServerOfOneShard,
        other => other,
    }
}

/// A configuration with places for two and the neighbour, in which newcomers wait for so long.
fn with_three_places(wait_ms: u64) -> Config {
    config(|config| {
        config.shard_connections_max = 3;
        config.handshake_timeout_ms = 20 * wait_ms;
    })
}

fn a_shard_with_all_its_connections_lets_others_wait(engine: Engine) {
    let engine = of_one_shard(engine);
    let config = with_three_places(60_000);
    host(engine, config, Obedient::default, |host| {
        for round in 1..=3 {
            let mut inside: Vec<_> = (0..2).map(|_| host.open()).collect();
            // They come one after the other, so that the first to wait is the first to be let in.
            let mut waiting: Vec<_> = (0..2).map(|_| host.connect()).collect();
            for peer in &mut waiting {
                peer.write(request("/").as_bytes());
            }
            let window = Duration::from_millis(100);
            waiting[0].stream.set_read_timeout(Some(window)).unwrap();
            assert!(
                waiting[0].try_read_frame().is_err(),
                "a reply to one too many"
            );
            waiting[0].stream.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(host.stats().connections_open, 3);
            assert!(host.counts().places_waited >= round);
            for peer in &mut inside {
                peer.echo("inside");
            }
            for (peer, mut next) in inside.into_iter().zip(waiting) {
                peer.close();
                assert!(next.read_head().starts_with("HTTP/1.1 101 "));
                next.echo("let in");
                next.close();
            }
            until("all but the neighbour are gone", || {
                host.stats().connections_open == 1
            });
        }
    });
}

/// Asks for a WebSocket, for which there is no place.
fn ask_in_vain(host: &Host) {
    let mut peer = host.connect();
    peer.write(request("/").as_bytes());
    expect_no_place(&mut peer);
}

fn expect_no_place(peer: &mut Peer) {
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
}

fn newcomers_are_told_when_no_place_gets_free(engine: Engine) {
    let config = with_three_places(100);
    host(of_one_shard(engine), config, Obedient::default, |host| {
        let mut inside: Vec<_> = (0..2).map(|_| host.open()).collect();
        for _ in 0..3 {
            ask_in_vain(host);
        }
        host.expect_count(3, |counts| counts.places_refusals);
        host.expect_count(3, |counts| counts.places_waited);
        for peer in &mut inside {
            peer.echo("inside");
        }
        // Those who were told took no place, and left none.
        inside.pop().unwrap().close();
        until("two are left", || host.stats().connections_open == 2);
        let mut next = host.open();
        next.echo("let in");
        ask_in_vain(host);
        host.expect_count(4, |counts| counts.places_refusals);
    });
}

fn newcomers_that_say_nothing_keep_nobody_from_being_told(engine: Engine) {
    // None of them is dropped for its silence before the end.
    let config = with_three_places(60_000);
    host(of_one_shard(engine), config, Obedient::default, |host| {
        let mut inside: Vec<_> = (0..2).map(|_| host.open()).collect();
        let silent: Vec<_> = (0..200).map(|_| host.connect()).collect();
        // Each waits for a place, and is pushed on by those behind it; then for a request of its
        // own, and is pushed out.
        host.expect_count(200, |counts| counts.places_waited);
        let most = 3 + BEYOND_MAX as u64;
        until("those without a place are few", || {
            host.stats().connections_open <= most
        });
        let mut honest = host.connect();
        honest.write(request("/").as_bytes());
        let pushing: Vec<_> = (0..WAITING_MAX).map(|_| host.connect()).collect();
        expect_no_place(&mut honest);
        for peer in &mut inside {
            peer.echo("inside");
        }
        drop((silent, pushing));
        until("only those inside are left", || {
            host.stats().connections_open == 3
        });
        for peer in inside {
            peer.close();
        }
        until("the neighbour is left", || {
            host.stats().connections_open == 1
        });
        host.open().echo("let in");
    });
}

#[test]
fn a_crowd_does_not_push_a_shard_over_its_connections() {
    let config = config(|config| {
        config.shard_connections_max = 10;
        // It waits for a twentieth of this.
        config.handshake_timeout_ms = 600_000;
    });
    host(Engine::Shard, config, Obedient::default, |host| {
        // All of them wait in the backlog before the first is looked at, as far as we can do it.
        let mut crowd: Vec<_> = (0..60).map(|_| host.connect()).collect();
        for peer in &mut crowd {
            peer.write(request("/").as_bytes());
        }
        let mut most = 0;
        for mut peer in crowd {
            most = most.max(host.stats().connections_open);
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            peer.close();
        }
        assert!(most <= 10, "{most} connections where 10 are allowed");
    });
}

fn start(listen: &[&str], config: Config, shards: usize) -> Result<Server, StartError> {
    let mut builder = crate::host::builder()
        .config(config)
        .shards(shards)
        .pinned(false);
    for address in listen {
        builder = builder.listen(*address);
    }
    builder.start(|_| Echo)
}

#[test]
fn a_server_that_cannot_start_says_why_and_leaves_nothing() {
    in_a_folder(|folder| {
        let file = folder.join("file");
        fs::write(&file, "precious").unwrap();
        let path = folder.join("socket");
        let lost = folder.join("no/such/folder");
        let long = format!("unix:/{}", "x".repeat(120));
        let unix = |path: &std::path::Path| format!("unix:{}", path.display());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = (taken.local_addr().unwrap().to_string(), taken);
        let _listening = UnixListener::bind(&path).unwrap();
        let none = Config::default;
        let cases: Vec<(&[&str], Config, usize, String)> = vec![
            (&[], none(), 1, "there is no address to listen on".into()),
            (
                &["localhost"],
                none(),
                1,
                "'localhost' is not an address".into(),
            ),
            (
                &["127.0.0.1:0", "1.2.3:4"],
                none(),
                1,
                "'1.2.3:4' is not".into(),
            ),
            (
                &["127.0.0.1:0"],
                none(),
                0,
                "shards is 0, but it has to be from 1 to 65535".into(),
            ),
            (
                &["127.0.0.1:0"],
                config(|config| config.recv_buffers = 3),
                1,
                "recv_buffers is 3, but it has to be a power of two".into(),
            ),
            (
                &["192.0.2.1:9001"],
                none(),
                1,
                "this machine does not have that address".into(),
            ),
        ];
        for (listen, config, shards, expected) in cases {
            let error = start(listen, config, shards).unwrap_err().to_string();
            assert!(error.contains(&expected), "{error}");
        }
        let cases = [
            (taken.0.clone(), "another process listens there"),
            (unix(&path), "another process listens there"),
            (unix(&file), "another process listens there"),
            (unix(&lost), "make it first"),
            (long, "at most 107 bytes"),
        ];
        for (address, expected) in cases {
            // A good address before it is given up again.
            let listen = ["127.0.0.1:0", &address];
            let error = start(&listen, none(), 2).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains(&address), "{error}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert!(path.exists(), "somebody else's socket stays");
    });
}

#[test]
fn two_servers_do_not_share_an_address() {
    in_a_folder(|folder| {
        let path = format!("unix:{}", folder.join("socket").display());
        host_at(
            Engine::Server,
            &["127.0.0.1:0", &path],
            config(|_| {}),
            Obedient::default,
            |host| {
                for address in host.addresses() {
                    let address = address.to_string();
                    let error = start(&[&address], Config::default(), 1).unwrap_err();
                    let StartError::Bind { errno, .. } = &error else {
                        panic!("{error}");
                    };
                    assert_eq!(errno.number(), libc::EADDRINUSE);
                }
                Peer::open(host.address(), "/").close();
            },
        );
    });
}

#[test]
fn an_address_is_free_again_when_its_server_has_stopped() {
    let mut last = "127.0.0.1:0".to_owned();
    for _ in 0..3 {
        host_at(
            Engine::Server,
            &[&last.clone()],
            config(|_| {}),
            Obedient::default,
            |host| {
                last = host.address().to_string();
                // The server closes first here, so that its side of the connection stays in
                // TIME_WAIT.
                Peer::open(host.address(), "/").close();
            },
        );
    }
}

#[test]
fn a_unix_path_is_gone_before_join_returns() {
    in_a_folder(|folder| {
        let path = folder.join("socket");
        let listen = format!("unix:{}", path.display());
        let server = start(&[&listen], Config::default(), 2).unwrap();
        UnixStream::connect(&path).unwrap();
        server.handle().stop();
        server.join().unwrap();
        assert!(!path.exists());
    });
}

/// What listens, by address, in every order of four addresses, with TLS on some of them.
#[test]
fn all_kinds_of_addresses_are_listened_on_in_any_order() {
    if !has_ipv6() {
        return;
    }
    guarded(|| {
        let addresses = ["0.0.0.0:0", "[::]:0", "127.0.0.1:0", "[::1]:0"];
        let mut orders = vec![vec![]];
        for _ in addresses {
            let longer = |order: &Vec<usize>| {
                let order = order.clone();
                let left = (0..addresses.len()).filter({
                    let order = order.clone();
                    move |next| !order.contains(next)
                });
                let longer = left.map(|next| [&order[..], &[next]].concat());
                longer.collect::<Vec<_>>()
            };
            orders = orders.iter().flat_map(longer).collect();
        }
        assert_eq!(orders.len(), 24);
        for order in orders {
            let mut builder = crate::host::builder().shards(2);
            for &index in &order {
                builder = builder.listen(addresses[index]);
            }
            let server = builder.start(|_| Echo).unwrap();
            for (address, &index) in server.addresses().iter().zip(&order) {
                let text = address.to_string();
                let (host, _) = text.rsplit_once(':').unwrap();
                assert_eq!(format!("{host}:0"), addresses[index]);
                Peer::open(&reachable(&text), "/").close();
            }
            server.handle().stop();
            server.join().unwrap();
        }
    });
}

#[cfg(feature = "tls")]
#[test]
fn tls_and_plain_of_both_families_share_a_machine_in_any_order() {
    if !has_ipv6() {
        return;
    }
    guarded(|| {
        let authority = crate::authority::Authority::new();
        let pair = authority.issue(&["localhost"]);
        let tls = ringwire::tls::ServerTls::builder().certificate(&pair.certificate, &pair.key);
        let tls = tls.load().unwrap();
        for secure in ["0.0.0.0", "[::]"] {
            let plain = if secure == "[::]" { "0.0.0.0" } else { "[::]" };
            for secure_first in [true, false] {
                let port = crate::ports::free_port();
                let (secure, plain) = (format!("{secure}:{port}"), format!("{plain}:{port}"));
                let builder = crate::host::builder().shards(2);
                let builder = match secure_first {
                    true => builder.listen_tls(&secure, &tls).listen(&plain),
                    false => builder.listen(&plain).listen_tls(&secure, &tls),
                };
                let server = builder.start(|_| Echo).unwrap();
                for (address, status) in [(&plain, 101), (&secure, 400)] {
                    let mut peer = Peer::connect(&reachable(address));
                    peer.write(request("/").as_bytes());
                    let expected = format!("HTTP/1.1 {status} ");
                    assert!(peer.read_head().starts_with(&expected), "{address}");
                }
                server.handle().stop();
                server.join().unwrap();
            }
        }
    });
}

#[test]
fn a_server_that_drains_leaves_its_unix_path_and_removes_no_later_one() {
    in_a_folder(|folder| {
        let path = folder.join("socket");
        let unix = format!("unix:{}", path.display());
        let old = start(&[&unix], Config::default(), 2).unwrap();
        let stays = Peer::open(&old.addresses()[0], "/");
        // Somebody has made room for the new one, and not told the old one.
        fs::remove_file(&path).unwrap();
        let new = start(&[&unix], Config::default(), 2).unwrap();
        old.handle().stop();
        stays.answer_close(1001);
        old.join().unwrap();
        Peer::open(&new.addresses()[0], "/").close();
        let stays = Peer::open(&new.addresses()[0], "/");
        new.handle().stop();
        assert!(!path.exists(), "it is gone before the server is");
        stays.answer_close(1001);
        new.join().unwrap();
    });
}

#[test]
fn a_server_that_nobody_holds_keeps_its_unix_path() {
    in_a_folder(|folder| {
        let path = folder.join("socket");
        let unix = format!("unix:{}", path.display());
        let server = start(&[&unix], Config::default(), 2).unwrap();
        let (handle, address) = (server.handle(), server.addresses()[0].clone());
        drop(server);
        Peer::open(&address, "/").close();
        handle.stop();
        assert!(!path.exists());
    });
}

#[test]
fn a_neighbour_on_every_engine_is_served() {
    for engine in [Engine::Server, Engine::ServerOfOneShard, Engine::Shard] {
        host(engine, config(|_| {}), Obedient::default, |host| {
            host.neighbour_echoes(5)
        });
    }
}

/// Sockets that somebody else has opened are served by all shards, on every family.
#[test]
fn sockets_that_are_open_already_are_served() {
    in_a_folder(|folder| {
        let path = folder.join("socket");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(&path).unwrap();
        let inet = Address::Inet(tcp.local_addr().unwrap());
        let server = crate::host::builder()
            .shards(2)
            .listen_on(tcp)
            .listen_on(unix)
            .start(|_| Echo)
            .unwrap();
        assert_eq!(server.addresses(), [inet, Address::Unix(path.clone())]);
        for address in server.addresses() {
            for _ in 0..4 {
                let mut peer = Peer::open(address, "/");
                peer.echo("here");
                peer.close();
            }
        }
        server.handle().stop();
        server.join().unwrap();
        // It is whoever has opened it that removes it.
        assert!(path.exists());
    });
}

#[test]
fn a_socket_that_does_not_listen_is_refused() {
    guarded(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let builder = crate::host::builder().listen_on(socket);
        let refused = builder.start(|_| Echo).unwrap_err();
        assert!(matches!(refused, StartError::Socket { .. }), "{refused}");
        assert!(
            refused.to_string().contains("has to be a stream socket"),
            "{refused}"
        );
    });
}
