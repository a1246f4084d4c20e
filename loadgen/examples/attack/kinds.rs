//! The attacks there are, by name.
//!
//! Knows: what each sends. Refuses to know: sockets, and how many there are of them.

use std::{io, sync::Arc, time::Duration};

use ringwire::tls::rustls::ClientConfig;

use crate::{
    frames::{self, BINARY, FIN, PING, PONG, Side, TEXT},
    plan::{Plan, Reply, Security, Segment, Then},
    wire::client_hello,
};

const MIB: usize = 1 << 20;

/// An attack, in the words of `--list-kinds`.
pub struct Kind {
    pub name: &'static str,
    pub what: &'static str,
    make: fn(&Makings) -> io::Result<Plan>,
}

/// What kinds are made of, beside what they are.
pub struct Makings {
    pub side: Side,
    pub secured: bool,
    pub tls: Arc<ClientConfig>,
}

impl Kind {
    /// What each of its connections does.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up.
    pub fn plan(&self, makings: &Makings) -> io::Result<Plan> {
        let mut plan = (self.make)(makings)?;
        if makings.secured && plan.security == Security::None {
            plan.security = Security::Tls;
        }
        Ok(plan)
    }
}

/// The kind of this name.
///
/// # Errors
///
/// When there is none.
pub fn find(name: &str) -> Result<&'static Kind, String> {
    let found = KINDS.iter().find(|kind| kind.name == name);
    found.ok_or_else(|| format!("there is no attack '{name}'; --list-kinds names them"))
}

/// Messages or frames, as fast as they go, and what comes back is read.
fn flood(path: &str, compressed: bool, segment: Segment) -> Plan {
    let mut plan = Plan::request(frames::upgrade(path, compressed), Reply::Head);
    plan.together = true;
    plan.reopens = true;
    plan.segments.push(segment);
    plan
}

fn frame_flood(makings: &Makings, path: &str, first: u8, payload: &[u8]) -> Plan {
    let frame = frames::frame(first, payload, makings.side);
    flood(path, false, frames::endless(&[frame]))
}

/// Connections that send this and do nothing more.
fn held(path: &str, compressed: bool, segments: Vec<Segment>) -> Plan {
    let mut plan = Plan::request(frames::upgrade(path, compressed), Reply::Head);
    plan.together = true;
    plan.segments = segments;
    plan
}

/// Requests, each on a connection of its own, one after the other.
fn storm(request: impl Into<Arc<[u8]>>, reply: Reply, then: Then) -> Plan {
    let mut plan = Plan::request(request, reply);
    plan.then = then;
    plan
}

/// What well-behaved clients send: as much each 100 ms, and they read.
fn steady(mut plan: Plan, bytes: usize) -> Plan {
    plan.pace = Some((bytes, Duration::from_millis(100)));
    plan.reopens = false;
    plan
}

fn unread(payload_len: usize) -> Plan {
    let frame = frames::frame(FIN | BINARY, &vec![0; payload_len], Side::Client);
    let mut plan = flood("/", false, frames::endless(&[frame]));
    plan.reads = false;
    plan.reopens = false;
    plan.socket_bytes = Some(8 << 10);
    plan
}

fn unread_once(payload_len: usize) -> Plan {
    let frame = frames::frame(FIN | BINARY, &vec![0; payload_len], Side::Client);
    let mut plan = held("/", false, vec![frames::once(&[frame])]);
    plan.reads = false;
    plan
}

pub const KINDS: &[Kind] = &[
    Kind {
        name: "steady-echo",
        what: "no attack: 100 messages of 64 bytes a second, echoed",
        make: |m| Ok(steady(frame_flood(m, "/", FIN | TEXT, &[b'x'; 64]), 700)),
    },
    Kind {
        name: "steady-sink",
        what: "no attack: 50 messages of 1 KiB a second to /sink",
        make: |m| {
            let plan = frame_flood(m, "/sink", FIN | BINARY, &[0; 1 << 10]);
            Ok(steady(plan, 5 * 1032))
        },
    },
    Kind {
        name: "steady-deflate",
        what: "no attack: compressed messages of 4 KiB at 40 KB a second, echoed",
        make: |_| {
            let message = frames::compressed_noise(4 << 10);
            Ok(steady(flood("/", true, frames::endless(&[message])), 4000))
        },
    },
    Kind {
        name: "steady-big",
        what: "no attack: messages of 1 MiB at 1 MB a second, echoed",
        make: |m| {
            let plan = frame_flood(m, "/", FIN | BINARY, &[0; MIB]);
            Ok(steady(plan, 100_000))
        },
    },
    Kind {
        name: "ping",
        what: "pings of 1 byte",
        make: |m| Ok(frame_flood(m, "/", FIN | PING, b"x")),
    },
    Kind {
        name: "ping-empty",
        what: "empty pings",
        make: |m| Ok(frame_flood(m, "/", FIN | PING, b"")),
    },
    Kind {
        name: "ping-125",
        what: "pings of 125 bytes",
        make: |m| Ok(frame_flood(m, "/", FIN | PING, &[b'x'; 125])),
    },
    Kind {
        name: "pong",
        what: "pongs of 1 byte",
        make: |m| Ok(frame_flood(m, "/", FIN | PONG, b"x")),
    },
    Kind {
        name: "empty",
        what: "empty messages, echoed",
        make: |m| Ok(frame_flood(m, "/", FIN | TEXT, b"")),
    },
    Kind {
        name: "empty-sink",
        what: "empty messages to /sink",
        make: |m| Ok(frame_flood(m, "/sink", FIN | TEXT, b"")),
    },
    Kind {
        name: "fragment-1",
        what: "a message of 100,000 fragments of 1 byte, again and again",
        make: |m| {
            let message = frames::fragmented(100_000, 1, m.side);
            Ok(flood("/", false, frames::endless(&message)))
        },
    },
    Kind {
        name: "fragment-0",
        what: "a message of 1,000 empty fragments, again and again",
        make: |m| {
            let message = frames::fragmented(1_000, 0, m.side);
            Ok(flood("/", false, frames::endless(&message)))
        },
    },
    Kind {
        name: "fragmented",
        what: "messages of 64 bytes in fragments of 1 byte",
        make: |m| {
            let message = frames::fragmented(64, 1, m.side);
            Ok(flood("/", false, frames::endless(&message)))
        },
    },
    Kind {
        name: "text-64",
        what: "text of 64 bytes, echoed",
        make: |m| Ok(frame_flood(m, "/", FIN | TEXT, &[b'x'; 64])),
    },
    Kind {
        name: "binary-64",
        what: "binary messages of 64 bytes, echoed",
        make: |m| Ok(frame_flood(m, "/", FIN | BINARY, &[b'x'; 64])),
    },
    Kind {
        name: "sink-64",
        what: "text of 64 bytes to /sink",
        make: |m| Ok(frame_flood(m, "/sink", FIN | TEXT, &[b'x'; 64])),
    },
    Kind {
        name: "sink-64-binary",
        what: "binary messages of 64 bytes to /sink",
        make: |m| Ok(frame_flood(m, "/sink", FIN | BINARY, &[b'x'; 64])),
    },
    Kind {
        name: "echo-64k",
        what: "binary messages of 64 KiB, echoed",
        make: |m| Ok(frame_flood(m, "/", FIN | BINARY, &[0; 64 << 10])),
    },
    Kind {
        name: "sink-1m",
        what: "text of 1 MiB to /sink",
        make: |m| Ok(frame_flood(m, "/sink", FIN | TEXT, &[b'x'; MIB])),
    },
    Kind {
        name: "sink-16m",
        what: "binary messages of 16 MiB to /sink",
        make: |m| Ok(frame_flood(m, "/sink", FIN | BINARY, &vec![0; 16 * MIB])),
    },
    Kind {
        name: "sink-16m-text",
        what: "text of 16 MiB to /sink",
        make: |m| {
            let text = "\u{e4}".repeat(8 * MIB);
            Ok(frame_flood(m, "/sink", FIN | TEXT, text.as_bytes()))
        },
    },
    Kind {
        name: "echo-16m",
        what: "binary messages of 16 MiB, echoed",
        make: |m| Ok(frame_flood(m, "/", FIN | BINARY, &vec![0; 16 * MIB])),
    },
    Kind {
        name: "slow",
        what: "text of 64 bytes to a service that takes 20 us",
        make: |m| Ok(frame_flood(m, "/slow", FIN | TEXT, &[b'x'; 64])),
    },
    Kind {
        name: "posted",
        what: "another thread posts 64 bytes to the connection as fast as it can",
        make: |_| {
            let mut plan = Plan::request(frames::upgrade("/posted", false), Reply::Head);
            plan.together = true;
            Ok(plan)
        },
    },
    Kind {
        name: "deflate-zeros",
        what: "compressed: 16 MiB of zeros, echoed",
        make: |_| {
            Ok(flood(
                "/",
                true,
                frames::endless(&[frames::compressed_zeros(16 * MIB)]),
            ))
        },
    },
    Kind {
        name: "deflate-zeros-sink",
        what: "compressed: 16 MiB of zeros to /sink",
        make: |_| {
            let message = frames::compressed_zeros(16 * MIB);
            Ok(flood("/sink", true, frames::endless(&[message])))
        },
    },
    Kind {
        name: "deflate-final-blocks",
        what: "compressed: 1,080 empty final blocks, about as many as are let in",
        make: |_| {
            let message = frames::compressed_final_blocks(1080);
            Ok(flood("/sink", true, frames::endless(&[message])))
        },
    },
    Kind {
        name: "deflate-noise",
        what: "compressed: 64 KiB that has to be decoded byte by byte, to /sink",
        make: |_| {
            let message = frames::compressed_noise(64 << 10);
            Ok(flood("/sink", true, frames::endless(&[message])))
        },
    },
    Kind {
        name: "deflate-noise-echo",
        what: "compressed: 64 KiB that has to be decoded byte by byte, echoed",
        make: |_| {
            let message = frames::compressed_noise(64 << 10);
            Ok(flood("/", true, frames::endless(&[message])))
        },
    },
    Kind {
        name: "deflate-small",
        what: "compressed: messages of 16 bytes to /sink",
        make: |_| {
            let message = frames::compressed_noise(16);
            Ok(flood("/sink", true, frames::endless(&[message])))
        },
    },
    Kind {
        name: "tls-records",
        what: "TLS: pings of 1 byte in records of 1 byte",
        make: |m| {
            let mut plan = frame_flood(m, "/", FIN | PING, b"x");
            plan.security = Security::TlsByByte;
            Ok(plan)
        },
    },
    Kind {
        name: "tls-records-sink",
        what: "TLS: text of 64 bytes in records of 1 byte to /sink",
        make: |m| {
            let mut plan = frame_flood(m, "/sink", FIN | TEXT, &[b'x'; 64]);
            plan.security = Security::TlsByByte;
            Ok(plan)
        },
    },
    Kind {
        name: "tls-keys",
        what: "TLS: pings with new traffic keys before each of them",
        make: |m| {
            let mut plan = frame_flood(m, "/", FIN | PING, b"0123456789");
            plan.security = Security::TlsRekeyed;
            Ok(plan)
        },
    },
    Kind {
        name: "tls-ping",
        what: "TLS: pings of 1 byte",
        make: |m| {
            let mut plan = frame_flood(m, "/", FIN | PING, b"x");
            plan.security = Security::Tls;
            Ok(plan)
        },
    },
    Kind {
        name: "tls-sink-1m",
        what: "TLS: text of 1 MiB to /sink",
        make: |m| {
            let mut plan = frame_flood(m, "/sink", FIN | TEXT, &[b'x'; MIB]);
            plan.security = Security::Tls;
            Ok(plan)
        },
    },
    Kind {
        name: "tls-renewed",
        what: "TLS: a whole handshake, 1,000 pings of 1 byte, and a new connection",
        make: |m| {
            let ping = frames::frame(FIN | PING, b"x", m.side);
            let mut plan = flood("/", false, frames::once(&vec![ping; 1000]));
            plan.security = Security::Tls;
            plan.together = false;
            plan.then = Then::Again;
            Ok(plan)
        },
    },
    Kind {
        name: "tls-handshakes",
        what: "TLS: whole handshakes, one after the other",
        make: |_| {
            let mut plan = storm(&b""[..], Reply::None, Then::AgainAfterReset);
            plan.security = Security::Tls;
            Ok(plan)
        },
    },
    Kind {
        name: "tls-aborted",
        what: "TLS: the same first message of a handshake, and no more after its answer",
        make: |m| {
            let hello = client_hello(&m.tls)?;
            Ok(storm(hello, Reply::Byte, Then::AgainAfterReset))
        },
    },
    Kind {
        name: "tls-silent",
        what: "TLS: the first half of a handshake's first message, and silence",
        make: |m| {
            let mut hello = client_hello(&m.tls)?;
            hello.truncate(hello.len() / 2);
            Ok(Plan::request(hello, Reply::End))
        },
    },
    Kind {
        name: "connect",
        what: "connections that are closed at once",
        make: |_| Ok(storm(&b""[..], Reply::None, Then::Again)),
    },
    Kind {
        name: "connect-reset",
        what: "connections that are reset at once",
        make: |_| Ok(storm(&b""[..], Reply::None, Then::AgainAfterReset)),
    },
    Kind {
        name: "connect-silent",
        what: "connections on which nothing comes",
        make: |_| {
            let mut plan = Plan::request(&b""[..], Reply::End);
            plan.reopens = true;
            Ok(plan)
        },
    },
    Kind {
        name: "connect-idle",
        what: "opening handshakes, and nothing after them",
        make: |_| Ok(Plan::request(frames::upgrade("/", false), Reply::Head)),
    },
    Kind {
        name: "upgrade",
        what: "opening handshakes that end with a reset",
        make: |_| {
            let request = frames::upgrade("/", false);
            Ok(storm(request, Reply::Head, Then::AgainAfterReset))
        },
    },
    Kind {
        name: "upgrade-deflate",
        what: "opening handshakes with compression, one message of 600 bytes, and a reset",
        make: |_| {
            let mut plan = storm(
                frames::upgrade("/", true),
                Reply::Head,
                Then::AgainAfterReset,
            );
            plan.segments
                .push(frames::once(&[frames::compressed_noise(600)]));
            Ok(plan)
        },
    },
    Kind {
        name: "http",
        what: "requests for the page",
        make: |_| Ok(storm(frames::get("/"), Reply::End, Then::AgainAfterReset)),
    },
    Kind {
        name: "http-404",
        what: "requests for what is not there",
        make: |_| {
            Ok(storm(
                frames::get("/nothing"),
                Reply::End,
                Then::AgainAfterReset,
            ))
        },
    },
    Kind {
        name: "http-long",
        what: "heads of 9,000 bytes without an end",
        make: |_| {
            let request = frames::endless_head(9000);
            Ok(storm(request, Reply::End, Then::AgainAfterReset))
        },
    },
    Kind {
        name: "http-slow",
        what: "heads that come one byte each 100 ms",
        make: |_| {
            let mut plan = Plan::request(&b""[..], Reply::None);
            plan.segments.push(Segment {
                bytes: frames::endless_head(4000),
                times: 1,
                frames: 1,
            });
            plan.pace = Some((1, Duration::from_millis(100)));
            plan.reopens = true;
            Ok(plan)
        },
    },
    Kind {
        name: "http-partial",
        what: "heads of 7,000 bytes without an end, held",
        make: |_| Ok(Plan::request(frames::endless_head(7000), Reply::End)),
    },
    Kind {
        name: "hixie76-64",
        what: "hixie-76: text of 64 bytes, echoed",
        make: |_| {
            let mut plan = flood("/", false, frames::endless(&[frames::frame_hixie76(64)]));
            plan.request = frames::upgrade_hixie76("/");
            Ok(plan)
        },
    },
    Kind {
        name: "hixie76-empty",
        what: "hixie-76: empty text to /sink",
        make: |_| {
            let mut plan = flood("/sink", false, frames::endless(&[frames::frame_hixie76(0)]));
            plan.request = frames::upgrade_hixie76("/sink");
            Ok(plan)
        },
    },
    Kind {
        name: "hixie76-begun",
        what: "hixie-76: 1 MiB of a text without an end, held",
        make: |_| {
            let mut bytes = frames::frame_hixie76(MIB);
            bytes.pop();
            let segment = Segment {
                bytes: bytes.into(),
                times: 1,
                frames: 0,
            };
            let mut plan = held("/sink", false, vec![segment]);
            plan.request = frames::upgrade_hixie76("/sink");
            Ok(plan)
        },
    },
    Kind {
        name: "unread-64",
        what: "echoes of 64 bytes that nobody reads",
        make: |_| Ok(unread(64)),
    },
    Kind {
        name: "unread-1m",
        what: "echoes of 1 MiB that nobody reads",
        make: |_| Ok(unread(MIB)),
    },
    Kind {
        name: "unread-16m",
        what: "one echo of 16 MiB that nobody reads",
        make: |_| Ok(unread_once(16 * MIB)),
    },
    Kind {
        name: "unread-shared",
        what: "asks for 2,000 references to one payload of 4 KiB, and reads none",
        make: |_| {
            let ask = frames::frame(FIN | TEXT, b"2000", Side::Client);
            let mut plan = held("/shared", false, vec![frames::once(&[ask])]);
            plan.reads = false;
            plan.socket_bytes = Some(8 << 10);
            Ok(plan)
        },
    },
    Kind {
        name: "begun-1b",
        what: "announces 16 MiB and sends 1 byte",
        make: |_| Ok(held("/sink", false, frames::begun(16 * MIB, 1))),
    },
    Kind {
        name: "begun-7b",
        what: "announces 16 MiB and sends 7 bytes",
        make: |_| Ok(held("/sink", false, frames::begun(16 * MIB, 7))),
    },
    Kind {
        name: "begun-after-long",
        what: "compressed: 16 MiB of zeros, then announces 16 MiB and sends 7 bytes",
        make: |_| {
            let mut segments = vec![frames::once(&[frames::compressed_zeros(16 * MIB)])];
            segments.extend(frames::begun(16 * MIB, 7));
            Ok(held("/sink", true, segments))
        },
    },
    Kind {
        name: "begun-1m",
        what: "announces 16 MiB and sends 1.1 MiB",
        make: |_| Ok(held("/sink", false, frames::begun(16 * MIB, 11 * MIB / 10))),
    },
    Kind {
        name: "begun-4m",
        what: "announces 16 MiB and sends 4.2 MiB",
        make: |_| Ok(held("/sink", false, frames::begun(16 * MIB, 42 * MIB / 10))),
    },
    Kind {
        name: "begun-15m",
        what: "announces 16 MiB and sends 15 MiB",
        make: |_| Ok(held("/sink", false, frames::begun(16 * MIB, 15 * MIB))),
    },
    Kind {
        name: "begun-tls",
        what: "TLS: announces 16 MiB and sends 64 KiB",
        make: |_| {
            let mut plan = held("/sink", false, frames::begun(16 * MIB, 64 << 10));
            plan.security = Security::Tls;
            Ok(plan)
        },
    },
    Kind {
        name: "begun-fragments",
        what: "20,000 fragments of 1 byte, and no last one",
        make: |m| {
            let mut message = frames::fragmented(20_001, 1, m.side);
            message.pop();
            Ok(held("/sink", false, vec![frames::once(&message)]))
        },
    },
    Kind {
        name: "begun-slowly",
        what: "announces 1 MiB and sends one byte each second",
        make: |_| {
            let mut plan = held("/sink", false, frames::begun(MIB, MIB));
            plan.pace = Some((1, Duration::from_secs(1)));
            Ok(plan)
        },
    },
    Kind {
        name: "begun-steadily",
        what: "messages of 1 MiB at 200 KiB a second, echoed: slow, and in order",
        make: |_| {
            let mut plan = held("/", false, frames::begun(MIB, MIB));
            plan.pace = Some((20 << 10, Duration::from_millis(100)));
            Ok(plan)
        },
    },
    Kind {
        name: "deflate-held",
        what: "compressed: one message of 16 MiB of zeros that is echoed and not read",
        make: |_| {
            let message = frames::compressed_zeros(16 * MIB);
            let mut plan = held("/", true, vec![frames::once(&[message])]);
            plan.reads = false;
            plan.socket_bytes = Some(8 << 10);
            Ok(plan)
        },
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::trusting;

    #[test]
    fn every_kind_can_be_made_and_is_named_once() {
        let makings = Makings {
            side: Side::Client,
            secured: false,
            tls: trusting().expect("TLS"),
        };
        for (index, kind) in KINDS.iter().enumerate() {
            kind.plan(&makings).expect(kind.name);
            assert!(KINDS[..index].iter().all(|other| other.name != kind.name));
        }
    }
}
