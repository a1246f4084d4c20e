"""What is measured, by name, and what is to be reached.

A workload is what `drive` is told (benches/peers/src/bin/drive.rs), except that of idle memory.
What is to be reached is said of processor time a message on the server, as the median of ratios
within a round. The floors are raw TCP echoes: on the same ring driver nothing can be below its own.
"""

from dataclasses import dataclass

RINGWIRE = "ringwire"
# The same core behind the async API, on tokio-uring: ours, and no peer.
RINGWIRE_AIO = "ringwire_aio"
RING_FLOOR = "floor_ring"
EPOLL_FLOOR = "floor_epoll"


@dataclass(frozen=True)
class Workload:
    """One thing to measure."""

    name: str
    label: str
    # What `drive` is told, without the address.
    arguments: tuple = ()
    # "echo", "storm" (of handshakes), "ingest" (messages without replies) or "idle".
    kind: str = "echo"
    size: int = 0
    connections: int = 0
    in_flight: int = 1
    content: str = "binary"

    @property
    def unit(self):
        """What is counted."""
        return {"storm": "handshake", "idle": "connection"}.get(self.kind, "message")


def _messages(name, label, size, connections, in_flight=1, content="binary", kind="echo"):
    arguments = ["--size", size, "--connections", connections, "--in-flight", in_flight]
    arguments += ["--content", content]
    if kind == "ingest":
        arguments.append("--ingest")
    arguments = tuple(str(argument) for argument in arguments)
    return Workload(name, label, arguments, kind, size, connections, in_flight, content)


def _storm(name, label, *arguments):
    arguments = ("--connect-storm", "--connections", "64", *arguments)
    return Workload(name, label, arguments, "storm", connections=64)


WORKLOADS = {
    workload.name: workload
    for workload in (
        _messages("64b-1", "64 B, 1 connection", 64, 1),
        _messages("64b-8", "64 B, 8 connections", 64, 8),
        _messages("64b-64", "64 B, 64 connections", 64, 64),
        _messages("64b-512", "64 B, 512 connections", 64, 512),
        _messages("64b-64x16", "64 B, 64 connections, 16 in flight", 64, 64, 16),
        _messages("20b-16x256", "20 B, 16 connections, 256 in flight", 20, 16, 256),
        _messages("1k-64", "1 KiB, 64 connections", 1 << 10, 64),
        _messages("16k-64", "16 KiB, 64 connections", 16 << 10, 64),
        _messages("256k-8", "256 KiB, 8 connections", 256 << 10, 8),
        _messages("4m-4", "4 MiB, 4 connections", 4 << 20, 4),
        _messages("ascii-64", "ASCII text, 1 KiB, 64 connections", 1 << 10, 64, 1, "ascii"),
        _messages("cjk-64", "CJK text, 1 KiB, 64 connections", 1 << 10, 64, 1, "cjk"),
        _messages("ingest", "20 B without replies, 16 connections", 20, 16, kind="ingest"),
        _storm("storm", "opening handshakes, 64 at a time, then reset"),
        _storm("storm-close", "opening and closing handshakes, 64 at a time", "--close"),
        Workload("idle", "10,000 idle connections", kind="idle", connections=10_000),
        Workload("idle-18k", "18,000 idle connections", kind="idle", connections=18_000),
    )
}

# Descriptors that a process has beside its connections.
DESCRIPTORS_SPARE = 64


@dataclass(frozen=True)
class CpuGoal:
    """Processor time a message, as a ratio of ringwire's to that of others."""

    workload: str
    # At most so many times the floor's.
    floor_ratio_max: float
    # At most so many times that of the best peer.
    peer_ratio_max: float = 1.0
    # Against which floor: the ring's, or the better one of the two.
    better_floor: bool = False
    # Only against peers in Rust, and Bun.
    rust_or_bun: bool = False


CPU_GOALS = (
    CpuGoal("64b-1", 1.05),
    CpuGoal("64b-8", 1.05),
    CpuGoal("64b-64", 1.05),
    CpuGoal("64b-512", 1.05),
    CpuGoal("1k-64", 1.05),
    CpuGoal("64b-64x16", 1.08),
    CpuGoal("20b-16x256", 1.35, peer_ratio_max=1 / 5, rust_or_bun=True),
    CpuGoal("16k-64", 1.05, better_floor=True),
    CpuGoal("256k-8", 1.15, peer_ratio_max=0.75),
    CpuGoal("4m-4", 1.3),
)

NEITHER_RUST_NOR_BUN = {"ws", "libwebsockets"}
# What the async API is compared with: at most as much processor time as the best of them, in each
# workload of CPU_GOALS.
ASYNC_RUST = {"fastwebsockets", "tokio_websockets", "tokio_tungstenite"}
ASYNC_PEER_RATIO_MAX = 1.0

# System calls a message of ringwire have to be below this.
SYSTEM_CALLS_BELOW = {"64b-1": 1.2, "64b-64": 0.2}

# Resident bytes of an idle connection, by workload and server.
IDLE_BYTES_MAX = {("idle-18k", RINGWIRE): 256, ("idle", RINGWIRE_AIO): 2048}

# Shares of the slowest server's maximum at which latency is measured.
RATES = (0.5, 0.8)
# At this share of it, ringwire's p99.9 is not above any peer's.
TAIL_GOAL_RATE = 0.5



@dataclass(frozen=True)
class Mode:
    """How much is measured."""

    workloads: tuple
    rounds: int
    # Of each run, and of the warming up before it.
    seconds: float
    warmup_seconds: float
    # How often a run is made at most, while others have its processors.
    attempts: int
    # Which workloads' system calls are counted, and whose latency is taken at which rates.
    system_calls: tuple
    open_loop: tuple
    rates: tuple = RATES
    # Latency is taken for as long as that takes, within limits.
    samples_min: int = 0
    idle_connections_max: int = 1_000_000


_ECHOES = tuple(name for name, workload in WORKLOADS.items() if workload.kind == "echo")

MODES = {
    "full": Mode(tuple(WORKLOADS), 3, 1.0, 0.3, 3, _ECHOES, _ECHOES, samples_min=1000),
    # Every goal that does not need long runs, once over.
    "quick": Mode(
        (*(goal.workload for goal in CPU_GOALS), "ingest", "storm", "idle", "idle-18k"),
        2,
        0.3,
        0.15,
        2,
        tuple(SYSTEM_CALLS_BELOW),
        ("64b-64",),
        (TAIL_GOAL_RATE,),
    ),
    # That everything works, in little time.
    "smoke": Mode(
        ("64b-8", "20b-16x256", "256k-8", "cjk-64", "ingest", "storm", "storm-close", "idle"),
        1,
        0.2,
        0.1,
        1,
        ("64b-8",),
        ("64b-8",),
        (TAIL_GOAL_RATE,),
        idle_connections_max=500,
    ),
}
