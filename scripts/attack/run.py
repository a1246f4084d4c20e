"""Carries out the rows: starts servers, lets the attack begin, looks at the server, judges.

    run.py --binary PATH --attack PATH --attacked PATH --certificates FOLDER
           [--engine NAME] [--rows NAME,...] [--smoke] [--seconds S] [--rate N] [--json FILE]

The server is on processor 0, all others are on processor 1: those who attack, its neighbour, and
another neighbour on a second server, idle and on processor 0 as well, as the measure of the first.

Exit status: 0 all goals were reached, 1 one was missed, 2 something could not be measured.
"""

import argparse
import contextlib
import dataclasses
import fnmatch
import json
import os
import queue
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

import judge
import rows
import servers
from judge import size
from rows import ROWS
from servers import DRIVER_CPU, CannotMeasure, pinned

SAMPLE_SECONDS = 0.02
# What an attack may take beside its seconds: to open its connections, and to end.
ATTACK_SECONDS_MAX = 60
BACK_SECONDS_MAX = 8
IDLE_SECONDS = 0.5
NEIGHBOURS = "127.0.0.2"
SMOKE_SECONDS = 2
# Bounds of time in the smoke run are so much wider: machines that test have neighbours too. What
# they are to find is wrong by a factor of a hundred.
SMOKE_SLACK = 4


class Attack:
    """The program that attacks, and what it tells."""

    def __init__(self, command):
        self.process = subprocess.Popen(
            pinned(DRIVER_CPU, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.events.put(json.loads(line))
        self.events.put(None)

    def wait_for(self, event, seconds):
        deadline = time.monotonic() + seconds
        while True:
            try:
                told = self.events.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise CannotMeasure(f"the attack told of no '{event}' in time") from None
            if told is None:
                words = self.process.stderr.read().strip()[-500:]
                raise CannotMeasure(f"the attack ended: {words}")
            if told["event"] == event:
                return told

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self):
        servers.end(self.process)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()


class Sampler(threading.Thread):
    """Looks at a server again and again."""

    def __init__(self, server, counts_sockets):
        super().__init__(daemon=True)
        self.counts_sockets = counts_sockets
        self.server, self.over = server, threading.Event()
        self.peak_bytes = self.peak_socket_bytes = 0
        self.descriptors = []

    def run(self):
        looks = 0
        while not self.over.is_set():
            with contextlib.suppress(CannotMeasure, IndexError):
                self.peak_bytes = max(self.peak_bytes, self.server.resident_bytes())
            if looks % 10 == 0:
                if self.counts_sockets:
                    # It takes a while for thousands of them.
                    in_kernel = self.server.socket_bytes()
                    self.peak_socket_bytes = max(self.peak_socket_bytes, in_kernel)
                if found := self.server.descriptors():
                    self.descriptors.append(found)
            looks += 1
            self.over.wait(SAMPLE_SECONDS)


def attack_command(options, row, seconds):
    command = [options.attack, "--kind", row.kind, "--connections", str(row.connections)]
    command += ["--seconds", str(seconds), "--rate", str(options.rate)]
    if row.hold is not None:
        command += ["--hold", str(row.hold)]
    if row.neighbour_tls:
        command.append("--neighbour-tls")
    return command


@contextlib.contextmanager
def battlefield(options, row, seconds):
    """Yields the server that is attacked and the attack that is ready to."""
    command = attack_command(options, row, seconds)
    with contextlib.ExitStack() as stack:
        if row.server == "dialled":
            attack = Attack([*command, "--reverse", "--neighbour=here", "--neighbour=there"])
            stack.callback(attack.end)
            doors = attack.wait_for("listening", 10)
            here, there = (f"ws://{address}/" for address in doors["neighbours"])
            flood = f"ws://{doors['flood']}/*{row.connections}"
            dialling = options.costly.dialling
            server = stack.enter_context(servers.dialling(dialling([flood, here])))
            stack.enter_context(servers.dialling(dialling([there])))
        else:
            program = options.costly if row.server == "costly" else options.binary
            serve = program.command(row)
            cgroup = None
            if row.cgroup:
                cgroup = stack.enter_context(servers.Cgroup(options.cgroup, row.cgroup))
            limited = servers.limited(row, serve)
            server = stack.enter_context(servers.running(limited, row.tls, cgroup=cgroup))
            idle = stack.enter_context(servers.running(serve, row.tls))
            address = (lambda one: one.secure) if row.neighbour_tls else (lambda one: one.plain)
            command += ["--target", server.secure if row.tls else server.plain]
            # Attackers come from 127.0.0.1, as those do who name no address: one port is enough
            # for connections to several servers then.
            command += ["--neighbour-from", NEIGHBOURS]
            command += ["--neighbour", address(server), "--neighbour", address(idle)]
            attack = Attack(command)
            stack.callback(attack.end)
        attack.wait_for("ready", 20)
        yield server, attack


def carry_out(options, row, seconds):
    """One row, as what was found."""
    with battlefield(options, row, seconds) as (server, attack):
        found = {
            "before_bytes": server.resident_bytes(),
            "before_descriptors": server.descriptors(),
        }
        threads = server.threads()
        sampler = Sampler(server, "sockets" in row.judged)
        sampler.start()
        cpu, began = server.cpu_seconds(), time.monotonic()
        attack.go()
        try:
            closed = attack.wait_for("closed", seconds + ATTACK_SECONDS_MAX)
        finally:
            sampler.over.set()
            sampler.join()
        found |= {
            "attack": closed["attack"],
            "begun_after_s": closed["begun_after_s"],
            "seconds": closed["seconds"],
            "peak_bytes": max(sampler.peak_bytes, found["before_bytes"]),
            "peak_socket_bytes": sampler.peak_socket_bytes,
            "peak_descriptors": max(sampler.descriptors, default=0),
            "usual_descriptors": statistics.median(sampler.descriptors or [0]),
        }
        found["beside"], found["alone"] = closed["neighbours"]
        found["ended"] = None if row.server == "dialled" else server.ended()
        if not found["ended"]:
            try:
                server.resident_bytes()
                found["cpu_share"] = (server.cpu_seconds() - cpu) / (time.monotonic() - began)
                found |= afterwards(row, server, found, threads)
            except CannotMeasure as error:
                # One that dialled and has nobody left ends by itself.
                if row.server == "dialled":
                    found |= gone_afterwards(found, str(error))
                else:
                    found["ended"] = server.ended() or str(error)
        return found


def gone_afterwards(found, how):
    well = "status 0" in how
    return {
        "back_after_s": 0,
        "after_bytes": found["before_bytes"],
        "after_descriptors": found["before_descriptors"],
        "idle_share": 0,
        "threads_lost": 0,
        "unanswered_after": None if well else how,
    }


def afterwards(row, server, found, threads):
    """What is left when the attack is over."""
    began = time.monotonic()
    seconds_max = BACK_SECONDS_MAX + row.backlog
    bytes_max = row.left_bytes_max(found["before_bytes"])
    fewest = server.resident_bytes()
    while True:
        fewest = min(fewest, server.resident_bytes())
        back = fewest <= bytes_max
        left = server.descriptors() - found["before_descriptors"]
        if back and left <= judge.DESCRIPTORS_SPARE:
            break
        waits = "left" in row.judged or left > judge.DESCRIPTORS_SPARE
        if time.monotonic() - began > (seconds_max if waits else 3):
            break
        time.sleep(0.05)
    back_after = time.monotonic() - began
    # What the kernel still has of the attack is worked off first.
    while True:
        cpu = server.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        idle_share = (server.cpu_seconds() - cpu) / IDLE_SECONDS
        if idle_share <= judge.IDLE_SHARE_MAX or time.monotonic() - began > seconds_max:
            break
    return {
        "back_after_s": back_after if back else None,
        "after_bytes": min(fewest, server.resident_bytes()),
        "after_descriptors": server.descriptors(),
        "idle_share": idle_share,
        "threads_lost": max(threads - server.threads(), 0),
        "unanswered_after": None if row.server == "dialled" else answer_of(server),
    }


def answer_of(server):
    """None when the server answers a request, or what it does instead."""
    host, port = server.plain.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), 2, (NEIGHBOURS, 0)) as client:
            client.settimeout(2)
            client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            if client.recv(64).startswith(b"HTTP/1.1 "):
                return None
            return "a request afterwards had no answer"
    except OSError as error:
        return f"a request afterwards: {error}"


COLUMNS = (
    "row", "", "p50", "p99", "worst", "idle p99", "worst", "newcomer", "idle", "sent",
    "held", "after", "back", "frames/s",
)
WIDTHS = (27, 4, 7, 8, 8, 8, 7, 8, 7, 10, 10, 10, 6, 9)


def line(cells):
    parts = [f"{cells[0]:{WIDTHS[0]}}"]
    parts += [f"{cell:>{width}}" for cell, width in zip(cells[1:], WIDTHS[1:])]
    return " ".join(parts)


def cells(name, found, missed):
    verdict = "FAIL" if missed else "PASS"
    if "attack" not in found:
        return (name, verdict, *[""] * 12)
    beside, alone, attack = found["beside"], found["alone"], found["attack"]
    acts = attack["frames"] or attack["cycles"] or attack["opened"]
    back = found.get("back_after_s")
    return (
        name,
        verdict,
        f"{beside['echo']['p50']:.1f}",
        f"{beside['echo']['p99']:.1f}",
        f"{beside['echo']['worst']:.1f}",
        f"{alone['echo']['p99']:.1f}",
        f"{alone['echo']['worst']:.1f}",
        f"{beside['newcomers']['worst']:.1f}",
        f"{alone['newcomers']['worst']:.1f}",
        size(attack["sent_bytes"]),
        size(found["peak_bytes"] - found["before_bytes"]),
        size(found["after_bytes"] - found["before_bytes"]) if "after_bytes" in found else "gone",
        "never" if back is None else f"{back:.1f}",
        f"{acts / found['seconds']:.0f}",
    )


def chosen(options):
    """The rows that are asked for, by name."""
    if options.rows:
        names = []
        for pattern in options.rows.split(","):
            if pattern in ("time", "memory"):
                fits = [name for name, row in ROWS.items() if row.group == pattern]
            else:
                fits = fnmatch.filter(ROWS, pattern)
            if not fits:
                raise CannotMeasure(f"there is no row '{pattern}'; --list names them")
            names += [name for name in fits if name not in names]
    else:
        names = [name for name, row in ROWS.items() if row.smoke or not options.smoke]
    return {name: ROWS[name] for name in names}


def left_out(options, row):
    if options.engine in row.not_on:
        return f"not on {options.engine}"
    if row.cgroup and not options.cgroup:
        return "it needs --cgroup"
    if row.server != "binary" and not options.costly:
        return "it needs --attacked"
    return None


def run(options):
    # So that whatever was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, {int(DRIVER_CPU)})
    options.binary = servers.Binary(options.binary, options.engine, options.certificates)
    options.costly = options.attacked and servers.Costly(options.attacked, options.engine)
    results, failed = {}, []
    print("times in milliseconds, beside the attack and on an idle second server; back in seconds")
    print(line(COLUMNS))
    for name, row in chosen(options).items():
        if why := left_out(options, row):
            print(f"{name:{WIDTHS[0]}} left out: {why}")
            continue
        seconds = row.seconds
        if "waits" in row.judged:
            seconds = options.seconds or (SMOKE_SECONDS if options.smoke else seconds)
        found, missed = {}, []
        # A row that a noisy moment has spoiled may try again; what is really wrong stays so.
        for attempt in range(1 + options.retries):
            try:
                found = carry_out(options, row, seconds)
                missed = judge.misses(row, found, options.slack)
            except CannotMeasure as error:
                found, missed = {}, [f"not measured: {error}"]
            if not missed:
                break
        print(line(cells(name, found, missed)), flush=True)
        for miss in missed:
            print(f"{'':{WIDTHS[0]}}   {miss}", flush=True)
        results[name] = {"row": dataclasses.asdict(row), "found": found, "missed": missed}
        if missed:
            failed.append(name)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"engine": options.engine, "rows": results}, file, indent=1)
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not results else 0


def parse():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for path in ("binary", "attack", "certificates"):
        parser.add_argument(f"--{path}", required=True)
    for path in ("attacked", "json", "cgroup", "rows"):
        parser.add_argument(f"--{path}")
    parser.add_argument("--engine", default="shard")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--slack", type=float)
    parser.add_argument("--retries", type=int, default=0)
    options = parser.parse_args()
    options.slack = options.slack or (SMOKE_SLACK if options.smoke else 1)
    return options


def main():
    try:
        return run(parse())
    except CannotMeasure as error:
        print(f"attack.sh: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
