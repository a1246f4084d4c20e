//! The closing handshake: every status code, and every order in which two sides can get there.

use std::collections::VecDeque;

use ringwire::{
    CloseCode, ProtocolError, SendError,
    proto::{Role, endpoint::Control},
};

use crate::{
    reference::decode,
    side::{LIMITS, Seen, Side},
    wire::*,
};

#[test]
fn all_65536_codes_in_a_received_close_frame() {
    let mut accepted = 0;
    for code in 0..=u16::MAX {
        let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        accepted += u32::from(may_be_sent);
        let reason = if code % 2 == 0 { "" } else { "why" };
        let mut side = Side::new(Role::Server);
        side.feed(&frame(
            Role::Client,
            FIN | CLOSE,
            &close_payload(code, reason),
        ));
        let output = side.take_output();
        if may_be_sent {
            assert_eq!(side.seen, [Seen::Close(Some(code), reason.into())]);
            assert_eq!(
                output,
                frame(Role::Server, FIN | CLOSE, &close_payload(code, ""))
            );
        } else {
            let error = ProtocolError::CloseCodeNotAllowed(code);
            assert_eq!(side.seen, [Seen::Failed(error)]);
            let payload = close_payload(1002, error.reason());
            assert_eq!(output, frame(Role::Server, FIN | CLOSE, &payload));
        }
        assert!(side.endpoint.is_close_sent() && side.endpoint.is_input_ended());
    }
    assert_eq!(accepted, 4 + 8 + 2000);
}

#[test]
fn a_close_without_a_code_is_answered_without_a_code() {
    let mut side = Side::new(Role::Server);
    side.feed(&frame(Role::Client, FIN | CLOSE, b""));
    assert_eq!(side.seen, [Seen::Close(None, String::new())]);
    assert_eq!(side.take_output(), frame(Role::Server, FIN | CLOSE, b""));
}

#[test]
fn a_reason_has_at_most_123_bytes() {
    let mut side = Side::new(Role::Server);
    let code = CloseCode::NORMAL_CLOSURE;
    assert_eq!(
        side.close(code, &"x".repeat(124)),
        Err(SendError::ControlTooLong)
    );
    assert_eq!(side.take_output(), b"");
    assert!(!side.endpoint.is_close_sent());
    let reason = "x".repeat(123);
    assert_eq!(side.close(code, &reason), Ok(()));
    let expected = frame(Role::Server, FIN | CLOSE, &close_payload(1000, &reason));
    assert_eq!(side.take_output(), expected);
    assert_eq!(side.close(code, ""), Err(SendError::Closed));
}

/// What one side does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Message,
    Ping,
    Close,
    /// Bytes that break the protocol, which no endpoint would write.
    Violation,
}

const MOVES: [Move; 4] = [Move::Message, Move::Ping, Move::Close, Move::Violation];

/// A frame on its way, as the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OnWay {
    Message,
    Ping,
    Pong,
    Close(u16),
    Violation,
}

/// Section 7, as two flags and a list of what was seen.
#[derive(Default)]
struct Model {
    close_sent: bool,
    input_ended: bool,
    seen: Vec<Seen>,
}

const VIOLATION: ProtocolError = ProtocolError::OpcodeReserved(3);

fn code_of(role: Role) -> CloseCode {
    let number = if role == Role::Client { 4001 } else { 4002 };
    CloseCode::new(number).expect("a code for private use")
}

impl Model {
    fn receive(&mut self, frame: OnWay, out: &mut VecDeque<OnWay>) {
        if self.input_ended {
            return;
        }
        match frame {
            OnWay::Message if self.close_sent => {}
            OnWay::Message => self.seen.push(Seen::Text("m".into())),
            OnWay::Ping => {
                if !self.close_sent {
                    out.push_back(OnWay::Pong);
                }
                self.seen.push(Seen::Ping(b"p".into()));
            }
            OnWay::Pong => self.seen.push(Seen::Pong(b"p".into())),
            OnWay::Close(code) => {
                self.input_ended = true;
                if !std::mem::replace(&mut self.close_sent, true) {
                    out.push_back(OnWay::Close(code));
                }
                self.seen.push(Seen::Close(Some(code), String::new()));
            }
            OnWay::Violation => {
                self.input_ended = true;
                if !std::mem::replace(&mut self.close_sent, true) {
                    out.push_back(OnWay::Close(1002));
                }
                self.seen.push(Seen::Failed(VIOLATION));
            }
        }
    }
}

/// One side: the endpoint, the model of it, and what both have put on their way.
struct Player {
    side: Side,
    model: Model,
    bytes: Vec<u8>,
    frames: VecDeque<OnWay>,
    moves: VecDeque<Move>,
}

impl Player {
    fn new(role: Role, moves: &[Move]) -> Self {
        Self {
            side: Side::in_batches(role),
            model: Model::default(),
            bytes: Vec::new(),
            frames: VecDeque::new(),
            moves: moves.iter().copied().collect(),
        }
    }

    fn act(&mut self) {
        let Some(next) = self.moves.pop_front() else {
            return;
        };
        let role = self.side.endpoint.role();
        let code = code_of(role);
        let (result, on_way) = match next {
            Move::Message => (self.side.send("m"), OnWay::Message),
            Move::Ping => (self.side.control(Control::Ping, b"p"), OnWay::Ping),
            Move::Close => (self.side.close(code, ""), OnWay::Close(code.number())),
            Move::Violation => {
                // Not after a close frame: then nobody looks at it, which the model knows too.
                self.bytes.extend(frame(role, FIN | 3, b""));
                self.frames.push_back(OnWay::Violation);
                return;
            }
        };
        self.bytes.extend(self.side.take_output());
        let expected = if self.model.close_sent {
            Err(SendError::Closed)
        } else {
            Ok(())
        };
        assert_eq!(result, expected, "{next:?} of the {role:?}");
        if result.is_ok() {
            self.model.close_sent |= next == Move::Close;
            self.frames.push_back(on_way);
        }
    }

    /// What is on its way to this side arrives.
    fn receive_from(&mut self, peer: &mut Player) {
        self.side.feed(&std::mem::take(&mut peer.bytes));
        self.bytes.extend(self.side.take_output());
        for frame in std::mem::take(&mut peer.frames) {
            self.model.receive(frame, &mut self.frames);
        }
    }

    fn check(&self, context: &str) {
        let mut seen = self.side.seen.clone();
        for one in &mut seen {
            // The model does not know the words.
            if let Seen::Close(Some(1002), reason) = one {
                assert_eq!(*reason, VIOLATION.reason());
                reason.clear();
            }
        }
        let role = self.side.endpoint.role();
        assert_eq!(seen, self.model.seen, "{context}, {role:?}");
        let flags = (
            self.side.endpoint.is_close_sent(),
            self.side.endpoint.is_input_ended(),
        );
        let expected = (self.model.close_sent, self.model.input_ended);
        assert_eq!(
            flags, expected,
            "{context}, {role:?}: close sent, input ended"
        );
    }
}

/// Who does what in turn: `c` and `s` are a move of the client and the server, `>` and `<` deliver
/// what is under way to the server and to the client.
const ORDERS: [&str; 12] = [
    "ccss><><",
    "ccss<><>",
    "cscs><><",
    "c>c>s<s<><",
    "s<s<c>c><>",
    "c>s<c>s<><",
    "cs><cs><><",
    "cs<>sc><><",
    "cc>ss<><",
    "ss<cc><>",
    "cc><ss<><>",
    "s<cc>s<><",
];

#[test]
fn every_order_of_moves_ends_as_section_7_says() {
    let mut sequences: Vec<Vec<Move>> = vec![Vec::new()];
    for first in MOVES {
        sequences.push(vec![first]);
        sequences.extend(MOVES.iter().map(|&second| vec![first, second]));
    }
    let (mut played, mut clean, mut crossed) = (0, 0, 0);
    for client_moves in &sequences {
        for server_moves in &sequences {
            for order in ORDERS {
                let context = format!("client {client_moves:?}, server {server_moves:?}, {order}");
                let mut client = Player::new(Role::Client, client_moves);
                let mut server = Player::new(Role::Server, server_moves);
                for step in order.chars() {
                    match step {
                        'c' => client.act(),
                        's' => server.act(),
                        '>' => server.receive_from(&mut client),
                        _ => client.receive_from(&mut server),
                    }
                    client.check(&context);
                    server.check(&context);
                }
                played += 1;
                let closes = |side: &Side| {
                    side.seen
                        .iter()
                        .filter(|seen| matches!(seen, Seen::Close(..)))
                        .count()
                };
                let (at_client, at_server) = (closes(&client.side), closes(&server.side));
                assert!(
                    at_client <= 1 && at_server <= 1,
                    "{context}: a second close was seen"
                );
                clean += usize::from(at_client == 1 && at_server == 1);
                let both_closed = client_moves.contains(&Move::Close)
                    && server_moves.contains(&Move::Close)
                    && client
                        .side
                        .seen
                        .contains(&Seen::Close(Some(4002), String::new()))
                    && server
                        .side
                        .seen
                        .contains(&Seen::Close(Some(4001), String::new()));
                crossed += usize::from(both_closed);
                client.side.end();
                server.side.end();
            }
        }
    }
    assert_eq!(played, 21 * 21 * 12);
    assert!(
        clean > 500 && crossed > 100,
        "{clean} clean, {crossed} crossed closes"
    );
}

#[test]
fn nothing_follows_a_close_frame() {
    let mut server = Side::new(Role::Server);
    server.close(CloseCode::GOING_AWAY, "").unwrap();
    for first in [FIN | PING, FIN | TEXT, FIN | CLOSE] {
        let payload = if first == FIN | CLOSE {
            close_payload(1000, "")
        } else {
            b"x".to_vec()
        };
        server.feed(&frame(Role::Client, first, &payload));
    }
    let output = server.take_output();
    let expected = Seen::Close(Some(1001), String::new());
    assert_eq!(decode(Role::Client, &LIMITS, &output), [expected]);
    assert_eq!(
        output,
        frame(Role::Server, FIN | CLOSE, &close_payload(1001, ""))
    );
}
