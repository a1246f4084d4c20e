// Works the server's page in headless Chromium as a person would, and reads what it shows.
// Run by scripts/browser.sh: page.mjs URL SHOTS PROFILE, or page.mjs --list for the plan.

import assert from 'node:assert/strict';
import path from 'node:path';

const STEP_TIMEOUT_MS = 15_000;
const checks = [];
const check = (name, run) => checks.push({ name, run });

let url, shots, browser, page;
const consoleErrors = [];
const requested = [];

const shot = (name, options) =>
  page.screenshot({ path: path.join(shots, `${name}.png`), ...options });

// The rows of the log, oldest first.
const rows = () =>
  page.locator('#log > li[data-direction]').evaluateAll((lines) =>
    lines.reverse().map((line) => ({
      ...line.dataset,
      header: line.querySelector('button').innerText,
      tooltip: line.querySelector('button').title,
      payload: line.querySelector('.payload').textContent,
      echo: line.querySelector('.mark').innerText,
    })),
  );

// Sends with `act` and gives back the two rows that this makes: the message and its echo.
async function echoed(act) {
  const before = (await rows()).length;
  await act();
  await page.locator('#log > li[data-direction]').nth(before + 1).waitFor();
  const all = await rows();
  assert.equal(all.length, before + 2);
  return all.slice(before);
}

function expectPair([sent, received], kind, length, headers) {
  assert.deepEqual(
    [sent.direction, sent.kind, sent.length, sent.header],
    ['sent', kind, String(length), headers[0]],
  );
  assert.deepEqual(
    [received.direction, received.kind, received.length, received.header],
    ['received', kind, String(length), headers[1]],
  );
  assert.equal(received.mark, 'same');
  assert.match(received.echo, /^✓ same \d+\.\d+ ms$/);
  assert.equal(received.payload, sent.payload);
  assert.match(sent.tooltip, /browser hides the real one/);
}

async function sendText(text) {
  await page.getByRole('radio', { name: 'Text' }).check();
  await page.getByLabel('Enter sends').fill(text);
  await page.getByRole('button', { name: 'Send', exact: true }).click();
}

async function sendRandom(length) {
  await page.getByRole('radio', { name: 'Random' }).check();
  await page.getByLabel('how many random bytes').fill(String(length));
  await page.getByRole('button', { name: 'Send', exact: true }).click();
}

const status = (text) => page.getByRole('status').getByText(text, { exact: true }).waitFor();

check('the page comes with a content security policy that lets nothing in', async () => {
  const response = await page.goto(url);
  assert.equal(response.status(), 200);
  assert.match(response.headers()['content-type'], /^text\/html/);
  assert.match(response.headers()['content-security-policy'] ?? 'none sent', /default-src 'none'/);
});

if (process.argv[2]?.startsWith('https:')) {
  check('TLS 1.3, with a certificate that is trusted for its name', async () => {
    const response = await page.reload();
    const details = await response.securityDetails();
    assert.equal(details.protocol, 'TLS 1.3');
    assert.equal(details.subjectName, 'localhost');
    assert.equal(details.issuer, "the authority of ringwire's tests");
  });
}

check('it connects to the echo at the same host', () => status('Connected'));

check('a text of 5 bytes comes back: 81 85 + key, 81 05', async () => {
  const pair = await echoed(() => sendText('Hello'));
  expectPair(pair, 'text', 5, ['81 85 + key', '81 05']);
});

check('CJK text and emoji come back', async () => {
  const text = '鐵環 リング 🪢🛰️';
  const pair = await echoed(() => sendText(text));
  const length = Buffer.byteLength(text);
  const hex = length.toString(16);
  expectPair(pair, 'text', length, [`81 ${(length | 128).toString(16)} + key`, `81 ${hex}`]);
  assert.equal(pair[1].payload, text);
});

check('an empty text comes back', async () => {
  expectPair(await echoed(() => sendText('')), 'text', 0, ['81 80 + key', '81 00']);
});

check('a text over two lines is sent with the keyboard', async () => {
  const pair = await echoed(async () => {
    const field = page.getByLabel('Enter sends');
    await field.fill('');
    await field.press('a');
    await field.press('Shift+Enter');
    await field.press('b');
    await field.press('Enter');
  });
  expectPair(pair, 'text', 3, ['81 83 + key', '81 03']);
});

check('hexadecimal bytes come back as binary', async () => {
  const pair = await echoed(async () => {
    await page.getByRole('radio', { name: 'Hex' }).check();
    await page.getByLabel('two hexadecimal digits').fill('00 ff 80 C3 28');
    await page.getByRole('button', { name: 'Send', exact: true }).click();
  });
  expectPair(pair, 'binary', 5, ['82 85 + key', '82 05']);
  assert.equal(pair[1].payload, '00 ff 80 c3 28');
});

check('half a byte is refused with a reason', async () => {
  const before = (await rows()).length;
  await page.getByLabel('two hexadecimal digits').fill('abc');
  await page.getByRole('button', { name: 'Send', exact: true }).click();
  await page.getByText('Hex needs pairs').waitFor();
  assert.equal((await rows()).length, before);
});

check('200 random bytes come back: 16-bit length', async () => {
  const pair = await echoed(() => sendRandom(200));
  expectPair(pair, 'binary', 200, ['82 fe 00 c8 + key', '82 7e 00 c8']);
});

check('70,000 random bytes come back: 64-bit length', async () => {
  const headers = ['82 ff 00 00 00 00 00 01 11 70 + key', '82 7f 00 00 00 00 00 01 11 70'];
  expectPair(await echoed(() => sendRandom(70_000)), 'binary', 70_000, headers);
});

check('the bytes of a file come back', async () => {
  const pair = await echoed(async () => {
    await page.getByRole('radio', { name: 'File' }).check();
    const buffer = Buffer.from(Array.from({ length: 126 }, (_, index) => index));
    await page.getByLabel('the bytes of a file').setInputFiles({
      name: 'bytes.bin',
      mimeType: 'application/octet-stream',
      buffer,
    });
    await page.getByRole('button', { name: 'Send', exact: true }).click();
  });
  expectPair(pair, 'binary', 126, ['82 fe 00 7e + key', '82 7e 00 7e']);
});

check('a frame header explains itself when it is opened', async () => {
  const frame = page.getByRole('button', { name: '82 ff 00 00 00 00 00 01 11 70 + key' });
  await frame.focus();
  await frame.press('Enter');
  assert.equal(await frame.getAttribute('aria-expanded'), 'true');
  const line = page.locator('li', { has: frame });
  await line.getByText('Mask bit 1, as from a client. Length 127: 64 bits of length follow.').waitFor();
});

check('1,000 round trips are measured and all come back', async () => {
  await page.getByRole('button', { name: 'Ping-pong 1,000 messages' }).click();
  const result = page.locator('#result').getByText('1,000 of 1,000 came back as sent.');
  await result.waitFor({ timeout: 60_000 });
  // The sparkline is drawn a moment after the last echo.
  await page.waitForFunction(
    () => document.querySelector('#spark polyline').getAttribute('points').split(' ').length === 100,
  );
  const [least, median, most] = await Promise.all(
    ['min', 'median', 'max'].map(async (id) => parseFloat(await page.locator(`#${id}`).innerText())),
  );
  assert.ok(least <= median && median <= most && most > 0, `${least}, ${median}, ${most}`);
});

check('desktop pictures are taken, light and dark', async () => {
  await page.evaluate(() => scrollTo(0, 0));
  await shot('desktop-light', { fullPage: true });
  const light = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.emulateMedia({ colorScheme: 'dark' });
  await shot('desktop-dark', { fullPage: true });
  assert.notEqual(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), light);
  await page.emulateMedia({ colorScheme: 'light' });
});

check('every field and button has a name, and the keyboard reaches each', async () => {
  const nameless = await page.locator('input, textarea, button').evaluateAll((controls) =>
    controls
      .filter((control) => !(control.labels?.[0]?.innerText ?? control.innerText).trim())
      .filter((control) => control.checkVisibility())
      .map((control) => control.outerHTML),
  );
  assert.deepEqual(nameless, []);
  // A click puts the start of the keyboard's way at the top.
  await page.getByRole('heading', { name: 'ringwire' }).click();
  const reached = new Set();
  for (let press = 0; press < 12; press += 1) {
    await page.keyboard.press('Tab');
    reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.name));
  }
  for (const id of ['code', 'reason', 'shut', 'kind', 'go', 'rally']) assert.ok(reached.has(id), id);
});

check('a close code that scripts may not send is refused', async () => {
  await page.getByLabel('Close code').fill('1001');
  await page.getByRole('button', { name: 'Close', exact: true }).click();
  await page.getByText('A script may close with 1000, or with 3000 to 4999.').waitFor();
  await status('Connected');
});

check('closed with 3001 and a reason, and told so', async () => {
  await page.getByLabel('Close code').fill('3001');
  await page.getByLabel('Reason').fill('test over');
  await page.getByRole('button', { name: 'Close', exact: true }).click();
  await status('Closed');
  const told = await page.locator('#closed').innerText();
  assert.match(told, /^Closed with 3001( “test over”)?\. A code of a library or an application\.$/);
  assert.equal(await page.getByRole('button', { name: 'Send', exact: true }).isDisabled(), true);
  await shot('desktop-closed');
});

check('it connects again', async () => {
  await page.getByRole('button', { name: 'Connect', exact: true }).click();
  await status('Connected');
  const pair = await echoed(() => sendText('again'));
  expectPair(pair, 'text', 5, ['81 85 + key', '81 05']);
});

check('at 360 pixels nothing runs over the edge, and pictures are taken', async () => {
  await page.setViewportSize({ width: 360, height: 780 });
  await page.evaluate(() => scrollTo(0, 0));
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 360, `the page is ${width} pixels wide`);
  await shot('phone');
  await shot('phone-whole', { fullPage: true });
  await page.emulateMedia({ colorScheme: 'dark' });
  await shot('phone-dark');
});

check('the console shows no error', async () => {
  assert.deepEqual(consoleErrors, []);
});

check('nothing was asked of another host', async () => {
  const host = new URL(url).host;
  assert.ok(requested.length >= 3, `only ${requested.length} requests were seen`);
  assert.deepEqual(requested.filter((address) => new URL(address).host !== host), []);
});

// What a browser does with a server that compresses: it offers permessage-deflate by itself.
const compressedChecks = [];
const compressed = (name, run) => compressedChecks.push({ name, run });

compressed('the page connects with permessage-deflate and says so', async () => {
  await page.goto(url);
  await status('Connected');
  await page.getByText('permessage-deflate').first().waitFor();
});

compressed('messages that compress, that do not, and that are cut come back as they were', async () => {
  const failure = await page.evaluate(async () => {
    const socket = new WebSocket(location.href.replace(/^http/, 'ws'));
    socket.binaryType = 'arraybuffer';
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = () => reject(new Error('it did not open'));
    });
    const arrived = [];
    let wake = () => {};
    socket.onmessage = ({ data }) => {
      arrived.push(data);
      wake();
    };
    const next = async () => {
      while (!arrived.length) await new Promise((resolve) => (wake = resolve));
      return arrived.shift();
    };
    if (!/^permessage-deflate/.test(socket.extensions)) return `extensions: ${socket.extensions}`;
    for (const size of [0, 1, 600, 600, 5000, 70000, 400000]) {
      let text = '';
      for (let index = 0; text.length < size; index += 1) text += `{"id":${index * 7919},"größe":1}`;
      socket.send(text);
      if ((await next()) !== text) return `a text of ${size} came back changed`;
      const bytes = new Uint8Array(size);
      for (let at = 0; at < size; at += 65536) {
        crypto.getRandomValues(bytes.subarray(at, Math.min(size, at + 65536)));
      }
      socket.send(bytes);
      const back = new Uint8Array(await next());
      if (back.length !== size || back.some((byte, index) => byte !== bytes[index])) {
        return `${size} random bytes came back changed`;
      }
    }
    const closed = new Promise((resolve) => (socket.onclose = ({ code }) => resolve(code)));
    socket.close(1000);
    return (await closed) === 1000 ? '' : 'it did not close with 1000';
  });
  assert.equal(failure, '');
});

compressed('the console shows no error', async () => {
  assert.deepEqual(consoleErrors, []);
});

const chosen = process.argv.includes('--compress') ? compressedChecks : checks;
if (process.argv.includes('--list')) {
  for (const { name } of chosen) console.log(name);
  process.exit(0);
}

const { chromium } = await import('playwright-core');
let profile;
[url, shots, profile] = process.argv.slice(2);
browser = await chromium.launchPersistentContext(profile, {
  executablePath: '/usr/bin/chromium',
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
  viewport: { width: 1280, height: 900 },
  colorScheme: 'light',
});
browser.setDefaultTimeout(STEP_TIMEOUT_MS);
page = browser.pages()[0] ?? (await browser.newPage());
page.on('console', (message) => {
  if (message.type() === 'error') consoleErrors.push(message.text());
});
page.on('pageerror', (error) => consoleErrors.push(String(error)));
page.on('websocket', (socket) => requested.push(socket.url()));
browser.on('request', (request) => requested.push(request.url()));

let bad = 0;
for (const { name, run } of chosen) {
  try {
    await run();
    console.log(`ok ${name}`);
  } catch (error) {
    bad += 1;
    const why = String(error.message).replace(/\u001b\[[0-9;]*m/g, '').split(/\s*\n\s*/);
    console.log(`FAIL ${name}: ${why.slice(0, 12).join(' | ')}`);
    await shot(`failed-${bad}`).catch(() => {});
  }
}
await browser.close();
process.exit(bad ? 1 : 0);
