//! The two services of the simulation: an echo and its clients. Each one checks everything that it
//! is told against the plan.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    panic::resume_unwind,
    rc::Rc,
};

use bytes::Bytes;
use ringwire::{
    Answer, CloseCause, CloseCode, Conn, ConnId, HandshakeError, HttpReply, Message, MessageKind,
    Outgoing, Refusal, Remote, Request, SendError, Service, Timeout, Turn, Upgrade, Version,
    conn::handle::SendStatus,
    ring::{Time, sim::SimKernel},
};

use crate::{
    marks::{Journal, Mark},
    plan::{ClientPlan, EchoStyle, Ending, PING_OF_THE_IDLE_BYTES, Plan, RawKind},
};

/// What the driver posts into the mailbox begins like this; no planned message does.
pub const PUSH: &str = "\u{1}push to client ";

/// The longest message whose echo has to be there within so many turns.
const SHORT_BYTES: usize = 300;

/// Turns of the server between a message and its echo, beside those for others: how often it is
/// turned while the client is not, is a matter of luck.
const ECHO_TURNS: u64 = 120;

/// A panic that was planned: it goes past the hook that prints panics.
struct Planned;

/// Whose connection it is, from the path that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Client(usize),
    Raw(usize),
}

/// What the server was told of one connection.
#[derive(Debug)]
pub struct Accepted {
    pub whose: Whose,
    version: Version,
    pub id: Option<ConnId>,
    pub messages: usize,
    pings: usize,
    pongs: usize,
    /// Our side was closed on purpose, with this code.
    closed_with: Option<CloseCode>,
    pub opened: bool,
    behind: bool,
    pub cause: Option<CloseCause>,
}

/// What a connection of the server carries: its number in `accepted`.
#[derive(Default)]
pub struct AcceptedState(Option<usize>);

pub struct Echo {
    plan: Rc<Plan>,
    journal: Journal,
    kernel: SimKernel,
    pub accepted: Vec<Accepted>,
    ids: BTreeSet<ConnId>,
    slots: BTreeSet<u64>,
    pub panics: u64,
    pub messages: u64,
    pub payload_bytes: u64,
    pub sent: u64,
    pub http_requests: u64,
}

impl Echo {
    pub fn new(plan: Rc<Plan>, journal: Journal, kernel: SimKernel) -> Self {
        Self {
            plan,
            journal,
            kernel,
            accepted: Vec::new(),
            ids: BTreeSet::new(),
            slots: BTreeSet::new(),
            panics: 0,
            messages: 0,
            payload_bytes: 0,
            sent: 0,
            http_requests: 0,
        }
    }

    /// The latest connection of a client, if the server has heard of it.
    pub fn of_client(&self, index: usize) -> Option<&Accepted> {
        let mut accepted = self.accepted.iter();
        accepted.find(|accepted| accepted.whose == Whose::Client(index))
    }

    fn number(&self, conn: &mut Conn<'_, AcceptedState>, told: &str) -> usize {
        let number = conn.state().0;
        let accepted = number.map(|number| &self.accepted[number]);
        let open = accepted.is_some_and(|accepted| accepted.opened && accepted.cause.is_none());
        self.journal.check(Mark::CheckOpenIsFirst, open, || {
            format!(
                "the server was told of {told} on {} before it was open",
                conn.id()
            )
        });
        let same = accepted.is_some_and(|accepted| accepted.id == Some(conn.id()));
        let mark = Mark::CheckMessageBelongsToItsConnection;
        self.journal.check(mark, same, || {
            format!(
                "{told} on {} came with the state of another connection",
                conn.id()
            )
        });
        number.unwrap_or(0)
    }

    fn client_plan(&self, number: usize) -> Option<(usize, &ClientPlan)> {
        match self.accepted[number].whose {
            Whose::Client(index) => Some((index, &self.plan.clients[index])),
            Whose::Raw(_) => None,
        }
    }

    fn panic(&mut self) -> ! {
        self.panics += 1;
        resume_unwind(Box::new(Planned));
    }

    fn close(&mut self, conn: &mut Conn<'_, AcceptedState>, code: CloseCode, reason: &str) {
        let number = conn.state().0.unwrap_or(0);
        if conn.close(code, reason).is_ok() {
            self.accepted[number].closed_with = Some(code);
        }
    }

    /// Closes or panics, if that is what the plan has at this point.
    fn end_as_planned(&mut self, conn: &mut Conn<'_, AcceptedState>, number: usize) {
        let done = self.accepted[number].messages;
        let Some((_, client)) = self.client_plan(number) else {
            return;
        };
        let reason = client.reason.clone();
        match client.ending {
            Ending::ServerCloses { after, code } if done == after => {
                self.close(conn, code, &reason);
                // Whatever is tried now comes to nothing.
                let refused = conn.send("late").is_err()
                    && conn.ping(b"late") == Err(SendError::Closed)
                    && conn.close(code, "") == Err(SendError::Closed)
                    && conn.is_closing();
                self.journal.reach(Mark::SendWhileClosing);
                let mark = Mark::CheckSendRefusedOnlyWhenClosing;
                self.journal.check(mark, refused, || {
                    format!("{} takes messages after close", conn.id())
                });
            }
            Ending::BothClose {
                server_after, code, ..
            } if done == server_after => self.close(conn, code, &reason),
            Ending::ServerPanics { after } if done == after => self.panic(),
            _ => {}
        }
    }

    fn echo(
        &self,
        conn: &mut Conn<'_, AcceptedState>,
        message: Message<'_>,
        style: EchoStyle,
    ) -> Result<SendStatus, SendError> {
        match style {
            EchoStyle::Borrowed => conn.send(message),
            EchoStyle::Fragmented(bytes) => {
                self.journal.reach(Mark::EchoFragmented);
                conn.send_fragmented(message, bytes)
            }
            EchoStyle::Shared => {
                self.journal.reach(Mark::EchoShared);
                let bytes = Bytes::copy_from_slice(message.payload());
                match message.kind() {
                    MessageKind::Binary => conn.send(bytes),
                    MessageKind::Text => conn.send(Outgoing::text(bytes)?),
                }
            }
        }
    }
}

impl Service for Echo {
    type State = AcceptedState;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        _peer: Remote<'_>,
        _answer: &mut Answer,
    ) -> Result<AcceptedState, Refusal> {
        let path = upgrade.request().path();
        let number = |prefix: &str| path.strip_prefix(prefix)?.parse().ok();
        let whose = match (number("/client/"), number("/raw/")) {
            (Some(index), _) if index < self.plan.clients.len() => Whose::Client(index),
            (_, Some(index)) if index < self.plan.raw.len() => Whose::Raw(index),
            _ => return Err(HandshakeError::NotFound.into()),
        };
        if let Whose::Client(index) = whose
            && self.plan.clients[index].ending == Ending::Refused
        {
            return Err(HandshakeError::Forbidden.into());
        }
        self.accepted.push(Accepted {
            whose,
            version: upgrade.version(),
            id: None,
            messages: 0,
            pings: 0,
            pongs: 0,
            closed_with: None,
            opened: false,
            behind: false,
            cause: None,
        });
        Ok(AcceptedState(Some(self.accepted.len() - 1)))
    }

    fn on_http(&mut self, request: &Request<'_>, _peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        self.http_requests += 1;
        let body = Cow::Owned(request.path().as_bytes().to_vec());
        HttpReply::new(200, "text/plain", body).map_err(|_| HandshakeError::ServicePanicked.into())
    }

    fn on_open(&mut self, conn: &mut Conn<'_, AcceptedState>) {
        let number = conn.state().0;
        let first = number.is_some_and(|number| !self.accepted[number].opened);
        self.journal.check(Mark::CheckOpenOnce, first, || {
            format!("the server was told twice that {} is open", conn.id())
        });
        let new = self.ids.insert(conn.id());
        self.journal.check(Mark::CheckIdsAreNew, new, || {
            format!("{} came up twice", conn.id())
        });
        if !self.slots.insert(conn.id().bits() & 0xff_ffff) {
            self.journal.reach(Mark::PlaceUsedAgain);
        }
        let Some(number) = number else { return };
        self.accepted[number].opened = true;
        self.accepted[number].id = Some(conn.id());
        self.end_as_planned(conn, number);
    }

    fn on_message(&mut self, conn: &mut Conn<'_, AcceptedState>, message: Message<'_>) {
        self.messages += 1;
        self.payload_bytes += message.payload().len() as u64;
        if self.plan.service_us > 0 {
            self.kernel.advance_us(self.plan.service_us);
        }
        let number = self.number(conn, "a message");
        let quiet = self.accepted[number].closed_with.is_none();
        self.journal.check(Mark::CheckNothingAfterClose, quiet, || {
            format!(
                "a message was handed out on {} after it was closed",
                conn.id()
            )
        });
        let count = self.accepted[number].messages;
        let mut style = EchoStyle::Borrowed;
        if let Some((index, client)) = self.client_plan(number) {
            let sent = client.messages.get(count);
            let same = sent.map_or_else(
                || client.ending == Ending::TooBig,
                |sent| is_same(&message, sent.text, &sent.payload),
            );
            self.journal
                .check(Mark::CheckServerGotWhatWasSent, same, || {
                    format!("message {count} of client {index} came as {message:?}")
                });
            style = sent.map_or(style, |sent| sent.echo);
        }
        self.accepted[number].messages += 1;
        let queued = conn.queued_bytes();
        let mut bound = queue_bound(&self.plan);
        if let Whose::Raw(index) = self.accepted[number].whose
            && self.plan.raw[index] == RawKind::FloodBombs
        {
            bound += SHARE_INFLATED_BYTES;
        }
        self.journal
            .check(Mark::CheckQueueIsBounded, queued <= bound, || {
                format!(
                    "{queued} bytes are queued on {}, of at most {bound}",
                    conn.id()
                )
            });
        match self.echo(conn, message, style) {
            Ok(status) => {
                self.sent += 1;
                if status == SendStatus::Behind {
                    self.accepted[number].behind = true;
                    self.journal.reach(Mark::SendBehind);
                }
            }
            Err(SendError::QueueFull) => {
                self.journal.reach(Mark::QueueFull);
                let full = queued + message.payload().len() > self.plan.server.queue_bytes_max
                    || self.plan.tight_memory;
                let mark = Mark::CheckSendRefusedOnlyWhenClosing;
                self.journal.check(mark, full, || {
                    format!("a queue of {queued} bytes on {} was full", conn.id())
                });
                self.close(conn, CloseCode::TRY_AGAIN_LATER, "");
            }
            Err(error) => {
                let closing = error == SendError::Closed && conn.is_closing();
                let mark = Mark::CheckSendRefusedOnlyWhenClosing;
                self.journal.check(mark, closing, || {
                    format!("an echo on {} was refused: {error}", conn.id())
                });
            }
        }
        self.end_as_planned(conn, number);
    }

    fn on_ping(&mut self, conn: &mut Conn<'_, AcceptedState>, payload: &[u8]) {
        let number = self.number(conn, "a ping");
        if payload.len() == PING_OF_THE_IDLE_BYTES {
            self.journal.reach(Mark::PingOfTheIdle);
            return;
        }
        let count = self.accepted[number].pings;
        self.accepted[number].pings += 1;
        if let Some((index, client)) = self.client_plan(number) {
            let expected = client
                .messages
                .iter()
                .filter_map(|one| one.ping.as_deref())
                .nth(count);
            let same = expected == Some(payload);
            self.journal.check(Mark::CheckPingsInOrder, same, || {
                format!(
                    "ping {count} of client {index} came as {} bytes",
                    payload.len()
                )
            });
        }
    }

    fn on_pong(&mut self, conn: &mut Conn<'_, AcceptedState>, payload: &[u8]) {
        let number = self.number(conn, "a pong");
        if payload.is_empty() {
            return;
        }
        let count = self.accepted[number].pongs;
        self.accepted[number].pongs += 1;
        if let Some((index, client)) = self.client_plan(number) {
            let expected = client
                .messages
                .iter()
                .filter_map(|one| one.pong.as_deref())
                .nth(count);
            let same = expected == Some(payload);
            self.journal.reach(Mark::PongUnasked);
            self.journal.check(Mark::CheckPongsInOrder, same, || {
                format!(
                    "unasked pong {count} of client {index} came as {} bytes",
                    payload.len()
                )
            });
        }
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, AcceptedState>) {
        self.number(conn, "a drained queue");
        self.journal.reach(Mark::Drained);
    }

    fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, state: AcceptedState, cause: &CloseCause) {
        let accepted = state.0.map(|number| &mut self.accepted[number]);
        let first = accepted.is_some_and(|accepted| {
            let was_open = accepted.id == Some(id) && accepted.opened;
            // One that never sent all of its handshake was accepted, and no more than that.
            let never_open = accepted.version == Version::Hixie76 && !accepted.opened;
            (was_open || never_open) && accepted.cause.replace(cause.clone()).is_none()
        });
        self.journal
            .check(Mark::CheckCloseIsLastAndOnce, first, || {
                format!("the server was told that {id} is closed, which was not open")
            });
    }
}

/// What is inflated in one share may be much more than what was received for it.
const SHARE_INFLATED_BYTES: usize = 400_000;

/// What may be queued for one peer when another message of it is handed out. Reading stops above
/// the high mark, but the receive buffers may be full in the turn that finds this, when the cancel
/// is submitted, and when it comes too late; all of it is answered, and so is the message that is
/// put together of it. Headers, pushes and pongs come on top.
fn queue_bound(plan: &Plan) -> usize {
    let ring = &plan.server_ring;
    let buffers_bytes = usize::from(ring.recv_buffers) * ring.recv_buffer_bytes as usize;
    // A large one is filled only for a peer that is not behind.
    let buffers_bytes = 3 * buffers_bytes + ring.large_buffer_bytes as usize;
    let message_bytes = plan.server.message_bytes_max as usize;
    plan.server.queue_high_bytes + buffers_bytes + message_bytes + 2_000
}

fn is_same(message: &Message<'_>, text: bool, payload: &[u8]) -> bool {
    let kind = if text {
        MessageKind::Text
    } else {
        MessageKind::Binary
    };
    message.kind() == kind && message.payload() == payload
}

/// What a client was told of its connection, and how far it got.
#[derive(Debug)]
pub struct Dialled {
    pub dialled_at: Time,
    pub opened: bool,
    /// Messages sent, and echoes and pongs received.
    pub sent: usize,
    pub echoes: usize,
    pub pings: usize,
    pub pongs: usize,
    pub pushes: u64,
    closed_with: Option<CloseCode>,
    too_big_sent: bool,
    pub cause: Option<CloseCause>,
    /// In which of the server's turns its last message was sent.
    sent_turn: u64,
}

pub struct Client {
    plan: Rc<Plan>,
    journal: Journal,
    kernel: SimKernel,
    /// One for each client; the one behind them dials a raw peer.
    pub dialled: Vec<Option<Dialled>>,
    by_id: BTreeMap<ConnId, usize>,
    pub messages: u64,
    pub sent: u64,
}

impl Client {
    pub fn new(plan: Rc<Plan>, journal: Journal, kernel: SimKernel) -> Self {
        let count = plan.clients.len() + usize::from(plan.hostile_server);
        Self {
            plan,
            journal,
            kernel,
            dialled: (0..count).map(|_| None).collect(),
            by_id: BTreeMap::new(),
            messages: 0,
            sent: 0,
        }
    }

    pub fn was_dialled(&mut self, index: usize, id: ConnId) {
        let new = self.by_id.insert(id, index).is_none();
        self.journal.check(Mark::CheckIdsAreNew, new, || {
            format!("{id} was dialled twice")
        });
        self.dialled[index] = Some(Dialled {
            dialled_at: self.kernel.now(),
            opened: false,
            sent: 0,
            echoes: 0,
            pings: 0,
            pongs: 0,
            pushes: 0,
            closed_with: None,
            too_big_sent: false,
            cause: None,
            sent_turn: 0,
        });
    }

    fn find(&mut self, id: ConnId, told: &str) -> Option<(usize, &mut Dialled)> {
        let index = self.by_id.get(&id).copied();
        let dialled = index.and_then(|index| self.dialled[index].as_mut());
        let open = dialled
            .as_ref()
            .is_some_and(|dialled| dialled.opened && dialled.cause.is_none());
        self.journal.check(Mark::CheckOpenIsFirst, open, || {
            format!("a client was told of {told} on {id} before it was open")
        });
        index.zip(dialled)
    }

    /// Whether this client has done all that it can do without being closed.
    pub fn is_settled(&self, index: usize) -> bool {
        let Some(dialled) = &self.dialled[index] else {
            return false;
        };
        let stays = self.plan.clients.get(index).is_some_and(|client| {
            client.ending == Ending::StaysOpen
                && dialled.opened
                && dialled.echoes == client.messages.len()
                && dialled.pings == dialled.pongs
        });
        dialled.cause.is_some() || stays
    }

    /// Sends what the plan has next, as long as the peer keeps up, and closes when it says so.
    fn go_on(&mut self, conn: &mut Conn<'_, ()>) {
        let Some(&index) = self.by_id.get(&conn.id()) else {
            return;
        };
        let plan = Rc::clone(&self.plan);
        let (Some(client), Some(dialled)) = (plan.clients.get(index), &mut self.dialled[index])
        else {
            return;
        };
        while dialled.sent < client.messages.len()
            && dialled.sent - dialled.echoes < client.in_flight_max
            && !conn.is_closing()
        {
            if must_close(client, dialled) {
                break;
            }
            let message = &client.messages[dialled.sent];
            let mut sent = Ok(SendStatus::Flowing);
            if let Some(pong) = &message.pong {
                sent = sent.and(conn.pong(pong));
            }
            if let Some(ping) = &message.ping {
                self.journal.reach(Mark::PingSent);
                dialled.pings += 1;
                sent = sent.and(conn.ping(ping));
            }
            sent = sent.and(send(conn, &self.journal, message, &plan));
            self.journal
                .check(Mark::CheckSendRefusedOnlyWhenClosing, sent.is_ok(), || {
                    format!("client {index} cannot send: {sent:?}")
                });
            dialled.sent += 1;
            dialled.sent_turn = self.journal.turns();
            self.sent += 1;
            if dialled.sent - dialled.echoes > 1 {
                self.journal.reach(Mark::SeveralInFlight);
            }
        }
        if conn.is_closing() {
            return;
        }
        if must_close(client, dialled)
            && let Ending::ClientCloses { code, .. } | Ending::BothClose { code, .. } =
                client.ending
        {
            let closed = conn.close(code, &client.reason);
            let mark = Mark::CheckSendRefusedOnlyWhenClosing;
            self.journal.check(mark, closed.is_ok(), || {
                format!("client {index} cannot close: {closed:?}")
            });
            dialled.closed_with = Some(code);
        }
        let all = dialled.sent == client.messages.len();
        if client.ending == Ending::TooBig && all && !dialled.too_big_sent {
            dialled.too_big_sent = true;
            self.sent += 1;
            let _ = conn.send(vec![7; plan.server.message_bytes_max as usize + 1]);
        }
    }
}

/// Whether the plan has the client close now. One that closes after all is back waits for the pongs
/// too.
fn must_close(client: &ClientPlan, dialled: &Dialled) -> bool {
    match client.ending {
        Ending::ClientCloses { after, .. } => {
            dialled.echoes >= after
                && (after < client.messages.len() || dialled.pongs >= dialled.pings)
        }
        Ending::BothClose { client_after, .. } => dialled.echoes >= client_after,
        _ => false,
    }
}

fn send(
    conn: &mut Conn<'_, ()>,
    journal: &Journal,
    message: &crate::plan::PlannedMessage,
    plan: &Plan,
) -> Result<SendStatus, SendError> {
    let payload = &message.payload[..];
    journal.reach(if message.text {
        Mark::MessageText
    } else {
        Mark::MessageBinary
    });
    if payload.is_empty() {
        journal.reach(Mark::MessageEmpty);
    }
    if payload.len() as u64 > u64::from(plan.server_ring.recv_buffer_bytes) {
        journal.reach(Mark::MessageOverSeveralBuffers);
    }
    let outgoing = match std::str::from_utf8(payload) {
        Ok(text) if message.text => Outgoing::from(text),
        _ => Outgoing::from(payload),
    };
    match message.fragment_bytes {
        Some(bytes) => {
            journal.reach(Mark::MessageSentFragmented);
            conn.send_fragmented(outgoing, bytes)
        }
        None => conn.send(outgoing),
    }
}

impl Service for Client {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        let id = conn.id();
        let dialled = self
            .by_id
            .get(&id)
            .and_then(|&index| self.dialled[index].as_mut());
        let first = dialled.is_some_and(|dialled| !std::mem::replace(&mut dialled.opened, true));
        self.journal.check(Mark::CheckOpenOnce, first, || {
            format!("a client was told twice that {id} is open")
        });
        self.go_on(conn);
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        self.messages += 1;
        let plan = Rc::clone(&self.plan);
        let journal = self.journal.clone();
        let Some((index, dialled)) = self.find(conn.id(), "a message") else {
            return;
        };
        let Some(client) = plan.clients.get(index) else {
            // From a raw peer, which says what it likes.
            return;
        };
        let quiet = dialled.closed_with.is_none();
        journal.check(Mark::CheckNothingAfterClose, quiet, || {
            format!("a message was handed out to client {index} after it closed")
        });
        if let Some(rest) = message.text().and_then(|text| text.strip_prefix(PUSH)) {
            dialled.pushes += 1;
            journal.reach(Mark::PushReceived);
            let mine = rest.parse() == Ok(index);
            journal.check(Mark::CheckPushReachedItsAddressee, mine, || {
                format!("client {index} got what was for client {rest}")
            });
            return;
        }
        let count = dialled.echoes;
        dialled.echoes += 1;
        let sent = client.messages.get(count).filter(|_| count < dialled.sent);
        let same = sent.is_some_and(|sent| is_same(&message, sent.text, &sent.payload));
        journal.check(Mark::CheckClientGotWhatItSent, same, || {
            format!("echo {count} of client {index} came as {message:?}")
        });
        let is_short = message.payload().len() <= SHORT_BYTES;
        if plan.is_prompt && client.in_flight_max == 1 && is_short {
            let turns = journal.turns() - dialled.sent_turn;
            let others = (plan.clients.len() + plan.raw.len() + plan.crowd) as u64;
            let ring = &plan.server_ring;
            let at_once = ring.recv_buffer_bytes.min(ring.large_buffer_bytes);
            // Each of its receives may have to wait for a turn of the rota's.
            let receives = 1 + (SHORT_BYTES as u64).div_ceil(u64::from(at_once));
            let most = ECHO_TURNS + receives * (2 * others + 8);
            journal.check(Mark::CheckEchoInTurns, turns <= most, || {
                format!("client {index} had its echo after {turns} turns of at most {most}")
            });
        }
        self.go_on(conn);
    }

    fn on_ping(&mut self, conn: &mut Conn<'_, ()>, _payload: &[u8]) {
        let _ = self.find(conn.id(), "a ping");
    }

    fn on_pong(&mut self, conn: &mut Conn<'_, ()>, payload: &[u8]) {
        let plan = Rc::clone(&self.plan);
        let journal = self.journal.clone();
        let Some((index, dialled)) = self.find(conn.id(), "a pong") else {
            return;
        };
        let Some(client) = plan.clients.get(index) else {
            return;
        };
        if payload.is_empty() {
            return;
        }
        let count = dialled.pongs;
        dialled.pongs += 1;
        let expected = client
            .messages
            .iter()
            .filter_map(|one| one.ping.as_deref())
            .nth(count);
        journal.check(Mark::CheckPongsInOrder, expected == Some(payload), || {
            format!(
                "pong {count} of client {index} came as {} bytes",
                payload.len()
            )
        });
        self.go_on(conn);
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, ()>) {
        let _ = self.find(conn.id(), "a drained queue");
        self.journal.reach(Mark::Drained);
        self.go_on(conn);
    }

    fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, _state: (), cause: &CloseCause) {
        let now = self.kernel.now();
        let index = self.by_id.get(&id).copied();
        let dialled = index.and_then(|index| self.dialled[index].as_mut());
        if let Some(dialled) = &dialled
            && *cause == CloseCause::Timeout(Timeout::Handshake)
        {
            let waited_ms = now.ns_since(dialled.dialled_at) / 1_000_000;
            let most_ms = self.plan.client.handshake_timeout_ms;
            self.journal
                .check(Mark::CheckTimeoutNotEarly, waited_ms >= most_ms, || {
                    format!("{id} was given up after {waited_ms} of {most_ms} ms")
                });
        }
        let first = dialled.is_some_and(|dialled| dialled.cause.replace(cause.clone()).is_none());
        self.journal
            .check(Mark::CheckCloseIsLastAndOnce, first, || {
                format!("a client was told twice that {id} is closed")
            });
    }
}
