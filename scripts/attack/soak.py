"""Everything at once for a while, and whether anything grows.

    soak.py --binary PATH --attack PATH --certificates FOLDER --minutes N [--engine NAME]
            [--json FILE] [--svg FILE]

    well-behaved clients of all sorts, renewed every two minutes  -----------------------------
    attacks, one after the other                                  ==  ==  ==  ==  ==  ==  ==  =
    looked at                                                       ^   ^   ^   ^   ^   ^   ^

Between two attacks the server is looked at: its memory, its descriptors; and what its neighbour
has seen in the attack before. The first round of attacks is left out: it fills what is kept.

Exit status: 0 all is flat, 1 something grows or somebody was cut off, 2 it could not be measured.
"""

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import dataclass

import chart
import servers
from judge import size
from rows import COMPRESS, HIXIE, MIB, Row
from run import NEIGHBOURS, Attack
from servers import DRIVER_CPU, CannotMeasure

ATTACK_SECONDS, PAUSE_SECONDS = 4, 2
RENEWED_SECONDS = 110
# Rounds of attacks that slopes are told of.
ROUNDS_MIN = 2

# What the whole of a soak may add, by the slope of the samples.
BYTES_MAX, SHARE_MAX = 6 * MIB, 0.05
DESCRIPTORS_MAX = 8
MILLISECONDS_MAX = 20

# Who behaves well: kind, connections, whether over TLS.
WELL_BEHAVED = (
    ("steady-echo", 20, False),
    ("steady-echo", 10, True),
    ("steady-sink", 10, False),
    ("steady-deflate", 10, False),
    ("steady-big", 2, False),
    ("connect-idle", 500, False),
)

# Who attacks, in turn.
ATTACKS = (
    ("ping", 2, False),
    ("sink-1m", 100, False),
    ("fragmented", 50, False),
    ("deflate-final-blocks", 20, False),
    ("begun-1b", 2000, False),
    ("tls-records", 2, True),
    ("unread-1m", 100, False),
    ("upgrade", 50, False),
    ("deflate-zeros", 4, False),
    ("tls-handshakes", 50, True),
    ("hixie76-64", 10, False),
    ("http-404", 50, False),
)

ROW = Row("soak", "", 0, options=(*COMPRESS, *HIXIE), tls=True)


@dataclass
class Sample:
    """The server between two attacks."""

    minute: float
    kind: str
    resident_bytes: int
    descriptors: int
    # Of the neighbour in the attack before, beyond the one on the idle server.
    p99_ms: float


class WellBehaved:
    """One sort of clients, started again when its time is over."""

    def __init__(self, options, server, kind, connections, secured):
        self.what = f"{kind}x{connections}" + (" over TLS" if secured else "")
        self.command = [options.attack, "--kind", kind, "--connections", str(connections)]
        self.command += ["--target", server.secure if secured else server.plain]
        self.command += ["--seconds", str(RENEWED_SECONDS)]
        if secured:
            self.command.append("--tls")
        self.attack, self.tallies = None, []

    def start(self):
        self.attack = Attack(self.command)
        self.attack.wait_for("ready", 20)
        self.attack.go()

    def renew(self):
        """Those whose time is over make room for others. Returns what went wrong."""
        if self.attack.process.poll() is None:
            return []
        missed = self._ended()
        self.start()
        return missed

    def _ended(self):
        try:
            tally = self.attack.wait_for("closed", 5)["attack"]
        except CannotMeasure as error:
            return [f"{self.what}: {error}"]
        finally:
            self.attack.end()
        self.tallies.append(tally)
        if tally["ended"] or tally["errors"]:
            return [f"{self.what}: {tally['ended']} were cut off: {tally['errors']}"]
        return []

    def end(self):
        if self.attack:
            self.attack.end()


def slope(points):
    """Least squares: how much more, for one more of x."""
    if len(points) < 2:
        return 0.0
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0


def beside_its_kind(samples):
    """Waits, each beside the mean of those in attacks of its kind, which differ by themselves."""
    kinds = {}
    for sample in samples:
        kinds.setdefault(sample.kind, []).append(sample.p99_ms)
    means = {kind: sum(waits) / len(waits) for kind, waits in kinds.items()}
    return [(sample.minute, sample.p99_ms - means[sample.kind]) for sample in samples]


def verdicts(samples, minutes):
    """For each slope: what it is of, in words, and whether it is flat."""
    resident = [(sample.minute, sample.resident_bytes) for sample in samples]
    descriptors = [(sample.minute, sample.descriptors) for sample in samples]
    mean = sum(y for _, y in resident) / max(len(resident), 1)
    found = []
    for what, points, allowed, unit in (
        ("memory", resident, max(BYTES_MAX, SHARE_MAX * mean), size),
        ("descriptors", descriptors, DESCRIPTORS_MAX, lambda count: f"{count:.2f}"),
        ("neighbour's p99", beside_its_kind(samples), MILLISECONDS_MAX, lambda ms: f"{ms:.2f} ms"),
    ):
        steep = slope(points)
        grown = steep * minutes
        words = f"{what}: {unit(steep)} a minute, {unit(grown)} in all, at most {unit(allowed)}"
        found.append((words, grown <= allowed))
    return found


def attack_once(options, server, idle, kind, connections, secured):
    command = [options.attack, "--kind", kind, "--connections", str(connections)]
    command += ["--target", server.secure if secured else server.plain]
    command += ["--seconds", str(ATTACK_SECONDS), "--neighbour-from", NEIGHBOURS]
    command += ["--neighbour", server.plain, "--neighbour", idle.plain]
    attack = Attack(command)
    try:
        attack.wait_for("ready", 20)
        attack.go()
        return attack.wait_for("closed", ATTACK_SECONDS + 40)
    finally:
        attack.end()


def soak(options, server, idle):
    """Returns the samples and what went wrong."""
    well_behaved = [WellBehaved(options, server, *one) for one in WELL_BEHAVED]
    samples, missed = [], []
    began = time.monotonic()
    try:
        for one in well_behaved:
            one.start()
        turn = 0
        while time.monotonic() - began < options.minutes * 60:
            kind, connections, secured = ATTACKS[turn % len(ATTACKS)]
            turn += 1
            closed = attack_once(options, server, idle, kind, connections, secured)
            beside, alone = closed["neighbours"]
            if beside["cut_off"] or beside["newcomer_errors"] or not beside["recovered"]:
                how = beside["cut_off"] or beside["newcomer_errors"] or "no answer afterwards"
                missed.append(f"beside {kind}x{connections}, the neighbour: {how}")
            time.sleep(PAUSE_SECONDS)
            for one in well_behaved:
                missed += one.renew()
            if ended := server.ended():
                missed.append(ended)
                break
            samples.append(
                Sample(
                    minute=(time.monotonic() - began) / 60,
                    kind=f"{kind}x{connections}",
                    resident_bytes=server.resident_bytes(),
                    descriptors=server.descriptors(),
                    p99_ms=beside["echo"]["p99"] - alone["echo"]["p99"],
                )
            )
            last = samples[-1]
            print(
                f"{last.minute:6.1f} min  {size(last.resident_bytes):>10}  {last.descriptors:5}"
                f"  {last.p99_ms:9.1f} ms  {last.kind}",
                flush=True,
            )
    finally:
        for one in well_behaved:
            one.end()
    return samples, missed


def run(options):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, {int(DRIVER_CPU)})
    binary = servers.Binary(options.binary, options.engine, options.certificates)
    with servers.running(binary.command(ROW), True) as server:
        with servers.running(binary.command(ROW), True) as idle:
            before = server.resident_bytes(), server.descriptors()
            print("     time      memory  files  p99 beyond an idle server's, and beside which attack")
            samples, missed = soak(options, server, idle)
            if not server.ended():
                time.sleep(PAUSE_SECONDS)
                after = server.resident_bytes(), server.descriptors()
                print(f"memory {size(before[0])} before, {size(after[0])} after all have gone")
                print(f"descriptors {before[1]} before, {after[1]} after all have gone")
                if after[1] > before[1] + DESCRIPTORS_MAX:
                    missed.append(f"{after[1] - before[1]} descriptors are left")
    kept = samples[len(ATTACKS) :]
    for what, values, unit in (
        ("memory", [sample.resident_bytes for sample in samples], size),
        ("descriptors", [sample.descriptors for sample in samples], str),
        ("neighbour's p99", [sample.p99_ms for sample in samples], lambda ms: f"{ms:.1f} ms"),
    ):
        print(chart.sparkline(what, values, unit))
    if len(kept) < ROUNDS_MIN * len(ATTACKS):
        print("too short for slopes: one round of attacks fills what is kept, and two show what grows")
    else:
        for words, flat in verdicts(kept, options.minutes):
            print(f"{'flat' if flat else 'GROWS'}  {words}")
            if not flat:
                missed.append(words)
    for miss in missed:
        print(f"FAIL  {miss}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"samples": [vars(one) for one in samples], "missed": missed}, file, indent=1)
    if options.svg:
        with open(options.svg, "w", encoding="utf-8") as file:
            file.write(chart.svg(samples))
    return 1 if missed or not samples else 0


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for path in ("binary", "attack", "certificates"):
        parser.add_argument(f"--{path}", required=True)
    for path in ("json", "svg"):
        parser.add_argument(f"--{path}")
    parser.add_argument("--engine", default="shard")
    parser.add_argument("--minutes", type=float, default=30)
    try:
        return run(parser.parse_args())
    except CannotMeasure as error:
        print(f"soak.sh: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
