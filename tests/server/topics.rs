//! One message to many: who gets it, in which order, and what becomes of those who do not read.

use std::{collections::BTreeMap, thread};

use ringwire::{
    CloseCause, CloseCode, Conn, ConnId, Message, PublishError, SendError, Service, SubscribeError,
    Turn,
    topics::{SlowPolicy, TopicError, TopicOptions},
};

use crate::{
    common::{BINARY, Peer, TEXT},
    guard::guarded,
    host::{Engine, Hosted, builder, config, host, on_each_engine},
    peer::{CLOSE, close_payload, until},
};

/// Does what it is told: `+NAME` subscribes, `-NAME` ends that, `NAME text` publishes, `!NAME text`
/// to all others, `@ID text` sends to one, `#ID` closes it.
#[derive(Clone, Copy)]
struct Desk;

crate::host::boxed!(Desk);

impl Service for Desk {
    type State = ();

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let Some(text) = message.text() else {
            conn.publish("bytes", message).unwrap();
            return;
        };
        let (kind, rest) = text.split_at(1);
        let (name, said) = rest.split_once(' ').unwrap_or((rest, ""));
        let answer = match kind {
            "+" => format!("{:?}", conn.subscribe(name)),
            "-" => format!("{:?}", conn.unsubscribe(name)),
            "?" => format!("{} {}", conn.id(), conn.subscriptions()),
            "!" => format!("{:?}", conn.publish_to_others(name, said)),
            "@" => {
                let id: ConnId = name.parse().unwrap();
                format!("{:?}", conn.turn().send(id, said))
            }
            "#" => {
                let id: ConnId = name.parse().unwrap();
                let code = CloseCode::GOING_AWAY;
                format!("{:?}", conn.turn().close(id, code, said))
            }
            _ => {
                let (name, said) = text.split_once(' ').unwrap_or((text, ""));
                let published = conn.publish(name, said);
                if published.is_ok() {
                    return;
                }
                format!("{published:?}")
            }
        };
        conn.send(answer).unwrap();
    }

    fn on_send_failed(&mut self, _: ConnId, _: SendError) {}

    fn on_close(&mut self, turn: &mut Turn<'_>, id: ConnId, (): (), _: &CloseCause) {
        turn.publish("ends", format!("{id} has left")).unwrap();
    }
}

trait Asks {
    fn ask(&mut self, text: &str, answer: &str);
    fn say(&mut self, text: &str);
    fn id(&mut self) -> String;
}

impl Asks for Peer {
    fn say(&mut self, text: &str) {
        self.send(TEXT, text.as_bytes());
    }

    fn ask(&mut self, text: &str, answer: &str) {
        self.say(text);
        self.expect_text(answer);
    }

    fn id(&mut self) -> String {
        self.say("?");
        let answer = self.read_message().payload;
        let answer = String::from_utf8(answer).unwrap();
        answer.split(' ').next().unwrap().to_owned()
    }
}

fn who_subscribes_gets_what_is_published_until_it_does_not(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Desk,
        |host| {
            let [mut a, mut b, mut c] = [host.open(), host.open(), host.open()];
            a.ask("+news", "Ok(true)");
            a.ask("+news", "Ok(false)");
            b.ask("+*", "Ok(true)");
            b.ask("+>", "Ok(true)");
            b.ask("+news", "Ok(true)");
            c.say("news one");
            // It matches three of its patterns, and comes once.
            for peer in [&mut a, &mut b] {
                peer.expect_text("one");
            }
            c.say("news.sport two");
            b.expect_text("two");
            a.ask("-news", "true");
            a.ask("-news", "false");
            c.ask("+news", "Ok(true)");
            c.ask("!news three", "Ok(())");
            b.expect_text("three");
            // To oneself, behind what is sent in the call.
            c.say("news four");
            c.expect_text("four");
            b.expect_text("four");
            a.ask("-", "false");
            a.send(BINARY, &[1, 2, 3]);
            let frame = b.read_message();
            assert_eq!((frame.first, &frame.payload[..]), (BINARY, &[1, 2, 3][..]));
            host.expect_count(5, |counts| counts.topic_publications);
            host.expect_count(7, |counts| counts.topic_deliveries);
            host.expect_count(4, |counts| counts.topic_subscriptions);
            // What is told of their ends would come to who hears everything.
            for peer in [b, a, c] {
                peer.close();
            }
            host.expect_count(0, |counts| counts.topic_subscriptions);
        },
    );
}

fn what_is_wrong_is_said(engine: Engine) {
    let config = config(|config| config.topic_subscriptions_max = 2);
    host(
        engine,
        config,
        || Desk,
        |host| {
            let mut peer = host.open();
            let wrong =
                |error: TopicError| format!("{:?}", Err::<bool, _>(SubscribeError::Topic(error)));
            peer.ask("+a..b", &wrong(TopicError::EmptySegment));
            peer.ask("+a.>.b", &wrong(TopicError::RestNotLast));
            peer.ask("a.* text", "Err(Topic(Wildcard))");
            peer.ask("+a", "Ok(true)");
            peer.ask("+b", "Ok(true)");
            peer.ask("+c", "Err(TooMany)");
            peer.ask("+a", "Ok(false)");
            peer.ask("-b", "true");
            peer.ask("+c", "Ok(true)");
            peer.close();
        },
    );
}

fn a_service_reaches_others_by_their_names(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Desk,
        |host| {
            let [mut a, mut b] = [host.open(), host.open()];
            let (a_id, b_id) = (a.id(), b.id());
            a.ask("+ends", "Ok(true)");
            b.ask(&format!("@{a_id} hello"), "Ok(())");
            a.expect_text("hello");
            a.ask(&format!("#{b_id} enough"), "Ok(())");
            assert_eq!(b.expect_close(1001), "enough");
            b.send(CLOSE, &close_payload(1001, b""));
            b.expect_end();
            a.expect_text(&format!("{b_id} has left"));
            // Nobody is there any more.
            a.ask(&format!("@{b_id} hello"), "Ok(())");
            host.expect_count(1, |counts| counts.handle_sends_dropped);
            a.close();
        },
    );
}

on_each_engine! {
    who_subscribes_gets_what_is_published_until_it_does_not
    what_is_wrong_is_said
    a_service_reaches_others_by_their_names
}

/// What a subscriber has heard of each publisher: the next number that it waits for.
#[derive(Default)]
struct Heard(BTreeMap<u64, u64>);

impl Heard {
    fn hear(&mut self, text: &[u8]) {
        let text = str::from_utf8(text).unwrap();
        let (publisher, number) = text.split_once(' ').unwrap();
        let next = self.0.entry(publisher.parse().unwrap()).or_default();
        assert_eq!(number.parse(), Ok(*next), "of publisher {publisher}");
        *next += 1;
    }

    fn all(&self) -> u64 {
        self.0.values().sum()
    }
}

const PUBLISHERS: u64 = 4;
const EACH: u64 = 500;

#[test]
fn everything_arrives_once_and_in_order_on_every_shard() {
    host(
        Engine::Server,
        config(|_| {}),
        || Desk,
        |host| {
            let mut subscribers: Vec<_> = (0..12).map(|_| host.open()).collect();
            for (index, subscriber) in subscribers.iter_mut().enumerate() {
                subscriber.ask(["+room.all", "+room.*"][index % 2], "Ok(true)");
            }
            let mut publishers: Vec<_> = (0..PUBLISHERS - 1).map(|_| host.open()).collect();
            let handle = host.handle();
            let outside = thread::spawn(move || {
                for number in 0..EACH {
                    let text = format!("{} {number}", PUBLISHERS - 1);
                    handle.publish("room.all", text).unwrap();
                }
            });
            for number in 0..EACH {
                for (index, publisher) in publishers.iter_mut().enumerate() {
                    publisher.say(&format!("room.all {index} {number}"));
                }
            }
            outside.join().unwrap();
            for subscriber in &mut subscribers {
                let mut heard = Heard::default();
                while heard.all() < PUBLISHERS * EACH {
                    heard.hear(&subscriber.read_message().payload);
                }
            }
            host.expect_count(PUBLISHERS * EACH, |counts| counts.topic_publications);
            host.expect_count(12 * PUBLISHERS * EACH, |counts| counts.topic_deliveries);
            for peer in subscribers.into_iter().chain(publishers) {
                peer.close();
            }
        },
    );
}

#[test]
fn nothing_is_lost_between_shards_whose_inboxes_are_small() {
    let config = config(|config| config.mailbox_messages_max = 2);
    host(
        Engine::Server,
        config,
        || Desk,
        |host| {
            let mut subscribers: Vec<_> = (0..8).map(|_| host.open()).collect();
            for subscriber in &mut subscribers {
                subscriber.ask("+all", "Ok(true)");
            }
            let mut publishers: Vec<_> = (0..PUBLISHERS).map(|_| host.open()).collect();
            let mut refused = 0;
            // What was refused is said again: that is what a publisher does.
            for number in 0..EACH {
                for (index, publisher) in publishers.iter_mut().enumerate() {
                    publisher.say(&format!("all {index} {number}"));
                }
                if number % 50 == 49 {
                    let wanted = (number + 1) * PUBLISHERS;
                    until("all of it was published or refused", || {
                        let counts = host.counts();
                        refused = counts.topic_publications_refused;
                        counts.topic_publications + refused >= wanted
                    });
                }
            }
            let published = host.counts().topic_publications;
            assert_eq!(published + refused, PUBLISHERS * EACH);
            for subscriber in &mut subscribers {
                let mut last = [None; PUBLISHERS as usize];
                for _ in 0..published {
                    let payload = subscriber.read_message().payload;
                    let text = String::from_utf8(payload).unwrap();
                    let (publisher, number) = text.split_once(' ').unwrap();
                    let last = &mut last[publisher.parse::<usize>().unwrap()];
                    let number: u64 = number.parse().unwrap();
                    assert!(
                        last.is_none_or(|last| last < number),
                        "{number} after {last:?}"
                    );
                    *last = Some(number);
                }
            }
            for mut publisher in publishers {
                // Those that were refused have been told.
                publisher.say("?");
                while !publisher.read_message().payload.ends_with(b" 0") {}
                publisher.close();
            }
            for subscriber in subscribers {
                subscriber.close();
            }
        },
    );
}

/// Bytes of one message for those who do not read.
const PART: usize = 16 << 10;

/// Publishes numbered messages to a topic with this policy, one subscriber of which does not read
/// until all were published. Returns what it has read then, and how it ended.
fn beside_one_who_does_not_read(slow: SlowPolicy, messages: u32) -> (Vec<u32>, Option<u16>) {
    let mut read = (Vec::new(), None);
    guarded(|| {
        let mut options = TopicOptions::default();
        options.slow = slow;
        options.backlog_messages_max = 8;
        let builder = builder().shards(2).listen("127.0.0.1:0");
        let server = builder.topic("numbers.*", options).unwrap();
        let server = server.start(|_| Desk.hosted()).unwrap();
        let address = server.addresses()[0].clone();
        let mut idler = Peer::open(&address, "/");
        let mut reader = Peer::open(&address, "/");
        idler.ask("+numbers.all", "Ok(true)");
        reader.ask("+numbers.all", "Ok(true)");
        let handle = server.handle();
        for number in 0..messages {
            let mut message = vec![0; PART];
            message[..4].copy_from_slice(&number.to_be_bytes());
            handle.publish("numbers.all", message).unwrap();
            let got = reader.read_message().payload;
            assert_eq!(got[..4], number.to_be_bytes());
        }
        let counts = handle.stats().counts;
        let left_out = counts.topic_dropped_newest + counts.topic_dropped_oldest;
        handle.publish("numbers.other", "the end").unwrap();
        while let Ok(frame) = idler.try_read_frame() {
            if frame.first == CLOSE {
                read.1 = Some(u16::from_be_bytes([frame.payload[0], frame.payload[1]]));
                idler.send(CLOSE, &frame.payload[..2]);
                idler.expect_end();
                break;
            }
            let number = u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
            read.0.push(number);
            if read.0.len() as u64 + left_out + counts.topic_conflated == u64::from(messages) {
                idler.close();
                break;
            }
        }
        reader.close();
        let counts = handle.stats().counts;
        assert_eq!(counts.topic_disconnects, u64::from(read.1.is_some()));
        handle.stop();
        server.join().unwrap();
    });
    read
}

fn is_sorted(numbers: &[u32]) -> bool {
    numbers.windows(2).all(|pair| pair[0] < pair[1])
}

#[test]
fn who_does_not_read_gets_the_newest() {
    let (numbers, code) = beside_one_who_does_not_read(SlowPolicy::DropOldest, 2000);
    assert!(is_sorted(&numbers) && numbers.len() < 2000 && code.is_none());
    let last: Vec<u32> = (1992..2000).collect();
    assert_eq!(numbers[numbers.len() - 8..], last);
}

#[test]
fn who_does_not_read_gets_the_oldest() {
    let (numbers, code) = beside_one_who_does_not_read(SlowPolicy::DropNewest, 2000);
    let first: Vec<u32> = (0..numbers.len() as u32).collect();
    assert_eq!((&numbers, code), (&first, None));
    assert!(numbers.len() < 2000);
}

#[test]
fn who_does_not_read_gets_the_newest_of_each() {
    let (numbers, code) = beside_one_who_does_not_read(SlowPolicy::Conflate, 2000);
    assert!(is_sorted(&numbers) && numbers.len() < 2000 && code.is_none());
    assert_eq!(numbers.last(), Some(&1999));
}

#[test]
fn who_does_not_read_is_closed_with_1013() {
    let (numbers, code) = beside_one_who_does_not_read(SlowPolicy::Disconnect, 2000);
    let first: Vec<u32> = (0..numbers.len() as u32).collect();
    assert_eq!((numbers, code), (first, Some(1013)));
}

#[test]
fn a_handle_is_told_when_nobody_can_take_more() {
    guarded(|| {
        let server = builder().shards(1).listen("127.0.0.1:0");
        let server = server.start(|_| Desk.hosted()).unwrap();
        let handle = server.handle();
        let wrong = handle.publish("a.*", "text");
        assert_eq!(wrong, Err(PublishError::Topic(TopicError::Wildcard)));
        handle.stop();
        server.join().unwrap();
        assert_eq!(handle.publish("a", "text"), Err(PublishError::Stopped));
    });
}
