#!/usr/bin/env python3
"""Publishes to one topic, reads what all of its subscribers get, and tells what it cost the server.

fan.py URL PID SUBSCRIBERS BYTES IN_FLIGHT ROUNDS

The first subscriber publishes as well: so many messages in one write, and the next ones when
everybody has got all of them. With tcp:// there is no handshake, and what is written is what a
subscriber of WebSocket gets, so that a server that only copies bytes sends the same.

Prints JSON: processor time of the server's process for each delivery, in microseconds, deliveries a
second, and the time from the write to the last delivery, in milliseconds.
"""

import json
import os
import select
import socket
import struct
import sys
import time
from urllib.parse import urlsplit

WARM_UP = 10
PATIENCE_S = 20


def connect(url):
    connection = socket.create_connection((url.hostname, url.port))
    if url.scheme == "tcp":
        return connection
    head = (
        f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    )
    connection.sendall(head.encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        more = connection.recv(1)
        assert more, f"the server has closed: {answer!r}"
        answer += more
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return connection


def header(size, masked):
    bit = 0x80 if masked else 0
    if size < 126:
        return bytes([0x82, bit | size])
    assert size < 1 << 16
    return bytes([0x82, bit | 126]) + struct.pack(">H", size)


def processor_ns(pid):
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total


def main():
    url = urlsplit(sys.argv[1])
    pid, subscribers, size, in_flight, rounds = map(int, sys.argv[2:])
    sockets = [connect(url) for _ in range(subscribers)]
    poll = select.epoll()
    by_descriptor = {}
    for one in sockets:
        one.setblocking(False)
        by_descriptor[one.fileno()] = one
        poll.register(one.fileno(), select.EPOLLIN)
    payload = b"x" * size
    delivered = header(size, masked=False) + payload
    masked = header(size, masked=True) + bytes(4) + payload
    written = (delivered if url.scheme == "tcp" else masked) * in_flight

    def publish():
        assert sockets[0].send(written) == len(written), "it does not fit into a socket"
        left = len(delivered) * in_flight * subscribers
        while left > 0:
            ready = poll.poll(PATIENCE_S)
            assert ready, f"{left} bytes did not come"
            for descriptor, _ in ready:
                got = by_descriptor[descriptor].recv(1 << 16)
                assert got, "the server has closed a subscriber"
                left -= len(got)
        assert left == 0, f"{-left} bytes too many came"

    for _ in range(WARM_UP):
        publish()
    before, began = processor_ns(pid), time.monotonic()
    for _ in range(rounds):
        publish()
    took, cost = time.monotonic() - began, processor_ns(pid) - before
    deliveries = rounds * in_flight * subscribers
    print(
        json.dumps(
            {
                "cpu_us": cost / deliveries / 1000,
                "per_s": deliveries / took,
                "last_ms": took / rounds * 1000,
            }
        )
    )


main()
