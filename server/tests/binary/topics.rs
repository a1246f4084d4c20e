//! Topics as somebody who runs a server has them: a route, plain clients, and messages from the
//! admin side.

use std::fs;

use crate::{
    admin::{ask_with, metrics, stop, sum},
    common::{BINARY, Peer, TEXT, request},
    guard::in_a_folder,
    peer::until,
    routes::Served,
    serve::{Ringwire, command, output},
};

const ROUTES: &str = "
    [[route]]
    path = '/chat/{topic}'
    application = 'topics'
    topic_prefix = 'chat.'
    [[route]]
    path = '/prices/{*topic}'
    application = 'topics'
    topic_publish = 'nobody'
    topic_slow = 'conflate'
    topic_prefix = 'prices.'
";

#[test]
fn whoever_connects_hears_what_is_said_at_its_path() {
    in_a_folder(|folder| {
        let served = Served::start(folder, "shard", ROUTES);
        let open = |path: &str| Peer::open(served.address(), path);
        let mut all = open("/chat/%2A");
        let mut room = [open("/chat/a"), open("/chat/a"), open("/chat/a")];
        let mut other = open("/chat/b");
        room[0].send(TEXT, b"hello");
        room[1].send(BINARY, &[1, 2]);
        other.send(TEXT, b"elsewhere");
        other.expect_text("elsewhere");
        for peer in &mut room {
            let mut got = [peer.read_message(), peer.read_message()];
            got.sort_by_key(|frame| frame.first);
            assert_eq!((got[0].first, &got[0].payload[..]), (TEXT, &b"hello"[..]));
            assert_eq!((got[1].first, &got[1].payload[..]), (BINARY, &[1, 2][..]));
        }
        for _ in 0..3 {
            all.read_message();
        }
        // Nobody publishes to several topics.
        all.send(TEXT, b"to all");
        all.answer_close(1008);
        for peer in room.into_iter().chain([other]) {
            peer.close();
        }
        stop(served.ringwire);
    });
}

#[test]
fn where_nobody_may_publish_whoever_does_is_closed() {
    in_a_folder(|folder| {
        let served = Served::start(folder, "shard", ROUTES);
        let mut peer = Peer::open(served.address(), "/prices/gold/spot");
        peer.send(TEXT, b"1");
        peer.answer_close(1008);
        let mut peer = Peer::connect(served.address());
        peer.write(request("/prices/gold//spot").as_bytes());
        let reply = peer.read_reply(false);
        assert_eq!(reply.status, 400);
        assert!(
            reply
                .body
                .starts_with("The path names no topic: a topic is one segment or several")
        );
        stop(served.ringwire);
    });
}

#[test]
fn the_admin_side_publishes() {
    in_a_folder(|folder| {
        let path = folder.join("topics.toml");
        let head = "listen = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\nshards = 2\n";
        fs::write(&path, format!("{head}{ROUTES}")).unwrap();
        let ringwire = Ringwire::start(&mut command(&["--config", path.to_str().unwrap()]));
        let mut peers: Vec<_> = ["/prices/gold", "/prices/gold", "/prices/*"]
            .map(|path| Peer::open(&ringwire.addresses[0], path))
            .into();
        let admin = &ringwire.admin[0];
        let post = |topic: &str, lines: &str, body: &str| {
            ask_with(admin, &format!("POST /topics/{topic}"), lines, body)
        };
        // Whoever has got its 101 has subscribed, on whichever shard.
        let reply = post("prices.gold", "", "1234.5");
        assert_eq!((reply.status, &*reply.body), (202, "published\n"));
        for peer in &mut peers {
            peer.expect_text("1234.5");
        }
        let reply = post(
            "prices.gold",
            "Content-Type: application/octet-stream\r\n",
            "xyz",
        );
        assert_eq!(reply.status, 202);
        for peer in &mut peers {
            assert_eq!(peer.read_message().first, BINARY);
        }
        let reply = post("prices.*", "", "all");
        assert_eq!(reply.status, 400);
        assert!(
            reply
                .body
                .starts_with("That is no topic: a message is published to one topic")
        );
        let reply = post("prices.gold", "Origin: https://evil.example\r\n", "0");
        assert_eq!(reply.status, 403);
        for peer in peers {
            peer.close();
        }
        stop(ringwire);
    });
}

#[test]
fn what_cannot_be_is_said_before_it_starts() {
    in_a_folder(|folder| {
        let path = folder.join("wrong.toml");
        for (settings, says) in [
            (
                "[[route]]\npath = '/topics/{room}'\napplication = 'topics'\n",
                "wrong.toml:2:8: error: path is '/topics/{room}', but with application = 'topics' \
                 it has to name the topic",
            ),
            (
                "[[route]]\npath = '/{topic}'\ntopic_slow = 'conflate'\n",
                "wrong.toml:3:14: error: topic_slow has no effect without application = 'topics'",
            ),
            (
                "engine = 'async'\n[[route]]\npath = '/{topic}'\napplication = 'topics'\n",
                "wrong.toml:4:15: error: application is 'topics', which only engine shard serves",
            ),
        ] {
            fs::write(&path, settings).unwrap();
            let (_, out, errors) = output(&["check", path.to_str().unwrap()]);
            let said = out + &errors;
            assert!(said.contains(says), "{said}");
        }
    });
}

#[test]
fn counts_of_topics_are_exposed() {
    in_a_folder(|folder| {
        let path = folder.join("topics.toml");
        let head = "listen = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\nshards = 2\n";
        fs::write(&path, format!("{head}{ROUTES}")).unwrap();
        let ringwire = Ringwire::start(&mut command(&["--config", path.to_str().unwrap()]));
        let mut peers = [(); 4].map(|()| Peer::open(&ringwire.addresses[0], "/chat/a"));
        peers[0].send(TEXT, b"hello");
        for peer in &mut peers {
            peer.expect_text("hello");
        }
        until("it is counted", || {
            let all = metrics(&ringwire.admin[0]);
            let of = |name: &str| sum(&all, &format!("ringwire_topic_{name}")) as u64;
            let passed = (of("publications_total"), of("deliveries_total"));
            (passed, of("subscriptions")) == ((1, 4), 4)
        });
        for peer in peers {
            peer.close();
        }
        stop(ringwire);
    });
}
