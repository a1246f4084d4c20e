"""Servers that are attacked: how each is started, limited, looked at and ended.

The one place that knows a server's command line.
"""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time

# One side each, so that they do not take each other's time.
SERVER_CPU, DRIVER_CPU = "0", "1"

START_SECONDS_MAX = 15
STOP_SECONDS_MAX = 5
ADDRESS = re.compile(r"(wss?)://(127\.0\.0\.1:\d+)/")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class CannotMeasure(Exception):
    """Something did not work; the text says what."""


def serving(engine):
    """How a program is told what is to serve."""
    return {
        "shard": ["--engine", "shard", "--ring", "uring"],
        "epoll": ["--engine", "shard", "--ring", "epoll"],
        "async": ["--engine", "async", "--ring", "uring"],
        "tokio": ["--engine", "async", "--ring", "epoll"],
    }[engine]


class Binary:
    """A server's program, and which settings it has."""

    def __init__(self, path, engine, certificates, arguments=()):
        self.path, self.engine, self.certificates = path, engine, certificates
        self.arguments = tuple(arguments)
        done = subprocess.run([path, "serve", "--help"], capture_output=True, text=True, timeout=20)
        if done.returncode != 0:
            raise CannotMeasure(f"{path} serve --help failed: {done.stderr.strip()[-500:]}")
        self.help = done.stdout

    def has(self, flag):
        return re.search(rf"{re.escape(flag)}\b(?!-)", self.help) is not None

    def command(self, row):
        """How it is started for a row. Settings that it does not have are left out."""
        command = [self.path, "serve", "--shards", "1", *serving(self.engine)]
        command += ["--listen", "127.0.0.1:0", "--drain-timeout-ms", "500", "--log", "error"]
        if row.tls:
            pem = os.path.join(self.certificates, "server")
            command += ["--tls-listen", "127.0.0.1:0"]
            command += ["--tls-cert", f"{pem}.pem", "--tls-key", f"{pem}.key"]
        for option in row.options:
            flag, *value = option.split("=", 1)
            if self.has(flag):
                command += [flag, *value]
        return command + list(self.arguments)


class Costly:
    """The example whose services cost something."""

    def __init__(self, path, engine):
        self.path, self.engine = path, engine

    def command(self, row):
        del row
        return [self.path, "serve", *serving(self.engine), "--poster-cpu", DRIVER_CPU]

    def dialling(self, urls):
        return [self.path, "dial", *serving(self.engine), *urls]


def pinned(cpu, command):
    return ["taskset", "-c", cpu, *command]


def limited(row, command):
    """With the limits of a row."""
    limits = []
    if row.address_space:
        limits.append(f"--as={row.address_space}")
    if row.descriptors:
        limits.append(f"--nofile={row.descriptors}")
    return ["prlimit", *limits, *command] if limits else command


class Process:
    """A running server, and what the kernel says of it."""

    def __init__(self, process, words):
        self.process, self.pid, self.words = process, process.pid, words
        self.plain = self.secure = None

    def ended(self):
        """How it ended, or None."""
        status = self.process.poll()
        if status is None:
            return None
        self.words.seek(0)
        said = self.words.read().strip()[-300:]
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return f"the server ended with {how}" + (f": {said!r}" if said else "")

    def resident_bytes(self):
        with self._open("statm") as file:
            pages = int(file.read().split()[1])
        if pages == 0:
            # It is on its way out, and its memory has gone before it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS_MAX)
            raise CannotMeasure(self.ended() or "the server has no memory")
        return pages * PAGE_BYTES

    def socket_bytes(self):
        """What the kernel holds of what the server has sent: its peers have not taken it."""
        ports = {
            f":{int(address.rsplit(':', 1)[1]):04X}"
            for address in (self.plain, self.secure)
            if address
        }
        total = 0
        with open("/proc/net/tcp", encoding="ascii") as file:
            for line in file:
                fields = line.split(None, 5)
                if fields[1][-5:] in ports:
                    total += int(fields[4].split(":")[0], 16)
        return total

    def descriptors(self):
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return 0

    def cpu_seconds(self):
        with self._open("stat") as file:
            # Behind the name, which may hold anything.
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def threads(self):
        try:
            return len(os.listdir(f"/proc/{self.pid}/task"))
        except OSError:
            return 0

    def _open(self, name):
        try:
            return open(f"/proc/{self.pid}/{name}", encoding="utf-8")
        except OSError:
            raise CannotMeasure(self.ended() or "the server is gone") from None


@contextlib.contextmanager
def running(command, wants_tls=False, cpu=SERVER_CPU, cgroup=None):
    """Starts a server and yields it once it has printed where it listens."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            pinned(cpu, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=words,
            preexec_fn=cgroup.enter if cgroup else None,
        )
        server = Process(process, words)
        try:
            wanted = {"ws", "wss"} if wants_tls else {"ws"}
            deadline = time.monotonic() + START_SECONDS_MAX
            while True:
                output.seek(0)
                found = dict(ADDRESS.findall(output.read()))
                if wanted <= found.keys():
                    server.plain, server.secure = found["ws"], found.get("wss")
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise CannotMeasure(server.ended() or "the server printed no address")
                time.sleep(0.02)
            yield server
        finally:
            end(process)


@contextlib.contextmanager
def dialling(command, cpu=SERVER_CPU):
    """Starts a program that dials."""
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            pinned(cpu, command), stdin=subprocess.DEVNULL, stdout=words, stderr=words
        )
        try:
            yield Process(process, words)
        finally:
            end(process)


def end(process):
    """Asks, and after a while insists."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Cgroup:
    """A control group with a limit of memory, below one that the caller may make groups in."""

    def __init__(self, parent, bytes_max):
        self.path = os.path.join(parent, f"ringwire-attack-{os.getpid()}")
        self.bytes_max = bytes_max

    def __enter__(self):
        try:
            os.mkdir(self.path)
            for name in ("memory.max", "memory.limit_in_bytes"):
                file = os.path.join(self.path, name)
                if os.path.exists(file):
                    with open(file, "w", encoding="utf-8") as limit:
                        limit.write(str(self.bytes_max))
                    return self
            raise OSError("it has no limit of memory")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)
            raise CannotMeasure(f"no control group at {self.path}: {error}") from None

    def __exit__(self, *_):
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while True:
            try:
                os.rmdir(self.path)
                return
            except OSError:
                # It is busy until the last of those in it is reaped.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def enter(self):
        """Called by the child, before it becomes the server."""
        with open(os.path.join(self.path, "cgroup.procs"), "w", encoding="utf-8") as procs:
            procs.write(str(os.getpid()))
