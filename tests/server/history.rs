//! Topics that keep messages: who was away goes on where it stopped, on whichever shard.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::mpsc,
};

use ringwire::{
    Config, Conn, Handle, Message, Outgoing, Server, Service, SubscribeError,
    topics::{Position, Published, Recalled, Resumed, Since, TopicError, TopicOptions},
};

use crate::{
    common::{PATIENCE, Peer, TEXT},
    guard::guarded,
    host::{Hosted, builder},
    peer::until,
};

/// Does what it is told: `since NAME POSITION`, `last NAME COUNT`, `leave NAME`, and `NAME text`
/// publishes. Messages come as `NUMBER text`.
struct Paper;

crate::host::boxed!(Paper);

impl Service for Paper {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        conn.set_envelopes(true);
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let words: Vec<_> = message.text().unwrap().split(' ').collect();
        let asked = match words[..] {
            ["since", name, at] => conn.subscribe_since(name, Since::After(at.parse().unwrap())),
            ["last", name, "0"] => conn.subscribe_since(name, Since::Now),
            ["last", name, count] => {
                conn.subscribe_since(name, Since::Last(count.parse().unwrap()))
            }
            ["leave", name] => {
                conn.unsubscribe(name);
                conn.send("left").unwrap();
                Ok(())
            }
            [name, text] => {
                conn.publish(name, text).unwrap();
                Ok(())
            }
            _ => panic!("{words:?}"),
        };
        if let Err(error) = asked {
            conn.send(format!("{error:?}")).unwrap();
        }
    }

    fn on_subscribed(&mut self, conn: &mut Conn<'_, ()>, topic: &[u8], resumed: &Resumed) {
        let topic = str::from_utf8(topic).unwrap();
        let Resumed {
            newest,
            messages,
            is_whole,
        } = resumed;
        let text = format!("{topic} {messages} {is_whole} {newest}");
        conn.send(text).unwrap();
    }

    fn envelope<'p>(&mut self, published: &Published<'p>) -> Outgoing<'p> {
        match published.position {
            Some(position) => {
                let text = published.message.text().unwrap();
                format!("{} {text}", position.number).into()
            }
            None => published.message.into(),
        }
    }
}

fn with_paper(shards: usize, keeps: usize, body: impl FnOnce(&Server)) {
    guarded(|| {
        let mut options = TopicOptions::default();
        options.history_messages_max = keeps;
        let builder = builder().shards(shards).listen("127.0.0.1:0");
        let server = builder.topic("kept.>", options).unwrap();
        let server = server.start(|_| Paper.hosted()).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| body(&server)));
        server.handle().stop();
        server.join().unwrap();
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

fn open(server: &Server) -> Peer {
    Peer::open(&server.addresses()[0], "/")
}

/// The numbers of the last messages that are kept, behind all that this thread has published.
fn recalled(handle: &Handle, topic: &str, last: u64) -> Vec<u64> {
    let (tell, told) = mpsc::channel();
    let tell = move |recalled| tell.send(recalled).unwrap();
    handle.recall(topic, Since::Last(last), tell).unwrap();
    let recalled: Recalled = told.recv_timeout(PATIENCE).unwrap();
    recalled.messages().map(|(number, _)| number).collect()
}

fn say(peer: &mut Peer, text: &str) {
    peer.send(TEXT, text.as_bytes());
}

/// Subscribes, and returns where the topic is, once that is what it should be.
fn subscribe(peer: &mut Peer, asks: &str, told: &str) -> Position {
    say(peer, asks);
    let answer = String::from_utf8(peer.read_message().payload).unwrap();
    let (said, position) = answer.rsplit_once(' ').unwrap();
    assert_eq!(said, told);
    position.parse().unwrap()
}

#[test]
fn who_was_away_gets_what_it_missed() {
    // With four shards most topics are at home elsewhere.
    with_paper(4, 100, |server| {
        let handle = server.handle();
        for topic in ["kept.a", "kept.b", "kept.c", "kept.d"] {
            let mut reader = open(server);
            let start = subscribe(
                &mut reader,
                &format!("last {topic} 0"),
                &format!("{topic} 0 true"),
            );
            assert_eq!(start.number, 0);
            handle.publish(topic, "one").unwrap();
            handle.publish(topic, "two").unwrap();
            reader.expect_text("1 one");
            reader.expect_text("2 two");
            reader.close();
            handle.publish(topic, "three").unwrap();
            handle.publish(topic, "four").unwrap();
            // Who subscribes now may be faster than they are, and get them as new ones.
            assert_eq!(recalled(&handle, topic, 9), [1, 2, 3, 4]);
            let mut again = open(server);
            let asks = format!("since {topic} {:x}-2", start.epoch);
            let position = subscribe(&mut again, &asks, &format!("{topic} 2 true"));
            assert_eq!((position.epoch, position.number), (start.epoch, 4));
            again.expect_text("3 three");
            again.expect_text("4 four");
            say(&mut again, &format!("{topic} five"));
            again.expect_text("5 five");
            // Of what nobody can have there is only the truth to be told.
            let mut lost = open(server);
            let asks = format!("since {topic} 1-77");
            subscribe(&mut lost, &asks, &format!("{topic} 5 false"));
            for text in ["1 one", "2 two", "3 three", "4 four", "5 five"] {
                lost.expect_text(text);
            }
            lost.close();
            again.close();
        }
        until("subscriptions are over", || {
            handle.subscribers("kept.a") == 0
        });
        let counts = handle.stats().counts;
        assert_eq!(
            (counts.topic_resumed, counts.topic_resumed_with_gap),
            (8, 4)
        );
        assert!(counts.topic_history_bytes > 0);
    });
}

#[test]
fn no_more_is_kept_than_may_be() {
    with_paper(2, 3, |server| {
        let handle = server.handle();
        for number in 1..=10 {
            handle.publish("kept.a", format!("text{number}")).unwrap();
        }
        assert_eq!(recalled(&handle, "kept.a", 2), [9, 10]);
        let mut reader = open(server);
        let position = subscribe(&mut reader, "last kept.a 2", "kept.a 2 true");
        assert_eq!(position.number, 10);
        reader.expect_text("9 text9");
        reader.expect_text("10 text10");
        let mut reader = open(server);
        let asks = format!("since kept.a {:x}-5", position.epoch);
        subscribe(&mut reader, &asks, "kept.a 3 false");
        for number in 8..=10 {
            reader.expect_text(&format!("{number} text{number}"));
        }
        assert!(handle.recall("kept.*", Since::Now, |_| {}).is_err());
    });
}

#[test]
fn what_is_kept_gives_way_when_memory_runs_short() {
    guarded(|| {
        let mut options = TopicOptions::default();
        options.history_messages_max = usize::MAX;
        options.history_bytes_max = usize::MAX;
        let mut config = Config::default();
        config.memory_bytes_max = 16 << 20;
        config.topic_history_bytes_max = 1 << 30;
        let builder = builder().shards(1).listen("127.0.0.1:0").config(config);
        let server = builder.topic("kept.>", options).unwrap();
        let server = server.start(|_| Paper.hosted()).unwrap();
        let handle = server.handle();
        let text = "x".repeat(10_000);
        // Four times what there is.
        for number in 0..6400 {
            let topic = format!("kept.{}", number % 10);
            until("there is room", || handle.publish(&topic, &*text).is_ok());
        }
        // They wait in the inbox first, which nobody else has room beside.
        until("all are kept or forgotten", || {
            let counts = handle.stats().counts;
            counts.topic_publications == 6400 && counts.memory_held_bytes < 14 << 20
        });
        let mut reader = open(&server);
        let position = subscribe(&mut reader, "last kept.0 0", "kept.0 0 true");
        let snapshot = handle.stats();
        let kept = snapshot.counts.topic_history_bytes;
        assert!(kept < 16 << 20, "{kept} bytes are kept");
        say(&mut reader, "kept.0 back");
        reader.expect_text(&format!("{} back", position.number + 1));
        reader.close();
        handle.stop();
        server.join().unwrap();
    });
}

#[test]
fn where_nothing_is_kept_nobody_can_ask_for_it() {
    with_paper(1, 3, |server| {
        let mut reader = open(server);
        say(&mut reader, "last news 1");
        reader.expect_text(&format!("{:?}", SubscribeError::NoHistory));
        say(&mut reader, "last kept.* 1");
        let wildcard = SubscribeError::Topic(TopicError::Wildcard);
        reader.expect_text(&format!("{wildcard:?}"));
        // Who asks twice gets the answer to both or to the second, and each message once.
        say(&mut reader, "kept.a one");
        subscribe(&mut reader, "last kept.a 5", "kept.a 1 true");
        reader.expect_text("1 one");
        say(&mut reader, "leave kept.a");
        reader.expect_text("left");
        say(&mut reader, "kept.a two");
        subscribe(&mut reader, "last kept.a 1", "kept.a 1 true");
        reader.expect_text("2 two");
        assert_eq!(server.handle().subscribers("kept.a"), 1);
        reader.close();
    });
}
