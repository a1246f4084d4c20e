//! ringwire and three other libraries behind one trait, on a wire without a kernel.
//!
//! What is the same for all of them:
//!
//! - A receive copies bytes into a buffer of the library's own, as the kernel would, and a send
//!   copies them out of one. Nothing ever blocks, so that a future is polled once and is ready.
//! - Each is driven through its usual interface, with its default sizes: ringwire receives into
//!   128 KiB, tungstenite into 128 KiB, fastwebsockets and tokio-websockets into 8 KiB.
//! - Every message is handed out whole, unmasked and with all checks that the library makes. Every
//!   message that is sent is one that the application keeps, as `Bytes` or as a slice of them,
//!   whichever the library has the better way for; a client masks it with a key from the library's
//!   own generator.
//!
//! What differs is what the libraries are. Messages that are received are lent out by ringwire and
//! given away as `Bytes` by the others. ringwire and tungstenite gather frames and send them when
//! there are 128 KiB or on a flush, tokio-websockets queues frames and sends vectors of them,
//! fastwebsockets sends each. tungstenite clears the memory that it receives into each time, which
//! is most of its time where a receive brings little.

use std::{
    cell::RefCell,
    io::{self, IoSlice, Read, Write},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context as TaskContext, Poll, Waker},
};

use bytes::Bytes;
use fastwebsockets::{Frame, Payload as FramePayload};
use futures_core::Stream;
use futures_sink::Sink as FuturesSink;
use ringwire::{
    Message,
    proto::{MessageKind, Role},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::side::Side;

/// Bytes that ringwire has waiting before they are sent, as many as tungstenite.
const SEND_BYTES: usize = 128 * 1024;

/// Who has `Bytes` gives them to ringwire from this length on, and a slice of them below.
const ADOPT_BYTES_MIN: usize = 4096;

/// One end of a connection whose other end is a recording. Clones are the same end.
#[derive(Clone, Default)]
pub struct Wire(Rc<RefCell<Recording>>);

#[derive(Default)]
struct Recording {
    input: Vec<u8>,
    /// Where each receive ends, at the latest: what the network delivered at once.
    ends: Vec<usize>,
    at: usize,
    receives: usize,
    output: Vec<u8>,
}

impl Wire {
    /// A wire on which `input` arrives in pieces that end at `ends`.
    pub fn new(input: Vec<u8>, ends: Vec<usize>) -> Self {
        assert_eq!(ends.last(), Some(&input.len()), "the last piece ends it");
        Self(Rc::new(RefCell::new(Recording {
            input,
            ends,
            ..Recording::default()
        })))
    }

    /// Starts the recording anew and forgets what was sent.
    pub fn rewind(&self) {
        let mut recording = self.0.borrow_mut();
        recording.at = 0;
        recording.receives = 0;
        recording.output.clear();
    }

    /// What was sent.
    pub fn sent(&self) -> Vec<u8> {
        self.0.borrow().output.clone()
    }

    fn receive(&self, room: usize, take: impl FnOnce(&[u8])) -> usize {
        let recording = &mut *self.0.borrow_mut();
        let end = recording.ends[recording.receives];
        let count = room.min(end - recording.at);
        take(&recording.input[recording.at..recording.at + count]);
        recording.at += count;
        recording.receives += usize::from(recording.at == end);
        count
    }

    fn send(&self, bytes: &[u8]) -> usize {
        self.0.borrow_mut().output.extend_from_slice(bytes);
        bytes.len()
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len();
        Ok(self.receive(room, |bytes| buffer[..bytes.len()].copy_from_slice(bytes)))
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.send(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.receive(buffer.remaining(), |bytes| buffer.put_slice(bytes));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(self.send(bytes)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _context: &mut TaskContext<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(pieces.iter().map(|piece| self.send(piece)).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A library, at one end of a wire, after the opening handshake.
pub trait Library {
    const NAME: &'static str;

    fn new(wire: Wire, role: Role) -> Self;

    /// Receives `count` messages.
    fn receive(&mut self, count: usize, see: impl FnMut(&[u8]));

    /// Sends a binary message `count` times, and flushes.
    fn send(&mut self, count: usize, payload: &Bytes);
}

fn ready<T>(poll: Poll<T>) -> T {
    match poll {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the wire never blocks"),
    }
}

fn no_task() -> TaskContext<'static> {
    TaskContext::from_waker(Waker::noop())
}

pub struct Ringwire {
    wire: Wire,
    side: Side,
}

impl Library for Ringwire {
    const NAME: &'static str = "ringwire";

    fn new(wire: Wire, role: Role) -> Self {
        let side = Side::new(role);
        Self { wire, side }
    }

    fn receive(&mut self, count: usize, mut see: impl FnMut(&[u8])) {
        let mut seen = 0;
        while seen < count {
            let len = self.wire.read(&mut self.side.buffer);
            self.side
                .received(len.expect("it never fails"), |_, _, message| {
                    seen += 1;
                    see(message.payload());
                });
        }
    }

    fn send(&mut self, count: usize, payload: &Bytes) {
        for _ in 0..count {
            if payload.len() < ADOPT_BYTES_MIN {
                self.side.send(&payload[..]);
            } else {
                self.side.send(payload.clone());
            }
            self.side
                .flush(SEND_BYTES, |piece| _ = self.wire.send(piece));
        }
        self.side.flush(0, |piece| _ = self.wire.send(piece));
    }
}

pub struct Tungstenite(tungstenite::WebSocket<Wire>);

impl Library for Tungstenite {
    const NAME: &'static str = "tungstenite";

    fn new(wire: Wire, role: Role) -> Self {
        let role = match role {
            Role::Client => tungstenite::protocol::Role::Client,
            Role::Server => tungstenite::protocol::Role::Server,
        };
        Self(tungstenite::WebSocket::from_raw_socket(wire, role, None))
    }

    fn receive(&mut self, count: usize, mut see: impl FnMut(&[u8])) {
        for _ in 0..count {
            match self.0.read().expect("what was sent is right") {
                tungstenite::Message::Binary(payload) => see(&payload),
                tungstenite::Message::Text(text) => see(text.as_bytes()),
                other => panic!("no {other:?} was sent"),
            }
        }
    }

    fn send(&mut self, count: usize, payload: &Bytes) {
        for _ in 0..count {
            let message = tungstenite::Message::Binary(payload.clone());
            self.0.write(message).expect("it is open");
        }
        self.0.flush().expect("it never fails");
    }
}

pub struct FastWebSockets(fastwebsockets::WebSocket<Wire>);

impl Library for FastWebSockets {
    const NAME: &'static str = "fastwebsockets";

    fn new(wire: Wire, role: Role) -> Self {
        let role = match role {
            Role::Client => fastwebsockets::Role::Client,
            Role::Server => fastwebsockets::Role::Server,
        };
        Self(fastwebsockets::WebSocket::after_handshake(wire, role))
    }

    fn receive(&mut self, count: usize, mut see: impl FnMut(&[u8])) {
        for _ in 0..count {
            let frame = ready(pin!(self.0.read_frame()).poll(&mut no_task()));
            see(&frame.expect("what was sent is right").payload);
        }
    }

    fn send(&mut self, count: usize, payload: &Bytes) {
        for _ in 0..count {
            let frame = Frame::binary(FramePayload::Borrowed(payload));
            let sent = ready(pin!(self.0.write_frame(frame)).poll(&mut no_task()));
            sent.expect("it is open");
        }
    }
}

pub struct TokioWebSockets(tokio_websockets::WebSocketStream<Wire>);

impl Library for TokioWebSockets {
    const NAME: &'static str = "tokio-websockets";

    fn new(wire: Wire, role: Role) -> Self {
        Self(match role {
            Role::Client => tokio_websockets::ClientBuilder::new().take_over(wire),
            Role::Server => tokio_websockets::ServerBuilder::new().serve(wire),
        })
    }

    fn receive(&mut self, count: usize, mut see: impl FnMut(&[u8])) {
        for _ in 0..count {
            let next = ready(Pin::new(&mut self.0).poll_next(&mut no_task()));
            let message = next.expect("it goes on").expect("what was sent is right");
            see(message.as_payload());
        }
    }

    fn send(&mut self, count: usize, payload: &Bytes) {
        let mut stream = Pin::new(&mut self.0);
        for _ in 0..count {
            ready(stream.as_mut().poll_ready(&mut no_task())).expect("it is open");
            let message = tokio_websockets::Message::binary(payload.clone());
            stream.as_mut().start_send(message).expect("it is open");
        }
        ready(stream.poll_flush(&mut no_task())).expect("it never fails");
    }
}

/// Frames that each hold a message, one after the other.
pub fn frames(from: Role, kind: MessageKind, count: usize, payload: &[u8]) -> Vec<u8> {
    let mut sender = Side::new(from);
    for _ in 0..count {
        sender.send(Message::new(kind, payload));
    }
    let mut frames = Vec::new();
    sender.flush(0, |piece| frames.extend_from_slice(piece));
    frames
}
