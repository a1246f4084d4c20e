"""Drains a server of many connections under load, and judges how everybody was treated.

    python3 drain.py PID URL-HOST:PORT ADMIN-HOST:PORT CONNECTIONS SPREAD_SECONDS

Every connection sends a message a second and counts what comes back. SIGTERM begins the drain. It
prints one line for each second and one for each judgement, and ends with 1 if one of them fails.
"""

import base64
import os
import selectors
import signal
import socket
import struct
import sys
import time

CLOSE, TEXT = 0x88, 0x81
# A message that crossed a close on its way was sent this shortly before, in seconds.
CROSSING = 0.25


def masked(first, payload):
    mask = os.urandom(4)
    body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes([first, 0x80 | len(payload)]) + mask + body


class Client:
    """One connection, and what it has seen."""

    def __init__(self, address):
        self.socket = socket.create_connection(address)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET / HTTP/1.1\r\nHost: {address[0]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            came = self.socket.recv(4096)
            if not came:
                raise SystemExit(f"a connection was refused: {head!r}")
            head += came
        if b" 101 " not in head:
            raise SystemExit(f"a connection was refused: {head!r}")
        self.socket.setblocking(False)
        self.pending = head.split(b"\r\n\r\n", 1)[1]
        self.sent, self.echoed = 0, 0
        self.sent_at = 0.0
        self.unanswered = []
        self.closed_at = None
        self.code = None
        self.end = None

    def send(self, now):
        payload = f"{self.sent:08}".encode()
        self.socket.send(masked(TEXT, payload))
        self.unanswered.append((self.sent, now))
        self.sent += 1
        self.sent_at = now

    def read(self, now):
        try:
            came = self.socket.recv(65536)
        except ConnectionError as error:
            self.end = type(error).__name__
            return
        if not came:
            self.end = "end"
            return
        self.pending += came
        while len(self.pending) >= 2 and len(self.pending) >= 2 + self.pending[1]:
            first, length = self.pending[0], self.pending[1]
            payload, self.pending = self.pending[2 : 2 + length], self.pending[2 + length :]
            if first == CLOSE:
                self.closed_at = now
                (self.code,) = struct.unpack(">H", payload[:2])
                self.socket.send(masked(CLOSE, payload))
            else:
                number, _ = self.unanswered.pop(0)
                if int(payload) != number:
                    raise SystemExit(f"{payload!r} came where {number} was due")
                self.echoed += 1


def status_of(admin, path):
    with socket.create_connection(admin) as asking:
        asking.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return int(asking.recv(4096).split(b" ")[1])


def address_of(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def main():
    pid, url, admin, count, spread = sys.argv[1:]
    pid, count, spread = int(pid), int(count), float(spread)
    url, admin = address_of(url), address_of(admin)
    selector = selectors.DefaultSelector()
    clients = [Client(url) for _ in range(count)]
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
    assert status_of(admin, "/readyz") == 200
    begun = time.monotonic()
    # Everybody has a moment of its own in each second.
    for at, client in enumerate(clients):
        client.sent_at = begun - 1 + at / count
    drained_at, ready_at_first_close = None, None
    left = set(clients)
    queue = sorted(clients, key=lambda it: it.sent_at)
    next_at = 0
    while left:
        now = time.monotonic()
        if now - begun > spread + 40:
            raise SystemExit(f"{len(left)} connections are still there")
        if drained_at is None and now - begun > 2:
            os.kill(pid, signal.SIGTERM)
            drained_at = now
        # In turns: who has sent goes to the end.
        for _ in range(count):
            client = queue[next_at % count]
            if client in left and client.closed_at is None:
                if client.sent_at + 1 > now:
                    break
                try:
                    client.send(now)
                except ConnectionError:
                    # What has ended it is read below.
                    client.sent_at = now
            next_at += 1
        for key, _ in selector.select(0.002):
            client = key.data
            client.read(time.monotonic())
            if client.closed_at is not None and ready_at_first_close is None:
                ready_at_first_close = status_of(admin, "/readyz")
            if client.end is not None:
                selector.unregister(client.socket)
                client.socket.close()
                left.discard(client)
    judge(clients, drained_at, spread, ready_at_first_close)


def judge(clients, drained_at, spread, ready):
    seconds = [0] * (int(spread) + 1)
    for client in clients:
        if client.closed_at is not None:
            seconds[min(int(client.closed_at - drained_at), len(seconds) - 1)] += 1
    print("closes in each second:", " ".join(map(str, seconds)))
    fair = len(clients) / spread
    inside = seconds[: int(spread)]
    failures = 0

    def judged(is_right, sentence):
        nonlocal failures
        failures += not is_right
        print("ok   " if is_right else "FAIL ", sentence)

    worst = max(abs(count - fair) / fair for count in inside)
    judged(worst <= 0.25, f"closes are even: no second is {worst:.0%} off {fair:.0f} (25 % at most)")
    unclosed = sum(client.closed_at is None for client in clients)
    judged(unclosed == 0, f"{unclosed} ended without a close frame")
    codes = {client.code for client in clients}
    judged(codes == {1001}, f"close frames have the code {codes}")
    resets = sum(client.end != "end" for client in clients)
    judged(resets == 0, f"{resets} were reset")
    lost, crossed = 0, 0
    for client in clients:
        for _, sent_at in client.unanswered:
            if client.closed_at is not None and client.closed_at - sent_at < CROSSING:
                crossed += 1
            else:
                lost += 1
    echoed = sum(client.echoed for client in clients)
    judged(lost == 0, f"{echoed} echoes came, {lost} did not; {crossed} messages crossed a close")
    judged(ready == 503, f"/readyz says {ready} at the first close")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
