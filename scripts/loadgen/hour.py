"""Writes a recording of synthetic traffic, as loadgen/recording.md describes the format.

    python3 scripts/loadgen/hour.py FILE [SECONDS]

Two hundred places at which connections come and go: each lives for some minutes, is away for a while,
and sends bursts of messages with pauses between. About a hundred messages a second in all.
"""

import random
import sys

PLACES = 200
LIFE_S = 300.0
AWAY_S = 20.0
PAUSE_S = 10.0
BURST = 5.0
TEXT, BINARY = 2, 3


def number(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def connection(rng, at, until):
    """When it opens, when what size of which kind comes, and when it ends."""
    end = min(at + rng.expovariate(1 / LIFE_S), until)
    messages = []
    when = at
    while (when := when + rng.expovariate(1 / PAUSE_S)) < end:
        for _ in range(1 + int(rng.expovariate(1 / BURST))):
            size = min(int(rng.lognormvariate(5, 1.2)), 1 << 20)
            messages.append((when, rng.choice((TEXT, BINARY)), size))
            when += rng.expovariate(1 / 0.05)
            if when >= end:
                break
    return end, messages


def main():
    path = sys.argv[1]
    until = float(sys.argv[2]) if len(sys.argv) > 2 else 3600.0
    rng = random.Random(1)
    events = []
    names = 0
    for _ in range(PLACES):
        at = rng.expovariate(1 / AWAY_S)
        while at < until:
            end, messages = connection(rng, at, until)
            events.append((at, names, 0, None))
            events.extend((when, names, kind, size) for when, kind, size in messages)
            events.append((end, names, 1, None))
            names += 1
            at = end + rng.expovariate(1 / AWAY_S)
    events.sort(key=lambda event: event[0])
    out = bytearray(b"ringwire recording 1\n" + number(1_798_761_600_000))
    before = 0
    for at, name, kind, size in events:
        at_us = int(at * 1e6)
        out += number((at_us - before) << 1) + number(name << 3 | kind)
        if size is not None:
            out += number(size)
        before = at_us
    out += number(0) + number(7) + number(0) + number(0)
    with open(path, "wb") as file:
        file.write(out)
    messages = sum(size is not None for *_, size in events)
    print(f"{names} connections, {messages} messages, {len(out)} bytes")


if __name__ == "__main__":
    main()
