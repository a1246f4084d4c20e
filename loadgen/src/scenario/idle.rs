//! Connections that do nothing, and what they cost.
//!
//! Knows: memory before and after. Refuses to know: what the connections are for.

use std::sync::Arc;

use ringwire::{Conn, Message};

use crate::{
    driver::{self, Hub, Index, Start, Workload},
    environment::{KernelMemory, own_resident_bytes},
    plan::Plan,
    result::{MemoryFigures, Run, Scenario},
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

/// Carries the plan out.
///
/// # Errors
///
/// A sentence, when nothing could be measured.
pub fn run(plan: &Arc<Plan>, context: &mut Context<'_>) -> Result<Run, String> {
    let own_before = own_resident_bytes();
    let kernel_before = KernelMemory::look();
    let config = driver::config(plan);
    let executed = run::execute(plan, Scenario::Idle, &config, |_| Idle, context)?;
    let (mut run, at_end) = (executed.run, executed.at_end);
    let held = run.connections.opened - run.connections.lost;
    let each = |bytes: i64| bytes as f64 / held.max(1) as f64;
    let growth = |after: Option<u64>, before: Option<u64>| Some(after? as i64 - before? as i64);
    let slab = growth(at_end.kernel.slab_bytes, kernel_before.slab_bytes);
    let tcp = growth(at_end.kernel.tcp_bytes, kernel_before.tcp_bytes);
    run.memory = Some(MemoryFigures {
        connections_held: held,
        server_resident_per_connection_bytes: run.server.map(|server| {
            each(server.resident_after_bytes as i64 - server.resident_before_bytes as i64)
        }),
        client_resident_per_connection_bytes: each(
            at_end.own_resident_bytes as i64 - own_before as i64,
        ),
        kernel_per_connection_bytes: slab.map(|slab| each(slab + tcp.unwrap_or(0))),
        kernel_slab_growth_bytes: slab,
        kernel_tcp_growth_bytes: tcp,
    });
    if slab.is_none() {
        run.notes
            .push("the kernel's memory could not be read (/proc/slabinfo, /proc/meminfo)".into());
    }
    Ok(run)
}
