//! The end of a connection that the application has let go of.
//!
//! Knows: that what comes is thrown away until the peer has said its last word. Refuses to know:
//! why it ended; its deadline is the keeper's.

use std::{future::poll_fn, rc::Rc};

use super::{connection::Connection, input::Input, socket::Received};
use crate::conn::Stage;

/// Reads until the closing handshake is over, and then until the transport has ended.
pub async fn see_off(connection: Rc<Connection>) {
    let mut input = Input::default();
    while poll_fn(|context| input.poll_event(&connection, context))
        .await
        .is_some()
    {}
    input.give_back(&connection);
    loop {
        connection.take_turns().await;
        {
            let link = connection.link.borrow();
            if link.stream_ended || matches!(link.stage, Stage::Closed) {
                return;
            }
        }
        let Ok(mut readable) = connection.socket.readable().await else {
            return;
        };
        let link = &mut *connection.link.borrow_mut();
        let state = &mut *connection.local.state.borrow_mut();
        let mut room = state.buffers.take(false);
        let received = connection.socket.recv(&mut readable, &mut room);
        state.buffers.give_back(room);
        match received {
            None => {}
            Some(Received::Bytes(count)) => connection.share.charge_transfer(count),
            Some(Received::EndOfStream) => {
                link.stream_ended = true;
                connection.peer_ended(link, state);
            }
            Some(Received::Failed(errno)) => connection.transport_failed(link, state, errno),
        }
    }
}
