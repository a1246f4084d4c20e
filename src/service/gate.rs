//! Stands before a service: which pages may come in, and how they are told.
//!
//! Knows a list of origins for each path, and that some clients compare the 101 to the letter.
//! Refuses to know what the service behind it does.

use crate::{
    Answer, CloseCause, Conn, ConnId, HandshakeError, HttpReply, Message, Refusal, Remote, Request,
    SendError, Service, Tally, Turn, Upgrade,
    proto::message::Outgoing,
    service::Origins,
    topics::{Published, Resumed},
};

/// A service with [`Origins`] before it: any service, without a change.
///
/// A handshake of a page that is not welcome at its path is refused with 403 before the service
/// hears of it; preflights are answered by the same list; and welcome pages may read the service's
/// HTTP replies. Everything else is the service's own.
///
/// ```
/// use ringwire::service::{Echo, Gate, Origins};
///
/// # fn main() -> Result<(), ringwire::service::OriginError> {
/// let gate = Gate::new(Echo)
///     .origins(Origins::default().allow("https://*.example.com")?)
///     .route("/sink", Origins::same_origin());
/// # let _ = gate;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Gate<S> {
    service: S,
    origins: Origins,
    routes: Vec<(String, Origins)>,
    like_kaazing: bool,
}

impl<S> Gate<S> {
    /// A gate that lets everybody in.
    pub fn new(service: S) -> Self {
        Self {
            service,
            origins: Origins::any(),
            routes: Vec::new(),
            like_kaazing: false,
        }
    }

    /// Which origins are welcome at all paths that have no list of their own.
    #[must_use]
    pub fn origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    /// Which origins are welcome at this path, whatever its query.
    #[must_use]
    pub fn route(mut self, path: impl Into<String>, origins: Origins) -> Self {
        self.routes.push((path.into(), origins));
        self
    }

    /// Whether handshakes are answered as [`Answer::imitate_kaazing`] says. Off unless set.
    #[must_use]
    pub fn like_kaazing(mut self, like_kaazing: bool) -> Self {
        self.like_kaazing = like_kaazing;
        self
    }

    /// Whether a client may come in, and what it is told beside.
    pub(super) fn let_in(&self, upgrade: &Upgrade<'_>, answer: &mut Answer) -> Result<(), Refusal> {
        let request = upgrade.request();
        self.origins_of(request).check(request)?;
        if self.like_kaazing {
            answer.imitate_kaazing(request);
        }
        Ok(())
    }

    /// The answer to a request that asks whether another one may be sent, if it is one.
    pub(super) fn answer_preflight(
        &self,
        request: &Request<'_>,
    ) -> Option<Result<HttpReply, Refusal>> {
        if !Origins::is_preflight(request) {
            return None;
        }
        if request.announces_body() {
            return Some(Err(HandshakeError::ContentTooLarge.into()));
        }
        Some(self.origins_of(request).answer_preflight(request))
    }

    pub(super) fn add_headers(&self, request: &Request<'_>, reply: &mut HttpReply) {
        self.origins_of(request).add_headers(request, reply);
    }

    #[cfg(feature = "aio")]
    pub(super) fn service(&self) -> &S {
        &self.service
    }

    fn origins_of(&self, request: &Request<'_>) -> &Origins {
        let mut routes = self.routes.iter();
        let own = routes.find_map(|(path, origins)| (path == request.path()).then_some(origins));
        own.unwrap_or(&self.origins)
    }
}

impl<S: Service> Service for Gate<S> {
    type State = S::State;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<S::State, Refusal> {
        self.let_in(upgrade, answer)?;
        self.service.on_handshake(upgrade, peer, answer)
    }

    fn on_http(&mut self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        if let Some(answered) = self.answer_preflight(request) {
            return answered;
        }
        let mut reply = self.service.on_http(request, peer)?;
        self.add_headers(request, &mut reply);
        Ok(reply)
    }

    #[inline]
    fn on_open(&mut self, conn: &mut Conn<'_, S::State>) {
        self.service.on_open(conn);
    }

    #[inline]
    fn on_message(&mut self, conn: &mut Conn<'_, S::State>, message: Message<'_>) {
        self.service.on_message(conn, message);
    }

    #[inline]
    fn on_ping(&mut self, conn: &mut Conn<'_, S::State>, payload: &[u8]) {
        self.service.on_ping(conn, payload);
    }

    #[inline]
    fn on_pong(&mut self, conn: &mut Conn<'_, S::State>, payload: &[u8]) {
        self.service.on_pong(conn, payload);
    }

    #[inline]
    fn on_drain(&mut self, conn: &mut Conn<'_, S::State>) {
        self.service.on_drain(conn);
    }

    #[inline]
    fn on_send_failed(&mut self, id: ConnId, error: SendError) {
        self.service.on_send_failed(id, error);
    }

    #[inline]
    fn on_subscribed(&mut self, conn: &mut Conn<'_, S::State>, topic: &[u8], resumed: &Resumed) {
        self.service.on_subscribed(conn, topic, resumed);
    }

    #[inline]
    fn envelope<'p>(&mut self, publication: &Published<'p>) -> Outgoing<'p> {
        self.service.envelope(publication)
    }

    #[inline]
    fn tally(state: &mut S::State) -> Option<&mut Tally> {
        S::tally(state)
    }

    fn on_stop(&mut self) {
        self.service.on_stop();
    }

    #[inline]
    fn on_close(&mut self, turn: &mut Turn<'_>, id: ConnId, state: S::State, cause: &CloseCause) {
        self.service.on_close(turn, id, state, cause);
    }
}
