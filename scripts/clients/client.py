"""Checks an echo with Python's websockets. Run by scripts/clients.sh.

client.py URL runs the checks, client.py URL --stop waits to be told that the server stops; with
--list either prints the names of its checks instead.
"""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
SIZES = [1, 125, 126, 65_535, 65_536, 1024 * 1024]
TIMEOUT_S = 30
PRINTABLE = bytes(32 + octet % 95 for octet in range(256))

url = ""
checks = []


def check(name):
    """Puts a coroutine function on the plan under `name`."""

    def add(run):
        checks.append((name, run))
        return run

    return add


def compressed(name):
    """As `check`, for servers that compress."""
    return check(name) if "--compress" in sys.argv else lambda run: run


def dial(**options):
    options.setdefault("compression", None)
    return connect(url, max_size=None, ping_interval=None, open_timeout=10, proxy=None, **options)


def expect(got, wanted):
    if type(got) is not type(wanted) or got != wanted:
        short = [repr(each) if len(repr(each)) < 80 else repr(each)[:80] for each in (got, wanted)]
        raise AssertionError(f"got {short[0]}, wanted {short[1]}")


def octets(size):
    """Bytes that do not repeat in a power of two, so that a piece in the wrong place shows."""
    return bytes((index * 7 + (index >> 8) * 13 + (index >> 16)) & 0xFF for index in range(size))


async def echoes(conn, message):
    await conn.send(message)
    expect(await conn.recv(), message)


async def expect_closed(conn, code):
    """Waits for the server to close `conn`, and compares the code of its close frame.

    A connection that ends here is dialled without `async with`: on Python 3.11 leaving that block
    aborts a transport that is already gone, which raises.
    """
    try:
        while True:
            await conn.recv()
    except ConnectionClosed as closed:
        if closed.rcvd is None:
            raise AssertionError(f"the connection broke without a close frame: {closed}") from None
        expect(closed.rcvd.code, code)
    await conn.wait_closed()


@check("empty text and empty binary")
async def empty():
    async with dial() as conn:
        await echoes(conn, "")
        await echoes(conn, b"")


@check("text beyond ASCII")
async def beyond_ascii():
    async with dial() as conn:
        await echoes(conn, "Grüße, 鐵環, リング, 🪢, \u0000, \uffff, \U0010ffff")


def add_sizes():
    for size in SIZES:

        @check(f"text of {size} bytes")
        async def text(size=size):
            async with dial() as conn:
                await echoes(conn, octets(size).translate(PRINTABLE).decode())

        @check(f"binary of {size} bytes")
        async def binary(size=size):
            async with dial() as conn:
                await echoes(conn, octets(size))


add_sizes()


@check("200 messages sent before the first echo is read")
async def pipelined():
    async with dial() as conn:
        messages = [octets(index * 11) if index % 2 else f"message {index}" for index in range(200)]
        for message in messages:
            await conn.send(message)
        for message in messages:
            expect(await conn.recv(), message)


@check("text in three fragments, two of them inside a character")
async def fragmented_text():
    async with dial() as conn:
        whole = "環🪢".encode()

        async def fragments():
            for part in (whole[:1], whole[1:5], whole[5:]):
                yield part

        await conn.send(fragments(), text=True)
        expect(await conn.recv(), whole.decode())


@check("binary of 1 MiB in fragments of 10,000 bytes")
async def fragmented_binary():
    async with dial() as conn:
        whole = octets(1024 * 1024)
        await conn.send([whole[at : at + 10_000] for at in range(0, len(whole), 10_000)])
        expect(await conn.recv(), whole)


@check("a ping between two fragments is answered before the message")
async def ping_between_fragments():
    async with dial() as conn:
        answered = []

        async def fragments():
            yield "first, "
            await (await conn.ping(b"between"))
            answered.append(True)
            yield "second"

        await conn.send(fragments())
        expect(await conn.recv(), "first, second")
        expect(answered, [True])


@check("pings of 0, 5 and 125 bytes come back as pongs")
async def pings():
    async with dial() as conn:
        for payload in (b"", b"hello", octets(125)):
            # The awaitable ends only with a pong that carries this payload.
            await (await conn.ping(payload))


@check("an unasked pong is ignored")
async def unasked_pong():
    async with dial() as conn:
        await conn.pong(b"nobody asked")
        await echoes(conn, "still here")


@check("permessage-deflate offered: the echo is right with it or without")
async def deflate():
    async with dial(compression="deflate") as conn:
        for message in ("a" * 100_000, octets(70_000), ""):
            await echoes(conn, message)


def add_parameters():
    """Every combination of the four parameters of RFC 7692 that this client can offer."""
    for server_no, client_no in ((False, False), (True, False), (False, True), (True, True)):
        for server_bits in (None, 9, 12, 15):
            for client_bits in (None, True, 9, 12, 15):
                name = (
                    f"deflate: server_no_context_takeover {server_no}, client {client_no}, "
                    f"server_max_window_bits {server_bits}, client {client_bits}"
                )

                @compressed(name)
                async def combination(
                    server_no=server_no,
                    client_no=client_no,
                    server_bits=server_bits,
                    client_bits=client_bits,
                ):
                    factory = ClientPerMessageDeflateFactory(
                        server_no_context_takeover=server_no,
                        client_no_context_takeover=client_no,
                        server_max_window_bits=server_bits,
                        client_max_window_bits=client_bits,
                    )
                    async with dial(extensions=[factory]) as conn:
                        names = [extension.name for extension in conn.protocol.extensions]
                        expect(names, ["permessage-deflate"])
                        for size in (0, 1, 700, 700, 5_000, 70_000, 300_000):
                            await echoes(conn, record(size))
                        await echoes(conn, octets(10_000))
                        await (await conn.ping(b"between"))
                        parts = record(20_000).encode()
                        halves = [parts[:7_000], parts[7_000:7_001], parts[7_001:]]
                        await conn.send(halves, text=True)
                        expect(await conn.recv(), parts.decode())


def record(size):
    """Text that compresses as records do, other text for each size."""
    lines = (f'{{"id":{index * 7919 % size},"name":"größe {index}"}}' for index in range(size))
    text = ""
    for line in lines:
        if len(text) >= size:
            break
        text += line
    return text


add_parameters()


@compressed("deflate: a message that inflates to more than 16 MiB: closed with 1009")
async def bomb():
    conn = await dial(compression="deflate")
    await conn.send("0" * (MESSAGE_BYTES_MAX + 1))
    await expect_closed(conn, 1009)


@compressed("deflate: text that is not UTF-8: closed with 1007")
async def compressed_not_utf8():
    conn = await dial(compression="deflate")
    await conn.send(b"\xff" * 1000, text=True)
    await expect_closed(conn, 1007)


@check("100 connections at once, 10 messages each")
async def many():
    async def one(number):
        async with dial() as conn:
            for index in range(10):
                await echoes(conn, f"connection {number}, message {index}")

    await asyncio.gather(*(one(number) for number in range(100)))


@check("closed by the client with 1000, 3001 and 4999: the server answers with the same code")
async def client_closes():
    for code in (1000, 3001, 4999):
        conn = await dial()
        await conn.close(code, "the client is done: 終")
        expect(conn.close_code, code)
        expect(conn.protocol.close_rcvd.code, code)


@check("closed by the client with a reason of 123 bytes")
async def longest_reason():
    conn = await dial()
    await conn.close(3000, "r" * 123)
    expect(conn.protocol.close_rcvd.code, 3000)


@check("a message of exactly 16 MiB passes")
async def at_limit():
    async with dial() as conn:
        await echoes(conn, octets(65_536) * (MESSAGE_BYTES_MAX // 65_536))


@check("a message of 16 MiB and one byte: closed with 1009")
async def over_limit():
    conn = await dial()
    try:
        await conn.send(bytes(MESSAGE_BYTES_MAX + 1))
    except ConnectionClosed:
        pass
    await expect_closed(conn, 1009)


@check("fragments that add up to 16 MiB and one byte: closed with 1009")
async def fragments_over_limit():
    conn = await dial()
    try:
        await conn.send([bytes(MESSAGE_BYTES_MAX // 2), bytes(MESSAGE_BYTES_MAX // 2), b"1"])
    except ConnectionClosed:
        pass
    await expect_closed(conn, 1009)


@check("text that is not UTF-8: closed with 1007")
async def not_utf8():
    for wrong in (b"\xff", b"abc\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"cut \xe7\x92"):
        conn = await dial()
        await conn.send(wrong, text=True)
        await expect_closed(conn, 1007)


@check("the echo still answers after all that")
async def afterwards():
    async with dial() as conn:
        await echoes(conn, "still here")


async def server_stops():
    conn = await dial()
    await echoes(conn, "connected")
    print("ready", flush=True)
    await expect_closed(conn, 1001)


STOP_CHECKS = [("the server stops: closed with 1001", server_stops)]


async def main(plan):
    bad = 0
    for name, run in plan:
        try:
            await asyncio.wait_for(run(), TIMEOUT_S)
            print(f"ok {name}", flush=True)
        except Exception as error:
            bad += 1
            why = " ".join(str(error).split()) or type(error).__name__
            print(f"FAIL {name}: {why}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    url = sys.argv[1]
    chosen = STOP_CHECKS if "--stop" in sys.argv else checks
    if "--list" in sys.argv:
        print("\n".join(name for name, _ in chosen))
    else:
        sys.exit(asyncio.run(main(chosen)))
