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
    sync::watch,
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
    conn::{Ending, Stage, places::DESCRIPTORS_RAN_OUT},
    ring::{Errno, Time, errno::AcceptError},
    tls::ServerTls,
};

/// How long accepting pauses when descriptors ran out, unless a connection is gone before.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Connections accepted in one go, before those that are there have their turn.
const ACCEPTED_MAX: usize = 64;

/// What a server's threads are told to do.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    /// To go on under these settings.
    pub config: Option<Arc<Config>>,
    /// To stop, within so many milliseconds.
    pub stop: Option<u64>,
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
    mut orders: watch::Receiver<Orders>,
) {
    let accepts = listening.len();
    let accepting: Vec<_> = listening
        .into_iter()
        .map(|listening| spawn_local(accept_all(local.clone(), listening, handler.clone())))
        .collect();
    let mut vital: Vec<_> = accepting.into_iter().chain(local.take_keeper()).collect();
    let drain_timeout_ms = until_told(&local, &mut orders, &mut vital).await;
    vital.truncate(accepts);
    for task in vital {
        task.abort();
        let _ = task.await;
    }
    go_away(&local);
    let gone = async {
        while !local.state.borrow().slab.is_empty() {
            local.left.notified().await;
        }
    };
    let drained = tokio::time::timeout(Duration::from_millis(drain_timeout_ms), gone).await;
    if drained.is_err() {
        for connection in local.connections() {
            connection.abort(CloseCause::Stopping);
        }
    }
    local.end();
    local.publish();
}

/// Obeys until the thread is to stop, and returns how long its connections may take.
async fn until_told(
    local: &Local,
    orders: &mut watch::Receiver<Orders>,
    vital: &mut [JoinHandle<()>],
) -> u64 {
    let obeying = async {
        loop {
            let Orders { config, stop } = orders.borrow_and_update().clone();
            if let Some(config) = config {
                local.reconfigure(&config);
            }
            if let Some(drain_timeout_ms) = stop {
                return drain_timeout_ms;
            }
            // Its other end is there for as long as this thread, in the hands of those who watch
            // it.
            if orders.changed().await.is_err() {
                return 0;
            }
        }
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

/// Closes every connection with 1001.
fn go_away(local: &Rc<Local>) {
    local.stops();
    for connection in local.connections() {
        let is_open = matches!(connection.link.borrow().stage, Stage::Open);
        if is_open {
            let code = CloseCode::GOING_AWAY;
            let _ = connection.close(code, "", CloseCause::Stopping);
        } else if matches!(
            connection.link.borrow().stage,
            Stage::Connecting(_) | Stage::Opening(_) | Stage::Challenged(_)
        ) {
            connection.abort(CloseCause::Stopping);
        }
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
