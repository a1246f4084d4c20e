"""Checks a server behind HAProxy and nginx, both started here and ended here.

    check.py --server IP:PORT --folder PATH --idle SECONDS
    check.py --list

The server takes 127.0.0.2's word by the PROXY protocol and 127.0.0.3's by X-Forwarded-For, and lets
four connections of an address in.
"""

import argparse
import base64
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

PATIENCE_S = 10
CONNECTIONS_MAX = 4

HAPROXY = """
global
    stats socket {folder}/haproxy.sock mode 600
    maxconn 200

defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s

frontend http
    bind {haproxy}
    default_backend ringwire

backend ringwire
    option httpchk GET /healthz
    server it {server} send-proxy-v2 source 127.0.0.2 check inter 200ms

backend tcp
    server it {server} send-proxy-v2 source 127.0.0.2 check inter 200ms
"""

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    server {{
        listen {nginx};
        proxy_bind 127.0.0.3;
        location / {{
            proxy_pass http://{server};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
        location = /forgotten {{
            proxy_pass http://{server}/;
        }}
    }}
}}
"""


class Refused(Exception):
    """The server did not open a WebSocket."""

    def __init__(self, status, body):
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


class Client:
    """A WebSocket client that answers pings, and no more than these checks need."""

    def __init__(self, address, last, path="/"):
        self.stream = socket.socket()
        self.stream.settimeout(PATIENCE_S)
        self.stream.bind((f"127.0.0.{last}", 0))
        self.stream.connect(address)
        self.pending = b""
        self.pings = 0
        key = base64.b64encode(os.urandom(16)).decode()
        self.stream.sendall(
            f"GET {path} HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.pending:
            self.fill()
        head, self.pending = self.pending.split(b"\r\n\r\n", 1)
        status = int(head.split()[1])
        if status != 101:
            self.stream.settimeout(1)
            try:
                self.fill()
            except (OSError, EOFError):
                pass
            self.close()
            raise Refused(status, self.pending.decode(errors="replace"))

    def fill(self):
        data = self.stream.recv(65536)
        if not data:
            raise EOFError("the connection was closed")
        self.pending += data

    def take(self, count):
        while len(self.pending) < count:
            self.fill()
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken

    def send(self, opcode, payload):
        key = os.urandom(4)
        masked = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
        self.stream.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + key + masked)

    def read_frame(self):
        """The next text, or nothing if it was a ping, which is answered."""
        first, length = self.take(2)
        if length == 126:
            (length,) = struct.unpack(">H", self.take(2))
        payload = self.take(length)
        opcode = first & 15
        if opcode == 9:
            self.pings += 1
            self.send(10, payload)
            return None
        if opcode == 8:
            raise EOFError(f"closed with {payload!r}")
        return payload

    def read(self):
        """The next text."""
        while (payload := self.read_frame()) is None:
            pass
        return payload

    def echo(self, text):
        self.send(1, text.encode())
        came = self.read()
        if came != text.encode():
            raise AssertionError(f"{came!r} instead of {text!r}")

    def idle(self, seconds):
        """Does nothing but answer pings."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.stream.settimeout(left)
            try:
                text = self.read_frame()
            except TimeoutError:
                break
            assert text is None, f"{text!r} came from nobody"
        self.stream.settimeout(PATIENCE_S)

    def close(self):
        self.stream.close()


def until(what, condition):
    """Waits for a condition, and returns what it came to."""
    deadline = time.monotonic() + PATIENCE_S
    why = None
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except (OSError, EOFError, Refused) as error:
            why = error
        time.sleep(0.02)
    raise AssertionError(f"waited too long: {what} ({why})")


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()


class Proxy:
    """A proxy before the server."""

    def __init__(self, name, command, address, reload_signal, addresses):
        self.name = name
        self.address = address
        self.reload_signal = reload_signal
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr
        )
        # The server counts those of both proxies together, so that each has its own.
        self.addresses = addresses

    def client(self, last, path="/"):
        return Client(self.address, last, path)

    def next_address(self):
        """One that no other check has."""
        return next(self.addresses)

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def echoes(self):
        client = until(f"{self.name} serves", lambda: self.client(self.next_address()))
        client.echo("through " + self.name)
        client.close()

    def tells_addresses(self):
        one, other = self.next_address(), self.next_address()
        clients = [self.client(one) for _ in range(CONNECTIONS_MAX)]
        try:
            self.client(one)
            raise AssertionError("one more of the same address came in")
        except Refused as refused:
            assert refused.status == 429, refused
        clients.append(self.client(other))
        for client in clients:
            client.echo("each of them")
            client.close()

        def has_room():
            self.client(one).close()
            return True

        until("there is room again", has_room)

    def reloads(self):
        client = self.client(self.next_address())
        client.echo("before")
        for times in range(3):
            self.process.send_signal(self.reload_signal)
            time.sleep(0.3)
            client.echo(f"after {times + 1}")
            new = until("it serves again", lambda: self.client(self.next_address()))
            new.echo("new")
            new.close()
        client.close()

    def idles(self, seconds):
        client = self.client(self.next_address())
        client.echo("before")
        client.idle(seconds)
        client.echo("after")
        assert client.pings >= seconds // 30, f"{client.pings} pings in {seconds} s"
        client.close()


def haproxy_finds_it_up(folder):
    """HAProxy's own words about both of its backends."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(f"{folder}/haproxy.sock")
        admin.sendall(b"show stat\n")
        said = b""
        while data := admin.recv(65536):
            said += data
    rows = [line.split(",") for line in said.decode().lstrip("# ").splitlines() if line]
    names = rows[0]
    status = {}
    for row in rows[1:]:
        fields = dict(zip(names, row))
        if fields["svname"] == "it":
            status[fields["pxname"]] = (fields["status"], fields["check_status"])
    return status == {"ringwire": ("UP", "L7OK"), "tcp": ("UP", "L4OK")}


def nginx_is_told(nginx):
    try:
        nginx.client(nginx.next_address(), "/forgotten")
        raise AssertionError("it opened a WebSocket")
    except Refused as refused:
        assert refused.status == 426, refused
        assert "proxy_set_header Upgrade $http_upgrade" in refused.body, refused


NAMES = ("HAProxy", "nginx")
ECHO = "an echo"
ADDRESSES = "limits see the client's address"
RELOADS = "its reloads drop nobody"
IDLE = "an idle connection outlasts its timeouts"
OWN = {
    "HAProxy": "its checks find the server up",
    "nginx": "without its two lines it is told them",
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--server")
    parser.add_argument("--folder")
    parser.add_argument("--idle", type=int)
    options = parser.parse_args()
    if options.list:
        for name in NAMES:
            for check in (ECHO, ADDRESSES, RELOADS, OWN[name], IDLE):
                print(f"{name}: {check}")
        return
    # Whoever ends this ends the proxies with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = options.folder
    addresses = {name: free_address() for name in NAMES}
    words = {
        "folder": folder,
        "server": options.server,
        "haproxy": "%s:%s" % addresses["HAProxy"],
        "nginx": "%s:%s" % addresses["nginx"],
    }
    for name, text in (("haproxy.cfg", HAPROXY), ("nginx.conf", NGINX)):
        with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
            file.write(text.format(**words))
    proxies = [
        Proxy(
            "HAProxy",
            ["haproxy", "-W", "-q", "-f", f"{folder}/haproxy.cfg"],
            addresses["HAProxy"],
            signal.SIGUSR2,
            itertools.count(10),
        ),
        Proxy(
            "nginx",
            ["nginx", "-e", "stderr", "-p", folder, "-c", f"{folder}/nginx.conf"],
            addresses["nginx"],
            signal.SIGHUP,
            itertools.count(130),
        ),
    ]

    def run(proxy, name, check):
        try:
            check()
            print(f"ok {proxy.name}: {name}", flush=True)
        except (AssertionError, EOFError, OSError, Refused) as error:
            print(f"FAIL {proxy.name}: {name}: {type(error).__name__}: {error}", flush=True)

    def check_all(proxy):
        run(proxy, ECHO, proxy.echoes)
        # It is idle while the others are not.
        idle = threading.Thread(
            target=run, args=(proxy, IDLE, lambda: proxy.idles(options.idle)), daemon=True
        )
        idle.start()
        run(proxy, ADDRESSES, proxy.tells_addresses)
        run(proxy, RELOADS, proxy.reloads)
        if proxy.name == "HAProxy":
            is_up = lambda: haproxy_finds_it_up(folder)
            run(proxy, OWN[proxy.name], lambda: until("both are up", is_up))
        else:
            run(proxy, OWN[proxy.name], lambda: nginx_is_told(proxy))
        idle.join()

    try:
        threads = [threading.Thread(target=check_all, args=(proxy,), daemon=True) for proxy in proxies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for proxy in proxies:
            proxy.end()


main()
