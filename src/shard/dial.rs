//! Opening connections as a client.
//!
//! Knows: connect, then the client's half of the opening handshake. Refuses to know: name
//! resolution; an address comes in.

use super::{Shard, service::Service};
use crate::{
    client::Dial,
    conn::{CloseCause, ConnId, Connection, Key, Link, Rare, Secure, Stage},
    proto::{Role, handshake::Scheme},
    ring::{Completion, Errno, Operation, Outcome, Ring},
};

impl<R: Ring, S: Service> Shard<R, S> {
    /// Starts to open a connection. The service learns of it by `on_open`, or by `on_close` if it
    /// comes to nothing.
    ///
    /// # Errors
    ///
    /// When there is no descriptor or no place for it; `EPROTONOSUPPORT` for a `wss://` URL without
    /// TLS to dial it with, `EINVAL` when no certificate could be for its host. The service is told
    /// nothing then.
    pub fn dial(&mut self, dial: Dial) -> Result<ConnId, Errno> {
        self.look_at_clock();
        let url = dial.request.url();
        let rare = match &dial.tls {
            None if url.scheme() == Scheme::Wss => return Err(Errno::NO_PROTOCOL),
            None => Rare::default(),
            Some(tls) => {
                let session = tls.session(url.host().unwrap_or("localhost"));
                let session = session.map_err(|_| Errno::INVALID)?;
                Rare::with_tls(Secure::new(session))
            }
        };
        let socket = match dial.from {
            None => self.ring.open(&dial.address)?,
            Some(from) => self.ring.open_from(&dial.address, from)?,
        };
        let mut link = Link::new(Role::Client, Stage::Connecting(Box::new(dial.request)));
        link.born_ms = self.now.as_ms() as u32;
        link.heard_ms = link.born_ms;
        link.in_flight = 1;
        link.rare = rare;
        let connection = Connection {
            link,
            socket: Some(socket),
            ticket: None,
            state: Some(S::State::default()),
        };
        let key = self
            .slab
            .insert(connection)
            .map_err(|_| Errno::TOO_MANY_FILES)?;
        self.shared.counts.connections += 1;
        let timeout_ms = self.shared.config.handshake_timeout_ms;
        self.wheel.set(key.slot, self.now.plus_ms(timeout_ms));
        if let Some(socket) = self
            .slab
            .get_mut(key)
            .and_then(|found| found.socket.as_ref())
        {
            let token = key.token(Operation::Connect);
            self.ring.submit_connect(socket, &dial.address, token);
        }
        Ok(self.id_of(key))
    }

    pub(super) fn connect_completed(&mut self, key: Key, completion: Completion<R::Socket>) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let link = &mut connection.link;
        link.in_flight -= 1;
        match (
            completion.outcome,
            std::mem::replace(&mut link.stage, Stage::Stopping),
        ) {
            (Outcome::Done, Stage::Connecting(request)) => {
                link.ask(request, &mut self.shared);
                // The head waits until TLS is ready for it.
                if let Some(tls) = link.rare.tls_mut()
                    && let Err(error) = tls.start(&mut self.shared.arena)
                {
                    self.tls_failed(key, error);
                }
            }
            (Outcome::Failed(errno), stage) => {
                self.wheel.clear(key.slot);
                link.ends(CloseCause::Transport(errno));
                if matches!(stage, Stage::Connecting(_)) {
                    self.shared.counts.handshakes_refused += 1;
                }
            }
            // It was stopped before it was connected.
            (_, stage) => link.stage = stage,
        }
        self.touch(key);
    }
}
