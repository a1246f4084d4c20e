// Checks an echo with Node's ws. Run by scripts/clients.sh.
//
// client.mjs URL runs the checks, client.mjs URL --stop waits to be told that the server stops; with
// --list either prints the names of its checks instead.

import assert from 'node:assert/strict';

const MESSAGE_BYTES_MAX = 16 * 1024 * 1024;
const SIZES = [1, 125, 126, 65_535, 65_536, 1024 * 1024];
const TIMEOUT_MS = 30_000;

const url = process.argv[2];
const checks = [];
const check = (name, run) => checks.push({ name, run });

const { default: WebSocket } = process.argv.includes('--list')
  ? { default: null }
  : await import('ws');

// Opens a connection that queues what arrives, so that nothing is missed between two awaits.
async function dial(options = {}) {
  const socket = new WebSocket(url, {
    perMessageDeflate: false,
    handshakeTimeout: 10_000,
    maxPayload: 0,
    ...options,
  });
  const arrived = [];
  const waiting = [];
  const conn = { socket, error: null };
  conn.closed = new Promise((resolve) => {
    socket.on('close', (code, reason) => {
      conn.ended = { code, reason: reason.toString() };
      for (const { reject } of waiting.splice(0)) reject(lost());
      resolve(conn.ended);
    });
  });
  const lost = () =>
    new Error(`closed with ${conn.ended.code} “${conn.ended.reason}” ${conn.error?.message ?? ''}`);
  // An error is followed by close, where it is reported.
  socket.on('error', (error) => {
    conn.error = error;
  });
  const arrive = (what) => (waiting.length ? waiting.shift().resolve(what) : arrived.push(what));
  socket.on('message', (data, isBinary) => arrive({ data, isBinary }));
  socket.on('pong', (data) => arrive({ pong: data }));
  conn.next = () =>
    new Promise((resolve, reject) => {
      if (arrived.length) resolve(arrived.shift());
      else if (conn.ended) reject(lost());
      else waiting.push({ resolve, reject });
    });
  conn.send = (data, sendOptions = {}) => socket.send(data, sendOptions, () => {});
  await new Promise((resolve, reject) => {
    socket.once('open', resolve);
    conn.closed.then(() => reject(lost()));
  });
  return conn;
}

async function withConnection(run, options) {
  const conn = await dial(options);
  try {
    await run(conn);
  } finally {
    conn.socket.close();
    // A close that is not answered must not hold up the next check.
    const impatience = setTimeout(() => conn.socket.terminate(), 2_000);
    await conn.closed;
    clearTimeout(impatience);
  }
}

async function expectMessage(conn, message) {
  const { data, isBinary, pong } = await conn.next();
  assert.equal(pong, undefined, 'a pong came before the message');
  assert.equal(isBinary, typeof message !== 'string', 'the kind of message changed');
  const wanted = Buffer.from(message);
  assert.equal(data.length, wanted.length, 'the length changed');
  assert.ok(data.equals(wanted), 'the payload changed');
}

async function echoes(conn, message) {
  conn.send(message);
  await expectMessage(conn, message);
}

// Bytes that do not repeat in a power of two, so that a piece in the wrong place shows.
function octets(size) {
  const bytes = Buffer.alloc(size);
  for (let index = 0; index < size; index += 1) {
    bytes[index] = index * 7 + (index >> 8) * 13 + (index >> 16);
  }
  return bytes;
}

check('empty text and empty binary', () =>
  withConnection(async (conn) => {
    await echoes(conn, '');
    await echoes(conn, Buffer.alloc(0));
  }),
);

check('text beyond ASCII', () =>
  withConnection((conn) => echoes(conn, 'Grüße, 鐵環, リング, 🪢, \u0000, \uffff, \u{10ffff}')),
);

for (const size of SIZES) {
  check(`text of ${size} bytes`, () =>
    withConnection((conn) => echoes(conn, octets(size).map((byte) => 32 + (byte % 95)).toString())),
  );
  check(`binary of ${size} bytes`, () => withConnection((conn) => echoes(conn, octets(size))));
}

check('200 messages sent before the first echo is read', () =>
  withConnection(async (conn) => {
    const messages = Array.from({ length: 200 }, (_, index) =>
      index % 2 ? octets(index * 11) : `message ${index}`,
    );
    for (const message of messages) conn.send(message);
    for (const message of messages) await expectMessage(conn, message);
  }),
);

check('text in three fragments, two of them inside a character', () =>
  withConnection(async (conn) => {
    const whole = Buffer.from('環🪢');
    conn.send(whole.subarray(0, 1), { binary: false, fin: false });
    conn.send(whole.subarray(1, 5), { fin: false });
    conn.send(whole.subarray(5), { fin: true });
    await expectMessage(conn, whole.toString());
  }),
);

check('binary of 1 MiB in fragments of 10,000 bytes', () =>
  withConnection(async (conn) => {
    const whole = octets(1024 * 1024);
    for (let at = 0; at < whole.length; at += 10_000) {
      conn.send(whole.subarray(at, at + 10_000), { fin: at + 10_000 >= whole.length });
    }
    await expectMessage(conn, whole);
  }),
);

check('a ping between two fragments is answered before the message', () =>
  withConnection(async (conn) => {
    conn.send('first, ', { fin: false });
    conn.socket.ping('between');
    assert.equal(String((await conn.next()).pong), 'between');
    conn.send('second', { fin: true });
    await expectMessage(conn, 'first, second');
  }),
);

check('pings of 0, 5 and 125 bytes come back as pongs', () =>
  withConnection(async (conn) => {
    for (const payload of [Buffer.alloc(0), Buffer.from('hello'), octets(125)]) {
      conn.socket.ping(payload);
      const { pong } = await conn.next();
      assert.ok(pong && pong.equals(payload), 'the pong does not carry the payload of its ping');
    }
  }),
);

check('an unasked pong is ignored', () =>
  withConnection(async (conn) => {
    conn.socket.pong('nobody asked');
    await echoes(conn, 'still here');
  }),
);

check('permessage-deflate offered: the echo is right with it or without', () =>
  withConnection(
    async (conn) => {
      for (const message of ['a'.repeat(100_000), octets(70_000), '']) await echoes(conn, message);
    },
    { perMessageDeflate: { threshold: 0 } },
  ),
);

// Text that compresses as records do, other text for each size.
function record(size) {
  let text = '';
  for (let index = 0; text.length < size; index += 1) {
    text += `{"id":${(index * 7919) % size},"name":"größe ${index}"}`;
  }
  return text;
}

// Every combination of the four parameters of RFC 7692 that this client can offer.
if (process.argv.includes('--compress')) {
  const bits = [undefined, 9, 12, 15];
  for (const serverNoContextTakeover of [undefined, true]) {
    for (const clientNoContextTakeover of [undefined, true]) {
      for (const serverMaxWindowBits of bits) {
        for (const clientMaxWindowBits of [true, ...bits]) {
          const perMessageDeflate = {
            threshold: 0,
            serverNoContextTakeover,
            clientNoContextTakeover,
            serverMaxWindowBits,
            clientMaxWindowBits,
          };
          check(`deflate: ${JSON.stringify(perMessageDeflate)}, client ${clientMaxWindowBits}`, () =>
            withConnection(
              async (conn) => {
                assert.equal(conn.socket.extensions.split(';')[0], 'permessage-deflate');
                for (const size of [0, 1, 700, 700, 5_000, 70_000, 300_000]) {
                  await echoes(conn, record(size));
                }
                await echoes(conn, octets(10_000));
                const whole = Buffer.from(record(20_000));
                conn.send(whole.subarray(0, 7_000), { binary: false, fin: false });
                conn.socket.ping('between');
                assert.equal(String((await conn.next()).pong), 'between');
                conn.send(whole.subarray(7_000), { fin: true });
                await expectMessage(conn, whole.toString());
              },
              { perMessageDeflate },
            ),
          );
        }
      }
    }
  }

  check('deflate: a message that inflates to more than 16 MiB: closed with 1009', () =>
    withConnection(
      async (conn) => {
        conn.send('0'.repeat(MESSAGE_BYTES_MAX + 1));
        await expectClosed(conn, 1009);
      },
      { perMessageDeflate: { threshold: 0 } },
    ),
  );
}

check('100 connections at once, 10 messages each', () =>
  Promise.all(
    Array.from({ length: 100 }, (_, number) =>
      withConnection(async (conn) => {
        for (let index = 0; index < 10; index += 1) {
          await echoes(conn, `connection ${number}, message ${index}`);
        }
      }),
    ),
  ),
);

check('closed by the client with 1000, 3001 and 4999: the server answers with the same code', async () => {
  for (const code of [1000, 3001, 4999]) {
    const conn = await dial();
    conn.socket.close(code, 'the client is done: 終');
    assert.equal((await conn.closed).code, code);
  }
});

check('closed by the client without a code: the answer has none', async () => {
  const conn = await dial();
  conn.socket.close();
  assert.equal((await conn.closed).code, 1005);
});

check('closed by the client with a reason of 123 bytes', async () => {
  const conn = await dial();
  conn.socket.close(3000, 'r'.repeat(123));
  assert.equal((await conn.closed).code, 3000);
});

check('a message of exactly 16 MiB passes', () =>
  withConnection((conn) => echoes(conn, octets(MESSAGE_BYTES_MAX))),
);

async function expectClosed(conn, code) {
  const ended = await conn.closed;
  assert.equal(ended.code, code, `closed with ${ended.code}, wanted ${code}. ${conn.error ?? ''}`);
}

check('a message of 16 MiB and one byte: closed with 1009', () =>
  withConnection(async (conn) => {
    conn.send(Buffer.alloc(MESSAGE_BYTES_MAX + 1));
    await expectClosed(conn, 1009);
  }),
);

check('fragments that add up to 16 MiB and one byte: closed with 1009', () =>
  withConnection(async (conn) => {
    conn.send(Buffer.alloc(MESSAGE_BYTES_MAX / 2), { fin: false });
    conn.send(Buffer.alloc(MESSAGE_BYTES_MAX / 2), { fin: false });
    conn.send(Buffer.alloc(1), { fin: true });
    await expectClosed(conn, 1009);
  }),
);

check('text that is not UTF-8: closed with 1007', async () => {
  for (const wrong of ['ff', '616263c328', 'eda080', 'f4908080', '63757420e792']) {
    await withConnection(async (conn) => {
      conn.send(Buffer.from(wrong, 'hex'), { binary: false });
      await expectClosed(conn, 1007);
    });
  }
});

check('the echo still answers after all that', () =>
  withConnection((conn) => echoes(conn, 'still here')),
);

const stopChecks = [
  {
    name: 'the server stops: closed with 1001',
    run: () =>
      withConnection(async (conn) => {
        await echoes(conn, 'connected');
        console.log('ready');
        await expectClosed(conn, 1001);
      }),
  },
];

const chosen = process.argv.includes('--stop') ? stopChecks : checks;
if (process.argv.includes('--list')) {
  for (const { name } of chosen) console.log(name);
  process.exit(0);
}

let bad = 0;
for (const { name, run } of chosen) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${TIMEOUT_MS} ms`)), TIMEOUT_MS);
  });
  try {
    await Promise.race([run(), late]);
    console.log(`ok ${name}`);
  } catch (error) {
    bad += 1;
    console.log(`FAIL ${name}: ${String(error.message).split(/\s*\n\s*/).join(' | ')}`);
  } finally {
    clearTimeout(timer);
  }
}
process.exit(bad ? 1 : 0);
