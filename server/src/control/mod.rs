//! The control thread: an admin side, a look at every shard, words to a supervisor.
//!
//! Knows: what happens beside the serving, on one thread with a runtime on epoll, which works where
//! io_uring does not. Refuses to know: connections and messages. Shards do not notice it, but for a
//! command in their mailbox now and then.

mod admin;
pub mod ask;
pub mod client;
mod life;
mod metrics;
mod operations;
mod publishing;
mod supervisor;

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

pub use admin::Admin;
use operations::in_seconds;
pub use operations::{Operations, SetLevel};
use tokio::{runtime, task::LocalSet};

/// How often shards are asked for a sign of life.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often the log says how a drain gets on.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Starts the thread, with an admin side on these sockets: it ends with the process.
///
/// # Errors
///
/// When there is no thread or no descriptor to be had.
pub fn start(operations: Arc<Operations>, sockets: Vec<OwnedFd>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("control")
        .build()?;
    let body = move || {
        LocalSet::new().block_on(&runtime, async {
            admin::serve(&operations, sockets);
            look_after(&operations).await;
        });
    };
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(body)?;
    Ok(())
}

/// Looks after the shards for as long as the process is there.
async fn look_after(operations: &Operations) {
    let feeding = operations.supervisor.feeding_interval();
    let every = feeding.map_or(LOOK_EVERY, |interval| interval.min(LOOK_EVERY));
    let mut told_at = Instant::now();
    loop {
        operations.look(feeding.is_some());
        if !operations.life.is_draining() {
            told_at = Instant::now();
        } else if told_at.elapsed() >= PROGRESS_EVERY {
            told_at = Instant::now();
            let left = operations.operator.connections_open();
            let status = format!("stopping, {left} connections are left");
            tracing::info!("{status}; looked at every {}", in_seconds(PROGRESS_EVERY));
            operations.supervisor.status(&status);
        }
        tokio::time::sleep(every).await;
    }
}
