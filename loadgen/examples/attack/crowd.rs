//! All connections of an attack, on one thread.
//!
//! Knows: a [`Plan`], sockets, and what was really done: only what the kernel took is counted.
//! Refuses to know: which attack it is, and what it does to anybody.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};

use ringwire::{proto::handshake::accept_key, tls::rustls::ClientConfig};
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
};
use serde::Serialize;

use crate::{
    plan::{Plan, Reply, Security, Then},
    wire::{Target, Wire},
};

/// Connections on their way at once, where they wait for each other: fewer than a backlog holds.
const OPENING_MAX: usize = 256;

/// How long connections wait for each other.
const TOGETHER_MAX: Duration = Duration::from_secs(15);

/// How long nothing but the kernel is waited for.
const TICK: Duration = Duration::from_millis(10);

/// Bytes of one write, and of one read.
const WRITE_BYTES_MAX: usize = 256 << 10;
const READ_BYTES_MAX: usize = 256 << 10;

/// Writes of one connection before the others have their turn.
const WRITES_MAX: usize = 8;

/// Records of one byte that all connections together have ready when they begin: what the server
/// needs some seconds for.
const STOCK: usize = 1_000_000;

/// The longest head of a reply that is looked at.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Connections that had the reply that their plan waits for.
    pub opened: u64,
    /// Connections that the server ended and that were to go on.
    pub ended: u64,
    /// Times that a plan was carried out to its end.
    pub cycles: u64,
    /// Bytes that the kernel took, all of them.
    pub sent_bytes: u64,
    /// Whole frames in them.
    pub frames: u64,
    /// Records of TLS that were sealed, and changes of keys.
    pub records: u64,
    pub rekeyed: u64,
    /// Bytes that came back.
    pub read_bytes: u64,
    /// Connections that had sent everything when the attack ended.
    pub holding: u64,
    /// Replies by their status.
    pub statuses: BTreeMap<u16, u64>,
    /// What the kernel or TLS said.
    pub errors: BTreeMap<String, u64>,
}

/// What to attack, and from where.
#[derive(Clone, Debug)]
pub struct Front {
    pub target: Target,
    pub from: Option<IpAddr>,
    pub tls: Arc<ClientConfig>,
}

/// What a crowd tells while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// All connections are there that will be, and begin.
    Begun,
    /// Everybody has sent everything.
    AllSent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It was accepted, and its request is read.
    Greeting,
    Connecting,
    Securing,
    Requesting(usize),
    Awaiting,
    Ready,
    Sending,
    Holding,
}

struct Peer {
    wire: Wire,
    stage: Stage,
    head: Vec<u8>,
    segment: usize,
    times: u64,
    offset: usize,
    allowance: usize,
    /// Records that were sealed before the attack, and those of them that were sent.
    stock: u64,
    stock_sent: u64,
    interest: EventFlags,
}

#[derive(Default)]
struct Slot {
    peer: Option<Peer>,
    generation: u32,
}

/// What became of a connection's step.
enum Step {
    Stays,
    /// It has done everything.
    Done,
    /// The server ended it.
    Ended,
}

pub struct Crowd<'a> {
    plan: &'a Plan,
    front: Option<Front>,
    epoll: OwnedFd,
    slots: Vec<Slot>,
    /// Those that are to be opened when time has passed.
    vacant: Vec<usize>,
    opening: usize,
    begun: bool,
    told_all_sent: bool,
    buffer: Vec<u8>,
    tally: Tally,
}

impl<'a> Crowd<'a> {
    /// Connections that are to be dialled.
    pub fn dialling(plan: &'a Plan, count: usize, front: Front) -> io::Result<Self> {
        let mut crowd = Self::new(plan, Some(front), count)?;
        crowd.vacant = (0..count).rev().collect();
        Ok(crowd)
    }

    /// Connections that were dialled by those that are attacked.
    pub fn accepted(plan: &'a Plan, sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let mut crowd = Self::new(plan, None, sockets.len())?;
        crowd.opening = sockets.len();
        for (index, socket) in sockets.into_iter().enumerate() {
            let wire = Wire::accepted(socket)?;
            crowd.put(index, wire, Stage::Greeting, EventFlags::IN)?;
        }
        Ok(crowd)
    }

    fn new(plan: &'a Plan, front: Option<Front>, count: usize) -> io::Result<Self> {
        Ok(Self {
            plan,
            front,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            slots: (0..count).map(|_| Slot::default()).collect(),
            vacant: Vec::new(),
            opening: 0,
            begun: false,
            told_all_sent: false,
            buffer: vec![0; READ_BYTES_MAX],
            tally: Tally::default(),
        })
    }

    /// Attacks until it is told to stop, and closes everything.
    ///
    /// # Errors
    ///
    /// The kernel's, of epoll.
    pub fn run(mut self, stop: &AtomicBool, news: &Sender<News>) -> io::Result<Tally> {
        let mut events = Vec::with_capacity(self.slots.len().clamp(1, 4096));
        let began = Instant::now();
        let mut ticked = began;
        let mut paced = began;
        self.fill()?;
        while !stop.load(Ordering::Acquire) {
            events.clear();
            let patience = Timespec {
                tv_sec: 0,
                tv_nsec: TICK.as_nanos() as i64,
            };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&patience)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &events {
                // The event is packed, so that its fields can be copied and not borrowed.
                let (data, flags) = (event.data, event.flags);
                let (index, generation) = (data.u64() as u32 as usize, (data.u64() >> 32) as u32);
                if self.slots[index].generation == generation {
                    self.step(index, flags)?;
                }
            }
            let now = Instant::now();
            let late = now - began > TOGETHER_MAX;
            let all_here = self.opening == 0 && self.vacant.is_empty();
            if !self.begun && (!self.plan.together || all_here || late) {
                self.begin()?;
                let _ = news.send(News::Begun);
            }
            if let Some((bytes, every)) = self.plan.pace
                && self.begun
                && now - paced >= every
            {
                paced += every;
                self.allow(bytes)?;
            }
            if now - ticked >= TICK || !self.begun {
                ticked = now;
                self.fill()?;
                self.tell_all_sent(news);
            }
        }
        for index in 0..self.slots.len() {
            if let Some(peer) = self.slots[index].peer.take() {
                self.tally.holding += u64::from(peer.stage == Stage::Holding);
                self.book(&peer);
            }
        }
        Ok(self.tally)
    }

    fn tell_all_sent(&mut self, news: &Sender<News>) {
        let sent = |slot: &Slot| match &slot.peer {
            Some(peer) => peer.stage == Stage::Holding,
            None => true,
        };
        if self.begun && !self.told_all_sent && self.slots.iter().all(sent) {
            self.told_all_sent = true;
            let _ = news.send(News::AllSent);
        }
    }

    /// Opens connections where there are none.
    fn fill(&mut self) -> io::Result<()> {
        let mut later = Vec::new();
        while self.opening < OPENING_MAX || !self.plan.together {
            let Some(index) = self.vacant.pop() else {
                break;
            };
            let Some(front) = &self.front else { break };
            let plan = self.plan;
            let dialled = Wire::dial(
                front.target,
                front.from,
                plan.security,
                &front.tls,
                plan.socket_bytes,
            );
            match dialled {
                Ok(wire) => {
                    self.opening += 1;
                    self.put(index, wire, Stage::Connecting, EventFlags::OUT)?;
                }
                Err(error) => {
                    self.failed(&error);
                    if plan.reopens || plan.then != Then::Hold {
                        later.push(index);
                    }
                    // No port or no descriptor: it is not better for the next one.
                    break;
                }
            }
        }
        self.vacant.append(&mut later);
        Ok(())
    }

    fn put(&mut self, index: usize, wire: Wire, stage: Stage, flags: EventFlags) -> io::Result<()> {
        let slot = &mut self.slots[index];
        slot.generation = slot.generation.wrapping_add(1);
        let data = u64::from(slot.generation) << 32 | index as u64;
        epoll::add(&self.epoll, &wire, EventData::new_u64(data), flags)?;
        slot.peer = Some(Peer {
            wire,
            stage,
            head: Vec::new(),
            segment: 0,
            times: 0,
            offset: 0,
            allowance: 0,
            stock: 0,
            stock_sent: 0,
            interest: flags,
        });
        Ok(())
    }

    /// Those that have waited for each other begin.
    fn begin(&mut self) -> io::Result<()> {
        self.begun = true;
        for index in 0..self.slots.len() {
            let stage = self.slots[index].peer.as_ref().map(|peer| peer.stage);
            if stage == Some(Stage::Ready) {
                self.step(index, EventFlags::empty())?;
            }
        }
        Ok(())
    }

    /// Lets everybody send so many bytes more.
    fn allow(&mut self, bytes: usize) -> io::Result<()> {
        for index in 0..self.slots.len() {
            if let Some(peer) = &mut self.slots[index].peer
                && peer.stage == Stage::Sending
            {
                peer.allowance += bytes;
                self.step(index, EventFlags::OUT)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, index: usize, flags: EventFlags) -> io::Result<()> {
        let Some(mut peer) = self.slots[index].peer.take() else {
            return Ok(());
        };
        let before = peer.stage;
        let stepped = self.advance(&mut peer, flags);
        let was_opening = !matches!(before, Stage::Ready | Stage::Sending | Stage::Holding);
        let is_opening = !matches!(peer.stage, Stage::Ready | Stage::Sending | Stage::Holding);
        let gone = !matches!(stepped, Ok(Step::Stays));
        if was_opening && (!is_opening || gone) {
            self.opening -= 1;
        }
        match stepped {
            Ok(Step::Stays) => {
                let wanted = self.interest(&peer);
                if wanted != peer.interest {
                    peer.interest = wanted;
                    let slot = &self.slots[index];
                    let data = u64::from(slot.generation) << 32 | index as u64;
                    epoll::modify(&self.epoll, &peer.wire, EventData::new_u64(data), wanted)?;
                }
                self.slots[index].peer = Some(peer);
                return Ok(());
            }
            Ok(Step::Done) => {
                self.tally.cycles += 1;
                if self.plan.then == Then::AgainAfterReset {
                    let _ = peer.wire.resets();
                }
            }
            Ok(Step::Ended) => self.tally.ended += 1,
            Err(error) => {
                self.tally.ended += u64::from(peer.stage != Stage::Connecting);
                self.failed(&error);
            }
        }
        self.book(&peer);
        drop(peer);
        // Stale events of this turn are for nobody.
        self.slots[index].generation = self.slots[index].generation.wrapping_add(1);
        if self.plan.reopens || self.plan.then != Then::Hold {
            self.vacant.push(index);
            // A storm goes on at once; who was thrown out comes back after a while.
            if self.plan.then != Then::Hold {
                self.fill()?;
            }
        }
        Ok(())
    }

    /// What a connection that is over leaves behind.
    fn book(&mut self, peer: &Peer) {
        let (records, rekeyed) = peer.wire.records();
        self.tally.records += records - (peer.stock - peer.stock_sent);
        self.tally.rekeyed += rekeyed;
        if let Some(segment) = self.plan.segments.get(peer.segment) {
            let whole = segment.frames * peer.offset as u64 / segment.bytes.len().max(1) as u64;
            self.tally.frames += whole;
        }
    }

    fn failed(&mut self, error: &io::Error) {
        let told = self.tally.errors.entry(error.to_string());
        *told.or_default() += 1;
    }

    fn interest(&self, peer: &Peer) -> EventFlags {
        let writes = match peer.stage {
            Stage::Connecting | Stage::Requesting(_) => true,
            Stage::Sending => self.plan.pace.is_none(),
            Stage::Securing => false,
            Stage::Greeting | Stage::Awaiting | Stage::Ready | Stage::Holding => false,
        };
        let reads = match peer.stage {
            Stage::Connecting => false,
            Stage::Ready | Stage::Sending | Stage::Holding => self.plan.reads,
            _ => true,
        };
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::OUT, writes || peer.wire.wants_write());
        flags.set(EventFlags::IN, reads);
        flags
    }

    fn advance(&mut self, peer: &mut Peer, flags: EventFlags) -> io::Result<Step> {
        loop {
            match peer.stage {
                Stage::Greeting => match self.greet(peer)? {
                    true => peer.stage = Stage::Ready,
                    false => return Ok(Step::Stays),
                },
                Stage::Connecting => {
                    peer.wire.connected()?;
                    peer.stage = Stage::Securing;
                }
                Stage::Securing => match peer.wire.secure()? {
                    true => peer.stage = Stage::Requesting(0),
                    false => return Ok(Step::Stays),
                },
                Stage::Requesting(at) => {
                    let rest = &self.plan.request[at..];
                    if rest.is_empty() {
                        peer.stage = Stage::Awaiting;
                        continue;
                    }
                    match would_block(peer.wire.write(rest))? {
                        None => return Ok(Step::Stays),
                        Some(count) => {
                            self.tally.sent_bytes += count as u64;
                            peer.stage = Stage::Requesting(at + count);
                        }
                    }
                }
                Stage::Awaiting => match self.await_reply(peer)? {
                    Some(true) => {
                        peer.stage = Stage::Ready;
                        self.stock(peer)?;
                    }
                    Some(false) => return Ok(Step::Ended),
                    None => return Ok(Step::Stays),
                },
                Stage::Ready => {
                    let ended = flags.intersects(EventFlags::ERR | EventFlags::HUP);
                    if self.plan.together && !self.begun {
                        return Ok(if ended { Step::Ended } else { Step::Stays });
                    }
                    peer.stage = Stage::Sending;
                    if !self.plan.segments.is_empty() {
                        // Others had their turn already, or this is the beginning.
                        return Ok(Step::Stays);
                    }
                }
                Stage::Sending => {
                    if peer.segment == self.plan.segments.len() {
                        if self.plan.then != Then::Hold {
                            return Ok(Step::Done);
                        }
                        peer.stage = Stage::Holding;
                        return Ok(Step::Stays);
                    }
                    if self.is_over(peer, flags)? {
                        return Ok(Step::Ended);
                    }
                    if flags.contains(EventFlags::OUT) {
                        self.send(peer)?;
                    }
                    if peer.segment < self.plan.segments.len() {
                        return Ok(Step::Stays);
                    }
                }
                Stage::Holding => {
                    let over = self.is_over(peer, flags)?;
                    return Ok(if over { Step::Ended } else { Step::Stays });
                }
            }
        }
    }

    /// Reads what there is, and looks whether the server has ended the connection.
    fn is_over(&mut self, peer: &mut Peer, flags: EventFlags) -> io::Result<bool> {
        if flags.contains(EventFlags::IN) && self.plan.reads {
            return match would_block(peer.wire.discard(&mut self.buffer))? {
                Some(0) => Ok(true),
                Some(count) => {
                    self.tally.read_bytes += count as u64;
                    Ok(false)
                }
                None => Ok(false),
            };
        }
        Ok(flags.intersects(EventFlags::ERR | EventFlags::HUP))
    }

    /// Has records ready, where one by one they would be sealed as slowly as they are opened.
    fn stock(&mut self, peer: &mut Peer) -> io::Result<()> {
        let Some(segment) = self.plan.segments.first() else {
            return Ok(());
        };
        if self.plan.security != Security::TlsByByte || self.begun || segment.times < u64::MAX {
            return Ok(());
        }
        let count = STOCK / self.slots.len();
        let bytes = segment.bytes.iter().copied().cycle();
        peer.wire.stock(bytes.take(count))?;
        peer.stock = count as u64;
        Ok(())
    }

    /// Sends of what is ready. True when it is all gone.
    fn send_stock(&mut self, peer: &mut Peer) -> io::Result<bool> {
        let sent = peer.wire.send_stock()?.min(peer.stock);
        let new = sent - peer.stock_sent;
        peer.stock_sent = sent;
        self.tally.sent_bytes += new;
        let segment = &self.plan.segments[0];
        peer.offset += new as usize;
        while peer.offset >= segment.bytes.len() {
            peer.offset -= segment.bytes.len();
            self.tally.frames += segment.frames;
        }
        Ok(peer.stock_sent == peer.stock)
    }

    fn send(&mut self, peer: &mut Peer) -> io::Result<()> {
        let plan = self.plan;
        if peer.stock_sent < peer.stock && !self.send_stock(peer)? {
            return Ok(());
        }
        for _ in 0..WRITES_MAX {
            let Some(segment) = plan.segments.get(peer.segment) else {
                return Ok(());
            };
            let rest = &segment.bytes[peer.offset..];
            let mut most = rest.len().min(WRITE_BYTES_MAX);
            if plan.pace.is_some() {
                most = most.min(peer.allowance);
            }
            if most == 0 && !rest.is_empty() {
                return Ok(());
            }
            let Some(count) = would_block(peer.wire.write(&rest[..most]))? else {
                return Ok(());
            };
            self.tally.sent_bytes += count as u64;
            peer.allowance = peer.allowance.saturating_sub(count);
            peer.offset += count;
            if peer.offset == segment.bytes.len() {
                peer.offset = 0;
                peer.times += 1;
                self.tally.frames += segment.frames;
                if peer.times == segment.times {
                    peer.times = 0;
                    peer.segment += 1;
                    continue;
                }
            }
            if count >= WRITE_BYTES_MAX / 4 {
                break;
            }
        }
        // The others have their turn.
        Ok(())
    }

    /// Whether the reply is what was waited for, once it is there.
    fn await_reply(&mut self, peer: &mut Peer) -> io::Result<Option<bool>> {
        if self.plan.reply == Reply::None {
            self.tally.opened += 1;
            return Ok(Some(true));
        }
        loop {
            let count = match would_block(peer.wire.read(&mut self.buffer)) {
                Ok(None) => return Ok(None),
                Ok(Some(count)) => count,
                Err(error) if self.plan.reply == Reply::End && !peer.head.is_empty() => {
                    let _ = error;
                    0
                }
                Err(error) => return Err(error),
            };
            self.tally.read_bytes += count as u64;
            if count == 0 {
                self.count_status(peer);
                let wanted = self.plan.reply == Reply::End;
                self.tally.opened += u64::from(wanted);
                // Nothing was promised to those who only wait for the end.
                let silent = wanted && self.plan.then == Then::Hold;
                return Ok(Some(wanted && !silent));
            }
            let room = HEAD_BYTES_MAX.saturating_sub(peer.head.len()).min(count);
            peer.head.extend_from_slice(&self.buffer[..room]);
            let there = match self.plan.reply {
                Reply::None | Reply::End => false,
                Reply::Byte => true,
                Reply::Head => peer.head.windows(4).any(|four| four == b"\r\n\r\n"),
            };
            if there {
                let status = self.count_status(peer);
                let accepted = self.plan.reply != Reply::Head || status == Some(101);
                self.tally.opened += u64::from(accepted);
                return Ok(Some(accepted));
            }
        }
    }

    fn count_status(&mut self, peer: &Peer) -> Option<u16> {
        let digits = peer.head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
        *self.tally.statuses.entry(status).or_default() += 1;
        Some(status)
    }

    /// Answers an opening handshake. True once it is.
    fn greet(&mut self, peer: &mut Peer) -> io::Result<bool> {
        if !read_head(&mut peer.wire, &mut peer.head)? {
            return Ok(false);
        }
        let answer = answer(&peer.head)?;
        // It is short, and nothing was sent before it.
        let count = peer.wire.write(&answer)?;
        if count < answer.len() {
            return Err(io::Error::other("the socket did not take a head"));
        }
        self.tally.opened += 1;
        Ok(true)
    }
}

/// `None` for what would have to wait.
fn would_block(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads up to the end of a head. True once it is there.
///
/// # Errors
///
/// The kernel's, and when the peer ends before.
pub fn read_head(wire: &mut Wire, head: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        if head.ends_with(b"\r\n\r\n") {
            return Ok(true);
        }
        match would_block(wire.read(&mut buffer))? {
            None => return Ok(false),
            Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Some(count) => head.extend_from_slice(&buffer[..count]),
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(io::Error::other("a head without an end"));
        }
    }
}

/// The 101 for a request.
///
/// # Errors
///
/// When it has no key.
pub fn answer(head: &[u8]) -> io::Result<Vec<u8>> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let key = lines.find(|(name, _)| name.eq_ignore_ascii_case("Sec-WebSocket-Key"));
    let (_, key) = key.ok_or_else(|| io::Error::other("a request without a key"))?;
    let accept = accept_key(key.trim().as_bytes());
    let accept = String::from_utf8_lossy(&accept);
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes())
}
