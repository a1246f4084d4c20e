//! An echo that takes a given share more CPU time than it has to: what `compare` has to find.
//!
//! `slow_echo --slower 10%` prints its address and serves on one shard until it is ended. The time
//! burned for each message is that share of what a message has cost the thread so far without it,
//! so that the option means the same on every machine; with `--slower 0%` the same code runs and
//! burns nothing.

use std::{
    hint,
    time::{Duration, Instant},
};

use clap::Parser;
use ringwire::{Conn, Message, Server, Service};
use rustix::time::{ClockId, clock_gettime};

/// An echo that is slower than it has to be
#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 lets the kernel choose
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// How much more CPU time a message takes
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    slower: f64,
}

/// Messages after which the cost of one is worked out anew.
const WINDOW: u64 = 1024;

struct SlowEcho {
    slower: f64,
    burn: Duration,
    messages: u64,
    burned: Duration,
    cpu_before: Duration,
}

impl SlowEcho {
    fn new(slower: f64) -> Self {
        Self {
            slower,
            burn: Duration::ZERO,
            messages: 0,
            burned: Duration::ZERO,
            cpu_before: thread_cpu(),
        }
    }

    fn burn(&mut self) {
        self.messages += 1;
        if self.messages == WINDOW {
            let cpu = thread_cpu();
            let own = (cpu - self.cpu_before).saturating_sub(self.burned);
            self.burn = own.mul_f64(self.slower / WINDOW as f64);
            self.cpu_before = cpu;
            self.burned = Duration::ZERO;
            self.messages = 0;
        }
        if !self.burn.is_zero() {
            let begin = Instant::now();
            while begin.elapsed() < self.burn {
                hint::spin_loop();
            }
            self.burned += self.burn;
        }
    }
}

impl Service for SlowEcho {
    type State = ();

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        self.burn();
        let _ = conn.send(message);
    }
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent: Option<f64> = text.trim_end_matches('%').parse().ok();
    percent
        .filter(|percent| (0.0..=1000.0).contains(percent))
        .map(|percent| percent / 100.0)
        .ok_or_else(|| format!("'{text}' is not a percentage from 0% to 1000%"))
}

fn main() -> Result<(), ringwire::StartError> {
    let arguments = Arguments::parse();
    let server = Server::builder()
        .listen(&arguments.listen)
        .shards(1)
        .pinned(false)
        .start(move |_shard| SlowEcho::new(arguments.slower))?;
    for address in server.addresses() {
        println!("ws://{address}/");
    }
    server.join()
}
