//! The same services, for the async API.
//!
//! Knows: what each does with a connection, in async words. Refuses to know: how requests are
//! judged and messages converted; the services have that for both engines.

use super::{
    Echo, Gate,
    echo::{Answering, EchoState, NOT_TEXT, converted, why_not},
};
use crate::{
    Answer, CloseCode, HttpReply, MessageKind, Refusal, Remote, Request, SendError, Service,
    Upgrade,
    aio::{Handler, WebSocket, Writer},
};

impl Handler for Echo {
    type State = EchoState;

    fn on_handshake(
        &self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<EchoState, Refusal> {
        Service::on_handshake(&mut Self, upgrade, peer, answer)
    }

    fn on_http(&self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        Service::on_http(&mut Self, request, peer)
    }

    async fn serve(&self, socket: WebSocket, state: EchoState) {
        state.serve(socket).await;
    }
}

impl EchoState {
    /// Does what is to be done with the messages of a connection, until it ends.
    pub async fn serve(self, mut socket: WebSocket) {
        let writer = socket.writer();
        let served = match self.0 {
            Answering::Echo => echo(&mut socket).await,
            Answering::EchoAs(kind) => echo_as(&mut socket, &writer, kind).await,
            Answering::Sink(_) => sink(&mut socket, &writer, self).await,
        };
        if let Some((code, reason)) = served.err().and_then(why_not) {
            // It may have closed meanwhile.
            let _ = socket.close(code, reason).await;
        }
    }

    /// As [`serve`](Self::serve), while `allows` says so of each message by its length. The first
    /// one that is not allowed closes the connection with 1008 and this reason.
    pub async fn serve_while(
        mut self,
        mut socket: WebSocket,
        mut allows: impl FnMut(usize) -> bool,
        reason: &str,
    ) {
        let writer = socket.writer();
        while let Some(message) = socket.next().await {
            if !allows(message.payload().len()) {
                let _ = socket.close(CloseCode::POLICY_VIOLATION, reason).await;
                return;
            }
            let answered = match &self.0 {
                Answering::Echo => writer.send(message).await,
                Answering::EchoAs(kind) => match converted(message, *kind) {
                    Some(outgoing) => writer.send(outgoing).await,
                    None => writer.close(CloseCode::INVALID_PAYLOAD_DATA, NOT_TEXT),
                },
                Answering::Sink(_) => match self.count(message) {
                    Some(stats) => writer.send(stats).await,
                    None => Ok(()),
                },
            };
            if let Err(error) = answered {
                if let Some((code, reason)) = why_not(error) {
                    let _ = socket.close(code, reason).await;
                }
                return;
            }
        }
    }
}

async fn echo(socket: &mut WebSocket) -> Result<(), SendError> {
    while socket.echo_next().await? {}
    Ok(())
}

async fn echo_as(
    socket: &mut WebSocket,
    writer: &Writer,
    kind: MessageKind,
) -> Result<(), SendError> {
    while let Some(message) = socket.next().await {
        match converted(message, kind) {
            Some(outgoing) => writer.send(outgoing).await?,
            None => return writer.close(CloseCode::INVALID_PAYLOAD_DATA, NOT_TEXT),
        }
    }
    Ok(())
}

async fn sink(
    socket: &mut WebSocket,
    writer: &Writer,
    mut state: EchoState,
) -> Result<(), SendError> {
    while let Some(message) = socket.next().await {
        if let Some(stats) = state.count(message) {
            writer.send(stats).await?;
        }
    }
    Ok(())
}

impl<H: Handler> Handler for Gate<H> {
    type State = H::State;

    fn on_handshake(
        &self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<H::State, Refusal> {
        self.let_in(upgrade, answer)?;
        self.service().on_handshake(upgrade, peer, answer)
    }

    fn on_http(&self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        if let Some(answered) = self.answer_preflight(request) {
            return answered;
        }
        let mut reply = self.service().on_http(request, peer)?;
        self.add_headers(request, &mut reply);
        Ok(reply)
    }

    async fn serve(&self, socket: WebSocket, state: H::State) {
        self.service().serve(socket, state).await;
    }
}
