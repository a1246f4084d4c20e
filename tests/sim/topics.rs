//! Two shards with subscribers and publishers that come and go, in one thread, so that it is known
//! in which order everything was asked for.
//!
//! ```text
//!   peers --commands--> shard 0 --+               Model: who subscribes to what, what was said
//!   peers --commands--> shard 1 --+-- Exchange           while he did, and what he has got of it
//!   Handle::publish ----------------'
//! ```
//!
//! Some topics keep messages in some seeds. Followers ask for them, from where somebody else has
//! stopped, and get them in envelopes that tell their numbers: those have no gap and come once.
//!
//! Checked of every message that a peer gets: that it was published, that he has subscribed to it,
//! that he gets it for the first time, and in its publisher's order. Checked at the end: that
//! nobody who is still there misses a message, but for as many as were counted as left out; that
//! every delivery that was counted has arrived; and that nothing is left. In every turn the oracles
//! of `shard::check` look at both shards.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use ringwire::{
    Address, Answer, CloseCause, Config, Conn, ConnId, Counts, Drain, Message, Outgoing,
    PublishError, Refusal, Remote, Service, Turn, Upgrade,
    client::Wait,
    conn::{
        mistake::Mistake,
        wanted::{Publication, Wanted},
    },
    ring::sim::{Knob, Knobs, Prng, SimKernel, SimOptions, SimPeer, SimRead, SimRing},
    shard::{Shard, check::Watch, exchange::Exchange},
    topics::{Position, Published, Resumed, Since, SlowPolicy, TopicOptions, rules::Rules},
};

use crate::plan::HARMFUL;

const PURPOSE: u64 = 77;

const SEEDS: u64 = 300;

/// The publisher that is no peer.
const OUTSIDE: usize = usize::MAX;

/// Turns in which nobody has read anything, after which an end has to have come.
const TURNS_MAX: usize = 20_000;

const NAMES: [&str; 4] = ["a", "b", "a.x", "a.y"];
/// Which of these may keep messages.
const KEPT: [usize; 2] = [0, 2];
const PATTERNS: [&str; 7] = ["a", "b", "a.x", "a.*", "*", "a.>", ">"];

/// Who published it, to which topic, and as the how manieth there.
type Name = (usize, usize, u64);

fn does_match(pattern: &str, name: &str) -> bool {
    match pattern {
        ">" => true,
        "*" => !name.contains('.'),
        "a.*" | "a.>" => name.starts_with("a."),
        _ => pattern == name,
    }
}

/// What has to be so, as everybody asked for it.
#[derive(Default)]
struct Model {
    /// The patterns of each peer that is there.
    patterns: BTreeMap<usize, BTreeSet<&'static str>>,
    /// What each of them has to get still.
    owed: BTreeMap<usize, BTreeSet<Name>>,
    /// Patterns that each has ever had.
    ever: BTreeMap<usize, BTreeSet<&'static str>>,
    published: BTreeSet<Name>,
    /// How many each publisher has published to each topic.
    numbers: BTreeMap<(usize, usize), u64>,
    refused: u64,
    /// What had which position, of which topic.
    positions: BTreeMap<(usize, u64, u64), Name>,
    /// Where somebody was, of which topic.
    places: Vec<(usize, Position)>,
    /// Nothing that is kept was ever forgotten.
    keeps_all: bool,
}

impl Model {
    fn subscribe(&mut self, peer: usize, pattern: &'static str) {
        self.patterns.entry(peer).or_default().insert(pattern);
        self.ever.entry(peer).or_default().insert(pattern);
    }

    fn unsubscribe(&mut self, peer: usize, pattern: &str) {
        let patterns = self.patterns.entry(peer).or_default();
        patterns.remove(pattern);
        let patterns = &*patterns;
        // What was on its way may still come.
        if let Some(owed) = self.owed.get_mut(&peer) {
            owed.retain(|&(_, topic, _)| {
                let matches = |pattern: &&str| does_match(pattern, NAMES[topic]);
                patterns.iter().any(matches)
            });
        }
    }

    fn publish(&mut self, publisher: usize, topic: usize, except: Option<usize>) {
        let number = self.numbers.entry((publisher, topic)).or_default();
        let name = (publisher, topic, *number);
        *number += 1;
        self.published.insert(name);
        for (&peer, patterns) in &self.patterns {
            let matches = |pattern: &&str| does_match(pattern, NAMES[topic]);
            if patterns.iter().any(matches) && except != Some(peer) {
                self.owed.entry(peer).or_default().insert(name);
            }
        }
    }

    fn next_number(&self, publisher: usize, topic: usize) -> u64 {
        self.numbers.get(&(publisher, topic)).copied().unwrap_or(0)
    }

    fn gone(&mut self, peer: usize) {
        self.patterns.remove(&peer);
        self.owed.remove(&peer);
    }
}

fn text_of(publisher: usize, topic: usize, number: u64, len: usize) -> String {
    format!("{publisher} {topic} {number} {}", "x".repeat(len))
}

/// Does what peers say: `+PATTERN`, `-PATTERN`, `=TOPIC LEN`, `!TOPIC LEN` for all others, and
/// `?TOPIC NUMBER [POSITION]` for what is kept, the last so many or what is behind a position.
struct Hub {
    model: Rc<RefCell<Model>>,
}

#[derive(Default)]
struct Number(usize);

impl Service for Hub {
    type State = Number;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        _: Remote<'_>,
        _: &mut Answer,
    ) -> Result<Number, Refusal> {
        let path = upgrade.request().path();
        Ok(Number(path[1..].parse().expect("the number of the peer")))
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Number>, message: Message<'_>) {
        let peer = conn.state().0;
        let mut model = self.model.borrow_mut();
        let text = message.text().expect("peers speak text");
        let (kind, rest) = text.split_at(1);
        let mut words = rest.split(' ');
        let mut index = || words.next().unwrap().parse::<usize>().unwrap();
        match kind {
            "+" => {
                let pattern = PATTERNS[index()];
                conn.subscribe(pattern).expect("there is room");
                model.subscribe(peer, pattern);
            }
            "?" => {
                let (topic, last) = (index(), index() as u64);
                let position = words.next().map(|it| it.parse().expect("a position"));
                let since = match (position, last) {
                    (Some(position), _) => Since::After(position),
                    (None, 0) => Since::Now,
                    (None, last) => Since::Last(last),
                };
                conn.set_envelopes(true);
                let asked = conn.subscribe_since(NAMES[topic], since);
                if asked.is_ok() {
                    model.ever.entry(peer).or_default().insert(NAMES[topic]);
                }
            }
            "-" => {
                let pattern = PATTERNS[index()];
                conn.unsubscribe(pattern);
                model.unsubscribe(peer, pattern);
            }
            _ => {
                let (topic, len) = (index(), index());
                let text = text_of(peer, topic, model.next_number(peer, topic), len);
                let published = match kind {
                    "!" => conn.publish_to_others(NAMES[topic], text),
                    _ => conn.publish(NAMES[topic], text),
                };
                let except = (kind == "!").then_some(peer);
                match published {
                    Ok(()) => model.publish(peer, topic, except),
                    Err(PublishError::Full) => model.refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn on_subscribed(&mut self, conn: &mut Conn<'_, Number>, topic: &[u8], resumed: &Resumed) {
        let topic = NAMES.iter().position(|name| name.as_bytes() == topic);
        let Resumed {
            newest,
            messages,
            is_whole,
        } = resumed;
        let text = format!(
            "#{} {newest} {messages} {is_whole}",
            topic.expect("a topic")
        );
        conn.send(text).expect("there is room");
    }

    fn envelope<'p>(&mut self, published: &Published<'p>) -> Outgoing<'p> {
        let text = published.message.text().expect("peers speak text");
        match published.position {
            Some(position) => format!("@{position} {text}").into(),
            None => published.message.into(),
        }
    }

    fn on_close(&mut self, _: &mut Turn<'_>, _: ConnId, Number(peer): Number, _: &CloseCause) {
        self.model.borrow_mut().gone(peer);
    }
}

/// A subscriber or publisher.
struct Member {
    number: usize,
    peer: SimPeer,
    /// How likely it is to read in a turn, of 1,000.
    reads_per_mille: u64,
    /// What it has not written yet.
    unwritten: Vec<u8>,
    unread: Vec<u8>,
    has_head: bool,
    is_closed: bool,
    got: BTreeSet<Name>,
    last: BTreeMap<(usize, usize), u64>,
    /// It only asks for what is kept.
    is_follower: bool,
    /// Behind what it has asked to be told, of each topic.
    asked: BTreeMap<usize, Option<Position>>,
    /// What it has to get next, of each topic.
    next: BTreeMap<usize, Position>,
    /// How many messages it did not get in between.
    gaps: u64,
    /// How often it got what it had asked for.
    resumed: u64,
}

impl Member {
    fn new(number: usize, peer: SimPeer, reads_per_mille: u64) -> Self {
        let head = format!(
            "GET /{number} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        Self {
            number,
            peer,
            reads_per_mille,
            unwritten: head.into_bytes(),
            unread: Vec::new(),
            has_head: false,
            is_closed: false,
            got: BTreeSet::new(),
            last: BTreeMap::new(),
            is_follower: number % 3 == 2,
            asked: BTreeMap::new(),
            next: BTreeMap::new(),
            gaps: 0,
            resumed: 0,
        }
    }

    /// Wants what is kept of a topic: what comes behind a place where somebody was, or the last
    /// ones.
    fn follow(&mut self, topic: usize, prng: &mut Prng, model: &RefCell<Model>) {
        if self.asked.contains_key(&topic) {
            return;
        }
        let model = model.borrow();
        let places = model.places.iter().filter(|place| place.0 == topic);
        let places: Vec<_> = places.map(|place| place.1).collect();
        let last = prng.below(4);
        let mut asks = format!("?{topic} {last}");
        let mut behind = None;
        if !places.is_empty() && prng.below(4) > 0 {
            let position = places[prng.below(places.len() as u64) as usize];
            asks = format!("{asks} {position}");
            behind = Some(position);
        }
        self.asked.insert(topic, behind);
        self.say(&asks);
    }

    /// It is told what comes of what it has asked for.
    fn hear_resumed(&mut self, text: &str, model: &Model) -> Result<(), String> {
        let words: Vec<_> = text.split(' ').collect();
        let [topic, newest, messages, is_whole] = words[..] else {
            return Err(format!("peer {} got '#{text}'", self.number));
        };
        let topic: usize = topic.parse().map_err(|_| "no topic")?;
        let newest: Position = newest.parse().map_err(|_| "no position")?;
        let messages: u64 = messages.parse().map_err(|_| "no number")?;
        let before = Position {
            number: newest.number - messages,
            ..newest
        };
        let asked = self.asked.get(&topic).copied().flatten();
        if is_whole == "true" && asked.is_some_and(|asked| asked != before) {
            return Err(format!(
                "peer {} asked for what is behind {asked:?} of {topic} and got what is behind \
                 {before:?}",
                self.number
            ));
        }
        if is_whole == "false" && model.keeps_all {
            return Err(format!("of {topic}, {asked:?} was forgotten"));
        }
        self.next.insert(topic, before);
        self.resumed += 1;
        Ok(())
    }

    /// It gets a message with its position. Returns the message.
    fn open_envelope<'t>(
        &mut self,
        text: &'t str,
        model: &mut Model,
    ) -> Result<(Position, &'t str), String> {
        let (position, text) = text.split_once(' ').ok_or("no position")?;
        let position: Position = position.parse().map_err(|_| "no position")?;
        let topic = text.split(' ').nth(1).and_then(|topic| topic.parse().ok());
        let topic: usize = topic.ok_or("no topic")?;
        let Some(next) = self.next.get_mut(&topic) else {
            return Err(format!("{position} came before it was announced"));
        };
        // Another epoch begins with whatever number, but never an old one.
        let is_same = position.epoch == next.epoch;
        if is_same && position.number <= next.number || position.epoch < next.epoch {
            return Err(format!("{position} came behind {next}"));
        }
        let expected = if is_same { next.number + 1 } else { 1 };
        self.gaps += position.number - expected;
        *next = position;
        model.places.push((topic, position));
        Ok((position, text))
    }

    /// A text message, masked with zeros.
    fn say(&mut self, text: &str) {
        assert!(text.len() < 126);
        self.unwritten
            .extend([0x81, 0x80 | text.len() as u8, 0, 0, 0, 0]);
        self.unwritten.extend_from_slice(text.as_bytes());
    }

    fn write(&mut self) {
        if let Ok(count) = self.peer.write(&self.unwritten) {
            self.unwritten.drain(..count);
        }
    }

    /// Reads and checks what has come. Returns whether something had.
    fn read(&mut self, model: &RefCell<Model>) -> Result<bool, String> {
        match self.peer.read(10_000) {
            SimRead::Bytes(bytes) => self.unread.extend(bytes),
            SimRead::Nothing => return Ok(false),
            SimRead::End | SimRead::Failed(_) => {
                let is_new = !std::mem::replace(&mut self.is_closed, true);
                return Ok(is_new);
            }
        }
        if !self.has_head {
            let end = self.unread.windows(4).position(|it| it == b"\r\n\r\n");
            let Some(end) = end else { return Ok(true) };
            self.unread.drain(..end + 4);
            self.has_head = true;
        }
        while let Some((first, payload)) = self.next_frame() {
            match first {
                0x81 => self.hear(&payload, model)?,
                // It is closed by the server, and says so in its turn.
                0x88 => {
                    self.is_closed = true;
                    self.unwritten.extend([0x88, 0x80, 0, 0, 0, 0]);
                }
                0x89 => {}
                other => return Err(format!("a frame that begins with {other:#x}")),
            }
        }
        Ok(true)
    }

    fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (&first, rest) = self.unread.split_first()?;
        let (&second, rest) = rest.split_first()?;
        let (len, header) = match second {
            126 => (
                u16::from_be_bytes([*rest.first()?, *rest.get(1)?]).into(),
                4,
            ),
            127 => {
                let len = rest.first_chunk::<8>()?;
                (u64::from_be_bytes(*len) as usize, 10)
            }
            len => (usize::from(len), 2),
        };
        let payload = self.unread.get(header..header + len)?.to_vec();
        self.unread.drain(..header + len);
        Some((first, payload))
    }

    fn hear(&mut self, payload: &[u8], model: &RefCell<Model>) -> Result<(), String> {
        let mut text = str::from_utf8(payload).map_err(|_| "no text".to_owned())?;
        if let Some(resumed) = text.strip_prefix('#') {
            return self.hear_resumed(resumed, &model.borrow());
        }
        let mut position = None;
        if let Some(put) = text.strip_prefix('@') {
            let (its, message) = self.open_envelope(put, &mut model.borrow_mut())?;
            (position, text) = (Some(its), message);
        }
        let mut words = text.split(' ');
        let mut number = || -> Option<u64> { words.next()?.parse().ok() };
        let (Some(publisher), Some(topic), Some(count)) = (number(), number(), number()) else {
            return Err(format!("peer {} got '{text}'", self.number));
        };
        let (publisher, topic) = (publisher as usize, topic as usize);
        let name = (publisher, topic, count);
        let who = self.number;
        let mut model = model.borrow_mut();
        if let Some(Position { epoch, number }) = position {
            let place = (topic, epoch, number);
            let known = *model.positions.entry(place).or_insert(name);
            if known != name {
                return Err(format!("{known:?} and {name:?} are both at {place:?}"));
            }
        }
        if !model.published.contains(&name) {
            return Err(format!(
                "peer {who} got {name:?}, which nobody has published"
            ));
        }
        let ever = model.ever.get(&who);
        let wanted = ever.is_some_and(|ever| ever.iter().any(|it| does_match(it, NAMES[topic])));
        if !wanted {
            return Err(format!(
                "peer {who} got {name:?} and has not subscribed to it"
            ));
        }
        if !self.got.insert(name) {
            return Err(format!("peer {who} got {name:?} twice"));
        }
        let last = self.last.insert((publisher, topic), count);
        if last.is_some_and(|last| last > count) {
            return Err(format!("peer {who} got {name:?} behind {last:?}"));
        }
        if let Some(owed) = model.owed.get_mut(&who) {
            owed.remove(&name);
        }
        Ok(())
    }
}

struct World {
    kernel: SimKernel,
    prng: Prng,
    model: Rc<RefCell<Model>>,
    exchange: Arc<Exchange>,
    shards: Vec<Shard<SimRing, Hub>>,
    watches: Vec<Watch>,
    members: Vec<Member>,
    made: usize,
    /// Turns since somebody has read something.
    turns: usize,
}

/// What a seed has reached.
#[derive(Default, Debug)]
struct Reached {
    published: u64,
    heard: u64,
    refused: u64,
    conflated: u64,
    dropped: u64,
    disconnects: u64,
    resumed: u64,
    with_gap: u64,
}

impl World {
    fn new(seed: u64, mistake: Option<Mistake>) -> Self {
        let mut prng = Prng::new(seed, PURPOSE);
        let mut knobs = Knobs::swarm(seed);
        for knob in HARMFUL {
            knobs = knobs.with(knob, 0);
        }
        // What is read late is what this is about, and not a poll that finds nothing for ever.
        let in_vain = knobs.per_mille(Knob::ReadyInVain).min(300);
        knobs = knobs.with(Knob::ReadyInVain, in_vain);
        let kernel = SimKernel::new(seed, knobs);
        let model = Rc::new(RefCell::new(Model::default()));
        let mut config = Config::default();
        config.date_header = false;
        config.idle_timeout_ms = 0;
        config.ping_interval_ms = 0;
        config.mailbox_messages_max = [2, 10, 1000][prng.below(3) as usize];
        let mut options = TopicOptions::default();
        options.slow = [
            SlowPolicy::Disconnect,
            SlowPolicy::DropOldest,
            SlowPolicy::DropNewest,
            SlowPolicy::Conflate,
        ][prng.below(4) as usize];
        options.backlog_messages_max = [1, 5, 4096][prng.below(3) as usize];
        let mut rules = Rules::default();
        rules.add(b">", options).expect("a pattern");
        let kept = [0, 3, 1000][prng.below(3) as usize];
        options.history_messages_max = kept;
        for topic in KEPT {
            rules
                .add(NAMES[topic].as_bytes(), options)
                .expect("a topic");
        }
        config.topic_history_bytes_max = [3000, 64 << 20][prng.below(2) as usize];
        model.borrow_mut().keeps_all = kept == 1000 && config.topic_history_bytes_max > 3000;
        let exchange = Arc::new(Exchange::new(2, rules, config.clone(), 1));
        let page = [1, 2, 256][prng.below(3) as usize];
        let slowness = [1, 1, 50, 1000][prng.below(4) as usize];
        let shards = (0..2).map(|id| {
            let ring = kernel.ring(&SimOptions::default()).expect("memory");
            let hub = Hub {
                model: model.clone(),
            };
            let mut shard = Shard::new(id, ring, hub, config.clone(), [id as u8; 32]);
            shard.slow_down(slowness);
            shard.answer_by(page);
            shard.share_exchange(exchange.clone());
            shard.listen(kernel.listen(&address(id.into())));
            if let Some(mistake) = mistake {
                shard.make(mistake);
            }
            shard
        });
        Self {
            shards: shards.collect(),
            watches: vec![Watch::default(), Watch::default()],
            kernel,
            prng,
            model,
            exchange,
            members: Vec::new(),
            made: 0,
            turns: 0,
        }
    }

    fn connect(&mut self) {
        let shard = self.prng.below(2) as usize;
        let reads = [1000, 1000, 300, 20][self.prng.below(4) as usize];
        if let Ok(peer) = self.kernel.connect(&address(shard)) {
            self.members.push(Member::new(self.made, peer, reads));
            self.made += 1;
        }
    }

    /// Somebody does something.
    fn act(&mut self) {
        let prng = &mut self.prng;
        let topic = prng.below(NAMES.len() as u64) as usize;
        let len = [0, 10, 100, 600][prng.below(4) as usize];
        if prng.below(20) == 0 {
            let mut model = self.model.borrow_mut();
            let number = model.next_number(OUTSIDE, topic);
            let text = text_of(OUTSIDE, topic, number, len);
            let publication = Publication::new(NAMES[topic].as_bytes(), &text.into());
            match self
                .exchange
                .ask(Wanted::Publish(publication.expect("a topic")))
            {
                Ok(()) => model.publish(OUTSIDE, topic, None),
                Err(PublishError::Full) => {}
                Err(error) => panic!("{error}"),
            }
        }
        if self.members.is_empty() {
            return;
        }
        let which = prng.below(self.members.len() as u64) as usize;
        let member = &mut self.members[which];
        match prng.below(100) {
            0..22 if member.is_follower => {
                let topic = KEPT[prng.below(2) as usize];
                member.follow(topic, prng, &self.model);
            }
            70..80 if member.is_follower => member.say(&format!("={topic} {len}")),
            0..15 => member.say(&format!("+{}", prng.below(PATTERNS.len() as u64))),
            15..22 => member.say(&format!("-{}", prng.below(PATTERNS.len() as u64))),
            22..70 => {
                for _ in 0..=prng.below(4) {
                    member.say(&format!("={topic} {len}"));
                }
            }
            70..80 => member.say(&format!("!{topic} {len}")),
            80..82 => drop(self.members.swap_remove(which)),
            _ => {}
        }
    }

    fn turn(&mut self) -> Result<bool, String> {
        self.turns += 1;
        if self.turns > TURNS_MAX {
            let hurries = [0, 1].map(|shard: usize| self.shards[shard].hurries());
            let has_mail = [0, 1].map(|shard| self.exchange.has_mail(shard));
            let open = self.members.len();
            let unwritten: usize = self.members.iter().map(|it| it.unwritten.len()).sum();
            return Err(format!(
                "it does not come to an end: {open} peers have {unwritten} bytes to write, \
                 {hurries:?} hurry, {has_mail:?} have mail, at {} ms",
                self.kernel.now().as_ms()
            ));
        }
        let (mut is_busy, mut has_read) = (false, false);
        for member in &mut self.members {
            member.write();
            if self.prng.below(1000) < member.reads_per_mille {
                has_read |= member.read(&self.model)?;
            }
            is_busy |= !member.unwritten.is_empty() && !member.is_closed;
        }
        is_busy |= has_read;
        if has_read {
            self.turns = 0;
        }
        self.members
            .retain(|member| !member.is_closed || !member.unwritten.is_empty());
        for _ in 0..2 {
            let which = self.prng.below(2) as usize;
            let shard = &mut self.shards[which];
            let until = self.kernel.now().plus_ms(1);
            let turned = shard.turn(Wait::Until(until));
            turned.map_err(|errno| errno.to_string())?;
            let watch = &mut self.watches[which];
            shard.check_states()?;
            shard.check_ledger(watch)?;
            shard.check_fairness(watch)?;
            is_busy |= shard.hurries() || self.exchange.has_mail(which as u16);
        }
        Ok(is_busy)
    }

    fn counts(&self) -> [Counts; 2] {
        [0, 1].map(|shard| self.shards[shard].shared().counts)
    }

    fn run(mut self) -> Result<Reached, String> {
        for _ in 0..3 + self.prng.below(8) {
            self.connect();
        }
        for _ in 0..200 + self.prng.below(600) {
            if self.prng.below(50) == 0 {
                self.connect();
            }
            for _ in 0..self.prng.below(4) {
                self.act();
            }
            self.turn()?;
        }
        // Everybody reads to the end.
        for member in &mut self.members {
            member.reads_per_mille = 1000;
        }
        let mut quiet = 0;
        while quiet < 200 {
            quiet = if self.turn()? { 0 } else { quiet + 1 };
        }
        let reached = self.check_end()?;
        self.members.clear();
        for shard in &mut self.shards {
            shard.stop(Drain::at_once(10_000));
        }
        while !self.shards.iter().all(Shard::is_finished) {
            self.turn()?;
        }
        while !self.kernel.is_clean() {
            self.turn()?;
        }
        for shard in &self.shards {
            let shared = shard.shared();
            let left = (shared.arena.chunks_out(), shared.arena.queues_out());
            let asked = &shared.asked;
            // What is kept stays.
            let asked_bytes = asked.held_bytes() - asked.histories.held_bytes();
            if left != (0, 0) || asked_bytes > 0 {
                return Err(format!(
                    "{left:?} chunks and queues are left, or something asked for"
                ));
            }
        }
        Ok(reached)
    }

    /// How many messages a follower has not got that are the last of their topic.
    fn behind(member: &Member, model: &Model) -> u64 {
        let of = |(&topic, next): (&usize, &Position)| {
            let all = (topic, next.epoch, 0)..=(topic, next.epoch, u64::MAX);
            let last = model.positions.range(all).next_back();
            last.map_or(0, |(&(.., number), _)| number.saturating_sub(next.number))
        };
        member.next.iter().map(of).sum()
    }

    fn check_end(&self) -> Result<Reached, String> {
        let model = self.model.borrow();
        let counts = self.counts();
        let sum = |count: fn(&Counts) -> u64| counts.iter().map(count).sum::<u64>();
        let dropped = sum(|it| it.topic_dropped_newest + it.topic_dropped_oldest);
        let conflated = sum(|it| it.topic_conflated);
        let mut missing = 0;
        for member in self.members.iter().filter(|member| !member.is_closed) {
            let owed = model.owed.get(&member.number);
            missing += owed.map_or(0, BTreeSet::len) as u64;
            missing += member.gaps + Self::behind(member, &model);
        }
        if missing > dropped + conflated {
            return Err(format!(
                "{missing} messages are missing, of {dropped} that were left out and {conflated} \
                 that were replaced: {:?}",
                model.owed
            ));
        }
        let published = sum(|it| it.topic_publications);
        if published != model.published.len() as u64 {
            let all = model.published.len();
            return Err(format!(
                "{published} messages were counted, and {all} published"
            ));
        }
        let refused = sum(|it| it.topic_publications_refused);
        if refused != model.refused {
            return Err(format!(
                "{refused} were counted as refused, and {} were",
                model.refused
            ));
        }
        let heard: usize = self.members.iter().map(|member| member.got.len()).sum();
        let queued = sum(|it| it.topic_deliveries);
        let left_out = sum(|it| it.topic_dropped_oldest) + conflated;
        if (heard as u64) + left_out > queued {
            return Err(format!(
                "{heard} were heard and {left_out} left out, of {queued} that were queued"
            ));
        }
        Ok(Reached {
            published,
            heard: heard as u64,
            refused,
            conflated,
            dropped,
            disconnects: sum(|it| it.topic_disconnects),
            resumed: self.members.iter().map(|member| member.resumed).sum(),
            with_gap: sum(|it| it.topic_resumed_with_gap),
        })
    }
}

fn address(shard: usize) -> Address {
    format!("127.0.0.1:{}", 80 + shard)
        .parse()
        .expect("an address")
}

fn run(seed: u64, mistake: Option<Mistake>) -> Result<Reached, String> {
    let mut world = Some(World::new(seed, mistake));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.take().map(World::run)
    }));
    match caught {
        Ok(Some(reached)) => reached,
        Ok(None) => Err("there was no world".to_owned()),
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_else(|| "a panic".to_owned())),
    }
}

#[test]
fn nothing_is_lost_doubled_or_out_of_order() {
    if let Some(seed) = crate::number("RINGWIRE_SIM_SEED") {
        println!("{:?}", run(seed, None).expect("the seed passes"));
        return;
    }
    // Each has as many turns as ten of the others.
    let seeds = crate::number("RINGWIRE_SIM_SEEDS").map_or(SEEDS, |seeds| seeds.div_ceil(10));
    let start = crate::start();
    let mut all = Reached::default();
    for seed in start..start.wrapping_add(seeds) {
        let reached = run(seed, None).unwrap_or_else(|wrong| {
            panic!(
                "seed {seed}: {wrong}\nalone: RINGWIRE_SIM_SEED={seed} cargo test --features sim \
                 --test sim -- --nocapture topics::nothing"
            )
        });
        all.published += reached.published;
        all.heard += reached.heard;
        all.refused += reached.refused;
        all.conflated += reached.conflated;
        all.dropped += reached.dropped;
        all.disconnects += reached.disconnects;
        all.resumed += reached.resumed;
        all.with_gap += reached.with_gap;
    }
    println!("{seeds} seeds: {all:?}");
    if seeds >= SEEDS {
        let acted = [
            all.published,
            all.heard,
            all.refused,
            all.conflated,
            all.dropped,
        ];
        assert!(acted.iter().all(|&count| count > 0), "{all:?}");
        let acted = [all.disconnects, all.resumed, all.with_gap];
        assert!(acted.iter().all(|&count| count > 0), "{all:?}");
    }
}

#[test]
fn each_mistake_with_topics_is_found() {
    for (mistake, says) in [
        (Mistake::DeliversTwice, "twice"),
        (Mistake::ForgetsInterest, "are missing"),
        (Mistake::ReversesRuns, "behind"),
        (Mistake::LosesFullInboxes, "are missing"),
        (Mistake::KeepsSubscriptions, ""),
        (Mistake::ForgetsRecalled, "are missing"),
        (Mistake::DeliversBeforeRecalled, "before it was announced"),
    ] {
        let found = (0..200).find_map(|seed| run(seed, Some(mistake)).err());
        let found = found.unwrap_or_else(|| panic!("{mistake:?} is not found"));
        assert!(found.contains(says), "{mistake:?}: {found}");
    }
}
