//! Connections that need more than their share, one after the other.
//!
//! Knows: who waits for another share, and how many of them are woken between two looks at what
//! the kernel has. Refuses to know: what a share is spent on.
//!
//! The runtime polls tasks in the order in which they were woken. Two hundred that have always
//! something to do would be polled between any two polls of a task whose peer says something now
//! and then. So whoever has used up a share waits here, and a task of the rota's wakes a few at a
//! time: whoever needs little is polled in passing, behind a millisecond of others, as a shard's
//! [rota](crate::shard) does it.
//!
//! ```text
//!   readable --> a share --> all looked at --> waits to be readable
//!                 ^   | over
//!                 |   v
//!                 +- rota: a few, then whatever has come from the kernel, then the next few
//! ```
//!
//! For a while after, it waits here as well before it receives: then it takes nothing from those
//! who are served in passing. With N in the rota, each is woken after N others at most.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::{Rc, Weak},
    task::{Context, Poll},
};

use super::{
    connection::Connection,
    local::Local,
    share::{SHARE_NS, Turn},
};
use crate::ring::Time;

/// What those who are woken at once may cost together.
const AT_ONCE_NS: u64 = 1_000_000;

/// As many shares are that.
const AT_ONCE_MAX: usize = (AT_ONCE_NS / SHARE_NS) as usize;

/// Those who wait, and whether they are being served.
#[derive(Debug)]
pub struct Rota {
    waiting: RefCell<VecDeque<Weak<Connection>>>,
    is_served: Cell<bool>,
    /// How many are woken at once: fewer where shares cost more than they may.
    at_once: Cell<usize>,
    /// Large receives in passing since it was last served.
    in_passing: Cell<usize>,
}

impl Default for Rota {
    fn default() -> Self {
        Self {
            waiting: RefCell::default(),
            is_served: Cell::new(false),
            at_once: Cell::new(AT_ONCE_MAX),
            in_passing: Cell::new(0),
        }
    }
}

impl Rota {
    /// Wakes the next few. Returns whether there were any.
    fn serve_some(&self) -> bool {
        self.in_passing.set(0);
        let mut left = self.at_once.get();
        while left > 0 {
            // Nothing is borrowed when a waker is woken: it may be the application's code.
            let Some(next) = self.waiting.borrow_mut().pop_front() else {
                break;
            };
            if let Some(connection) = next.upgrade() {
                connection.share.begin();
                left -= 1;
            }
        }
        left < self.at_once.get()
    }

    /// They have cost so much, with what was served in passing.
    fn have_cost(&self, ns: u64) {
        let at_once = self.at_once.get();
        self.at_once.set(if ns > AT_ONCE_NS {
            (at_once / 2).max(1)
        } else {
            (at_once + 1).min(AT_ONCE_MAX)
        });
    }
}

/// Serves the rota until nobody is in it.
async fn serve(local: Weak<Local>) {
    /// The rota is served again by whoever comes next, even if the runtime ends this one.
    struct Served(Weak<Local>);
    impl Drop for Served {
        fn drop(&mut self) {
            if let Some(local) = self.0.upgrade() {
                local.rota.is_served.set(false);
            }
        }
    }
    let served = Served(local);
    let mut began = Time::monotonic();
    loop {
        match served.0.upgrade() {
            Some(local) if local.rota.serve_some() => {}
            _ => return,
        }
        tokio::task::yield_now().await;
        let now = Time::monotonic();
        if let Some(local) = served.0.upgrade() {
            local.rota.have_cost(now.ns_since(began));
        }
        began = now;
    }
}

impl Connection {
    /// Whether it may receive in passing, or has its turn: whoever needed much not long ago waits
    /// for it, and of large receives only so many are made as cost no more than those who are woken
    /// at once.
    #[inline]
    pub fn may_receive(&self, is_large: bool) -> bool {
        if self.share.turn() == Turn::Has {
            return true;
        }
        if !is_large || self.share.is_greedy() {
            return !self.share.is_greedy();
        }
        let in_passing = &self.local.rota.in_passing;
        in_passing.set(in_passing.get() + 1);
        in_passing.get() <= AT_ONCE_MAX
    }

    /// Waits until this connection may begin another share, if the last one is over or it has to
    /// wait before it begins one.
    pub fn poll_turn(self: &Rc<Self>, context: &Context<'_>) -> Poll<()> {
        let turn = self.share.turn();
        if turn == Turn::Has && !self.share.is_over() {
            return Poll::Ready(());
        }
        self.share.wait(context.waker());
        if turn != Turn::Waits {
            let rota = &self.local.rota;
            rota.waiting.borrow_mut().push_back(Rc::downgrade(self));
            if !rota.is_served.replace(true) {
                self.local.spawn(serve(Rc::downgrade(&self.local)));
            }
        }
        Poll::Pending
    }

    /// Waits until this connection may go on, if its share is over.
    pub async fn take_turns(self: &Rc<Self>) {
        poll_fn(|context| match self.share.is_over() {
            true => self.poll_turn(context),
            false => Poll::Ready(()),
        })
        .await;
    }
}
