"""Servers that are compared: which there are, and how one is started and stopped."""

import contextlib
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass

# One side each, so that they do not take each other's time.
SERVER_CPU, DRIVER_CPU = "0", "1"

START_SECONDS_MAX = 15
STOP_SECONDS_MAX = 5
ADDRESS = re.compile(r"(?:ws|tcp)://127\.0\.0\.1:\d+/")


class CannotMeasure(Exception):
    """Something did not work; the text says what."""


@dataclass(frozen=True)
class Server:
    """A server that can be started."""

    name: str
    label: str
    # "floor": a raw TCP echo. "peer": somebody else's WebSocket server. "ringwire": ours, on
    # whichever engine.
    role: str
    command: tuple

    @property
    def is_raw(self):
        return self.role == "floor"

    @contextlib.contextmanager
    def running(self, sink=False):
        """Yields its process and its address. A sink counts messages and returns none."""
        # ringwire has one at a path of its own.
        arguments = ("--sink",) if sink and self.role != "ringwire" else ()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                pinned(SERVER_CPU, self.command + arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                yield process, self._address(process, output)
            finally:
                end(process)

    def _address(self, process, output):
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            output.seek(0)
            words = output.read()
            if found := ADDRESS.search(words):
                return found.group()
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotMeasure(f"it printed no address; its last words: {words[-2000:]!r}")
            time.sleep(0.02)


def pinned(cpu, command):
    return ["taskset", "-c", cpu, *command]


def end(process):
    """Asks, and after a while insists."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def read(path):
    """Of a file with one server a line: name, label, role and command, parted by tabs."""
    servers = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            name, label, role, *command = line.rstrip("\n").split("\t")
            servers.append(Server(name, label, role, tuple(command)))
    return servers
