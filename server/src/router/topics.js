// Topics of a ringwire server, for pages and for Node: one file, nothing to build.
//
//   import { Topics } from '/topics/topics.js';
//   const topics = new Topics('wss://example.com/topics/news');
//   topics.subscribe('chat.a', ({ data, seq }) => console.log(seq, data), { last: 10 });
//   await topics.publish('chat.a', 'hello');
//
// It speaks ringwire.topics.v1 (server/topics.md). When the connection breaks it comes back by
// itself, later each time and at random, so that a crowd does not come back at once; every
// subscription goes on behind the last message that it got. Where the server has not kept what was
// missed, 'gap' is dispatched: the page has to load anew what it shows.
//
// A path that names a topic subscribes as the connection opens. What comes of it before the wish of
// its listener is answered would come twice: the listener begins with the answer.
//
// Events: 'state' (connecting, open, waiting, closed), 'gap' ({ topic }), 'error' (a subscription was
// refused, and why), 'first' (the server has subscribed the connection to what its path names).

const PROTOCOL = 'ringwire.topics.v1';

/** Why something was not done, in the server's words. */
export class TopicError extends Error {
  constructor({ code, message }) {
    super(message);
    this.name = 'TopicError';
    /** bad-request, bad-topic, forbidden, no-history, too-many, busy; or closed, lost. */
    this.code = code;
    /** Of a subscription that was refused: to what. */
    this.topic = undefined;
  }
}

export class Topics extends EventTarget {
  #url;
  #options;
  #socket = null;
  #subscriptions = new Map();
  // By id: what was asked and is not answered.
  #asked = new Map();
  // What was asked while there was no connection.
  #unsent = [];
  #next = 1;
  #failures = 0;
  #timer = null;
  #watch = null;
  #heard = 0;
  #state = 'connecting';

  /**
   * @param url ws: or wss:, a path of a route with topics
   * @param options protocols: more subprotocols to offer, such as one with a token;
   *   firstDelay, longestDelay: bounds of the wait before it connects again, in ms;
   *   silence: after so many ms without a sign of the server it is asked for one
   */
  constructor(url, options = {}) {
    super();
    this.#url = url;
    this.#options = {
      protocols: [],
      firstDelay: 250,
      longestDelay: 15_000,
      silence: 25_000,
      WebSocket: globalThis.WebSocket,
      ...options,
    };
    this.#connect();
  }

  /** connecting, open, waiting or closed. */
  get state() {
    return this.#state;
  }

  /**
   * Calls `listener` with each message of a topic or pattern: { topic, data, seq, epoch }, where
   * data is a text, or a Uint8Array of a binary message.
   *
   * options: last: so many earlier messages first; since: those behind { epoch, seq }; presence:
   * called with { op: 'joined' or 'left', topic, subscribers, user } where the server tells that;
   * subscribed: called with the server's answer, each time that it has subscribed.
   *
   * Returns what ends it: subscription.leave().
   */
  subscribe(topic, listener, options = {}) {
    if (this.#state === 'closed') throw new TopicError({ code: 'closed', message: 'it is closed' });
    if (this.#subscriptions.has(topic)) {
      throw new TopicError({ code: 'bad-request', message: `${topic} is subscribed to already` });
    }
    const subscription = {
      topic,
      position: options.since ?? null,
      // Which message was the newest as the server answered: null until it has, and of nothing
      // where there are no numbers. All up to that one are an answer, and no news.
      answer: null,
      leave: () => {
        if (this.#subscriptions.get(topic) !== subscription) return;
        this.#subscriptions.delete(topic);
        if (this.#state === 'open') this.#send({ op: 'unsubscribe', topic });
      },
    };
    Object.defineProperty(subscription, 'hidden', { value: { listener, options }, writable: false });
    this.#subscriptions.set(topic, subscription);
    if (this.#state === 'open') this.#subscribe(subscription);
    return subscription;
  }

  /** Publishes a text or bytes. Settles when the server has taken it, or will not. */
  publish(topic, data) {
    const wish = { op: 'publish', topic };
    if (typeof data === 'string') wish.data = data;
    else wish.base64 = toBase64(new Uint8Array(data));
    return this.#ask(wish);
  }

  /** How many subscribe to a topic. */
  async subscribers(topic) {
    return (await this.#ask({ op: 'presence', topic })).subscribers;
  }

  /** Ends the connection for good. */
  close() {
    this.#become('closed');
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    this.#socket?.close(1000);
    this.#fail('closed', 'it was closed');
    for (const { wish } of this.#unsent.splice(0)) wish.reject(closed());
  }

  #connect() {
    this.#become('connecting');
    const { WebSocket, protocols } = this.#options;
    const socket = new WebSocket(this.#url, [PROTOCOL, ...protocols]);
    this.#socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => {
      this.#heard = Date.now();
      if (socket === this.#socket) this.#hear(JSON.parse(data));
    };
    socket.onclose = () => {
      if (socket === this.#socket) this.#closed();
    };
  }

  #opened() {
    this.#failures = 0;
    this.#heard = Date.now();
    this.#become('open');
    clearInterval(this.#watch);
    this.#watch = setInterval(() => this.#look(), this.#options.silence / 2);
    this.#watch.unref?.();
    for (const subscription of this.#subscriptions.values()) this.#subscribe(subscription);
    for (const { text, wish } of this.#unsent.splice(0)) {
      this.#asked.set(wish.id, wish);
      this.#socket.send(text);
    }
  }

  // A network that has gone away says nothing: only its silence tells.
  #look() {
    const silent = Date.now() - this.#heard;
    if (silent > 2 * this.#options.silence) {
      this.#socket.close();
      this.#closed();
    } else if (silent > this.#options.silence) {
      this.#send({ op: 'ping' });
    }
  }

  #closed() {
    if (this.#state === 'closed') return;
    clearInterval(this.#watch);
    this.#socket = null;
    // Whether the server has heard of them nobody knows.
    this.#fail('lost', 'the connection broke before the server had answered');
    const { firstDelay, longestDelay } = this.#options;
    const most = Math.min(longestDelay, firstDelay * 2 ** this.#failures);
    this.#failures += 1;
    this.#become('waiting');
    this.#timer = setTimeout(() => this.#connect(), Math.random() * most);
  }

  #become(state) {
    if (this.#state === state) return;
    this.#state = state;
    this.dispatchEvent(new Event('state'));
  }

  #fail(code, message) {
    const all = [...this.#asked.values()];
    this.#asked.clear();
    for (const wish of all) wish.reject(new TopicError({ code, message }));
  }

  #subscribe(subscription) {
    const { topic, position, hidden } = subscription;
    const { last, presence } = hidden.options;
    const wish = { op: 'subscribe', topic };
    if (position) wish.since = position;
    else if (last !== undefined) wish.last = last;
    if (presence) wish.presence = true;
    subscription.answer = null;
    const answered = (told) => {
      if (told.op === 'error') return;
      subscription.answer = { epoch: told.epoch, seq: told.seq };
      // Behind those that follow now.
      if (told.epoch !== undefined) {
        subscription.position = { epoch: told.epoch, seq: told.seq - told.messages };
      }
      if (told.gap && position) {
        this.dispatchEvent(new CustomEvent('gap', { detail: { topic } }));
      }
      hidden.options.subscribed?.(told);
    };
    this.#ask(wish, answered).catch((error) => {
      if (error.code === 'lost' || error.code === 'closed') return;
      this.#subscriptions.delete(topic);
      error.topic = topic;
      this.dispatchEvent(new CustomEvent('error', { detail: error }));
    });
  }

  // Settles with the server's answer. `answered` is called with it before the next message is looked
  // at: a promise may be later than that.
  #ask(wish, answered) {
    if (this.#state === 'closed') return Promise.reject(closed());
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      const text = JSON.stringify({ ...wish, id });
      const asked = { id, resolve, reject, answered };
      if (this.#state === 'open') {
        this.#asked.set(id, asked);
        this.#socket.send(text);
      } else {
        this.#unsent.push({ text, wish: asked });
      }
    });
  }

  #send(told) {
    this.#socket.send(JSON.stringify(told));
  }

  #hear(told) {
    if (told.op === 'message') return this.#message(told);
    if (told.op === 'joined' || told.op === 'left') {
      this.#subscriptions.get(told.topic)?.hidden.options.presence?.(told);
      return;
    }
    const wish = this.#asked.get(told.id);
    if (!wish) {
      const what = { error: 'error', subscribed: 'first' }[told.op];
      const detail = told.op === 'error' ? new TopicError(told) : told;
      if (what) this.dispatchEvent(new CustomEvent(what, { detail }));
      return;
    }
    this.#asked.delete(told.id);
    wish.answered?.(told);
    if (told.op === 'error') wish.reject(new TopicError(told));
    else wish.resolve(told);
  }

  #message({ topic, seq, epoch, data, base64 }) {
    const message = { topic, seq, epoch, data: data ?? fromBase64(base64) };
    const { answer } = this.#subscriptions.get(topic) ?? {};
    const isAnswer = answer?.epoch === epoch && seq <= answer?.seq;
    for (const subscription of this.#subscriptions.values()) {
      if (subscription.topic === topic) {
        if (seq !== undefined) {
          if (!subscription.answer) continue;
          subscription.position = { epoch, seq };
        }
      } else if (isAnswer || !matches(subscription.topic, topic)) {
        continue;
      }
      subscription.hidden.listener(message);
    }
  }
}

const closed = () => new TopicError({ code: 'closed', message: 'it was closed' });

/** Whether a topic is among those of a pattern: * is one segment, > the rest. */
export function matches(pattern, topic) {
  const segments = topic.split('.');
  const wanted = pattern.split('.');
  if (topic.startsWith('$') && (wanted[0] === '*' || wanted[0] === '>')) return false;
  for (const [index, segment] of wanted.entries()) {
    if (segment === '>') return index < segments.length;
    if (index >= segments.length || (segment !== '*' && segment !== segments[index])) return false;
  }
  return wanted.length === segments.length;
}

function toBase64(bytes) {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
