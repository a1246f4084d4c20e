//! What one thread of a server does: accepts, serves, drains.
//!
//! Knows: listeners, tasks, and the order in which a thread ends. Refuses to know: frames.

use std::{
    future::poll_fn,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use tokio::{
    sync::mpsc::UnboundedReceiver,
    task::{JoinHandle, spawn_local},
};

use super::{
    connection::Connection,
    entrance::{Newcomer, come_in},
    handler::{Asked, Handler},
    local::Local,
    opening::accept,
    socket::Acceptor,
    websocket::WebSocket,
};
use crate::{
    CloseCause, CloseCode,
    config::Config,
    conn::{
        Ending, Key, Stage,
        farewell::{Drain, Farewell},
        places::DESCRIPTORS_RAN_OUT,
        survey::{Seen, Survey},
    },
    ring::{Errno, PeerAddress, Time, errno::AcceptError},
    tls::ServerTls,
};

/// How long accepting pauses when descriptors ran out, unless a connection is gone before.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Connections accepted in one go, before those that are there have their turn.
const ACCEPTED_MAX: usize = 64;

/// What a server's threads are told to do.
#[derive(Debug)]
pub enum Order {
    /// To go on under these settings.
    Reconfigure(Arc<Config>),
    /// To stop.
    Stop(Drain),
    /// To close a connection, if it is still there.
    Close(Key, CloseCode, Box<str>),
    /// To look who is there.
    Survey(Box<Survey>),
    /// To give a sign of life.
    Beat,
}

/// A listener and its TLS.
pub struct Listening {
    acceptor: Acceptor,
    pub tls: Option<ServerTls>,
}

/// Registers listeners with the reactor.
///
/// # Errors
///
/// What the kernel said.
pub fn listen(sockets: Vec<(OwnedFd, Option<ServerTls>)>) -> Result<Vec<Listening>, Errno> {
    let registered = sockets.into_iter().map(|(socket, tls)| {
        let acceptor = Acceptor::new(socket)?;
        Ok(Listening { acceptor, tls })
    });
    registered.collect()
}

/// Serves until told to stop, and then until every connection is gone or the time is up.
///
/// # Panics
///
/// When one of the tasks has that all connections need: a thread that accepts no more, or keeps no
/// deadlines, is to end and not to look as if it served.
pub async fn serve<H: Handler>(
    local: Rc<Local>,
    listening: Vec<Listening>,
    handler: Rc<H>,
    mut orders: UnboundedReceiver<Order>,
) {
    let accepts = listening.len();
    let accepting: Vec<_> = listening
        .into_iter()
        .map(|listening| spawn_local(accept_all(local.clone(), listening, handler.clone())))
        .collect();
    let mut vital: Vec<_> = accepting.into_iter().chain(local.take_keeper()).collect();
    let drain = until_told(&local, &mut orders, &mut vital).await;
    vital.truncate(accepts);
    for task in vital {
        task.abort();
        let _ = task.await;
    }
    local.stops();
    take_leave(&local, &mut orders, drain).await;
    for connection in local.connections() {
        connection.abort(CloseCause::Stopping);
    }
    local.end();
    local.publish();
}

/// Closes all connections, at once or one after the other, and waits until they are gone or the
/// time is up. What is ordered meanwhile is done.
async fn take_leave(local: &Rc<Local>, orders: &mut UnboundedReceiver<Order>, drain: Drain) {
    let began = Time::monotonic();
    let mut until = drain.until(began);
    let keys = local.connections().iter().map(|it| it.key).collect();
    let mut farewell = {
        let keeper = &mut local.state.borrow_mut().shared.keys;
        Some(Farewell::new(keys, keeper, began, drain))
    };
    while !local.state.borrow().slab.is_empty() {
        let now = Time::monotonic();
        if now >= until {
            return;
        }
        while let Some(key) = farewell.as_mut().and_then(|it| it.next(now)) {
            if let Some(connection) = local.connection(key) {
                let drain = farewell.as_ref().map_or(&drain, |it| it.drain());
                say_goodbye(&connection, drain);
            }
        }
        if farewell
            .as_ref()
            .is_some_and(|it| it.is_over() && it.due_at() <= now)
        {
            // Those who have come since.
            let drain = farewell.take().map_or(drain, |it| *it.drain());
            say_all_goodbye(local, &drain);
        }
        let next_at = farewell.as_ref().map_or(until, |it| it.due_at().min(until));
        let sleep_ns = next_at.ns_since(Time::monotonic());
        let mut left = pin!(local.left.notified());
        let mut stopped = pin!(next_stop(local, orders));
        let mut due = pin!(tokio::time::sleep(Duration::from_nanos(sleep_ns)));
        let sooner = poll_fn(|context| {
            if let Poll::Ready(drain) = stopped.as_mut().poll(context) {
                return Poll::Ready(drain);
            }
            if left.as_mut().poll(context).is_ready() || due.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await;
        if let Some(sooner) = sooner {
            let now = Time::monotonic();
            if sooner.until(now) < until
                && let Some(before) = farewell.take()
            {
                // All that are left have their turn in the shorter time.
                let keys = &mut local.state.borrow_mut().shared.keys;
                farewell = Some(Farewell::new(before.rest(), keys, now, sooner));
            }
            until = until.min(sooner.until(now));
        }
    }
}

/// Does what is ordered until that is to stop. Nothing comes when nobody is there to order.
async fn next_stop(local: &Rc<Local>, orders: &mut UnboundedReceiver<Order>) -> Option<Drain> {
    loop {
        match orders.recv().await? {
            Order::Stop(drain) => return Some(drain),
            Order::Reconfigure(config) => local.reconfigure(&config),
            Order::Close(key, code, reason) => {
                if let Some(connection) = local.connection(key) {
                    let cause = CloseCause::Application(code);
                    let _ = connection.close(code, &reason, cause);
                }
            }
            Order::Survey(survey) => local.spawn(walk(local.clone(), *survey)),
            Order::Beat => local.state.borrow().shared.stats.beat(),
        }
    }
}

/// Looks at all connections, in pieces between which others have their turn.
async fn walk(local: Rc<Local>, mut survey: Survey) {
    loop {
        let places = local.state.borrow().slab.capacity();
        for slot in survey.piece(places) {
            if let Some(connection) = local.connection_at(slot) {
                let link = connection.link.borrow();
                survey.see(Seen::new(connection.id(), &link, Time::monotonic_coarse()));
            }
        }
        if survey.is_over(places) {
            return survey.end(|id| {
                let connection = local.connection(id.key());
                connection.map_or(PeerAddress::Unknown, |it| it.socket.peer_address())
            });
        }
        tokio::task::yield_now().await;
    }
}

/// Obeys until the thread is to stop, and returns how.
async fn until_told(
    local: &Rc<Local>,
    orders: &mut UnboundedReceiver<Order>,
    vital: &mut [JoinHandle<()>],
) -> Drain {
    // Its other end is there for as long as this thread, in the hands of those who watch it.
    let obeying = async {
        let stopped = next_stop(local, orders).await;
        stopped.unwrap_or(Drain::at_once(0))
    };
    let mut obeying = pin!(obeying);
    poll_fn(|context| {
        for task in vital.iter_mut() {
            if let Poll::Ready(Err(error)) = Pin::new(task).poll(context) {
                resume_unwind(error.into_panic());
            }
        }
        obeying.as_mut().poll(context)
    })
    .await
}

fn say_all_goodbye(local: &Rc<Local>, drain: &Drain) {
    for connection in local.connections() {
        say_goodbye(&connection, drain);
    }
}

fn say_goodbye(connection: &Rc<Connection>, drain: &Drain) {
    let is_open = matches!(connection.link.borrow().stage, Stage::Open);
    if is_open {
        let _ = connection.close(drain.code, "", CloseCause::Stopping);
    } else if matches!(
        connection.link.borrow().stage,
        Stage::Connecting(_) | Stage::Opening(_) | Stage::Challenged(_)
    ) {
        connection.abort(CloseCause::Stopping);
    }
}

async fn accept_all<H: Handler>(local: Rc<Local>, listening: Listening, handler: Rc<H>) {
    let listening = Rc::new(listening);
    let mut in_a_row = 0;
    loop {
        match poll_fn(|context| listening.acceptor.poll_accept(context)).await {
            Ok(fd) => {
                let newcomer = Newcomer::new(&local, fd, &listening, &handler);
                if come_in(newcomer) {
                    // Those who are told for it have their descriptors until they run.
                    in_a_row += 7;
                }
                in_a_row += 1;
                if in_a_row >= ACCEPTED_MAX {
                    in_a_row = 0;
                    tokio::task::yield_now().await;
                }
            }
            Err(errno) => match errno.of_accept() {
                AcceptError::Cancelled | AcceptError::Retry => {}
                AcceptError::Exhausted | AcceptError::Unexpected => {
                    if local.accept_pauses() {
                        tracing::warn!(%errno, "{DESCRIPTORS_RAN_OUT}");
                    }
                    if let Some(oldest) = local.make_room() {
                        local.let_go(oldest);
                    }
                    let _ = tokio::time::timeout(RETRY_AFTER, local.left.notified()).await;
                }
            },
        }
    }
}

/// One connection from its first byte to its last.
pub async fn run<H: Handler>(connection: Rc<Connection>, handler: Rc<H>) {
    let opened = accept(&connection, &mut Asked(&*handler)).await;
    let Ok((input, state)) = opened else {
        // The client was told, and the farewell sees it off.
        return;
    };
    let socket = WebSocket::new(connection.clone(), input);
    let serving = handler.serve(socket, state);
    Serving {
        connection: &connection,
        future: std::pin::pin!(serving),
    }
    .await;
}

/// A handler's future, with what comes after each of its polls: what it sent is sent.
struct Serving<'a, F> {
    connection: &'a Rc<Connection>,
    future: Pin<&'a mut F>,
}

impl<F: Future<Output = ()>> Future for Serving<'_, F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        let future = this.future.as_mut();
        let local = &this.connection.local;
        let poll = || catch_unwind(AssertUnwindSafe(|| future.poll(context)));
        let polled = local.turn(this.connection, poll);
        match polled {
            Ok(polled) => polled,
            Err(_) => {
                panicked(this.connection);
                Poll::Ready(())
            }
        }
    }
}

/// The handler panicked on this connection: it gets 1011, and the others nothing.
fn panicked(connection: &Rc<Connection>) {
    tracing::error!("a handler panicked on a connection; it is closed with 1011");
    connection
        .local
        .state
        .borrow_mut()
        .shared
        .counts
        .service_panics += 1;
    let cause = CloseCause::ServicePanicked;
    let closed = connection.close(CloseCode::INTERNAL_ERROR, "", cause);
    if closed.is_ok() {
        let link = &mut *connection.link.borrow_mut();
        let state = &mut *connection.local.state.borrow_mut();
        connection.finish(link, state, Ending::Linger);
    }
    connection.local.counted(Time::monotonic_coarse());
}
