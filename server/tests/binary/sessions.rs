//! The subprotocol `ringwire.topics.v1`, as the page about it tells it, and what belongs to it:
//! plain clients that were away, who may do what, and who is told of whom.

use std::{fs, path::Path};

use ringwire::Address;
use serde_json::{Value, json};

use crate::{
    admin::{ask_with, stop},
    common::{Peer, TEXT, request},
    guard::in_a_folder,
    peer::until,
    routes::{Served, asked},
    serve::{Ringwire, command},
};

const OFFER: &str = "Sec-WebSocket-Protocol: chat, ringwire.topics.v1";

fn open(address: &Address, target: &str) -> Peer {
    open_with(address, target, &[OFFER])
}

fn open_with(address: &Address, target: &str, lines: &[&str]) -> Peer {
    let (head, peer) = asked(address, target, lines);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(
        head.contains("Sec-WebSocket-Protocol: ringwire.topics.v1\r\n"),
        "{head}"
    );
    peer
}

fn say(peer: &mut Peer, value: &Value) {
    peer.send(TEXT, value.to_string().as_bytes());
}

fn heard(peer: &mut Peer) -> Value {
    let message = peer.read_message();
    assert_eq!(message.first, TEXT);
    serde_json::from_slice(&message.payload).unwrap()
}

#[track_caller]
fn expect(peer: &mut Peer, value: &Value) {
    assert_eq!(heard(peer), *value);
}

/// A server with an admin side and two shards, so that topics are at home elsewhere.
fn start(folder: &Path, routes: &str) -> Ringwire {
    let path = folder.join("topics.toml");
    let head = "listen = '127.0.0.1:0'\nadmin_listen = '127.0.0.1:0'\nshards = 2\n";
    fs::write(&path, format!("{head}{routes}")).unwrap();
    Ringwire::start(&mut command(&["--config", path.to_str().unwrap()]))
}

const KEPT: &str = "
    [[route]]
    path = '/topics/{*topic}'
    application = 'topics'
    topic_history_messages_max = 100
    [[route]]
    path = '/many'
    application = 'topics'
    topic_prefix = 'many.'
    topic_presence = 'counts'
";

#[test]
fn the_page_about_it_tells_what_is_said() {
    let page = include_str!("../../topics.md");
    let (_, rest) = page.split_once("```text\n").unwrap();
    let (transcript, _) = rest.split_once("```").unwrap();
    assert!(page.contains("topic_history_messages_max = 100"));
    in_a_folder(|folder| {
        let served = Served::start(folder, "shard", KEPT);
        let mut peer = open(served.address(), "/topics/elsewhere");
        let first = heard(&mut peer);
        assert_eq!(first["topic"], "elsewhere");
        let mut epoch: Option<String> = None;
        let mut heard_lines = 0;
        for line in transcript.lines() {
            let (who, text) = line.split_once(' ').unwrap();
            let text = match &epoch {
                Some(epoch) => text.replace("EPOCH", epoch),
                None => text.to_owned(),
            };
            let mut value: Value = serde_json::from_str(&text).unwrap();
            if who == ">" {
                say(&mut peer, &value);
                continue;
            }
            let told = heard(&mut peer);
            if value["epoch"] == "EPOCH" {
                let its = told["epoch"].as_str().unwrap().to_owned();
                value["epoch"] = its.as_str().into();
                epoch = Some(its);
            }
            assert_eq!(told, value, "{line}");
            heard_lines += 1;
        }
        let told = transcript.lines().filter(|line| line.starts_with('<'));
        assert_eq!(heard_lines, told.count());
        peer.close();
        stop(served.ringwire);
    });
}

#[test]
fn whatever_is_said_is_answered() {
    in_a_folder(|folder| {
        let served = Served::start(folder, "shard", KEPT);
        let mut peer = open(served.address(), "/many");
        for (said, code) in [
            (json!({ "id": 1 }), "bad-request"),
            (
                json!({ "op": "dance", "topic": "many.a", "id": 1 }),
                "bad-request",
            ),
            (json!({ "op": "subscribe", "id": 1 }), "bad-request"),
            (
                json!({ "op": "subscribe", "topic": 5, "id": 1 }),
                "bad-request",
            ),
            (
                json!({ "op": "publish", "topic": "many.a", "id": 1 }),
                "bad-request",
            ),
            (
                json!({ "op": "publish", "topic": "many.a", "base64": "?", "id": 1 }),
                "bad-request",
            ),
            (
                json!({ "op": "subscribe", "topic": "many.a", "since": 5, "id": 1 }),
                "bad-request",
            ),
            (
                json!({ "op": "subscribe", "topic": "many.a", "last": 5, "id": 1 }),
                "no-history",
            ),
            (
                json!({ "op": "subscribe", "topic": "many..a", "id": 1 }),
                "bad-topic",
            ),
            (
                json!({ "op": "subscribe", "topic": "news", "id": 1 }),
                "forbidden",
            ),
            (
                json!({ "op": "subscribe", "topic": "many.", "id": 1 }),
                "forbidden",
            ),
            (
                json!({ "op": "publish", "topic": "$presence.many.a", "id": 1 }),
                "forbidden",
            ),
            (
                json!({ "op": "presence", "topic": "news", "id": 1 }),
                "forbidden",
            ),
        ] {
            say(&mut peer, &said);
            let told = heard(&mut peer);
            assert_eq!(
                (&told["op"], &told["id"]),
                (&json!("error"), &json!(1)),
                "{said}"
            );
            assert_eq!(told["code"], code, "{said}: {told}");
        }
        // Nobody has much said to it by saying much.
        let much = "\u{1}".repeat(100_000);
        for said in [
            json!({ "op": "unsubscribe", "topic": much }),
            json!({ "op": much, "topic": "many.a" }),
        ] {
            say(&mut peer, &said);
            assert!(heard(&mut peer).to_string().len() < 400);
        }
        for said in ["", "{", "5", "[]", "{\"id\": {}}", "\"text\""] {
            peer.send(TEXT, said.as_bytes());
            assert_eq!(heard(&mut peer)["code"], "bad-request", "{said}");
        }
        say(
            &mut peer,
            &json!({ "op": "unsubscribe", "topic": "many.a" }),
        );
        expect(
            &mut peer,
            &json!({ "op": "unsubscribed", "topic": "many.a" }),
        );
        peer.close();
        // Whoever speaks no JSON has to name a topic.
        let (head, _) = asked(served.address(), "/many", &[]);
        assert!(head.starts_with("HTTP/1.1 400"), "{head}");
        stop(served.ringwire);
    });
}

#[test]
fn who_comes_and_goes_is_told_to_those_who_ask() {
    in_a_folder(|folder| {
        let ringwire = start(folder, KEPT);
        let address = &ringwire.addresses[0];
        let mut watcher = open(address, "/many");
        let subscribe = json!({ "op": "subscribe", "topic": "many.a", "presence": true });
        say(&mut watcher, &subscribe);
        let told = json!({ "op": "subscribed", "topic": "many.a", "subscribers": 1 });
        expect(&mut watcher, &told);
        let joined = |count| json!({ "op": "joined", "topic": "many.a", "subscribers": count });
        let left = |count| json!({ "op": "left", "topic": "many.a", "subscribers": count });
        // Of itself as well: it has subscribed before.
        expect(&mut watcher, &joined(1));
        let mut other = open(address, "/many");
        say(&mut other, &json!({ "op": "subscribe", "topic": "many.a" }));
        assert_eq!(heard(&mut other)["op"], "subscribed");
        expect(&mut watcher, &joined(2));
        say(
            &mut other,
            &json!({ "op": "unsubscribe", "topic": "many.a" }),
        );
        expect(&mut watcher, &left(1));
        say(&mut other, &json!({ "op": "subscribe", "topic": "many.a" }));
        expect(&mut watcher, &joined(2));
        drop(other);
        expect(&mut watcher, &left(1));
        // A pattern of all is not told of it.
        let mut all = open(address, "/many");
        say(&mut all, &json!({ "op": "subscribe", "topic": "many.>" }));
        assert_eq!(heard(&mut all)["op"], "subscribed");
        drop(watcher);
        say(&mut all, &json!({ "op": "ping", "id": "p" }));
        expect(&mut all, &json!({ "op": "pong", "id": "p" }));
        all.close();
        stop(ringwire);
    });
}

#[test]
fn plain_clients_get_what_was_kept() {
    in_a_folder(|folder| {
        let ringwire = start(folder, KEPT);
        let address = &ringwire.addresses[0];
        let admin = &ringwire.admin[0];
        let lines = "{\"topic\": \"news.a\", \"data\": \"one\"}\n\n\
                     {\"topic\": \"news.a\", \"data\": \"two\"}\n\
                     {\"topic\": \"news.b\", \"base64\": \"AAE=\"}\n";
        let reply = ask_with(admin, "POST /publish", "", lines);
        assert_eq!(
            (reply.status, &*reply.body),
            (202, "{\n  \"published\": 3\n}\n")
        );
        let mut peer = Peer::open(address, "/topics/news/a?last=5");
        peer.expect_text("one");
        peer.expect_text("two");
        let reply = ask_with(admin, "GET /topics/news/a?last=1", "", "");
        let told: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!((&told["subscribers"], &told["seq"]), (&json!(1), &json!(2)));
        assert_eq!(told["messages"], json!([{ "seq": 2, "data": "two" }]));
        let epoch = told["epoch"].as_str().unwrap();
        let mut again = Peer::open(address, &format!("/topics/news.a?since={epoch}-1"));
        again.expect_text("two");
        let reply = ask_with(admin, "POST /topics/news/a", "", "three");
        assert_eq!(reply.status, 202);
        again.expect_text("three");
        peer.expect_text("three");
        for (target, says) in [
            (
                "/topics/news/a?since=5",
                "since: a position in a topic is an epoch and a number",
            ),
            ("/topics/news/a?last=x", "last has to be a number"),
            (
                "/topics/news/*?last=1",
                "since and last are for one topic that keeps messages",
            ),
        ] {
            let mut peer = Peer::connect(address);
            peer.write(request(target).as_bytes());
            let reply = peer.read_reply(false);
            assert_eq!(reply.status, 400);
            assert!(reply.body.starts_with(says), "{}", reply.body);
        }
        // All or nothing.
        let reply = ask_with(
            admin,
            "POST /publish",
            "",
            "{\"topic\": \"news.a\", \"data\": \"4\"}\n{\"topic\": \"news.*\", \"data\": \"\"}",
        );
        assert_eq!(reply.status, 400);
        assert!(
            reply
                .body
                .starts_with("Line 2 has no topic: a message is published to one")
        );
        let reply = ask_with(admin, "GET /topics/news.*", "", "");
        assert_eq!(reply.status, 400);
        until("the subscribers are gone", || {
            let reply = ask_with(admin, "GET /topics/news.b", "", "");
            let told: Value = serde_json::from_str(&reply.body).unwrap();
            told["messages"] == json!([{ "seq": 1, "base64": "AAE=" }])
        });
        peer.close();
        again.close();
        stop(ringwire);
    });
}

#[test]
fn the_route_serves_a_page_and_the_module_that_it_uses() {
    in_a_folder(|folder| {
        let served = Served::start(folder, "shard", KEPT);
        for (target, content_type, has) in [
            (
                "/topics/news",
                "text/html; charset=utf-8",
                "<title>ringwire topics</title>",
            ),
            (
                "/topics/topics.js",
                "text/javascript; charset=utf-8",
                "export class Topics",
            ),
        ] {
            let mut peer = Peer::connect(served.address());
            peer.write(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            let reply = peer.read_reply(false);
            assert_eq!(
                (reply.status, reply.header("Content-Type")),
                (200, Some(content_type))
            );
            assert!(reply.body.contains(has));
            let policy = reply.header("Content-Security-Policy").unwrap();
            assert!(policy.starts_with("default-src 'none'"));
        }
        stop(served.ringwire);
    });
}

#[cfg(feature = "jwt")]
#[test]
fn claims_of_tokens_say_who_may_do_what() {
    use crate::tokens::jwt::signed_for;
    in_a_folder(|folder| {
        let keys = folder.join("secret");
        let routes = format!(
            "[[route]]\npath = '/t/{{*topic}}'\napplication = 'topics'\nauth = 'jwt'\n\
             jwt_keys_file = '{}'\njwt_algorithms = ['HS256']\ntopic_publish = 'claims'\n\
             topic_subscribe = 'claims'\ntopic_presence = 'users'\n",
            keys.display()
        );
        let anna = signed_for(
            &keys,
            &json!({ "sub": "anna", "publish": ["chat.*"], "subscribe": ["chat.>"] }),
        );
        let guest = signed_for(&keys, &json!({ "subscribe": "chat.hall" }));
        let ringwire = start(folder, &routes);
        let address = &ringwire.addresses[0];
        let bearer = |token: &str| format!("Authorization: Bearer {token}");
        let mut hers = open_with(address, "/t/chat/hall", &[OFFER, &bearer(&anna)]);
        assert_eq!(heard(&mut hers)["op"], "subscribed");
        let watch = json!({ "op": "subscribe", "topic": "chat.hall", "presence": true });
        say(&mut hers, &watch);
        assert_eq!(heard(&mut hers)["op"], "subscribed");
        let (head, mut his) = asked(address, "/t/chat/hall", &[&bearer(&guest)]);
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let told = json!({ "op": "joined", "topic": "chat.hall", "subscribers": 2 });
        expect(&mut hers, &told);
        let publish = json!({ "op": "publish", "topic": "chat.hall", "data": "hello", "id": 1 });
        say(&mut hers, &publish);
        assert_eq!(heard(&mut hers)["op"], "published");
        his.expect_text("hello");
        assert_eq!(heard(&mut hers)["data"], "hello");
        for (op, topic) in [
            ("publish", "chat.hall.a"),
            ("publish", "news"),
            ("subscribe", ">"),
        ] {
            say(&mut hers, &json!({ "op": op, "topic": topic, "data": "" }));
            assert_eq!(heard(&mut hers)["code"], "forbidden", "{op} {topic}");
        }
        // He may listen and not speak, and nowhere else.
        his.send(TEXT, b"hi");
        his.answer_close(1008);
        expect(
            &mut hers,
            &json!({ "op": "left", "topic": "chat.hall", "subscribers": 1 }),
        );
        let (head, _) = asked(address, "/t/chat/attic", &[&bearer(&guest)]);
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
        // Who has a name is told of by it.
        let mut again = open_with(address, "/t/chat/hall", &[OFFER, &bearer(&anna)]);
        assert_eq!(heard(&mut again)["op"], "subscribed");
        assert_eq!(heard(&mut hers)["user"], "anna");
        again.close();
        drop(hers);
        stop(ringwire);
    });
}
