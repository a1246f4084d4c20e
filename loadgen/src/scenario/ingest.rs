//! As fast as the server reads.
//!
//! Knows: a queue that is kept filled, and how to learn at the end that all of it was read. Refuses
//! to know: what the server does with it.
//!
//! At the end each connection sends the text `stats` and a ping. A server answers the ping once it
//! has read everything before it (RFC 6455 section 5.5.3 demands an answer, and a stream is read in
//! order). One that counts, as ringwire at `/sink`, answers `stats` with two numbers: messages and
//! bytes of payload that it read on this connection, `stats` not among them.

use std::sync::Arc;

use ringwire::{Conn, Message};

use crate::{
    driver::{self, Hub, Index, Start, Workload},
    plan::{Plan, Traffic},
    result::{IngestFigures, Run, Scenario},
    run::{self, Context},
    schedule::{Schedule, Share},
    verify::{Name, Payloads},
};

/// Bytes that are kept waiting on each connection, and how few are left when it is filled again.
const QUEUE_HIGH_BYTES: usize = 256 << 10;
const QUEUE_LOW_BYTES: usize = 128 << 10;

/// What was sent on one connection.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    messages: u64,
    is_confirmed: bool,
    counted: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Ingest {
    traffic: Traffic,
    payloads: Payloads,
    sent: Vec<Sent>,
    has_ended: bool,
}

impl Ingest {
    fn fill(&mut self, hub: &mut Hub, conn: &mut Conn<'_, Index>, index: usize) {
        let now_ns = conn.now().as_ns();
        // A slice's worth of short messages takes milliseconds to write: the time is the turn's.
        while now_ns < hub.end_ns {
            let name = Name {
                stream: hub.places[index].stream,
                sequence: self.sent[index].messages,
            };
            let message = self.payloads.outgoing(name);
            let len = message.payload_len();
            let sent = match self.traffic.fragment_bytes {
                None => conn.send(message),
                Some(bytes) => conn.send_fragmented(message, bytes),
            };
            if sent.is_err() {
                return;
            }
            self.sent[index].messages += 1;
            hub.tally.sent(now_ns, now_ns, len);
            if conn.queued_bytes() > QUEUE_HIGH_BYTES {
                return;
            }
        }
    }
}

impl Workload for Ingest {
    type Output = IngestFigures;

    fn start(&mut self, hub: &mut Hub, _: &Start, _: Option<Share>) -> Option<Schedule> {
        self.sent = vec![Sent::default(); hub.places.len()];
        None
    }

    fn begin(&mut self, hub: &mut Hub, conn: &mut Conn<'_, Index>, index: usize, _: u64) {
        if conn.queued_bytes() <= QUEUE_LOW_BYTES {
            self.fill(hub, conn, index);
        }
    }

    /// `on_drain` would say when, but only to a client that stops reading meanwhile: against a
    /// server that answers, each side would wait for the other.
    fn fills(&self) -> bool {
        !self.has_ended
    }

    fn message(
        &mut self,
        _: &mut Hub,
        _: &mut Conn<'_, Index>,
        index: usize,
        message: Message<'_>,
    ) {
        if self.has_ended
            && let Some(text) = message.text()
        {
            self.sent[index].counted = counts_of(text);
        }
    }

    fn pong(&mut self, _: &mut Hub, index: usize) {
        if self.has_ended {
            self.sent[index].is_confirmed = true;
        }
    }

    fn ended(&mut self, _: &mut Hub) {
        self.has_ended = true;
    }

    fn end(&mut self, _: &mut Hub, conn: &mut Conn<'_, Index>, _: usize) {
        // Refused only on a connection that is closing, which is lost and counted as that.
        let _ = conn.send("stats");
        let _ = conn.ping(b"all read?");
    }

    fn is_quiet(&self, hub: &Hub, _: u64) -> bool {
        let mut open = hub.open.iter();
        open.all(|&index| self.sent[index as usize].is_confirmed)
    }

    fn finish(&mut self, hub: &mut Hub, _: u64) -> IngestFigures {
        hub.tally.messages.scheduled = hub.tally.messages.sent;
        let mut figures = IngestFigures {
            frames_measured: hub.tally.messages.sent,
            ..IngestFigures::default()
        };
        for sent in &self.sent {
            figures.frames_sent += sent.messages;
            figures.connections_confirmed += u64::from(sent.is_confirmed);
            if let Some((messages, bytes)) = sent.counted {
                *figures.server_messages.get_or_insert_default() += messages;
                *figures.server_payload_bytes.get_or_insert_default() += bytes;
                figures.confirmed_messages += sent.messages;
            }
        }
        figures
    }
}

/// The first two numbers in what a server says to `stats`, whatever is around them.
fn counts_of(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Carries the plan out.
///
/// # Errors
///
/// A sentence, when nothing could be measured.
pub fn run(plan: &Arc<Plan>, context: &mut Context<'_>) -> Result<Run, String> {
    let Some(traffic) = plan.traffic.clone() else {
        return Err("ingest needs messages".to_owned());
    };
    let make = |_| Ingest {
        payloads: Payloads::new(&traffic.payload),
        traffic: traffic.clone(),
        sent: Vec::new(),
        has_ended: false,
    };
    let config = driver::config(plan);
    let executed = run::execute(plan, Scenario::Ingest, &config, make, context)?;
    let mut run = executed.run;
    let mut figures = IngestFigures::default();
    for part in executed.outputs {
        figures.connections_confirmed += part.connections_confirmed;
        figures.frames_sent += part.frames_sent;
        figures.frames_measured += part.frames_measured;
        figures.confirmed_messages += part.confirmed_messages;
        let add = |sum: &mut Option<u64>, more: Option<u64>| {
            if let Some(more) = more {
                *sum.get_or_insert_default() += more;
            }
        };
        add(&mut figures.server_messages, part.server_messages);
        add(&mut figures.server_payload_bytes, part.server_payload_bytes);
    }
    let open = run.connections.opened - run.connections.lost - run.connections.closed;
    if figures.connections_confirmed < open {
        run.notes.push(format!(
            "{} of {open} connections had not read everything when the wait was over",
            open - figures.connections_confirmed
        ));
    }
    if let Some(counted) = figures.server_messages {
        // What the server says it did not get is lost.
        run.messages.lost = figures.confirmed_messages.saturating_sub(counted);
    } else {
        run.notes
            .push("the server does not answer 'stats': what it read is not counted by it".into());
    }
    run.ingest = Some(figures);
    run::judge(&mut run, plan);
    Ok(run)
}
