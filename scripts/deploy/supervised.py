#!/usr/bin/env python3
"""A server under a supervisor's eyes: what it is told, and what a shard that stands still looks like.

Usage: supervised.py RINGWIRE LOADGEN

Plays the service manager (sd_notify(3)): listens at NOTIFY_SOCKET, with a watchdog of two seconds.
One thread of the server is stopped by ptrace(2), as one is that never returns from a call; then it
is let go. Prints one line a check. Exit status: 0 all passed, 1 one failed.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
PATIENCE_S = 10
WATCHDOG_S = 2

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, thread):
    if libc.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def within(what, condition):
    """Waits for it; returns whether it came."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    print(f"failed {what}")
    return False


class Supervisor:
    """What the server has told, with when it did."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.told = []

    def listen(self):
        while True:
            try:
                words = self.socket.recv(4096).decode()
            except BlockingIOError:
                return self.told
            self.told += [(time.monotonic(), line) for line in words.splitlines()]

    def has(self, line):
        return any(told.startswith(line) for _, told in self.listen())

    def fed_since(self, when):
        return sum(line == "WATCHDOG=1" and at > when for at, line in self.listen())


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def total(admin, name):
    _, body = get(admin + "metrics")
    lines = [line for line in body.splitlines() if line.startswith((name + " ", name + "{"))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def main(ringwire, loadgen):
    failed = 0

    def check(what, passed):
        nonlocal failed
        failed += not passed
        print(("ok    " if passed else "FAILED ") + what)

    with tempfile.TemporaryDirectory() as folder:
        supervisor = Supervisor(folder)
        log = open(os.path.join(folder, "log"), "w+b")
        server = subprocess.Popen(
            [ringwire, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
             "--shards", "2", "--no-pin", "--drain-timeout-ms", "200"],
            env=dict(os.environ, NOTIFY_SOCKET=supervisor.path,
                     WATCHDOG_USEC=str(WATCHDOG_S * 1_000_000)),
            stdout=subprocess.PIPE, stderr=log)
        try:
            url = admin = None
            for line in server.stdout:
                words = line.decode().split()
                if words and words[0].startswith("ws://"):
                    url = words[0]
                if words[:3] == ["Admin", "side", "at"]:
                    admin = words[3]
                if words[:1] == ["Open"]:
                    break
            check("READY=1 is told", within("READY=1", lambda: supervisor.has("READY=1")))
            began = time.monotonic()
            fed = lambda: supervisor.fed_since(began) >= 3
            check("the watchdog is fed", within("WATCHDOG=1", fed))

            results = os.path.join(folder, "results.json")
            # Its status says whether its figures are good ones, which nobody asks for here.
            subprocess.run([loadgen, "echo", url, "--connections", "8", "--duration", "500ms",
                            "--warmup", "0ms", "--json", results], check=False,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with open(results, encoding="utf-8") as file:
                counted = json.load(file)
            for what, name, theirs in [
                ("messages received", "messages_received", counted["messages"]["sent"]),
                ("messages sent", "messages_sent", counted["messages"]["received"]),
                ("bytes received", "payload_received_bytes", counted["bytes"]["payload_sent"]),
                ("bytes sent", "payload_sent_bytes", counted["bytes"]["payload_received"]),
            ]:
                ours = total(admin, f"ringwire_{name}_total")
                check(f"{what}: {ours:.0f}, as loadgen has counted", ours == theirs > 0)

            shards = {}
            for thread in os.listdir(f"/proc/{server.pid}/task"):
                with open(f"/proc/{server.pid}/task/{thread}/comm", encoding="utf-8") as name:
                    shards[name.read().strip()] = int(thread)
            ptrace(PTRACE_SEIZE, shards["ringwire-1"])
            ptrace(PTRACE_INTERRUPT, shards["ringwire-1"])
            os.waitpid(shards["ringwire-1"], 0x40000000)  # __WALL: it is a thread
            stopped = time.monotonic()
            sick = lambda: get(admin + "healthz") == (503, "standing still: shard 1\n")
            check("a shard that stands still is named by /healthz", within("503", sick))
            check("and in the metrics", total(admin, "ringwire_shard_stalled") == 1)
            check("while the others are ready", get(admin + "readyz")[0] == 200)
            supervisor.listen()
            noticed = time.monotonic()
            time.sleep(WATCHDOG_S)
            check("it is not fed any more", supervisor.fed_since(noticed + 0.1) == 0)
            check(f"it was noticed in {noticed - stopped:.1f} s", noticed - stopped < 4)
            check("the supervisor is told", supervisor.has("STATUS=shard 1 stands still"))
            ptrace(PTRACE_DETACH, shards["ringwire-1"])
            again = time.monotonic()
            well = lambda: get(admin + "healthz")[0] == 200
            check("it recovers", within("200", well))
            check("and is fed again", within("WATCHDOG", lambda: supervisor.fed_since(again) > 0))

            server.send_signal(signal.SIGHUP)
            check("RELOADING=1 is told",
                  within("RELOADING=1", lambda: supervisor.has("RELOADING=1")))
            server.send_signal(signal.SIGTERM)
            check("STOPPING=1 is told", within("STOPPING=1", lambda: supervisor.has("STOPPING=1")))
            check("it ends with 0", server.wait(PATIENCE_S) == 0)
            log.seek(0)
            words = log.read().decode()
            check("the log has named the shard", "shard 1 stands still" in words)
        finally:
            server.kill()
            server.wait()
            log.close()
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
