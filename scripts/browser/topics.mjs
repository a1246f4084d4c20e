// Works the page of a route with topics in headless Chromium, and has its connection break.
// Run by scripts/browser.sh: topics.mjs URL ADMIN SHOTS PROFILE, or topics.mjs --list for the plan.

import assert from 'node:assert/strict';
import path from 'node:path';

const STEP_TIMEOUT_MS = 15_000;
const checks = [];
const check = (name, run) => checks.push({ name, run });

let url, admin, shots, page;
const consoleErrors = [];

const shot = (name, options) =>
  page.screenshot({ path: path.join(shots, `${name}.png`), ...options });

// What the log of the page says, oldest first.
const said = () =>
  page.locator('#log > li').evaluateAll((rows) =>
    rows.reverse().map((row) => [...row.children].slice(1).map((cell) => cell.textContent)),
  );

async function until(what, holds) {
  const deadline = Date.now() + STEP_TIMEOUT_MS;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, `waited too long: ${what}`);
    await page.waitForTimeout(20);
  }
}

async function publish(topic, text) {
  const reply = await fetch(`${admin}/topics/${topic}`, { method: 'POST', body: text });
  assert.equal(reply.status, 202);
}

// Closes every connection of the server, as a restart of something on the way would.
async function breakConnections() {
  const { connections } = await (await fetch(`${admin}/connections?limit=100`)).json();
  for (const { id } of connections) {
    await fetch(`${admin}/connections/${id}?code=1012`, { method: 'DELETE' });
  }
  return connections.length;
}

// A connection whose server is the test: it keeps what it is asked.
class Scripted {
  static last = null;
  asked = [];
  constructor() {
    Scripted.last = this;
  }
  send(text) {
    this.asked.push(JSON.parse(text));
  }
  close() {}
  says(...all) {
    for (const told of all) this.onmessage({ data: JSON.stringify(told) });
  }
}

check('what comes before an answer and in it is given once', async () => {
  const script = await (await fetch(`${url}topics/topics.js`)).text();
  const { Topics } = await import(`data:text/javascript,${encodeURIComponent(script)}`);
  const topics = new Topics('ws://test/news', { WebSocket: Scripted, firstDelay: 0 });
  const got = [];
  const seen = [];
  topics.subscribe('news', ({ data }) => got.push(data), { last: 1 });
  topics.subscribe('>', ({ data }) => seen.push(data));
  const message = (seq) => ({ op: 'message', topic: 'news', epoch: 'e', seq, data: seq });
  const subscribed = (id, seq, messages) =>
    ({ op: 'subscribed', topic: 'news', id, epoch: 'e', seq, messages, gap: false });
  Scripted.last.onopen();
  // The path of the connection subscribes as well: 1 comes before the answer that it is in.
  Scripted.last.says(message(1), subscribed(1, 1, 1), message(1), message(2));
  assert.deepEqual(got, [1, 2]);
  const broken = Scripted.last;
  broken.onclose();
  await until('it connects again', () => Scripted.last !== broken);
  Scripted.last.onopen();
  const { id, since } = Scripted.last.asked.find(({ topic }) => topic === 'news');
  assert.deepEqual(since, { epoch: 'e', seq: 2 });
  Scripted.last.says(message(4), subscribed(id, 4, 2), message(3), message(4), message(5));
  assert.deepEqual(got, [1, 2, 3, 4, 5]);
  // A pattern has no earlier messages, whoever else asks for some.
  assert.deepEqual(seen, [1, 2, 4, 5]);
  topics.close();
});

check('the page of a topic subscribes to it', async () => {
  const response = await page.goto(`${url}topics/news`);
  assert.match(response.headers()['content-security-policy'], /default-src 'none'/);
  await page.getByRole('status').getByText('Connected', { exact: true }).waitFor();
  await page.getByRole('cell', { name: 'news', exact: true }).waitFor();
  await until('its own subscription is counted', async () =>
    (await page.locator('#topics td').nth(1).textContent()) === '1');
});

check('what is published comes, with its number', async () => {
  await page.getByLabel('Text').fill('hello 🛰️');
  await page.getByRole('button', { name: 'Publish' }).click();
  await page.getByText('Published.').waitFor();
  await publish('news', 'from elsewhere');
  await until('both are there', async () => (await said()).length === 2);
  assert.deepEqual(await said(), [
    ['news', '#1', 'hello 🛰️'],
    ['news', '#2', 'from elsewhere'],
  ]);
});

check('a pattern is subscribed to, and left', async () => {
  await page.getByLabel('Topic or pattern').fill('chat.*');
  await page.getByRole('button', { name: 'Subscribe' }).click();
  await page.getByRole('cell', { name: 'chat.*', exact: true }).waitFor();
  await until('the server knows', async () =>
    (await page.locator('#topics tr').nth(1).locator('td').nth(1).textContent()) === '1');
  await publish('chat.a', 'in a room');
  await until('it is there', async () => (await said()).length === 3);
  assert.deepEqual((await said())[2], ['chat.a', '#1', 'in a room']);
  await page.getByRole('row', { name: 'chat.*' }).getByRole('button', { name: 'Leave' }).click();
  assert.equal(await page.locator('#topics tr').count(), 1);
});

check('what is no topic is said to be none', async () => {
  await page.getByLabel('Topic', { exact: true }).fill('news.*');
  await page.getByRole('button', { name: 'Publish' }).click();
  await page.getByText('a message is published to one topic').waitFor();
  await page.getByLabel('Topic or pattern').fill('a..b');
  await page.getByRole('button', { name: 'Subscribe' }).click();
  await page.getByText('none of them is empty').waitFor();
  assert.equal(await page.locator('#topics tr').count(), 1);
  await page.getByLabel('Topic', { exact: true }).fill('news');
  await shot('topics', { fullPage: true });
});

check('after a break nothing is missing and nothing comes twice', async () => {
  for (let round = 0; round < 3; round++) {
    const before = (await said()).length;
    assert.equal(await breakConnections(), 1);
    // Some while it is away, some when it is back.
    for (let i = 0; i < 5; i++) await publish('news', `${round}.${i}`);
    await page.getByRole('status').getByText('Connected', { exact: true }).waitFor();
    await publish('news', `${round} back`);
    await until('all are there', async () => (await said()).length >= before + 6);
    const texts = (await said()).slice(before).map(([, , text]) => text);
    const wanted = [0, 1, 2, 3, 4].map((i) => `${round}.${i}`);
    assert.deepEqual(texts, [...wanted, `${round} back`]);
  }
  const numbers = (await said()).filter(([topic]) => topic === 'news').map(([, number]) => number);
  assert.deepEqual(numbers, numbers.map((_, index) => `#${index + 1}`));
});

check('what is not kept any more is said to be missing', async () => {
  // The next connection has to wait until more was published than is kept: two seconds.
  await page.evaluate(() => { Math.random = () => 8; });
  await breakConnections();
  const lines = Array.from({ length: 60 }, (_, i) => JSON.stringify({ topic: 'news', data: `x${i}` }));
  const reply = await fetch(`${admin}/publish`, { method: 'POST', body: lines.join('\n') });
  assert.equal(reply.status, 202);
  await page.getByText('Some messages of news were missed and are not kept.').waitFor();
  await until('the last one is there', async () => (await said()).at(-1)[2] === 'x59');
});

check('it is readable on a telephone and in the dark', async () => {
  await page.setViewportSize({ width: 420, height: 900 });
  await page.emulateMedia({ colorScheme: 'dark' });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= 420, `it is ${wide} pixels wide`);
  await shot('topics-narrow-dark', { fullPage: false });
});

check('the console shows no error', async () => {
  assert.deepEqual(consoleErrors, []);
});

if (process.argv.includes('--list')) {
  for (const { name } of checks) console.log(name);
  process.exit(0);
}

const { chromium } = await import('playwright-core');
let profile;
[url, admin, shots, profile] = process.argv.slice(2);
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  viewport: { width: 1280, height: 900 },
  colorScheme: 'light',
});
browser.setDefaultTimeout(STEP_TIMEOUT_MS);
page = browser.pages()[0] ?? (await browser.newPage());
page.on('console', (message) => {
  if (message.type() === 'error') consoleErrors.push(message.text());
});
page.on('pageerror', (error) => consoleErrors.push(String(error)));

let bad = 0;
for (const { name, run } of checks) {
  try {
    await run();
    console.log(`ok ${name}`);
  } catch (error) {
    bad += 1;
    const why = String(error.message).replace(/\u001b\[[0-9;]*m/g, '').split(/\s*\n\s*/);
    console.log(`FAIL ${name}: ${why.slice(0, 12).join(' | ')}`);
    await shot(`failed-topics-${bad}`).catch(() => {});
  }
}
await browser.close();
process.exit(bad ? 1 : 0);
