//! A service that panics: it costs the connection it was called for, and nothing else.

use ringwire::{CloseCause, CloseCode, Conn, ConnId, Message, Service, Turn};

use crate::{
    common::{TEXT, masked, request},
    guard::ON_PURPOSE,
    host::{Engine, Host, config, host, on_each_engine},
    peer::{CLOSE, FIN, PING, PONG, close_payload},
};

on_each_engine! {
    a_panic_in_on_close_hurts_nobody
    a_panic_in_on_drain_is_a_1011
    a_panic_in_on_message_is_a_1011
    a_panic_in_on_message_leaves_no_message_buffer_behind
    a_panic_in_on_open_is_a_1011
    a_panic_in_on_ping_and_on_pong_is_a_1011
    a_panic_while_closing_keeps_the_close_frame
}

/// Panics when it is told to.
#[derive(Default)]
struct Nervous {
    in_on_open: bool,
    /// The connection that panics at its end.
    at_the_end: Option<ConnId>,
}

crate::host::boxed!(Nervous);

impl Service for Nervous {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        if self.in_on_open {
            conn.send("hello").unwrap();
            panic!("{ON_PURPOSE}: on_open");
        }
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        match message.text() {
            Some("panic") => panic!("{ON_PURPOSE}: on_message"),
            Some("panic at the end") => self.at_the_end = Some(conn.id()),
            Some("close and panic") => {
                conn.close(CloseCode::GOING_AWAY, "").unwrap();
                panic!("{ON_PURPOSE}: after closing");
            }
            Some("queue much") => {
                conn.send(vec![0; 2 << 20]).unwrap();
            }
            Some(text) if text.starts_with("long") => panic!("{ON_PURPOSE}: a long message"),
            _ => {
                conn.send(message).unwrap();
            }
        }
    }

    fn on_ping(&mut self, _conn: &mut Conn<'_, ()>, payload: &[u8]) {
        assert!(payload != b"panic", "{ON_PURPOSE}: on_ping");
    }

    fn on_pong(&mut self, _conn: &mut Conn<'_, ()>, payload: &[u8]) {
        assert!(payload != b"panic", "{ON_PURPOSE}: on_pong");
    }

    fn on_drain(&mut self, _conn: &mut Conn<'_, ()>) {
        panic!("{ON_PURPOSE}: on_drain");
    }

    fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, (): (), _cause: &CloseCause) {
        assert!(self.at_the_end != Some(id), "{ON_PURPOSE}: on_close");
    }
}

fn nervous(engine: Engine, body: impl FnOnce(&Host)) {
    host(engine, config(|_| {}), Nervous::default, |host| {
        body(host);
        // Whoever comes later is served.
        let mut peer = host.open();
        peer.echo("afterwards");
        peer.close();
    });
}

fn a_panic_in_on_message_is_a_1011(engine: Engine) {
    nervous(engine, |host| {
        let mut other = host.open();
        for index in 0..3 {
            let mut peer = host.open();
            // What was answered before the panic arrives, what follows it is lost.
            let bytes = [
                masked(TEXT, b"before"),
                masked(TEXT, b"panic"),
                masked(TEXT, b"after"),
            ];
            peer.write(&bytes.concat());
            peer.expect_text("before");
            assert_eq!(peer.expect_close(1011), "");
            peer.expect_end();
            drop(peer);
            assert_eq!(host.closes(index + 1)[index], CloseCause::ServicePanicked);
            other.echo("unhurt");
        }
        host.expect_count(3, |counts| counts.service_panics);
        other.close();
    });
}

fn a_panic_in_on_message_leaves_no_message_buffer_behind(engine: Engine) {
    nervous(engine, |host| {
        // Messages that were put together in a buffer of the pool.
        let mut peer = host.open();
        peer.write(&[masked(0x01, b"long "), masked(FIN, b"message")].concat());
        peer.expect_close(1011);
        peer.expect_end();
        drop(peer);
        let mut peer = host.open();
        let long = format!("long{}", "x".repeat(300_000));
        peer.write(&masked(TEXT, long.as_bytes()));
        peer.expect_close(1011);
        peer.expect_end();
        drop(peer);
        host.closes(2);
    });
}

fn a_panic_in_on_open_is_a_1011(engine: Engine) {
    let service = || Nervous {
        in_on_open: true,
        at_the_end: None,
    };
    host(engine, config(|_| {}), service, |host| {
        for frames in [&b""[..], &masked(TEXT, b"already here")] {
            let mut peer = host.connect();
            peer.write(&[request("/").as_bytes(), frames].concat());
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            peer.expect_text("hello");
            peer.expect_close(1011);
            peer.expect_end();
        }
        assert_eq!(host.closes(2), vec![CloseCause::ServicePanicked; 2]);
        host.expect_count(2, |counts| counts.service_panics);
    });
}

fn a_panic_in_on_ping_and_on_pong_is_a_1011(engine: Engine) {
    nervous(engine, |host| {
        let mut peer = host.open();
        peer.send(PING, b"panic");
        let pong = peer.read_frame();
        assert_eq!((pong.first, &*pong.payload), (PONG, &b"panic"[..]));
        peer.expect_close(1011);
        peer.expect_end();
        drop(peer);
        let mut peer = host.open();
        peer.send(PONG, b"panic");
        peer.expect_close(1011);
        peer.expect_end();
        drop(peer);
        // In pieces, so that a buffer of the pool is in use.
        let mut peer = host.open();
        peer.drip(&masked(PING, b"panic"));
        assert_eq!(peer.read_frame().first, PONG);
        peer.expect_close(1011);
        peer.expect_end();
        drop(peer);
        assert_eq!(host.closes(3), vec![CloseCause::ServicePanicked; 3]);
    });
}

fn a_panic_in_on_close_hurts_nobody(engine: Engine) {
    nervous(engine, |host| {
        let mut peer = host.open();
        peer.send(TEXT, b"panic at the end");
        peer.close();
        assert!(matches!(host.close_cause(), CloseCause::Peer { .. }));
        host.expect_count(1, |counts| counts.service_panics);
    });
}

fn a_panic_in_on_drain_is_a_1011(engine: Engine) {
    nervous(engine, |host| {
        let mut peer = host.open();
        peer.send(TEXT, b"queue much");
        assert_eq!(peer.read_frame().payload.len(), 2 << 20);
        peer.expect_close(1011);
        peer.expect_end();
        drop(peer);
        assert_eq!(host.close_cause(), CloseCause::ServicePanicked);
    });
}

fn a_panic_while_closing_keeps_the_close_frame(engine: Engine) {
    nervous(engine, |host| {
        let mut peer = host.open();
        peer.send(TEXT, b"close and panic");
        peer.expect_close(1001);
        peer.send(CLOSE, &close_payload(1001, b""));
        peer.expect_end();
        drop(peer);
        let cause = CloseCause::Application(CloseCode::GOING_AWAY);
        assert_eq!(host.close_cause(), cause);
        host.expect_count(1, |counts| counts.service_panics);
    });
}
