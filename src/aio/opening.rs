//! Opening handshakes, both roles.
//!
//! Knows: that a head comes first, and frames behind it. Refuses to know: how a head is parsed or
//! written; `conn` has that for both engines.

use std::{
    fmt,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    task::{Poll, ready},
};

use super::{connection::Connection, input::Input, local::State, runtime::NoHome, socket::Socket};
use crate::{
    client::{Dial, DialError},
    config::ConfigError,
    conn::{
        CloseCause, Ending, Link, Opening, Rare, Remote, Secure, Stage, Timeout,
        door::Visit,
        opening::{Judge, Judged, Opened, Reply, WholeHead, judge},
    },
    proto::{
        Role,
        deflate::Agreed,
        handshake::{HandshakeError, Refusal, Request, Scheme},
    },
    ring::{Errno, Time},
    tls::ServerTls,
};

/// Why there is no connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Nothing on this thread could run its tasks.
    NoHome(NoHome),
    /// A setting is out of its bounds.
    Config(ConfigError),
    /// The URL cannot be dialled.
    Dial(DialError),
    /// It ended before it was open: the transport broke, TLS failed, the handshake took too long,
    /// or the server's answer was not as it should be.
    Ended(CloseCause),
    /// It was a plain HTTP request, which was answered, or an opening handshake that was refused.
    Refused,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::NoHome(error) => error.fmt(f),
            Self::Dial(error) => error.fmt(f),
            Self::Ended(cause) => cause.fmt(f),
            Self::Refused => f.write_str("the request was answered without opening a WebSocket"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<NoHome> for OpenError {
    fn from(error: NoHome) -> Self {
        Self::NoHome(error)
    }
}

impl From<Errno> for OpenError {
    fn from(errno: Errno) -> Self {
        Self::Ended(CloseCause::Transport(errno))
    }
}

/// Answers the opening handshake of a client.
///
/// # Errors
///
/// When it comes to nothing; the client was told why, if it could be.
pub async fn accept<J: Judge>(
    connection: &Rc<Connection>,
    judge: &mut J,
) -> Result<(Input, J::State), OpenError> {
    let mut input = Input::default();
    let mut accepted = None;
    let opened = until_open(connection, &mut input, |input| {
        answer(connection, input, judge, &mut accepted)
    })
    .await;
    if let (true, Some(state)) = (opened, accepted) {
        return Ok((input, state));
    }
    input.give_back(connection);
    Err(match connection.cause() {
        Some(cause) => OpenError::Ended(cause),
        None => OpenError::Refused,
    })
}

/// Receives and looks at what has come, until the connection is open or never will be. `look`
/// returns whether it is.
async fn until_open(
    connection: &Rc<Connection>,
    input: &mut Input,
    mut look: impl FnMut(&mut Input) -> bool,
) -> bool {
    poll_fn(|context| {
        loop {
            let opened = look(input);
            connection.flush_if_dirty();
            if opened || !connection.is_receiving() {
                return Poll::Ready(opened);
            }
            ready!(input.poll_fill(connection, context));
        }
    })
    .await
}

/// Looks at what has come of a head. Returns whether the connection is open.
fn answer<J: Judge>(
    connection: &Rc<Connection>,
    input: &mut Input,
    judge: &mut J,
    accepted: &mut Option<J::State>,
) -> bool {
    let len = input.rest().len();
    match take_head(connection, input) {
        Head::Whole((head, used)) => {
            let opened = answer_head(connection, &head, judge, accepted);
            drop(head);
            input.advance(used);
            if opened {
                return true;
            }
        }
        Head::Begun => {
            input.advance(len);
            return false;
        }
        Head::Refused => return false,
        Head::Answered => {}
    }
    let link = &mut *connection.link.borrow_mut();
    let state = &mut *connection.local.state.borrow_mut();
    match link.receive_challenge(input.rest(), &mut state.shared) {
        Some(used) => {
            input.advance(used);
            is_open(connection, link, state);
            true
        }
        None => false,
    }
}

/// What there is of the head of a request.
enum Head<'i> {
    /// All of it.
    Whole(WholeHead<'i>),
    /// A part.
    Begun,
    /// More than it may have, or something else; it was answered.
    Refused,
    /// What comes is behind it.
    Answered,
}

fn take_head<'i>(connection: &Rc<Connection>, input: &'i mut Input) -> Head<'i> {
    let link = &mut *connection.link.borrow_mut();
    let state = &mut *connection.local.state.borrow_mut();
    let Stage::Opening(opening) = &mut link.stage else {
        return Head::Answered;
    };
    let head_bytes_max = state.shared.config.head_bytes_max;
    match opening.push(input.rest(), head_bytes_max) {
        Ok(Some(head)) => Head::Whole(head),
        Ok(None) => Head::Begun,
        Err(error) => {
            connection.refuse(link, state, error.into());
            Head::Refused
        }
    }
}

/// Answers a whole request head. Returns whether the connection is open now.
///
/// Who judges is application code, which may reach every other connection of this thread: nothing
/// is borrowed meanwhile, and the connection may be another one afterwards.
fn answer_head<J: Judge>(
    connection: &Rc<Connection>,
    head: &[u8],
    asked: &mut J,
    accepted: &mut Option<J::State>,
) -> bool {
    let request = match Request::parse(head) {
        Ok(request) => request,
        Err(error) => {
            let link = &mut *connection.link.borrow_mut();
            let state = &mut *connection.local.state.borrow_mut();
            connection.refuse(link, state, error.into());
            return false;
        }
    };
    let admission = {
        let state = connection.local.state.borrow();
        let lack = state.places.lack_of(connection.key);
        state.shared.admission(lack)
    };
    let tls = connection.link.borrow_mut().rare.take_tls();
    let session = tls.as_ref().map(|tls| tls.session());
    let source = match &connection.link.borrow().stage {
        Stage::Opening(opening) => opening.source(),
        _ => None,
    };
    let address = source.unwrap_or_else(|| connection.socket.peer_address());
    let (door, now) = {
        let shared = &connection.local.state.borrow().shared;
        (shared.door.clone(), Time::monotonic_coarse())
    };
    let visit = Visit::new(&door, now);
    let peer = Remote::new(address, session).at_door(&visit);
    let judged = catch_unwind(AssertUnwindSafe(|| judge(&request, peer, asked, admission)));
    let is_accepted = matches!(judged, Ok(Judged::Accepted { .. }));
    if let Some(ticket) = visit.into_ticket(is_accepted)
        && let Some(before) = connection.ticket.replace(Some(ticket))
    {
        door.leave(before);
    }
    let is_awaited = {
        let link = &mut *connection.link.borrow_mut();
        link.rare.put_tls(tls);
        matches!(link.stage, Stage::Opening(_))
    };
    if !is_awaited {
        // It has ended meanwhile.
        return false;
    }
    let judged = judged.ok();
    let link = &mut *connection.link.borrow_mut();
    let state = &mut *connection.local.state.borrow_mut();
    let Some(judged) = judged else {
        state.shared.counts.service_panics += 1;
        let refusal: Refusal = HandshakeError::ServicePanicked.into();
        link.refuse_request(&request, &refusal, &mut state.shared);
        connection.finish(link, state, Ending::Linger);
        return false;
    };
    let reply = state.shared.reply_to(judged);
    if let Reply::Accepted { answer, .. } = &reply {
        chosen(connection, answer.subprotocol());
    }
    match link.answer(&request, reply, &mut state.shared) {
        Opened::Open(found) => {
            *accepted = Some(found);
            is_open(connection, link, state);
            true
        }
        Opened::Challenged(found) => {
            *accepted = Some(found);
            false
        }
        Opened::Ends => {
            connection.finish(link, state, Ending::Linger);
            false
        }
    }
}

/// Remembers the subprotocol that was chosen.
fn chosen(connection: &Connection, subprotocol: Option<&str>) {
    if let Some(name) = subprotocol {
        // There is one opening handshake, and one choice in it.
        let _ = connection.subprotocol.set(name.into());
    }
}

/// The opening handshake is done, on either side.
fn is_open(connection: &Rc<Connection>, link: &mut Link, state: &mut State) {
    state.shared.counts.handshakes += 1;
    let role = link.endpoint.role();
    state.shared.handshake_done(role, link.born_ms);
    link.stage = Stage::Open;
    connection.set_idle_deadline(state);
    if link.queued_bytes() > 0 {
        connection.touch();
    }
}

/// Opens a connection whose opening handshake was answered elsewhere. These bytes were read behind
/// it.
pub fn take_over(
    connection: &Rc<Connection>,
    subprotocol: Option<&str>,
    agreed: Option<Agreed>,
    read: &[u8],
) -> Input {
    chosen(connection, subprotocol);
    let link = &mut *connection.link.borrow_mut();
    let state = &mut *connection.local.state.borrow_mut();
    if let Some(agreed) = agreed {
        link.endpoint.compress(&mut state.shared.codec, &agreed);
    }
    is_open(connection, link, state);
    Input::of_read(read, state)
}

/// The link of a connection that is to be accepted.
///
/// # Errors
///
/// When TLS cannot be set up for it.
pub fn server_link(tls: Option<&ServerTls>) -> Result<Link, OpenError> {
    let mut link = Link::new(Role::Server, Stage::Opening(Opening::of_server()));
    if let Some(tls) = tls {
        let session = tls.session();
        let session = session.map_err(|error| OpenError::Ended(CloseCause::Tls(error)))?;
        link.rare = Rare::with_tls(Secure::new(session));
    }
    Ok(link)
}

/// Connects and opens, as a client.
///
/// # Errors
///
/// When it comes to nothing.
pub async fn dial(
    local: &Rc<super::local::Local>,
    dial: Dial,
) -> Result<(Rc<Connection>, Input), OpenError> {
    let url = dial.request.url();
    let mut link = Link::new(Role::Client, Stage::Opening(Opening::of_server()));
    match &dial.tls {
        None if url.scheme() == Scheme::Wss => return Err(Errno::NO_PROTOCOL.into()),
        None => {}
        Some(tls) => {
            let session = tls.session(url.host().unwrap_or("localhost"));
            let session = session.map_err(|error| OpenError::Ended(CloseCause::Tls(error)))?;
            link.rare = Rare::with_tls(Secure::new(session));
        }
    }
    let timeout_ms = local.state.borrow().shared.config.handshake_timeout_ms;
    let connecting = Socket::connect(&dial.address, dial.from);
    let timeout = std::time::Duration::from_millis(timeout_ms);
    let socket = match tokio::time::timeout(timeout, connecting).await {
        Ok(connected) => connected?,
        Err(_) => {
            let cause = CloseCause::Timeout(Timeout::Handshake);
            return Err(OpenError::Ended(cause));
        }
    };
    let connection = Connection::new(local, socket, link)?;
    ask(&connection, dial);
    let mut input = Input::default();
    let opened = until_open(&connection, &mut input, |input| {
        check_answer(&connection, input)
    })
    .await;
    if opened {
        return Ok((connection, input));
    }
    input.give_back(&connection);
    let cause = connection.cause().unwrap_or(CloseCause::Vanished);
    Err(OpenError::Ended(cause))
}

/// Writes a client's first bytes.
fn ask(connection: &Rc<Connection>, dial: Dial) {
    let link = &mut *connection.link.borrow_mut();
    let state = &mut *connection.local.state.borrow_mut();
    // The head waits until TLS is ready for it.
    link.ask(Box::new(dial.request), &mut state.shared);
    if let Some(tls) = link.rare.tls_mut()
        && let Err(error) = tls.start(&mut state.shared.arena)
    {
        return connection.tls_failed(link, state, error);
    }
    connection.touch();
}

/// Looks at what has come of the server's answer. Returns whether the connection is open.
fn check_answer(connection: &Rc<Connection>, input: &mut Input) -> bool {
    let link = &mut *connection.link.borrow_mut();
    let state = &mut *connection.local.state.borrow_mut();
    let Stage::Opening(opening) = &mut link.stage else {
        return false;
    };
    let head_bytes_max = state.shared.config.head_bytes_max;
    let rest = input.rest();
    let len = rest.len();
    let checked = match opening.push(rest, head_bytes_max) {
        Ok(None) => {
            input.advance(len);
            return false;
        }
        Ok(Some((head, used))) => match opening.client() {
            None => return false,
            Some(client) => client
                .request
                .check_response(&head, &client.accept_key)
                .map(|accepted| {
                    chosen(connection, accepted.subprotocol());
                    (accepted.deflate(), used)
                }),
        },
        Err(error) => Err(error.into()),
    };
    match checked {
        Ok((agreed, used)) => {
            input.advance(used);
            if let Some(agreed) = agreed {
                let codec = &mut state.shared.codec;
                link.endpoint.compress(codec, &agreed);
            }
            is_open(connection, link, state);
            true
        }
        Err(error) => {
            state.shared.counts.handshakes_refused += 1;
            link.ends(CloseCause::HandshakeFailed(error));
            connection.stop(link, state);
            false
        }
    }
}
