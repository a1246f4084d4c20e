"""Turns what `perf script` prints into tables and folded stacks.

    stacks.py oncpu SCRIPT FOLDED [--top N] [--lines]
    stacks.py offcpu SCRIPT FOLDED AFTER [--top N]
    stacks.py threads BEFORE AFTER

SCRIPT is the output of `perf script -F comm,tid,time,event,ip,sym,symoff,dso`. FOLDED is written:
one line a stack, `thread;outermost;...;innermost count`, which inferno-flamegraph draws; off the
processor the count is microseconds. BEFORE and AFTER are the threads' schedstat, see snapshot in
profile.sh. Standard output is for people.

The compiler puts most functions into the one that calls them, so that the symbol of an address says
little. Where binutils' addr2line and the debug information are there, each address becomes all the
functions that it stands for.

A function of the standard library says little either: what it takes is counted as its caller's.
"""

import argparse
import collections
import os
import re
import shutil
import signal
import struct
import subprocess
import sys

# `ringwire-0 11386  1844.727436: context-switches: ` and `...: PERF_RECORD_SWITCH OUT preempt`
HEADER = re.compile(
    r"^\s*(?P<comm>.+?)\s+(?P<tid>\d+)\s+(?P<time>\d+\.\d+):\s+(?:\d+\s+)?(?P<event>.+?):?\s*$"
)
# `    5e9ef name+0x211f (/path/of/the/file)`
FRAME = re.compile(r"^\s+(?P<ip>[0-9a-f]+)\s+(?P<symbol>.*) \((?P<file>.*)\)$")
OFFSET = re.compile(r"\+0x[0-9a-f]+$")
DELETED = " (deleted)"

# Names of type parameters: `Shard<R,S>`.
PARAMETERS = re.compile(r"<[A-Z]\w?(?:,\s*[A-Z]\w?)*>")
STANDARD_LIBRARY = re.compile(r"^(?:core|alloc|std|hashbrown)::")

# Rust's own mark: what is outside of it starts every thread in the same way.
THREAD_START = "__rust_begin_short_backtrace"
# A stack that reaches one of these is whole.
OUTERMOST = re.compile(
    rf"{THREAD_START}|thread_start|start_thread|clone3?$|_start$|__libc_start|ret_from_fork"
)
# What a shard is in while it has nothing to do.
COMPLETIONS = re.compile(r"io_cqring_wait|io_uring_enter|::Submitter::|::Uring::enter")
SCHEDULER = re.compile(r"^_*(?:schedule|cond_resched|preempt_schedule|io_schedule)")

Address = collections.namedtuple("Address", "file ip symbol kernel")
Frame = collections.namedtuple("Frame", "name line kernel standard")
Sample = collections.namedtuple("Sample", "comm tid time event stack")


def read(path):
    """Samples in the order of the file. A stack is a tuple of addresses, innermost first."""
    sample, stack = None, []
    with open(path, errors="replace") as lines:
        for line in lines:
            frame = FRAME.match(line) if line[:1].isspace() else None
            header = None if frame else HEADER.match(line)
            if frame:
                ip = int(frame["ip"], 16)
                file = frame["file"].removesuffix(DELETED)
                kernel = ip >> 63 == 1
                # A caller's address is the one to return to, which may belong to the next line.
                if stack and not kernel:
                    ip -= 1
                stack.append(Address(file, ip, OFFSET.sub("", frame["symbol"]), kernel))
            elif header:
                if sample:
                    yield sample._replace(stack=tuple(stack))
                stack = []
                time = float(header["time"])
                sample = Sample(header["comm"], int(header["tid"]), time, header["event"], ())
    if sample:
        yield sample._replace(stack=tuple(stack))


def load_segments(path):
    """(offset in the file, length, virtual address) of what a 64-bit ELF file has loaded."""
    with open(path, "rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:5] != b"\x7fELF\x02":
            return []
        order = "<" if head[5] == 1 else ">"
        (start,) = struct.unpack_from(order + "Q", head, 32)
        size, count = struct.unpack_from(order + "HH", head, 54)
        file.seek(start)
        table = file.read(size * count)
    segments = []
    for at in range(0, len(table), size):
        kind, _flags, offset, address, _physical, length = struct.unpack_from(
            order + "IIQQQQ", table, at
        )
        if kind == 1:
            segments.append((offset, length, address))
    return segments


class Symbols:
    """Addresses into frames: many, where functions were put into others."""

    def __init__(self, samples):
        self.frames = {}
        self.disputed = []
        by_file = collections.defaultdict(dict)
        for address in {address for sample in samples for address in sample.stack}:
            if not address.kernel and address.file.startswith("/"):
                by_file[address.file][address.ip] = address.symbol
        self.tool_missing = bool(by_file) and shutil.which("addr2line") is None
        if not self.tool_missing:
            for file, symbols in by_file.items():
                self._resolve(file, sorted(symbols))
                self._compare(file, symbols)

    def _compare(self, file, symbols):
        """perf and addr2line name the same function, if both mean the same place. What perf prints
        is not documented; a file may have changed."""
        same, other = 0, 0
        for ip, symbol in symbols.items():
            frames = self.frames.get((file, ip))
            if frames and symbol != "[unknown]":
                if last_name(short_name(symbol)[0]) == last_name(frames[-1].name):
                    same += 1
                else:
                    other += 1
        if other > same:
            self.disputed.append(file)
            for ip in symbols:
                self.frames.pop((file, ip), None)

    def _resolve(self, file, ips):
        try:
            segments = load_segments(file)
        except (OSError, struct.error):
            return
        # perf prints offsets in the file, addr2line wants virtual addresses.
        offsets = {}
        for ip in ips:
            for offset, length, address in segments:
                if offset <= ip < offset + length:
                    offsets[ip - offset + address] = ip
        if not offsets:
            return
        answer = subprocess.run(
            ["addr2line", "-e", file, "-a", "-f", "-i", "-C"],
            input="".join(f"{address:#x}\n" for address in offsets),
            capture_output=True,
            text=True,
            errors="replace",
        ).stdout.splitlines()
        key, at = None, 0
        while at + 1 < len(answer):
            if answer[at].startswith("0x"):
                key = (file, offsets.get(int(answer[at], 16)))
                at += 1
                continue
            name, line = answer[at : at + 2]
            if name != "??":
                name, standard = short_name(name)
                frame = Frame(name, short_line(line), False, standard)
                self.frames.setdefault(key, []).append(frame)
            at += 2

    def of(self, address):
        """Innermost first."""
        found = self.frames.get((address.file, address.ip))
        if found:
            return found
        name = address.symbol
        if name == "[unknown]":
            file = "kernel" if address.kernel else os.path.basename(address.file).strip("[]")
            name = f"[{file}]"
        name, standard = short_name(name)
        return [Frame(name, None, address.kernel, standard)]


def closing(name, at):
    """Where the bracket at `at` is closed."""
    depth = 0
    for end in range(at, len(name)):
        depth += (name[end] == "<") - (name[end] == ">" and name[end - 1] != "-")
        if depth == 0:
            return end
    return len(name)


def short_name(name):
    """The path of the type and the function, without traits and type parameters, and whether it
    belongs to the standard library."""
    name = PARAMETERS.sub("", name)
    kind = None
    # `module::<impl path::Type>::function` and `<path::Type as path::Trait>::function`
    start = name.find("<impl ") if not name.startswith("<") else 0
    if start >= 0:
        end = closing(name, start)
        kind = name[start + 1 : end].removeprefix("impl ").split(" as ")[0]
        name = kind + name[end + 1 :]
    # What is done for a type without a path, such as usize, the standard library does.
    standard = STANDARD_LIBRARY.match(name) or kind is not None and "::" not in kind
    return name.replace("{{", "{").replace("}}", "}"), bool(standard)


def last_name(name):
    return (name.split("<")[0] or name).rsplit("::", 1)[-1]


def short_line(line):
    """From its crate on, for a dependency and for the standard library; else from here."""
    line = line.split(" (")[0]
    if line.endswith(":?") or line.startswith("??"):
        return None
    for mark in ("/registry/src/", "/rustc/"):
        if mark in line:
            return line.split(mark, 1)[1].split("/", 1)[1]
    here = os.getcwd() + "/"
    return line.removeprefix(here)


def expand(samples, symbols):
    """Each sample with its frames, outermost first, without what starts a thread."""
    cache = {}
    for sample in samples:
        frames = cache.get(sample.stack)
        if frames is None:
            frames = []
            for address in reversed(sample.stack):
                frames.extend(reversed(symbols.of(address)))
            for at, frame in enumerate(frames):
                if THREAD_START in frame.name:
                    # Without debug information everything inside of it has its name.
                    inside = frames[at + 1 :]
                    frames = inside if inside and not inside[0].kernel else frames[at:]
                    break
            cache[sample.stack] = frames
        yield sample, frames


def own_frame(frames):
    """The innermost one of a program, as the standard library only does what it is told."""
    for frame in reversed(frames):
        if not frame.kernel and not frame.standard:
            return frame
    return frames[-1]


def folded(comm, frames):
    """A stack as one line. The shards are one thread: ringwire-0 and ringwire-1 do the same."""
    names = [re.sub(r"-\d+$", "-N", comm)]
    names += [frame.name + ("_[k]" if frame.kernel else "") for frame in frames]
    # A semicolon parts frames.
    return ";".join(name.replace(";", ":") for name in names)


def write_folded(path, weights):
    try:
        with open(path, "w") as out:
            out.writelines(f"{stack} {weight}\n" for stack, weight in sorted(weights.items()))
    except OSError as error:
        sys.exit(f"{path} cannot be written: {error.strerror}")


def share(part, whole):
    return f"{100 * part / whole:7.2f} %" if whole else "        -"


def table(head, counts, columns, top):
    """The largest counts, each as its columns and its name."""
    print(f"\n{head}")
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for name, count in ordered[:top]:
        print(f"{''.join(columns(name, count))}  {name}")
    if len(ordered) > top:
        print(f"  and {len(ordered) - top} more")


def oncpu(arguments):
    samples = [sample for sample in read(arguments.script) if sample.stack]
    if not samples:
        sys.exit("There is no sample: the server had nothing to do meanwhile.")
    symbols = Symbols(samples)
    weights = collections.Counter()
    own, inclusive, kernel, lines = (collections.Counter() for _ in range(4))
    for sample, frames in expand(samples, symbols):
        weights[folded(sample.comm, frames)] += 1
        inclusive.update({frame.name for frame in frames})
        if frames[-1].kernel:
            kernel[frames[-1].name] += 1
            continue
        frame = own_frame(frames)
        own[frame.name] += 1
        if frame.line:
            lines[f"{frame.line}  {frame.name}"] += 1
    write_folded(arguments.folded, weights)

    total, in_user = len(samples), sum(own.values())
    if samples[0].event.endswith(":u"):
        print(f"{total:,} samples of user space; those of the kernel were not permitted.")
    else:
        print(
            f"{total:,} samples: {100 - 100 * in_user / total:.1f} % in the kernel,"
            f" {100 * in_user / total:.1f} % in user space."
        )
    table(
        "   of all  of user space  with callees  user space",
        own,
        lambda name, n: (
            share(n, total),
            f"{share(n, in_user):>15}",
            f"{share(inclusive[name], total):>14}",
        ),
        arguments.top,
    )
    if arguments.lines:
        table(
            "   of all  of user space  lines",
            lines,
            lambda _, n: (share(n, total), f"{share(n, in_user):>15}"),
            arguments.top,
        )
    if kernel:
        table(
            "   of all  with callees  kernel",
            kernel,
            lambda name, n: (share(n, total), f"{share(inclusive[name], total):>14}"),
            arguments.top,
        )
    nameless = sum(n for name, n in own.items() if name.startswith("["))
    if nameless * 2 > in_user:
        print("\nMost functions have no name: this program was stripped, or is not where it was.")
    remarks(samples, symbols)


def remarks(samples, symbols):
    """What makes the tables less than they could be."""
    whole = sum(any(OUTERMOST.search(it.symbol) for it in sample.stack) for sample in samples)
    broken = len(samples) - whole
    if symbols.tool_missing:
        print("\nFunctions inside of others are not shown: addr2line is missing (package binutils).")
    for file in symbols.disputed:
        print(
            f"\nperf and addr2line do not agree on {file}: it may have been built anew since."
            " Functions\ninside of others are not shown."
        )
    if broken * 10 > len(samples):
        print(
            f"\n{100 * broken / len(samples):.0f} % of the stacks end before the start of their"
            " thread: this program was built without frame\npointers. Measure the profiling build"
            " (scripts/README.md), or take --call-graph dwarf."
        )


def snapshot(path):
    """When it was taken, in seconds, and what each thread had used by then; see profile.sh."""
    threads = {}
    with open(path) as lines:
        taken = float(next(lines))
        for line in lines:
            tid, ran, ready, waited, forced, comm = line.rstrip("\n").split("\t")
            threads[int(tid)] = (comm, int(ran), int(ready), int(waited), int(forced))
    return taken, threads


def threads(arguments):
    began, before = snapshot(arguments.before)
    ended, after = snapshot(arguments.after)
    rows = []
    for tid, (comm, *counts) in after.items():
        _, *old = before.get(tid, (comm, 0, 0, 0, 0))
        rows.append((comm, *(new - was for new, was in zip(counts, old))))
    seconds = f"{ended - began:.2f} s"
    print(f"thread            on a processor  ready without one   switches     forced  of {seconds}")
    still = []
    for comm, ran, ready, waited, forced in sorted(rows, key=lambda row: (-row[1], row[0])):
        if not ran and not waited + forced:
            still.append(comm)
            continue
        ran, ready = (share(nanos / 1e9, ended - began) for nanos in (ran, ready))
        print(f"{comm:<16}  {ran:>14}  {ready:>17}  {waited + forced:>9,}  {forced:>9,}")
    if still:
        print(f"asleep all the time: {', '.join(still)}")


class OffThread:
    """A thread's time, in microseconds, by what it did."""

    def __init__(self, comm):
        self.comm = comm
        self.spent = collections.Counter()
        self.since = None
        self.left = None


def offcpu(arguments):
    samples = list(read(arguments.script))
    if not samples:
        sys.exit("There is no switch: no thread of the server ran meanwhile.")
    symbols = Symbols(samples)
    began, ended = samples[0].time, samples[-1].time
    weights, elsewhere, times, longest = (collections.Counter() for _ in range(4))
    stacks, off = {}, {}
    for sample, frames in expand(samples, symbols):
        if not sample.event.startswith("PERF_RECORD_SWITCH"):
            stacks[sample.tid] = frames
            continue
        thread = off.setdefault(sample.tid, OffThread(sample.comm))
        # Before its first switch, a thread that leaves was running; one that comes is not known.
        since = began if thread.since is None else thread.since
        micros = round((sample.time - since) * 1e6)
        if " OUT" in sample.event:
            thread.spent[RUNNING] += micros
            frames = stacks.pop(sample.tid, [])
            thread.left = (reason(frames, "preempt" in sample.event), frames)
        elif thread.left:
            where, frames = thread.left
            thread.left = None
            # The first switch of all may have its stack from before the recording.
            if not frames and where != PREEMPTED:
                thread.since = sample.time
                continue
            thread.spent[where if where in (IDLE, PREEMPTED) else ELSEWHERE] += micros
            if where != IDLE:
                if where == PREEMPTED:
                    frames = [*frames, Frame("[preempted]", None, True, False)]
                weights[folded(sample.comm, frames)] += micros
            if where not in (IDLE, PREEMPTED):
                elsewhere[where] += micros
                times[where] += 1
                longest[where] = max(longest[where], micros)
        thread.since = sample.time
    write_folded(arguments.folded, weights)

    for thread in off.values():
        if not thread.left:
            thread.spent[RUNNING] += round((ended - thread.since) * 1e6)
    print("thread            on a processor  waits for completions  preempted  blocked elsewhere")
    for thread in sorted(off.values(), key=lambda thread: (-thread.spent[RUNNING], thread.comm)):
        whole = thread.spent.total()
        parts = [share(thread.spent[kind], whole) for kind in (RUNNING, IDLE, PREEMPTED, ELSEWHERE)]
        print(f"{thread.comm:<16}  {parts[0]:>14}  {parts[1]:>21}  {parts[2]:>9}  {parts[3]:>17}")
    still = [comm for tid, (comm, *_) in snapshot(arguments.after)[1].items() if tid not in off]
    if still:
        print(f"without a switch: {', '.join(still)}")
    if elsewhere:
        table(
            "  total ms      times    mean us     max us  blocked elsewhere, and who called",
            elsewhere,
            lambda where, n: (
                f"{n / 1e3:>10.2f} {times[where]:>10,} {n / times[where]:>10.1f}",
                f" {longest[where]:>10,}",
            ),
            arguments.top,
        )
    remarks([sample for sample in samples if sample.stack], symbols)


RUNNING, IDLE, PREEMPTED, ELSEWHERE = "running", "waits for completions", "preempted", "elsewhere"


def reason(frames, preempted):
    """Why a thread left its processor."""
    if preempted:
        return PREEMPTED
    if any(COMPLETIONS.search(frame.name) for frame in frames):
        return IDLE
    kernel = [frame.name for frame in frames if frame.kernel and not SCHEDULER.match(frame.name)]
    caller = own_frame(frames).name if frames else "[unknown]"
    return f"{kernel[-1]} < {caller}" if kernel else caller


def main():
    # Whoever reads this may stop early.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)

    def command(run, *names):
        one = commands.add_parser(run.__name__)
        for name in names:
            one.add_argument(name)
        one.add_argument("--top", type=int, default=15)
        one.set_defaults(run=run)
        return one

    command(oncpu, "script", "folded").add_argument("--lines", action="store_true")
    command(offcpu, "script", "folded", "after")
    command(threads, "before", "after")
    arguments = parser.parse_args()
    arguments.run(arguments)


main()
