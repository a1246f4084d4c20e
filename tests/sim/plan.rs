//! What a seed draws: configurations, connections, what they say and how they end.

use ringwire::{
    CloseCode, Config,
    client::{ClientWindowBits, CompressionOffer},
    ring::sim::{Knob, Knobs, Prng, SimOptions},
};

use crate::marks::{Journal, Mark};

/// Purposes of random numbers, apart from the knobs' own.
const PURPOSE_PLAN: u64 = 2_000;
pub const PURPOSE_DRIVER: u64 = 2_001;
pub const PURPOSE_RAW: u64 = 2_002;
const PURPOSE_PRESSURE: u64 = 1_999;
const PURPOSE_STEPS: u64 = 1_998;

/// What a ping carries that asks a silent peer; none of a plan has as much.
pub const PING_OF_THE_IDLE_BYTES: usize = 8;

/// Knobs that can cost a connection, or keep it from being opened.
pub const HARMFUL: [Knob; 10] = [
    Knob::AcceptFails,
    Knob::ClockJump,
    Knob::ConnectHangs,
    Knob::ConnectRefused,
    Knob::EndAfterData,
    Knob::EndBeforeData,
    Knob::FewDescriptors,
    Knob::OpenFails,
    Knob::Reset,
    Knob::SendFails,
];

/// Knobs that make something come later, or in pieces.
const LATE: [Knob; 10] = [
    Knob::CancelTooLate,
    Knob::CompletionDelayed,
    Knob::CompletionHeld,
    Knob::NoBuffers,
    Knob::ReadyInVain,
    Knob::RecvSplit,
    Knob::SendWaits,
    Knob::ShortSend,
    Knob::SmallWindow,
    Knob::WokenInVain,
];

/// How an echo is sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoStyle {
    Borrowed,
    Fragmented(usize),
    Shared,
}

#[derive(Clone, Debug)]
pub struct PlannedMessage {
    pub text: bool,
    pub payload: Vec<u8>,
    /// Sent in fragments of this many bytes.
    pub fragment_bytes: Option<usize>,
    /// A ping that is sent before the message.
    pub ping: Option<Vec<u8>>,
    /// A pong that nobody asked for, sent before the message.
    pub pong: Option<Vec<u8>>,
    pub echo: EchoStyle,
}

/// How a connection is meant to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client closes once it got this many echoes, whatever is still under way.
    ClientCloses { after: usize, code: CloseCode },
    /// The server closes once it echoed this many messages.
    ServerCloses { after: usize, code: CloseCode },
    /// Both do, neither knowing of the other.
    BothClose {
        client_after: usize,
        server_after: usize,
        code: CloseCode,
    },
    /// The client ends with a message over the server's limit.
    TooBig,
    /// The service panics on the message after this many.
    ServerPanics { after: usize },
    /// The server refuses the opening handshake.
    Refused,
    /// Somebody closes it through the server's mailbox, once the client got this many echoes.
    MailboxCloses { after: usize, code: CloseCode },
    /// Nobody closes it until the shards are stopped.
    StaysOpen,
}

#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub messages: Vec<PlannedMessage>,
    /// Messages under way at a time.
    pub in_flight_max: usize,
    pub ending: Ending,
    pub reason: String,
    /// The turn from which on it is dialled.
    pub dial_turn: usize,
}

/// What a raw peer does to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawKind {
    Deaf,
    Drips,
    FloodBombs,
    FloodEmpty,
    FloodFinalBlocks,
    FloodFragments,
    FloodLegacy,
    FloodLong,
    FloodPings,
    FloodShort,
    Garbage,
    HalfMessage,
    Hoards,
    Http,
    Legacy,
    LegacySlow,
    MutatedFrames,
    MutatedHandshake,
    MutatedLegacy,
    Slow,
    Violation,
}

const RAW_KINDS: [RawKind; 8] = [
    RawKind::Deaf,
    RawKind::Garbage,
    RawKind::HalfMessage,
    RawKind::Http,
    RawKind::MutatedFrames,
    RawKind::MutatedHandshake,
    RawKind::Slow,
    RawKind::Violation,
];

/// Those of hixie-76, which come on top.
const LEGACY_KINDS: [RawKind; 3] = [RawKind::Legacy, RawKind::LegacySlow, RawKind::MutatedLegacy];

/// Those who send as fast as they can.
const FLOOD_KINDS: [RawKind; 8] = [
    RawKind::FloodBombs,
    RawKind::FloodEmpty,
    RawKind::FloodFinalBlocks,
    RawKind::FloodFragments,
    RawKind::FloodLegacy,
    RawKind::FloodLong,
    RawKind::FloodPings,
    RawKind::FloodShort,
];

impl RawKind {
    pub fn floods(self) -> bool {
        FLOOD_KINDS.contains(&self)
    }
}

/// Which shards are stopped at the end, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOrder {
    Both,
    ClientFirst,
    /// The client does not drain: it is gone at once.
    ClientVanishes,
    ServerFirst,
    ServerByMailbox,
}

pub struct Plan {
    pub knobs: Knobs,
    pub server: Config,
    pub client: Config,
    pub server_ring: SimOptions,
    pub client_ring: SimOptions,
    pub listeners: usize,
    pub clients: Vec<ClientPlan>,
    pub raw: Vec<RawKind>,
    /// A client dials a raw peer.
    pub hostile_server: bool,
    /// One turn in this many posts a message into the server's mailbox.
    pub push_one_in: Option<u64>,
    pub stop_order: StopOrder,
    /// The turn in which everything stops, whatever is still under way.
    pub early_stop_turn: Option<usize>,
    pub drain_timeout_ms: u64,
    pub short_deadlines: bool,
    pub tight_queue: bool,
    /// Nothing is late and nothing is cut.
    pub is_prompt: bool,
    /// Memory of the server runs short.
    pub tight_memory: bool,
    /// How many times slower than ours the server's machine is.
    pub slowness: u64,
    /// What a step of inflating costs, in nanoseconds of our machine.
    pub step_ns: u64,
    /// From which length on inflated messages wait for each other.
    pub inflate_freely_bytes: usize,
    /// What a message takes the server, in microseconds.
    pub service_us: u64,
    /// Turns in which the server's mailbox is filled.
    pub mail_turns: usize,
    /// So many peers connect in one turn, and say nothing.
    pub crowd: usize,
    /// What clients offer, if they offer compression.
    pub offer: Option<CompressionOffer>,
}

impl Plan {
    pub fn draw(seed: u64, journal: &Journal) -> Self {
        let prng = &mut Prng::new(seed, PURPOSE_PLAN);
        let lossless = prng.coin();
        let mut knobs = Knobs::swarm(seed);
        if lossless {
            for knob in HARMFUL {
                knobs = knobs.with(knob, 0);
            }
            // Where next to nothing that is announced is there, nobody is done in time.
            let in_vain = knobs.per_mille(Knob::ReadyInVain).min(600);
            knobs = knobs.with(Knob::ReadyInVain, in_vain);
        }
        let short_deadlines = !lossless && prng.below(2) == 0;
        let server_ring = draw_ring(prng);
        let client_ring = draw_ring(prng);
        let budget = draw_budget(prng, &knobs, [&server_ring, &client_ring]);

        let mut server = draw_config(prng, short_deadlines);
        let mut client = draw_config(prng, short_deadlines);
        client.shard_connections_max = 1 << 20;
        if prng.below(4) == 0 {
            let most = 1 + prng.below(3) as u32;
            match prng.coin() {
                true => server.connections_max = most,
                false => server.shard_connections_max = most,
            }
        }
        let count = 1 + prng.below(12) as usize;
        let mut clients: Vec<ClientPlan> = (0..count)
            .map(|_| draw_client(prng, budget / count as u64))
            .collect();
        let longest = clients.iter().flat_map(|client| &client.messages);
        let longest = longest.map(|message| message.payload.len()).max();
        let longest = longest.unwrap_or(0).max(1) as u64;
        let fragments = |message: &PlannedMessage| {
            let fragment = message.fragment_bytes.unwrap_or(usize::MAX);
            message.payload.len().div_ceil(fragment).max(1) as u32
        };
        let most = clients.iter().flat_map(|client| &client.messages);
        let most = most.map(fragments).max().unwrap_or(1);
        let exact_limits = prng.coin();
        if exact_limits {
            server.message_bytes_max = longest;
            server.message_fragments_max = most;
            server.message_empty_fragments_max = 0;
        } else {
            server.message_bytes_max = longest + prng.below(2_000);
        }
        let few_connections = server.shard_connections_max < 4 || server.connections_max > 0;
        if few_connections {
            // The others wait until these are gone, or are turned away.
            for client in &mut clients {
                if client.ending == Ending::StaysOpen {
                    client.ending = Ending::ClientCloses {
                        after: client.messages.len(),
                        code: CloseCode::NORMAL_CLOSURE,
                    };
                }
            }
        }

        let hostile_server = prng.below(4) == 0;
        let raw_count = if few_connections { 0 } else { prng.below(3) };
        let mut raw: Vec<RawKind> = (0..raw_count)
            .map(|_| RAW_KINDS[prng.below(RAW_KINDS.len() as u64) as usize])
            .collect();
        let push_one_in = (prng.below(3) == 0).then(|| 3 + prng.below(60));

        // Two ends that both stop reading because the other one does not read wait for each other:
        // a client that pauses has to have one message under way at most, and no other traffic.
        let lonely = prng.below(4) == 0 && push_one_in.is_none();
        if lonely {
            client.queue_high_bytes = 1 + prng.below(200) as usize;
            client.queue_low_bytes = prng.below(client.queue_high_bytes as u64) as usize;
            for client in &mut clients {
                client.in_flight_max = 1;
                for message in &mut client.messages {
                    message.ping = None;
                }
                if !matches!(client.ending, Ending::Refused | Ending::StaysOpen) {
                    client.ending = Ending::ClientCloses {
                        after: client.messages.len(),
                        code: CloseCode::NORMAL_CLOSURE,
                    };
                }
            }
        }
        let tiny_queue = prng.coin();
        if tiny_queue {
            server.queue_high_bytes = 1 + prng.below(3_000) as usize;
            server.queue_low_bytes = prng.below(server.queue_high_bytes as u64) as usize;
        }
        let tight_queue = tiny_queue && prng.below(3) == 0;
        if tight_queue {
            server.queue_bytes_max =
                (server.message_bytes_max as usize).saturating_add(server.queue_high_bytes);
        } else if prng.below(8) == 0 {
            server.shard_queue_high_bytes = 1 + prng.below(4_000) as usize;
        }
        let early_stop_turn = (prng.below(5) == 0).then(|| prng.below(400) as usize);
        let listeners = 1 + usize::from(prng.below(4) == 0);

        for (mark, drawn) in [
            (Mark::SeedLossless, lossless),
            (Mark::SeedStopsEarly, early_stop_turn.is_some()),
            (
                Mark::SeedTinyRecvBuffers,
                server_ring.recv_buffer_bytes < 64,
            ),
            (Mark::SeedTinySendChunks, server.send_chunk_bytes == 1024),
            (Mark::SeedTinyQueue, tiny_queue),
            (Mark::SeedTightQueue, tight_queue),
            (Mark::SeedShortDeadlines, short_deadlines),
            (Mark::SeedSeveralListeners, listeners > 1),
            (Mark::SeedFewConnections, few_connections),
            (Mark::SeedExactLimits, exact_limits),
            (Mark::SeedManyConnections, count >= 10),
        ] {
            if drawn {
                journal.reach(mark);
            }
        }
        server.legacy_hixie76 = true;
        let offer = draw_compression(prng, &mut server, &mut client);
        if offer.is_some() && server.compress {
            journal.reach(Mark::SeedCompresses);
        }
        let pressure = &mut Prng::new(seed, PURPOSE_PRESSURE);
        let crowd = (pressure.below(150) == 0 && !few_connections) as usize * 150;
        let mut mail_turns = 0;
        if pressure.below(8) == 0 {
            server.mailbox_messages_max = 1 << (6 + pressure.below(3));
            mail_turns = 20 + pressure.below(100) as usize;
        }
        if pressure.below(4) == 0 && !few_connections {
            for _ in 0..1 + pressure.below(3) {
                raw.push(FLOOD_KINDS[pressure.below(FLOOD_KINDS.len() as u64) as usize]);
            }
        }
        let mut slowness = 1;
        if pressure.coin() {
            slowness = [10, 100, 1_000][pressure.below(3) as usize];
        }
        let drips = pressure.below(16) == 0 && !few_connections;
        if drips {
            // So many that there is always one more than there is time for.
            raw.extend([RawKind::Drips; 10]);
            raw.push(RawKind::FloodPings);
            slowness = 1_000;
            if short_deadlines {
                // Some are due while there is no time.
                server.idle_timeout_ms = 20 + pressure.below(100);
            }
        }
        let is_prompt = pressure.below(4) == 0;
        if is_prompt {
            for knob in LATE {
                knobs = knobs.with(knob, 0);
            }
        }
        let service_us = [0, 0, 0, 0, 0, 20, 300][pressure.below(7) as usize];
        let tight_memory = pressure.below(8) == 0 && !few_connections;
        if tight_memory {
            server.message_bytes_max = server.message_bytes_max.max(200_000);
            server.queue_bytes_max = server.queue_bytes_max.max(16 << 20);
            for client in &mut clients {
                if client.ending == Ending::TooBig {
                    // What is too long now takes too long where windows are of one byte.
                    client.ending = Ending::StaysOpen;
                }
            }
            for _ in 0..pressure.below(4) {
                raw.push(
                    [RawKind::Hoards, RawKind::Hoards, RawKind::Deaf][pressure.below(3) as usize],
                );
            }
        }
        for (mark, drawn) in [
            (Mark::SeedFloods, raw.iter().any(|kind| kind.floods())),
            (Mark::SeedSlowMachine, slowness > 1),
            (Mark::SeedSlowService, service_us > 0),
            (Mark::SeedMailFloods, mail_turns > 0),
            (Mark::SeedCrowds, crowd > 0),
            (Mark::SeedTightMemory, tight_memory),
            (Mark::SeedPrompt, is_prompt),
            (Mark::SeedDrips, drips),
        ] {
            if drawn {
                journal.reach(mark);
            }
        }
        let steps = &mut Prng::new(seed, PURPOSE_STEPS);
        let step_ns = [1, 1_000, 10_000, 64_000][steps.below(4) as usize];
        if server.compress && steps.coin() {
            server.compress_bytes_max = server.compress_bytes_min + steps.below(2_000) as usize;
        }
        let mut inflate_freely_bytes = [1, 4 << 10, 64 << 10][steps.below(3) as usize];
        if server.compress && !few_connections && slowness == 1 && steps.below(3) == 0 {
            // So that some wait for each other.
            inflate_freely_bytes = 1;
            raw.extend([RawKind::FloodBombs; 2]);
        }
        server.validate().expect("a drawn configuration is valid");
        if tight_memory {
            // Less than anybody may set, so that little is much.
            server.memory_bytes_max = (64 << pressure.below(4)) << 10;
            if server.compress {
                // Compressors are there for all connections, whatever these hold.
                server.memory_bytes_max += 1 << 20;
            }
        }
        client.validate().expect("a drawn configuration is valid");
        let stop_order = match prng.below(5) {
            0 => StopOrder::Both,
            1 => StopOrder::ClientFirst,
            2 => StopOrder::ClientVanishes,
            3 => StopOrder::ServerFirst,
            _ => StopOrder::ServerByMailbox,
        };
        let drain_timeout_ms = match (short_deadlines, prng.below(3)) {
            (true, 0) => 0,
            (true, _) => prng.below(500),
            (false, _) => 600_000,
        };
        if !few_connections && prng.below(3) == 0 {
            raw.push(LEGACY_KINDS[prng.below(LEGACY_KINDS.len() as u64) as usize]);
        }
        Self {
            knobs,
            server,
            client,
            server_ring,
            client_ring,
            listeners,
            clients,
            raw,
            hostile_server,
            push_one_in,
            stop_order,
            early_stop_turn,
            drain_timeout_ms,
            short_deadlines,
            tight_queue,
            is_prompt,
            tight_memory,
            slowness,
            step_ns,
            inflate_freely_bytes,
            service_us,
            mail_turns,
            crowd,
            offer,
        }
    }
}

/// What both sides say about compression. Half of the seeds have none of it.
fn draw_compression(
    prng: &mut Prng,
    server: &mut Config,
    client: &mut Config,
) -> Option<CompressionOffer> {
    let bits = |prng: &mut Prng| 8 + prng.below(8) as u8;
    server.compress = prng.coin();
    server.compress_context_takeover = prng.coin();
    server.inflate_context_takeover = prng.coin();
    server.compress_windows_bytes_max = [0, 40_000, 1 << 26][prng.below(3) as usize];
    server.inflate_window_bits = bits(prng);
    for config in [server, client] {
        config.compress_window_bits = bits(prng);
        config.compress_level = 1 + prng.below(9) as u8;
        config.compress_bytes_min = 126 + (prng.below(2) * prng.below(500)) as usize;
    }
    let offer = CompressionOffer {
        server_no_context_takeover: prng.below(4) == 0,
        client_no_context_takeover: prng.below(4) == 0,
        server_max_window_bits: prng.coin().then(|| bits(prng)),
        client_max_window_bits: match prng.below(3) {
            0 => ClientWindowBits::Any,
            1 => ClientWindowBits::AtMost(bits(prng)),
            _ => ClientWindowBits::Unlimited,
        },
    };
    (prng.below(4) > 0).then_some(offer)
}

fn draw_ring(prng: &mut Prng) -> SimOptions {
    SimOptions {
        submission_entries: 1 << prng.below(8),
        recv_buffers: 1 << prng.below(5),
        recv_buffer_bytes: 1 << (5 + prng.below(8)),
        large_buffers: 1 << prng.below(3),
        large_buffer_bytes: 1 << (5 + prng.below(10)),
    }
}

/// How many bytes the connections of a seed may exchange: what takes a byte at a time must not take
/// forever.
fn draw_budget(prng: &mut Prng, knobs: &Knobs, rings: [&SimOptions; 2]) -> u64 {
    let pool_bytes = rings
        .map(|ring| u64::from(ring.recv_buffers) * u64::from(ring.recv_buffer_bytes))
        .into_iter()
        .min()
        .unwrap_or(0);
    let slow = knobs.per_mille(Knob::SmallWindow) > 0;
    let most = match (slow, prng.below(12)) {
        (true, _) => 3_000,
        (false, 0) => 400_000,
        (false, _) => 40_000,
    };
    pool_bytes.saturating_mul(100).min(most)
}

fn draw_config(prng: &mut Prng, short_deadlines: bool) -> Config {
    let mut config = Config::default();
    // The date is the one thing that the simulation does not decide.
    config.date_header = false;
    // Some that are not a multiple of four, so that masking keys turn from chunk to chunk.
    config.send_chunk_bytes =
        (1024 << (prng.below(3) * prng.below(3))) + (prng.below(2) * prng.below(6)) as usize;
    config.send_in_place_bytes_min = [0, 200, 4096][prng.below(3) as usize];
    config.send_kept_bytes_max = [0, 4096, 1 << 20][prng.below(3) as usize];
    config.message_kept_bytes_max = [0, 4096, 1 << 20][prng.below(3) as usize];
    config.mailbox_messages_max = 1 + prng.below(64) as usize;
    config.trace_stages = prng.below(2) == 0;
    if short_deadlines {
        config.handshake_timeout_ms = 1 + prng.below(2_000);
        config.idle_timeout_ms = prng.below(2) * (1 + prng.below(3_000));
        config.close_timeout_ms = 1 + prng.below(1_000);
    } else {
        config.handshake_timeout_ms = [60_000, 300_000][prng.below(2) as usize];
        config.idle_timeout_ms = 0;
        // A byte may come every 15 ms: that is slow and steady here.
        config.message_timeout_ms = 600_000;
        config.close_timeout_ms = 600_000;
    }
    config
}

fn draw_client(prng: &mut Prng, budget: u64) -> ClientPlan {
    let count = prng.below(9) as usize;
    let mut left = budget;
    let messages: Vec<PlannedMessage> = (0..count)
        .map(|_| {
            let message = draw_message(prng, left);
            left -= (message.payload.len() as u64).min(left);
            message
        })
        .collect();
    let code = [
        CloseCode::NORMAL_CLOSURE,
        CloseCode::UNSUPPORTED_DATA,
        CloseCode::SERVICE_RESTART,
        CloseCode::new(3000).expect("a code for libraries"),
        CloseCode::new(4999).expect("a code for private use"),
    ][prng.below(5) as usize];
    let any = |prng: &mut Prng| prng.below(count as u64 + 1) as usize;
    let ending = match prng.below(14) {
        0..4 => Ending::ClientCloses { after: count, code },
        4 => Ending::ClientCloses {
            after: any(prng),
            code,
        },
        5 | 6 => Ending::ServerCloses {
            after: any(prng),
            code,
        },
        7 => Ending::BothClose {
            client_after: any(prng),
            server_after: any(prng),
            code,
        },
        8 => Ending::TooBig,
        9 => Ending::ServerPanics { after: any(prng) },
        10 => Ending::Refused,
        11 => Ending::MailboxCloses {
            after: any(prng),
            code,
        },
        _ => Ending::StaysOpen,
    };
    ClientPlan {
        messages,
        in_flight_max: 1 + prng.below(6) as usize,
        ending,
        reason: ["", "bye", "auf Wiedersehen, à bientôt, さようなら"][prng.below(3) as usize]
            .into(),
        dial_turn: (prng.below(2) * prng.below(200)) as usize,
    }
}

fn draw_message(prng: &mut Prng, budget: u64) -> PlannedMessage {
    let len = match prng.below(10) {
        0 => 0,
        1 => 1,
        2 => 124 + prng.below(4),
        3 => 65_534 + prng.below(4),
        4 => budget,
        _ => prng.below(1 + budget.min(5_000)),
    };
    let len = len.min(budget) as usize;
    let text = prng.coin();
    let payload = if text {
        draw_text(prng, len)
    } else {
        draw_bytes(prng, len)
    };
    let fragment_bytes = match prng.below(4) {
        // A message of many kilobytes in fragments of one byte is slow and shows nothing more.
        0 => Some((payload.len() / 64).max(1) + prng.below(700) as usize),
        1 => Some((payload.len() / 64).max(1)),
        _ => None,
    };
    let control = |prng: &mut Prng| {
        (prng.below(4) == 0).then(|| {
            let len = 1 + prng.below(125) as usize;
            // Those of so many bytes ask silent peers.
            let len = if len == PING_OF_THE_IDLE_BYTES {
                1
            } else {
                len
            };
            draw_bytes(prng, len)
        })
    };
    PlannedMessage {
        text,
        fragment_bytes,
        ping: control(prng),
        pong: control(prng),
        echo: match prng.below(4) {
            0 => EchoStyle::Fragmented((payload.len() / 64).max(1) + prng.below(300) as usize),
            1 => EchoStyle::Shared,
            _ => EchoStyle::Borrowed,
        },
        payload,
    }
}

/// Text with characters of one to four bytes, at most `len` bytes long.
pub fn draw_text(prng: &mut Prng, len: usize) -> Vec<u8> {
    const WORDS: [&str; 6] = [
        "plain ",
        "größer ",
        "日本語",
        "🦀",
        "\u{7ff}\u{800}",
        "\0\u{7f}",
    ];
    let mut text = String::new();
    while text.len() < len {
        text.push_str(WORDS[prng.below(6) as usize]);
    }
    while text.len() > len {
        text.pop();
    }
    text.into_bytes()
}

pub fn draw_bytes(prng: &mut Prng, len: usize) -> Vec<u8> {
    (0..len).map(|_| prng.draw() as u8).collect()
}
