//! Runs that nobody made: what `Run` looks like after a run, from a model and a seed.
//!
//! The model: the level of a slice's latency has a memory (an autoregressive process), some slices
//! in a row are disturbed by somebody else on the machine, and single messages lie around the
//! level with a tail. In a closed loop the rate follows from the latency.

use std::f64::consts::TAU;

use fastrand::Rng;
use loadgen::{
    histogram,
    result::{
        Arrivals, Bytes, ClientFigures, CompressionFigures, Connections, Environment, Latency,
        Messages, PlanFigures, Run, SCHEMA, Scenario, ServerFigures, SizeShare, Slice, Target,
        Times, Verdict, VerdictKind, Verify,
    },
};

/// What the model can be told.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Where its chance comes from.
    pub seed: u64,
    /// Slices of 100 ms that count.
    pub slices: u64,
    /// Slices of warm-up before them.
    pub warmup_slices: u64,
    /// How much slower than 1 the server is.
    pub slowness: f64,
    /// How much of a slice's level the next one keeps, from 0 to below 1.
    pub memory: f64,
    /// The standard deviation of the level's logarithm.
    pub unrest: f64,
    /// The probability that a disturbance of some slices begins in a slice.
    pub disturbance: f64,
    /// How much the whole run's level varies from run to run.
    pub from_run_to_run: f64,
    /// Open loop at this rate.
    pub rate_per_s: Option<f64>,
    /// Open loop: the server stands still for so many milliseconds, once, in the middle.
    pub stall_ms: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            seed: 1,
            slices: 100,
            warmup_slices: 10,
            slowness: 1.0,
            memory: 0.6,
            unrest: 0.03,
            disturbance: 0.01,
            from_run_to_run: 0.0,
            rate_per_s: None,
            stall_ms: 0,
        }
    }
}

/// Messages of a slice that are really drawn; the others are their copies.
const DRAWN: u64 = 400;
const CONNECTIONS: f64 = 64.0;
const LATENCY_NS: f64 = 350_000.0;
const CPU_NS: f64 = 3_300.0;
const PAYLOAD: u64 = 64;

/// A finished echo run.
pub fn echo(model: Model) -> Run {
    let mut rng = Rng::with_seed(model.seed);
    let mut corrected = histogram::of_run();
    let mut uncorrected = histogram::of_run();
    let mut slices = Vec::new();
    let run_level = model.from_run_to_run * normal(&mut rng);
    let (mut level, mut disturbed) = (0.0, 0);
    let stalled = model.warmup_slices + model.slices / 2;
    for index in 0..model.warmup_slices + model.slices {
        let is_warmup = index < model.warmup_slices;
        let innovation = model.unrest * (1.0 - model.memory.powi(2)).sqrt();
        level = model.memory * level + innovation * normal(&mut rng);
        if disturbed > 0 {
            disturbed -= 1;
        } else if rng.f64() < model.disturbance {
            disturbed = 1 + rng.u64(..4);
        }
        let factor = (level + run_level).exp() * if disturbed > 0 { 1.6 } else { 1.0 };
        let warming = if is_warmup {
            1.0 + 2.0 / (1.0 + index as f64)
        } else {
            1.0
        };
        let center = LATENCY_NS * model.slowness * factor * warming;
        let messages = match model.rate_per_s {
            Some(rate) => (rate / 10.0) as u64,
            None => (CONNECTIONS * 1e8 / (center * 1.05)) as u64,
        };
        let mut latency = histogram::of_slice();
        for drawn in 0..DRAWN {
            let copies = messages / DRAWN + u64::from(drawn < messages % DRAWN);
            let tail = if rng.f64() < 0.01 {
                rng.f64().powf(-0.5)
            } else {
                1.0
            };
            let sent = (center * tail * (0.12 * normal(&mut rng)).exp()) as u64;
            let waited = if index == stalled && model.stall_ms > 0 {
                // Due at any instant of the stall, answered at its end.
                sent + (rng.f64() * model.stall_ms as f64 * 1e6) as u64
            } else {
                sent
            };
            latency.saturating_record_n(waited, copies);
            if !is_warmup {
                corrected.saturating_record_n(waited, copies);
                uncorrected.saturating_record_n(sent, copies);
            }
        }
        let cpu = CPU_NS * model.slowness * (0.3 * level).exp() * messages as f64;
        slices.push(Slice {
            start_ms: index * 100,
            is_warmup,
            is_partial: false,
            sent: messages,
            received: messages,
            payload_bytes_sent: messages * PAYLOAD,
            payload_bytes_received: messages * PAYLOAD,
            errors: 0,
            server_cpu_ns: Some(cpu as u64),
            latency_ns: latency,
        });
    }
    finish(model, slices, corrected, uncorrected)
}

fn finish(
    model: Model,
    slices: Vec<Slice>,
    corrected_ns: hdrhistogram::Histogram<u64>,
    uncorrected_ns: hdrhistogram::Histogram<u64>,
) -> Run {
    let measured = || slices.iter().filter(|slice| !slice.is_warmup);
    let received: u64 = measured().map(|slice| slice.received).sum();
    let cpu_ns: u64 = measured().filter_map(|slice| slice.server_cpu_ns).sum();
    let measured_ms = model.slices as f64 * 100.0;
    let mut handshake_ns = histogram::of_run();
    (0..64).for_each(|index| handshake_ns.saturating_record(400_000 + index * 30_000));
    Run {
        schema: SCHEMA.to_owned(),
        scenario: Scenario::Echo,
        target: Target {
            url: "ws://127.0.0.1:9001/".to_owned(),
            address: "127.0.0.1:9001".to_owned(),
            server_header: Some("ringwire/0.1.0".to_owned()),
        },
        plan: PlanFigures {
            shards: 1,
            connections: 64,
            duration_ms: model.slices * 100,
            warmup_ms: model.warmup_slices * 100,
            rate_per_s: model.rate_per_s,
            arrivals: model.rate_per_s.map(|_| Arrivals::Constant),
            in_flight: model.rate_per_s.is_none().then_some(1),
            sizes: vec![SizeShare {
                size_bytes: PAYLOAD as usize,
                share: 1.0,
            }],
            text: Some(false),
            verify: Some(Verify::Sampled),
            ..PlanFigures::default()
        },
        environment: Environment {
            cpu_model: "Example Processor 9000".to_owned(),
            cpus_online: 2,
            cpus_allowed: vec![1],
            memory_bytes: 24 << 30,
            kernel: "6.18.0".to_owned(),
            os: "Example Linux 13".to_owned(),
            host: "example".to_owned(),
            loadgen_version: "0.1.0".to_owned(),
            loadgen_commit: Some("0123abc".to_owned()),
            rustc_version: Some("rustc 1.95.0".to_owned()),
            release_build: true,
            command: ["loadgen", "echo", "ws://127.0.0.1:9001/"]
                .map(str::to_owned)
                .to_vec(),
        },
        times: Times {
            started_unix_ms: 1_798_761_600_000,
            connecting_ms: 12.0,
            warmup_ms: model.warmup_slices * 100,
            measured_ms,
            drain_ms: 1.0,
            slice_ms: 100,
            interrupted: false,
            ..Times::default()
        },
        connections: Connections {
            asked: 64,
            opened: 64,
            resumed: 0,
            ..Connections::default()
        },
        messages: Messages {
            scheduled: received,
            sent: received,
            received,
            compared: received / 64,
            ..Messages::default()
        },
        bytes: Bytes {
            payload_sent: received * PAYLOAD,
            payload_received: received * PAYLOAD,
        },
        latency: Latency {
            corrected_ns,
            uncorrected_ns,
            handshake_ns,
            has_schedule: model.rate_per_s.is_some(),
        },
        client: ClientFigures {
            cpu_ns: received * 2_910,
            cpu_ns_per_message: 2_910.0,
            busiest_share: 0.71,
            run_queue_wait_ns: 1_000_000,
            context_switches_voluntary: 20_412,
            context_switches_involuntary: 31,
            lateness_ns: histogram::of_run(),
            backlog_max: 0,
        },
        server: Some(ServerFigures {
            pid: 4242,
            cpu_ns,
            cpu_ns_per_message: cpu_ns as f64 / received as f64,
            busiest_share: 0.97,
            run_queue_wait_ns: 2_000_000,
            context_switches_voluntary: 18_220,
            context_switches_involuntary: 12,
            resident_before_bytes: 6 << 20,
            resident_after_bytes: 7 << 20,
        }),
        memory: None,
        fanout: None,
        ingest: None,
        talk: None,
        replay: None,
        search: None,
        compression: Some(CompressionFigures {
            connections: 64,
            messages_sent: received,
            payload_sent: received * PAYLOAD,
            compressed_sent: received * PAYLOAD / 2,
            messages_received: received,
            payload_received: received * PAYLOAD,
            compressed_received: received * PAYLOAD / 3,
        }),
        verdict: Verdict {
            kind: VerdictKind::Sound,
            reasons: Vec::new(),
            client_bound_allowed: false,
        },
        fail_if: Vec::new(),
        parts: Vec::new(),
        notes: Vec::new(),
        slices,
    }
}

fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (TAU * rng.f64()).cos()
}
