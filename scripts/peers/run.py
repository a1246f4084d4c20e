"""Measures servers against each other on this machine, and writes down what came out.

    run.py --servers FILE --drive PATH --loadgen PATH --idle-clients PATH --json FILE
           [--mode full|quick|smoke] [--workload NAME,...] [--rounds N] [--seconds S]
           [--no-open-loop] [--sleep] [--left-out FILE] [--command TEXT] [--commit TEXT]

The server is pinned to processor 0 and what drives it to processor 1. Runs are interleaved, A B C
C A B: this machine's speed changes from minute to minute, the ratios within one round much less.

    each workload: start all -> rounds, closed loop -> system calls -> rounds, open loop

report.py makes tables of what this writes.

Exit status: 0 all was measured, 2 something could not be.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import re
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import servers
import workloads
from histogram import Histogram
from servers import DRIVER_CPU, CannotMeasure, pinned

# A run in which somebody else had one of the two processors for longer than this share of the time
# is made again.
WAITED_MAX = 0.05

# What a generator may take beyond the time that it measures.
GENERATOR_SECONDS_MAX = 60
SYSTEM_CALL_SECONDS = 0.3
OPEN_LOOP_WARMUP_SECONDS = 0.3
OPEN_LOOP_SECONDS_MAX = 8
# What starting and ending a server, or a generator with its connections, takes beside measuring.
START_SECONDS, RUN_SECONDS, IDLE_SECONDS = 0.1, 0.1, 6
IDLE_SECONDS_MAX = 120
SETTLE_SECONDS = 0.2


def run_command(command, seconds):
    """What a command prints; an error with its words when it fails or takes too long."""
    limit = seconds + GENERATOR_SECONDS_MAX
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise CannotMeasure(f"the generator did not end within {limit:.0f} s") from None
    if done.returncode != 0:
        raise CannotMeasure((done.stderr or done.stdout).strip()[-2000:])
    return done.stdout


def drive_command(options, server, process, address, workload, seconds):
    command = [options.drive, address, "--pid", str(process.pid), "--seconds", str(seconds)]
    command += ["--warmup", str(options.mode.warmup_seconds), *workload.arguments]
    if server.is_raw:
        command.append("--raw")
    if options.sleep:
        command.append("--sleep")
    return pinned(DRIVER_CPU, command)


def closed_loop(options, server, process, address, workload):
    """One run of the generator, as what it reports."""
    best = None
    for attempt in range(options.mode.attempts):
        command = drive_command(options, server, process, address, workload, options.seconds)
        report = json.loads(run_command(command, options.seconds))
        report["waited"] = max(report["own_waited"], report["server_waited"])
        report["attempt"] = attempt + 1
        if best is None or report["waited"] < best["waited"]:
            best = report
        if best["waited"] <= WAITED_MAX:
            break
    return best


def open_loop(options, server, process, address, workload, rate):
    """Latency at a fixed rate, as loadgen measures it."""
    # Of less than a thousand messages nobody can tell a p99.9.
    seconds = min(options.mode.samples_min * 1.1 / rate, OPEN_LOOP_SECONDS_MAX)
    seconds = max(seconds, options.seconds)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [options.loadgen, "echo", address, "--quiet", "--shards", "1"]
        command += ["--connections", str(workload.connections), "--size", str(workload.size)]
        # A message that is due does not have to wait for the one before it.
        command += ["--in-flight", str(max(workload.in_flight, 16)), "--rate", f"{rate:.0f}"]
        command += ["--duration", f"{seconds * 1000:.0f}ms"]
        command += ["--warmup", f"{OPEN_LOOP_WARMUP_SECONDS * 1000:.0f}ms"]
        command += ["--pid", str(process.pid), "--allow-client-bound", "--json", file.name]
        if workload.content == "binary":
            command.append("--binary")
        else:
            command += ["--text", "--script", workload.content]
        best = None
        for _ in range(options.mode.attempts):
            run_command(pinned(DRIVER_CPU, command), seconds)
            with open(file.name, encoding="utf-8") as written:
                run = latency_of(json.load(written))
            if best is None or worth(run) < worth(best):
                best = run
            if not best["client_bound"] and best["waited"] <= WAITED_MAX:
                break
    return best


def latency_of(report):
    """What is kept of a report of loadgen."""
    latency = Histogram(report["latency"]["corrected_ns"])
    sides = (report["client"], report["server"])
    waited_ns = max(side["run_queue_wait_ns"] for side in sides)
    return {
        "samples": latency.total,
        "p50_us": latency.value_at(0.5) / 1e3,
        "p99_us": latency.value_at(0.99) / 1e3,
        "p999_us": latency.value_at(0.999) / 1e3,
        "server_cpu_ns": report["server"]["cpu_ns_per_message"],
        "client_bound": report["verdict"]["kind"] == "client_bound",
        "waited": waited_ns / 1e6 / report["times"]["measured_ms"],
    }


def worth(run):
    """Least for the run that says most: the generator kept up, and nobody was in the way."""
    return run["client_bound"], run["waited"]


class SystemCalls:
    """Counts the system calls of a process with the first tool that can here."""

    def __init__(self):
        self.tool = next((tool for tool in ("perf", "strace") if self._works(tool)), None)

    @staticmethod
    def _works(tool):
        if not shutil.which(tool):
            return False
        tries = {
            "perf": ["perf", "stat", "-e", "raw_syscalls:sys_enter", "--", "true"],
            "strace": ["strace", "-c", "-f", "-o", os.devnull, "true"],
        }
        done = subprocess.run(tries[tool], capture_output=True, text=True)
        return done.returncode == 0 and "not supported" not in done.stderr

    def a_message(self, options, server, process, address, workload):
        """Counted over a whole run of the generator, in which the handshakes are few."""
        seconds = min(options.seconds, SYSTEM_CALL_SECONDS)
        command = drive_command(options, server, process, address, workload, seconds)
        with tempfile.NamedTemporaryFile("r", suffix=".calls") as file:
            if self.tool == "perf":
                event = "raw_syscalls:sys_enter"
                perf = ["perf", "stat", "-x,", "-e", event, "-o", file.name]
                command = perf + ["-p", str(process.pid), "--", *command]
                report = json.loads(run_command(command, seconds))
                found = re.search(r"^(\d+),.*raw_syscalls", file.read(), re.MULTILINE)
            else:
                strace = ["strace", "-c", "-f", "-o", file.name, "-p", str(process.pid)]
                counter = subprocess.Popen(strace, stderr=subprocess.PIPE, text=True)
                # It says when it has attached.
                counter.stderr.readline()
                try:
                    report = json.loads(run_command(command, seconds))
                finally:
                    counter.send_signal(signal.SIGINT)
                    counter.communicate()
                total = r"^100\.00\s+\S+\s+\S+\s+(\d+).*total$"
                found = re.search(total, file.read(), re.MULTILINE)
        if not found:
            raise CannotMeasure(f"{self.tool} did not say how many system calls there were")
        return int(found[1]) / report["messages_in_all"]


def resident_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise CannotMeasure("it is gone")


def settled_bytes(pid):
    """The second of two equal readings: whatever was going on is over."""
    deadline = time.monotonic() + IDLE_SECONDS_MAX
    last = resident_bytes(pid)
    while time.monotonic() < deadline:
        time.sleep(SETTLE_SECONDS)
        now = resident_bytes(pid)
        if now == last:
            return now
        last = now
    raise CannotMeasure("its memory does not come to rest")


def idle_memory(options, server, workload):
    """Resident bytes that each of many idle connections has cost, after one echo."""
    connections = min(workload.connections, options.mode.idle_connections_max)
    with server.running() as (process, address):
        before = settled_bytes(process.pid)
        clients = subprocess.Popen(
            pinned(DRIVER_CPU, [options.idle_clients, address, str(connections)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            # A line once all of them are idle; then they stay until their input ends.
            ready, _, _ = select.select([clients.stdout], [], [], IDLE_SECONDS_MAX)
            if not ready:
                raise CannotMeasure(f"no {connections} connections in {IDLE_SECONDS_MAX} s")
            if "idle" not in clients.stdout.readline():
                raise CannotMeasure(clients.communicate()[1].strip()[-2000:])
            after = settled_bytes(process.pid)
        finally:
            servers.end(clients)
    return {"connections": connections, "bytes_each": (after - before) / connections}


def takes(server, workload):
    """Whether this workload is one for this server."""
    if workload.kind in ("echo", "ingest"):
        return True
    if workload.name == "idle-18k":
        # The goal is ringwire's; the others are measured with 10,000.
        return server.name == workloads.RINGWIRE
    return not server.is_raw


def in_turns(running, rounds):
    """Whom to measure when: all of them in each round, in another order each time.

    What has just been measured is still busy with its end, at the cost of whoever comes next.
    """
    for number in range(rounds):
        yield from random.Random(number).sample(running, len(running))


class Comparison:
    """All that is measured in one go."""

    def __init__(self, options, chosen):
        self.options = options
        self.chosen = chosen
        self.problems = []
        self.system_calls = SystemCalls()
        self.workloads = {}
        self.started = time.monotonic()

    @contextlib.contextmanager
    def _noting(self, workload, server, alive=None):
        """Notes what could not be measured, and leaves that server out for this workload."""
        try:
            yield
        except CannotMeasure as problem:
            self.problems.append(f"{workload.name}, {server.name}: {problem}")
            servers_found = self.workloads[workload.name]["servers"]
            servers_found[server.name]["problem"] = str(problem)
            if alive is not None:
                alive.discard(server.name)

    def measure(self, workload):
        those = [server for server in self.chosen if takes(server, workload)]
        found = {server.name: {} for server in those}
        options = self.options
        entry = {"label": workload.label, "kind": workload.kind, "rounds": options.rounds}
        entry |= {"seconds": options.seconds, "servers": found}
        self.workloads[workload.name] = entry
        if workload.kind == "idle":
            for server in those:
                with self._noting(workload, server):
                    found[server.name]["idle"] = idle_memory(self.options, server, workload)
            return
        with contextlib.ExitStack() as stack:
            running = []
            for server in those:
                with self._noting(workload, server):
                    context = server.running(sink=workload.kind == "ingest")
                    running.append((server, *stack.enter_context(context)))
            alive = {server.name for server, _, _ in running}
            for server, *where in in_turns(running, options.rounds):
                if server.name in alive:
                    with self._noting(workload, server, alive):
                        run = closed_loop(self.options, server, *where, workload)
                        found[server.name].setdefault("closed", []).append(run)
            if self.system_calls.tool and workload.name in options.mode.system_calls:
                for server, *where in running:
                    if server.name in alive:
                        with self._noting(workload, server, alive):
                            calls = self.system_calls.a_message(
                                self.options, server, *where, workload
                            )
                            found[server.name]["system_calls"] = calls
            if workload.name in options.mode.open_loop and not options.no_open_loop:
                self._measure_open_loop(workload, entry, running, alive)

    def _measure_open_loop(self, workload, entry, running, alive):
        found = entry["servers"]
        maxima = [
            statistics.median(run["rate_per_s"] for run in found[server.name]["closed"])
            for server, _, _ in running
            if not server.is_raw and server.name in alive
        ]
        if not maxima:
            return
        entry["slowest_per_s"] = min(maxima)
        for share in self.options.mode.rates:
            rate = min(maxima) * share
            for server, *where in in_turns(running, self.options.rounds):
                if not server.is_raw and server.name in alive:
                    with self._noting(workload, server, alive):
                        run = open_loop(self.options, server, *where, workload, rate)
                        rates = found[server.name].setdefault("open", {})
                        rates.setdefault(str(share), []).append(run)

    def result(self):
        names = {}
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo.read(), re.MULTILINE)
        now = datetime.datetime.now(datetime.timezone.utc)
        for server in self.chosen:
            names[server.name] = {"label": server.label, "role": server.role}
        return {
            "schema": "ringwire-peers/1",
            "commands": [self.options.command] if self.options.command else [],
            "commit": self.options.commit,
            "ended": now.isoformat(timespec="seconds"),
            "took_s": round(time.monotonic() - self.started),
            "environment": {
                # Without what a distribution appends to it.
                "kernel": platform.release().split("-")[0],
                "cpu_model": model[1] if model else platform.machine(),
                "processors": os.cpu_count(),
            },
            "generator_sleeps": self.options.sleep,
            "system_calls_by": self.system_calls.tool,
            "servers": names,
            "left_out": self.options.left_out,
            "workloads": self.workloads,
            "problems": self.problems,
        }


def seconds_estimated(options, chosen, names):
    """What measuring these workloads is going to take, if nobody is in the way."""
    mode, seconds = options.mode, 0.0
    for name in names:
        workload = workloads.WORKLOADS[name]
        those = [server for server in chosen if takes(server, workload)]
        if workload.kind == "idle":
            seconds += len(those) * IDLE_SECONDS
            continue
        run = options.seconds + mode.warmup_seconds + RUN_SECONDS
        seconds += len(those) * (START_SECONDS + options.rounds * run)
        if name in mode.system_calls:
            seconds += len(those) * (SYSTEM_CALL_SECONDS + mode.warmup_seconds + RUN_SECONDS)
        if name in mode.open_loop and not options.no_open_loop:
            run = options.seconds + OPEN_LOOP_WARMUP_SECONDS + RUN_SECONDS
            runs = sum(not server.is_raw for server in those) * len(mode.rates)
            seconds += runs * options.rounds * run
    return seconds


def lines_of(path):
    """Of a file that may not be named."""
    if not path:
        return []
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def choose(parser, given, there, what):
    """The names of a list, each of which has to be there."""
    names = given.split(",")
    for name in names:
        if name not in there:
            parser.error(f"there is no {what} '{name}'; there are {', '.join(there)}")
    return names


def raise_open_file_limit():
    """Each connection is a descriptor of the server; servers inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def end_like_any_exception(number, _frame):
    """So that servers and generators are ended as well."""
    sys.exit(128 + number)


def main():
    signal.signal(signal.SIGTERM, end_like_any_exception)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", required=True, metavar="FILE")
    parser.add_argument("--drive", required=True, metavar="PATH")
    parser.add_argument("--loadgen", required=True, metavar="PATH")
    parser.add_argument("--idle-clients", required=True, metavar="PATH")
    parser.add_argument("--json", required=True, metavar="FILE")
    parser.add_argument("--workload", metavar="NAME,...")
    parser.add_argument("--mode", choices=workloads.MODES, default="full")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--no-open-loop", action="store_true")
    parser.add_argument("--sleep", action="store_true")
    parser.add_argument("--left-out", type=lines_of, default=[], metavar="FILE")
    parser.add_argument("--command", metavar="TEXT")
    parser.add_argument("--commit", metavar="TEXT")
    options = parser.parse_args()
    limit = raise_open_file_limit()
    mode = options.mode = workloads.MODES[options.mode]
    options.rounds = options.rounds or mode.rounds
    options.seconds = options.seconds or mode.seconds
    names = list(mode.workloads)
    if options.workload:
        names = choose(parser, options.workload, workloads.WORKLOADS, "workload")
    comparison = Comparison(options, servers.read(options.servers))
    minutes = seconds_estimated(options, comparison.chosen, names) / 60
    print(f"measuring takes about {minutes:.1f} minutes", file=sys.stderr, flush=True)
    for name in names:
        workload = workloads.WORKLOADS[name]
        connections = workload.connections
        if workload.kind == "idle":
            connections = min(connections, mode.idle_connections_max)
        needed = connections + workloads.DESCRIPTORS_SPARE
        if limit != resource.RLIM_INFINITY and needed > limit:
            comparison.problems.append(
                f"{name} needs {needed} descriptors, and ulimit -Hn is {limit}"
            )
            continue
        at = time.monotonic() - comparison.started
        print(f"{at:5.0f} s  {name}: {workload.label}", file=sys.stderr, flush=True)
        comparison.measure(workload)
        # After each, so that what is there is kept when somebody ends this.
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(comparison.result(), file, indent=1)
    return 2 if comparison.problems else 0


if __name__ == "__main__":
    sys.exit(main())
