"""What is attacked how, and what it may do to a neighbour: one row for each input."""

from dataclasses import dataclass

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Milliseconds that a neighbour may wait longer than one on an idle second server: p99 and worst.
BESIDE_FEW = (10, 50)
BESIDE_MANY = (30, 150)
FEW_MAX = 2

# What a server may hold: of what was sent, for each connection, and beside both what it keeps for
# the next one (receive buffers, chunks, codecs).
HELD_PER_SENT = 2
HELD_PER_CONNECTION = 4 * KIB
HELD_BESIDE = 16 * MIB

# What may be left after an attack, beside a tenth of what was there before it: a shard keeps its
# receive buffers and some chunks for the next one.
LEFT_SHARE = 1.10
LEFT_BESIDE = 8 * MIB
# Without room for mappings, messages lie in the allocator's pages, which a few bytes in use keep
# whole.
LEFT_BESIDE_IN_2G = 24 * MIB

# The limit that rows give a server's ledger, and that rows about it are judged by.
LEDGER = 512 * MIB


@dataclass(frozen=True)
class Row:
    """One attack, and how it is judged."""

    name: str
    kind: str
    connections: int
    # What it is judged by: "waits" of the neighbour; "held": bytes held beside bytes sent;
    # "limit": bytes held, beside the ledger's limit; "sockets": those of the kernel; "answered":
    # newcomers are, soon; "dropped": all attackers are; "kept": none is; "slots": descriptors stay
    # within the server's limit of connections.
    judged: tuple = ("waits",)
    seconds: float = 3
    # How long what was sent is held, for attacks that come to an end before.
    hold: float = None
    # "binary", "costly" or "dialled".
    server: str = "binary"
    options: tuple = ()
    # The attackers speak TLS; the neighbours too.
    tls: bool = False
    neighbour_tls: bool = False
    address_space: int = 0
    descriptors: int = 0
    cgroup: int = 0
    # The least that shows that the attack took place: frames, times round, or connections.
    frames: int = 0
    cycles: int = 0
    opened: int = 0
    # What it may hold beside what was sent.
    beside: int = HELD_BESIDE
    # What may be left of it afterwards, beside a tenth of what was there before.
    left_beside: int = LEFT_BESIDE
    # For how many seconds longer the server may be busy afterwards: what the kernel has of the
    # attack is worked off like anybody's, and a second's worth of it may become a minute's work.
    backlog: float = 0
    # Engines that have no such thing.
    not_on: tuple = ()
    smoke: bool = False

    def left_bytes_max(self, before_bytes):
        """What a server may hold afterwards that held so much before."""
        return LEFT_SHARE * before_bytes + self.left_beside

    @property
    def bounds(self):
        return BESIDE_FEW if self.connections <= FEW_MAX else BESIDE_MANY

    @property
    def group(self):
        return "time" if "waits" in self.judged else "memory"


COMPRESS = ("--compress",)
HIXIE = ("--legacy-hixie76",)
LEDGERED = (f"--memory-bytes-max={LEDGER}",)


def flood(kind, *counts, frames, **others):
    """A flood by each of these numbers of connections, each of which sends some frames at least."""
    smoke = others.pop("smoke", ())
    return [
        Row(f"{kind}x{count}", kind, count, frames=frames, smoke=count in smoke, **others)
        for count in counts
    ]


def storm(kind, *counts, cycles, **others):
    smoke = others.pop("smoke", ())
    return [
        Row(f"{kind}x{count}", kind, count, cycles=cycles, smoke=count in smoke, **others)
        for count in counts
    ]


TIME = [
    # Frames of all kinds and sizes.
    *flood("ping", 1, 2, 50, frames=100_000, smoke=(1,)),
    *flood("ping-empty", 2, frames=100_000),
    *flood("ping-125", 2, 50, frames=20_000),
    *flood("pong", 1, 2, 50, frames=100_000),
    *flood("empty", 1, 2, 50, frames=50_000),
    *flood("empty-sink", 2, frames=100_000),
    *flood("fragment-1", 1, 2, 50, frames=100_000),
    *flood("fragment-0", 2, 50, frames=100_000),
    *flood("fragmented", 2, 50, frames=100_000, smoke=(50,)),
    *flood("text-64", 1, 2, 64, 200, frames=20_000),
    *flood("binary-64", 1, 2, 64, frames=20_000),
    *flood("sink-64", 2, 64, 200, frames=50_000),
    *flood("sink-64-binary", 64, frames=50_000),
    *flood("echo-64k", 2, 50, frames=500),
    *flood("sink-1m", 2, 200, frames=100, smoke=(200,)),
    *flood("sink-16m", 2, 50, frames=10),
    *flood("sink-16m-text", 50, frames=10),
    *flood("echo-16m", 2, 50, frames=5),
    *flood("unread-64", 2, 50, frames=1_000),
    *flood("unread-1m", 50, frames=0),
    # A service that takes its time, and messages from other threads.
    *flood("slow", 1, 2, 50, frames=10_000, server="costly", smoke=(1,)),
    *[
        Row(
            f"postedx{count}",
            "posted",
            count,
            server="costly",
            opened=count,
            not_on=("async", "tokio"),
        )
        for count in (1, 50)
    ],
    # Connections that were dialled.
    *flood("ping", 1, 50, frames=100_000, server="dialled"),
    *flood("text-64", 2, 50, frames=20_000, server="dialled"),
    *flood("fragmented", 2, frames=20_000, server="dialled"),
    # Compression.
    *flood("deflate-zeros", 1, 2, 50, frames=2, options=COMPRESS),
    *flood("deflate-zeros-sink", 2, 50, frames=5, options=COMPRESS, backlog=90),
    *flood("deflate-final-blocks", 1, 20, 50, frames=50, options=COMPRESS, smoke=(20,)),
    *flood("deflate-noise", 2, 50, frames=200, options=COMPRESS),
    *flood("deflate-noise-echo", 2, 50, frames=50, options=COMPRESS),
    *flood("deflate-small", 2, 50, frames=10_000, options=COMPRESS),
    # TLS.
    *flood("tls-records", 1, 2, 50, frames=5_000, tls=True, smoke=(2,)),
    *flood("tls-records-sink", 2, 50, frames=1_000, tls=True),
    *flood("tls-keys", 2, 50, frames=1_000, tls=True),
    *flood("tls-ping", 2, 50, frames=50_000, tls=True, neighbour_tls=True),
    *flood("tls-sink-1m", 2, 50, frames=50, tls=True, neighbour_tls=True),
    *storm("tls-renewed", 50, cycles=50, tls=True, neighbour_tls=True),
    *storm("tls-handshakes", 2, 50, 200, cycles=500, tls=True, neighbour_tls=True),
    *storm("tls-aborted", 2, 50, 200, cycles=500, tls=True, neighbour_tls=True),
    # Before there is a connection.
    *storm("connect", 2, 50, cycles=2_000),
    *storm("connect-reset", 2, 50, 200, cycles=2_000),
    *storm("upgrade", 2, 50, 200, cycles=1_000, smoke=(50,)),
    *storm("upgrade-deflate", 50, cycles=500, options=COMPRESS),
    *storm("http", 2, 50, 200, cycles=1_000),
    *storm("http-404", 50, cycles=1_000),
    *storm("http-long", 50, cycles=1_000),
    Row("http-slowx200", "http-slow", 200, opened=200),
    Row("connect-silentx200", "connect-silent", 200),
    # Before RFC 6455.
    *flood("hixie76-64", 2, 64, frames=20_000, options=HIXIE),
    *flood("hixie76-empty", 2, 64, frames=50_000, options=HIXIE, backlog=20),
]

HELD = ("held", "left")
LIMIT = ("limit", "left")


def held(kind, connections, judged=HELD, hold=1.0, seconds=10, **others):
    name = others.pop("name", f"{kind}x{connections}")
    opened = others.pop("opened", connections * 9 // 10)
    return Row(
        name, kind, connections, judged=judged, hold=hold, seconds=seconds, opened=opened, **others
    )


MEMORY = [
    held("begun-1b", 4000, hold=2.0, smoke=True),
    held("begun-1m", 700),
    held("begun-4m", 200),
    held("begun-fragments", 700),
    # Of the long messages one is inflated at a time; the others have begun.
    held("begun-after-long", 100, options=COMPRESS, beside=HELD_BESIDE + 48 * MIB),
    held("begun-tls", 500, tls=True),
    held("hixie76-begun", 200, options=HIXIE),
    held("http-partial", 1000, judged=("held", "left"), opened=0, seconds=2),
    held("tls-silent", 1000, judged=("held", "left"), opened=0, seconds=2, tls=True),
    held("connect-idle", 4000, seconds=2),
    held("deflate-held", 200, judged=LIMIT, options=(*COMPRESS, *LEDGERED)),
    *[
        held(
            kind,
            200,
            judged=LIMIT,
            name=f"{kind}x200-held",
            options=(*COMPRESS, *LEDGERED),
            hold=None,
            seconds=1,
            backlog=180,
        )
        for kind in ("deflate-zeros", "deflate-zeros-sink")
    ],
    held("unread-16m", 200, judged=LIMIT, options=LEDGERED),
    held("unread-64", 2000, judged=("sockets", "left"), hold=None, seconds=5),
    held(
        "unread-1m",
        2000,
        judged=("sockets", "limit", "left"),
        options=LEDGERED,
        hold=None,
        seconds=5,
    ),
    # 20,000 references of 4 KiB.
    held("unread-shared", 10, judged=("held", "left"), server="costly", smoke=True),
    held(
        "begun-15m",
        1000,
        judged=("answered", "left"),
        name="begun-15m-in-2g",
        address_space=2 * GIB,
        left_beside=LEFT_BESIDE_IN_2G,
        seconds=8,
        opened=300,
    ),
    held(
        "unread-16m",
        500,
        judged=("answered", "left"),
        name="unread-16m-in-2g",
        address_space=2 * GIB,
        left_beside=LEFT_BESIDE_IN_2G,
        seconds=6,
        opened=100,
    ),
    held(
        "deflate-held",
        500,
        judged=("answered", "left"),
        name="deflate-held-in-2g",
        options=COMPRESS,
        address_space=2 * GIB,
        seconds=6,
        opened=100,
    ),
    held(
        "begun-15m",
        1000,
        judged=("answered", "left"),
        name="begun-15m-in-cgroup",
        cgroup=2 * GIB,
        seconds=8,
        opened=300,
    ),
    held(
        "connect-idle",
        400,
        judged=("answered",),
        name="one-address-idle",
        options=("--shard-connections-max=200",),
        seconds=3,
        hold=None,
        opened=50,
    ),
    held(
        "connect-silent",
        400,
        judged=("answered",),
        name="one-address-silent",
        options=("--shard-connections-max=200",),
        seconds=3,
        hold=None,
        opened=0,
    ),
    held(
        "connect-idle",
        400,
        judged=("answered",),
        name="one-address-descriptors",
        descriptors=256,
        seconds=3,
        hold=None,
        opened=50,
    ),
    held(
        "connect-silent",
        400,
        judged=("slots",),
        name="beyond-slots",
        options=("--shard-connections-max=100", "--handshake-timeout-ms=1000"),
        seconds=4,
        hold=None,
        opened=0,
    ),
    held(
        "begun-slowly",
        50,
        judged=("dropped",),
        options=("--message-timeout-ms=2000",),
        seconds=8,
        hold=None,
    ),
    held(
        "begun-steadily",
        20,
        judged=("kept",),
        options=("--message-timeout-ms=2000",),
        seconds=7,
        hold=None,
    ),
]


def named(rows):
    """By name. Those against a program that dials say so."""
    found = {}
    for row in rows:
        name = f"dialled-{row.name}" if row.server == "dialled" else row.name
        if name in found:
            raise ValueError(f"two rows are called {name}")
        found[name] = row
    return found


ROWS = named([*TIME, *MEMORY])
