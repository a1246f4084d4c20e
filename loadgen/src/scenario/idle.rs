//! Connections that do nothing, and what they cost.
//!
//! Knows: memory before and after. Refuses to know: what the connections are for.

use std::sync::Arc;

use ringwire::{Conn, Message};

use crate::{
    driver::{self, Hub, Index, Start, Workload},
    environment::{KernelMemory, own_resident_bytes},
    plan::Plan,
    report::units,
    result::{MemoryFigures, Run, Scenario, ServerFigures},
    run::{self, Context},
    schedule::{Schedule, Share},
};

/// Holds.
#[derive(Debug)]
struct Idle;

impl Workload for Idle {
    type Output = ();

    fn start(&mut self, _: &mut Hub, _: &Start, _: Option<Share>) -> Option<Schedule> {
        None
    }

    /// A server may say what it likes.
    fn message(&mut self, _: &mut Hub, _: &mut Conn<'_, Index>, _: usize, _: Message<'_>) {}

    fn is_quiet(&self, _: &Hub, _: u64) -> bool {
        true
    }

    fn finish(&mut self, _: &mut Hub, _: u64) {}
}

/// What a connection that ended within the last minute takes of the kernel's memory at most, in
/// bytes: a `tw_sock_TCP` and its place in two tables.
const TIME_WAIT_BYTES: i64 = 512;

/// The part of a growth that may be somebody else's.
const BLURRED_SHARE: i64 = 10;

/// What was looked at before the connections opened, or while they were held.
#[derive(Clone, Copy, Debug)]
struct Look {
    own_resident_bytes: u64,
    kernel: KernelMemory,
}

/// What the connections cost, and why something of it cannot be told.
fn weigh(
    held: u64,
    before: Look,
    after: Look,
    server: Option<ServerFigures>,
) -> (MemoryFigures, Vec<String>) {
    let mut notes = Vec::new();
    let each = |bytes: i64| bytes as f64 / held.max(1) as f64;
    let growth = |after: Option<u64>, before: Option<u64>| Some(after? as i64 - before? as i64);
    let mut slab = growth(after.kernel.slab_bytes, before.kernel.slab_bytes);
    let mut tcp = growth(after.kernel.tcp_bytes, before.kernel.tcp_bytes);
    if slab.is_none() {
        notes.push("the kernel's memory could not be read (/proc/slabinfo, /proc/meminfo)".into());
    }
    let kernel = slab.map(|slab| slab + tcp.unwrap_or(0));
    let left = growth(before.kernel.time_wait, after.kernel.time_wait).unwrap_or(0);
    let is_blurred =
        kernel.is_some_and(|kernel| kernel < 0 || left * TIME_WAIT_BYTES * BLURRED_SHARE > kernel);
    if is_blurred {
        let why = if left > 0 {
            format!(
                "it let go of {} that had ended before (TIME_WAIT lasts a minute)",
                units::plural(left as u64, "connection")
            )
        } else {
            "it shrank by what others gave back".to_owned()
        };
        notes.push(format!(
            "the kernel's memory is not told, as meanwhile {why}; wait a minute and run it again"
        ));
        (slab, tcp) = (None, None);
    }
    let server = server
        .map(|server| server.resident_after_bytes as i64 - server.resident_before_bytes as i64);
    if server.is_some_and(|grown| grown < 0) {
        notes.push(
            "the server's memory is not told, as it shrank while the connections opened: it was \
             giving back what earlier ones had held; run it again"
                .to_owned(),
        );
    }
    let own = after.own_resident_bytes as i64 - before.own_resident_bytes as i64;
    let figures = MemoryFigures {
        connections_held: held,
        server_resident_per_connection_bytes: server.filter(|&grown| grown >= 0).map(each),
        client_resident_per_connection_bytes: each(own.max(0)),
        kernel_per_connection_bytes: slab.map(|slab| each(slab + tcp.unwrap_or(0))),
        kernel_slab_growth_bytes: slab,
        kernel_tcp_growth_bytes: tcp,
    };
    (figures, notes)
}

/// Carries the plan out.
///
/// # Errors
///
/// A sentence, when nothing could be measured.
pub fn run(plan: &Arc<Plan>, context: &mut Context<'_>) -> Result<Run, String> {
    let before = Look {
        own_resident_bytes: own_resident_bytes(),
        kernel: KernelMemory::look(),
    };
    let config = driver::config(plan);
    let executed = run::execute(plan, Scenario::Idle, &config, |_| Idle, context)?;
    let (mut run, at_end) = (executed.run, executed.at_end);
    let after = Look {
        own_resident_bytes: at_end.own_resident_bytes,
        kernel: at_end.kernel,
    };
    let ended = run.connections.lost + run.connections.closed + run.connections.renewed;
    let held = run.connections.opened - ended;
    let (figures, notes) = weigh(held, before, after, run.server);
    run.memory = Some(figures);
    run.notes.extend(notes);
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(slab_bytes: u64, time_wait: u64) -> Look {
        Look {
            own_resident_bytes: 1 << 20,
            kernel: KernelMemory {
                slab_bytes: Some(slab_bytes),
                tcp_bytes: Some(0),
                time_wait: Some(time_wait),
            },
        }
    }

    #[test]
    fn what_connections_cost_is_told_for_each() {
        let (figures, notes) = weigh(100, look(1 << 20, 5), look((1 << 20) + 400_000, 5), None);
        assert_eq!(figures.kernel_per_connection_bytes, Some(4000.0));
        assert_eq!(figures.kernel_slab_growth_bytes, Some(400_000));
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn what_earlier_runs_give_back_is_nobody_s_cost() {
        // Less than before, or so little more that what went away matters.
        for (after, left) in [(900_000, 3000), (1_100_000, 3000), (900_000, 0)] {
            let (figures, notes) = weigh(100, look(1_000_000, left), look(after, 0), None);
            assert_eq!(figures.kernel_per_connection_bytes, None, "{after} {left}");
            assert_eq!(figures.kernel_slab_growth_bytes, None);
            assert_eq!(figures.kernel_tcp_growth_bytes, None);
            let says = if left > 0 {
                "3,000 connections"
            } else {
                "others gave back"
            };
            assert!(notes[0].contains(says), "{notes:?}");
        }
        let shrank = ServerFigures {
            resident_before_bytes: 2 << 20,
            resident_after_bytes: 1 << 20,
            ..ServerFigures::default()
        };
        let (figures, notes) = weigh(100, look(0, 0), look(400_000, 0), Some(shrank));
        assert_eq!(figures.server_resident_per_connection_bytes, None);
        assert!(
            notes[0].contains("the server's memory is not told"),
            "{notes:?}"
        );
    }
}
