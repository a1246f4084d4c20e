//! A client and a server that talk: the input says who sends what, and which pieces of it arrive
//! when. Each side sees what the other one sent, in that order, or the violation of its own limits.
//!
//! The first byte chooses the limits of both and how they receive, the second whether they
//! compress; then come the steps.

use std::collections::VecDeque;

use bytes::Bytes;
use ringwire::{
    CloseCode, ProtocolError, SendError,
    proto::{Endpoint, Limits, Role, endpoint::Control, message::Outgoing},
};

use crate::{
    Tally,
    input::{Input, binary, text},
    side::{NARROW, Seen, Side, TERMS, WIDE},
};

/// Bytes that an input may have sent in all, so that none of them takes long.
const SENT_BYTES_MAX: usize = 1 << 15;

const OFFERS: [Option<&str>; 4] = [
    None,
    None,
    Some("permessage-deflate"),
    Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
];

/// What a side is to see.
struct Due {
    event: Seen,
    /// Of a message, the payload lengths of its frames.
    frames: Vec<usize>,
}

struct Party {
    side: Side,
    /// On its way to this side.
    wire: Vec<u8>,
    due: VecDeque<Due>,
    /// Nothing more is to be seen here.
    ended: bool,
    /// Messages were handed out in pieces at some time: those have no longest length.
    pieces: bool,
}

impl Party {
    fn new(role: Role, limits: Limits, batches: bool, offer: Option<&str>) -> Self {
        let mut side = Side::new(Endpoint::new(role), limits);
        side.batches = batches;
        if let Some(offer) = offer {
            side.compress(offer, &TERMS);
        }
        Self {
            side,
            wire: Vec::new(),
            due: VecDeque::new(),
            ended: false,
            pieces: false,
        }
    }

    /// What may come of a message: whether it may be seen, and what may be wrong with it.
    fn verdict(&self, due: &Due) -> (bool, Vec<ProtocolError>) {
        let limits = &self.side.limits;
        let mut whole = 0;
        for (index, &len) in due.frames.iter().enumerate() {
            whole += len as u64;
            if whole > limits.message_bytes_max && !self.pieces {
                return (false, vec![ProtocolError::MessageTooBig]);
            }
            if index as u32 >= limits.message_fragments_max {
                let mut errors = vec![ProtocolError::FragmentFlood];
                if whole > limits.message_bytes_max {
                    errors.push(ProtocolError::MessageTooBig);
                }
                return (false, errors);
            }
        }
        if whole > limits.message_bytes_max {
            return (true, vec![ProtocolError::MessageTooBig]);
        }
        (true, Vec::new())
    }
}

/// Lets both talk.
pub fn run(bytes: &[u8]) -> Tally {
    let mut input = Input::new(bytes);
    let how = input.byte();
    let offer = input.choose(&OFFERS);
    let limits = |bit: u8| {
        // How long the frames of a compressed message are is not known here.
        if how & bit == 0 || offer.is_some() {
            WIDE
        } else {
            NARROW
        }
    };
    let mut talk = Talk {
        parties: [
            Party::new(Role::Client, limits(1), how & 4 != 0, offer),
            Party::new(Role::Server, limits(2), how & 8 != 0, offer),
        ],
        is_compressed: offer.is_some(),
        sent_bytes: 0,
        tally: Tally::default(),
    };
    while !input.is_empty() && talk.sent_bytes < SENT_BYTES_MAX {
        talk.step(&mut input);
    }
    talk.finish()
}

struct Talk {
    parties: [Party; 2],
    is_compressed: bool,
    sent_bytes: usize,
    tally: Tally,
}

impl Talk {
    fn step(&mut self, input: &mut Input<'_>) {
        let step = input.byte();
        let from = usize::from(step & 1);
        match step >> 1 & 15 {
            0 | 1 => self.send(from, text_message(input), None, false),
            2 | 3 => self.send(from, binary_message(input), None, false),
            4 => self.send(from, text_message(input), None, true),
            5 => self.send(from, binary_message(input), None, true),
            6 => {
                let message = text_message(input);
                self.send(from, message, Some(1 + input.len()), false);
            }
            7 => {
                let message = binary_message(input);
                self.send(from, message, Some(1 + input.len()), false);
            }
            8 => self.control(from, Control::Ping, input.len()),
            9 => self.control(from, Control::Pong, input.len()),
            10 => self.close(from, input),
            11 => {
                let on = input.byte() & 1 != 0;
                self.parties[from].side.hand_out_pieces(on);
                self.parties[from].pieces |= on;
            }
            12 => self.deliver(from, usize::MAX),
            _ => self.deliver(from, 1 + input.len()),
        }
    }

    fn send(&mut self, from: usize, message: Seen, fragment: Option<usize>, shared: bool) {
        let side = &mut self.parties[from].side;
        let (payload, is_text) = match &message {
            Seen::Text(text) => (text.as_bytes(), true),
            Seen::Binary(bytes) => (bytes.as_slice(), false),
            _ => (&[][..], false),
        };
        let outgoing = match (&message, shared) {
            (_, true) if is_text => {
                Outgoing::text(Bytes::copy_from_slice(payload)).expect("it is text")
            }
            (_, true) => Bytes::copy_from_slice(payload).into(),
            (Seen::Text(text), _) => text.as_str().into(),
            _ => payload.into(),
        };
        let mut frames = vec![payload.len()];
        let closed = side.endpoint.is_close_sent();
        let sent = match fragment {
            None => side.send(outgoing),
            Some(most) => {
                frames = payload.chunks(most).map(<[u8]>::len).collect();
                if frames.is_empty() {
                    frames.push(0);
                }
                side.send_fragmented(&outgoing, most)
            }
        };
        if self.is_compressed {
            frames.clear();
        }
        self.sent_bytes += payload.len() + 16 * frames.len();
        if self.expect(sent, closed) {
            self.owe(1 - from, message, frames);
        }
        self.collect(from);
    }

    fn control(&mut self, from: usize, control: Control, len: usize) {
        let payload = binary(len, 7);
        let side = &mut self.parties[from].side;
        let closed = side.endpoint.is_close_sent();
        let sent = side.control(control, &payload);
        if len > 125 {
            assert_eq!(sent, Err(SendError::ControlTooLong));
            self.tally.refused += 1;
        } else if self.expect(sent, closed) {
            let event = match control {
                Control::Ping => Seen::Ping(payload),
                Control::Pong => Seen::Pong(payload),
            };
            self.owe(1 - from, event, Vec::new());
        }
        self.collect(from);
    }

    fn close(&mut self, from: usize, input: &mut Input<'_>) {
        let code = u16::from_be_bytes([input.byte(), input.byte()]);
        let code = CloseCode::new(code).unwrap_or(CloseCode::NORMAL_CLOSURE);
        let reason = text(input.len(), 1);
        let side = &mut self.parties[from].side;
        let closed = side.endpoint.is_close_sent();
        let sent = side.close(code, &reason);
        if reason.len() > 123 {
            assert_eq!(sent, Err(SendError::ControlTooLong));
            self.tally.refused += 1;
        } else if self.expect(sent, closed) {
            let event = Seen::Close(Some(code.number()), reason);
            self.owe(1 - from, event, Vec::new());
        }
        self.collect(from);
    }

    /// Sending works until our close frame was written, and not any more then.
    fn expect(&mut self, sent: Result<(), SendError>, closed: bool) -> bool {
        let expected = if closed {
            Err(SendError::Closed)
        } else {
            Ok(())
        };
        assert_eq!(sent, expected);
        self.tally.refused += u64::from(closed);
        !closed
    }

    fn owe(&mut self, to: usize, event: Seen, frames: Vec<usize>) {
        if !self.parties[to].ended {
            self.parties[to].due.push_back(Due { event, frames });
        }
    }

    /// Puts on the wire what a side wrote.
    fn collect(&mut self, from: usize) {
        let output = self.parties[from].side.take_output();
        self.parties[1 - from].wire.extend(output);
    }

    /// The next bytes arrive.
    fn deliver(&mut self, to: usize, most: usize) {
        let party = &mut self.parties[to];
        let count = most.min(party.wire.len());
        let piece: Vec<u8> = party.wire.drain(..count).collect();
        // During the call only the end of the input changes it, behind which nothing is seen.
        let closed = party.side.endpoint.is_close_sent();
        for event in party.side.feed(&piece) {
            self.seen(to, event, closed);
        }
        self.collect(to);
    }

    fn seen(&mut self, at: usize, event: Seen, closed: bool) {
        let party = &mut self.parties[at];
        assert!(!party.ended, "{event:?} came after the end");
        let is_message = |event: &Seen| matches!(event, Seen::Text(_) | Seen::Binary(_));
        let mut answer = None;
        loop {
            let due = party.due.pop_front().expect("something is to be seen");
            if is_message(&due.event) {
                let (may_be_seen, errors) = party.verdict(&due);
                if let Seen::Failed(error) = &event
                    && errors.contains(error)
                {
                    break;
                }
                assert!(may_be_seen, "{event:?} instead of one of {errors:?}");
                // What comes behind our own close frame is not handed out.
                if closed {
                    continue;
                }
            }
            assert_eq!(event, due.event);
            break;
        }
        match &event {
            Seen::Ping(payload) => answer = Some(Seen::Pong(payload.clone())),
            Seen::Close(code, _) => {
                party.ended = true;
                answer = Some(Seen::Close(*code, String::new()));
            }
            Seen::Failed(error) => {
                party.ended = true;
                let code = error.close_code().number();
                answer = Some(Seen::Close(Some(code), error.reason().to_owned()));
            }
            _ => {}
        }
        if party.ended {
            party.due.clear();
            assert!(party.side.endpoint.is_close_sent());
        }
        match event {
            Seen::Failed(_) => self.tally.refused += 1,
            _ => self.tally.accepted += 1,
        }
        if let Some(answer) = answer.filter(|_| !closed) {
            self.owe(1 - at, answer, Vec::new());
        }
    }

    /// Everything arrives, and everything was seen.
    fn finish(mut self) -> Tally {
        while let Some(to) = (0..2).find(|&to| !self.parties[to].wire.is_empty()) {
            self.deliver(to, usize::MAX);
        }
        for party in self.parties {
            let closed = party.side.endpoint.is_close_sent();
            for due in &party.due {
                let is_message = matches!(due.event, Seen::Text(_) | Seen::Binary(_));
                let (may_be_unseen, _) = party.verdict(due);
                assert!(
                    closed && is_message && may_be_unseen,
                    "{:?} was not seen",
                    due.event
                );
            }
            assert_eq!(party.side.endpoint.is_input_ended(), party.ended);
            party.side.end();
        }
        self.tally
    }
}

fn text_message(input: &mut Input<'_>) -> Seen {
    let len = input.len();
    Seen::Text(text(len, input.byte()))
}

fn binary_message(input: &mut Input<'_>) -> Seen {
    let len = input.len();
    Seen::Binary(binary(len, input.byte()))
}
