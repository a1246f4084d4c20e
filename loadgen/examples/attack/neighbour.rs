//! The well-behaved one: one message in flight, at a steady rate, and a newcomer every so often.
//!
//! Knows: when a message was due, and when its echo was there. A message that waits for the one
//! before it is late, and its wait counts. Refuses to know: what the others do.

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};

use ringwire::tls::rustls::ClientConfig;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::{
    crowd::{answer, read_head},
    frames::{self, FIN, PONG, Side, TEXT},
    plan::Security,
    wire::{Target, Wire},
};

/// How long the first connection and its first echo may take, when nobody attacks.
const OPENING_MAX: Duration = Duration::from_secs(10);

/// How long what is missing at the end is waited for.
const GRACE: Duration = Duration::from_secs(5);

/// The longest sleep, so that the end of a phase is seen.
const NAP: Duration = Duration::from_millis(20);

/// What everybody is at, as a number that threads share.
pub const WARMING: u8 = 0;
pub const MEASURING: u8 = 1;
pub const OVER: u8 = 2;

/// How to be a neighbour.
#[derive(Clone, Debug)]
pub struct Manners {
    pub target: Option<Target>,
    pub from: Option<IpAddr>,
    pub tls: Arc<ClientConfig>,
    pub security: Security,
    /// Between two messages.
    pub every: Duration,
    /// Between two newcomers; zero for none.
    pub newcomer_every: Duration,
    /// Bytes of a message, at least 20.
    pub message_bytes: usize,
}

/// Times, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Waits {
    pub count: usize,
    pub p50: f64,
    pub p99: f64,
    pub worst: f64,
    /// Those that had no answer when the attack ended: how long they had waited by then counts.
    pub unanswered: usize,
}

/// What a neighbour has seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub echo: Waits,
    pub newcomers: Waits,
    /// Newcomers that were told to come later.
    pub newcomers_told_503: usize,
    /// How its connection ended, if it did.
    pub cut_off: Option<String>,
    /// What newcomers met with instead of a 101 or a 503.
    pub newcomer_errors: Vec<String>,
    /// Whether what was missing at the end came after it.
    pub recovered: bool,
}

struct Newcomer {
    due: Instant,
    wire: Wire,
    stage: Arrival,
    head: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrival {
    Connecting,
    Securing,
    Requesting,
    Awaiting,
}

struct Neighbour<'a> {
    manners: &'a Manners,
    wire: Option<Wire>,
    side: Side,
    input: Vec<u8>,
    buffer: Vec<u8>,
    /// The message whose echo is awaited: when it was due, and its text.
    awaited: Option<(Instant, String)>,
    sequence: u64,
    newcomer: Option<Newcomer>,
    echoes: Vec<Duration>,
    arrivals: Vec<Duration>,
    report: Report,
}

/// Is a neighbour until the phase is [`OVER`]. `ready` is told when the first echo is there.
///
/// # Errors
///
/// When it could not even begin.
pub fn run(
    manners: &Manners,
    accepted: Option<OwnedFd>,
    phase: &AtomicU8,
    ready: &Sender<bool>,
) -> io::Result<Report> {
    let side = if accepted.is_some() {
        Side::Server
    } else {
        Side::Client
    };
    let mut neighbour = Neighbour {
        manners,
        wire: None,
        side,
        input: Vec::new(),
        buffer: vec![0; 64 << 10],
        awaited: None,
        sequence: 0,
        newcomer: None,
        echoes: Vec::new(),
        arrivals: Vec::new(),
        report: Report::default(),
    };
    neighbour.open(accepted)?;
    neighbour.say(Instant::now());
    let deadline = Instant::now() + OPENING_MAX;
    while neighbour.awaited.is_some() {
        neighbour.look(deadline)?;
    }
    neighbour.cut_off_is_an_error()?;
    let _ = ready.send(true);
    neighbour.live(phase)?;
    Ok(neighbour.into_report())
}

impl Neighbour<'_> {
    /// Opens the connection, when nobody attacks yet.
    fn open(&mut self, accepted: Option<OwnedFd>) -> io::Result<()> {
        let deadline = Instant::now() + OPENING_MAX;
        let mut head = Vec::new();
        if let Some(socket) = accepted {
            let mut wire = Wire::accepted(socket)?;
            while !read_head(&mut wire, &mut head)? {
                wait(&[(&wire, PollFlags::IN)], deadline)?;
                in_time(deadline)?;
            }
            wire.write(&answer(&head)?)?;
            self.wire = Some(wire);
            return Ok(());
        }
        let mut newcomer = self.knock(Instant::now())?;
        loop {
            if let Some(status) = newcomer.step()? {
                if status != 101 {
                    return Err(io::Error::other(format!("it was answered {status}")));
                }
                break;
            }
            wait(&[(&newcomer.wire, newcomer.wants())], deadline)?;
            in_time(deadline)?;
        }
        self.wire = Some(newcomer.wire);
        Ok(())
    }

    fn knock(&self, due: Instant) -> io::Result<Newcomer> {
        let manners = self.manners;
        let target = manners
            .target
            .ok_or_else(|| io::Error::other("nowhere to connect to"))?;
        Ok(Newcomer {
            due,
            wire: Wire::dial(target, manners.from, manners.security, &manners.tls, None)?,
            stage: Arrival::Connecting,
            head: Vec::new(),
        })
    }

    fn live(&mut self, phase: &AtomicU8) -> io::Result<()> {
        let mut measuring = false;
        let mut next = Instant::now() + self.manners.every;
        let newcomers = !self.manners.newcomer_every.is_zero() && self.manners.target.is_some();
        let mut next_newcomer = Instant::now() + self.manners.newcomer_every;
        loop {
            let now = Instant::now();
            match phase.load(Ordering::Acquire) {
                MEASURING if !measuring => {
                    measuring = true;
                    next = now;
                    next_newcomer = now + self.manners.newcomer_every / 2;
                    self.echoes.clear();
                    self.arrivals.clear();
                }
                OVER => {
                    self.settle(now, next);
                    return Ok(());
                }
                _ => {}
            }
            if self.awaited.is_none() && next <= now && self.wire.is_some() {
                self.say(next);
                next += self.manners.every;
            }
            if newcomers && self.newcomer.is_none() && next_newcomer <= now {
                match self.knock(next_newcomer) {
                    Ok(newcomer) => self.newcomer = Some(newcomer),
                    Err(error) => self.report.newcomer_errors.push(error.to_string()),
                }
                // One at a time: those that were due meanwhile have waited with it.
                while next_newcomer <= now {
                    next_newcomer += self.manners.newcomer_every;
                }
            }
            let mut until = now + NAP;
            if self.awaited.is_none() && self.wire.is_some() {
                until = until.min(next);
            }
            if newcomers && self.newcomer.is_none() {
                until = until.min(next_newcomer);
            }
            self.look(until)?;
        }
    }

    /// Waits for something, until then, and takes it.
    fn look(&mut self, until: Instant) -> io::Result<()> {
        let mut watched = Vec::new();
        if let Some(wire) = &self.wire {
            watched.push((wire, PollFlags::IN));
        }
        if let Some(newcomer) = &self.newcomer {
            watched.push((&newcomer.wire, newcomer.wants()));
        }
        wait(&watched, until)?;
        self.hear();
        let Some(newcomer) = &mut self.newcomer else {
            return if self.awaited.is_some() && self.sequence == 1 {
                in_time(until)
            } else {
                Ok(())
            };
        };
        match newcomer.step() {
            Ok(None) => {}
            Ok(Some(status)) => {
                self.arrivals.push(newcomer.due.elapsed());
                match status {
                    101 => {}
                    503 => self.report.newcomers_told_503 += 1,
                    _ => {
                        let told = format!("a newcomer was answered {status}");
                        self.report.newcomer_errors.push(told);
                    }
                }
                self.newcomer = None;
            }
            Err(error) => {
                self.arrivals.push(newcomer.due.elapsed());
                let told = format!("a newcomer was cut off: {error}");
                self.report.newcomer_errors.push(told);
                self.newcomer = None;
            }
        }
        Ok(())
    }

    fn say(&mut self, due: Instant) {
        self.sequence += 1;
        let text = format!(
            "{:0width$}",
            self.sequence,
            width = self.manners.message_bytes
        );
        let frame = frames::frame(FIN | TEXT, text.as_bytes(), self.side);
        self.awaited = Some((due, text));
        self.write(&frame);
    }

    /// One message is in flight, so that the socket has room for it.
    fn write(&mut self, frame: &[u8]) {
        let Some(wire) = &mut self.wire else { return };
        let mut rest = frame;
        while !rest.is_empty() {
            match wire.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) => return self.lose(&format!("a message was not sent: {error}")),
            }
        }
        if wire.wants_write() {
            self.lose("the socket did not take a message");
        }
    }

    fn lose(&mut self, why: &str) {
        self.wire = None;
        self.report.cut_off.get_or_insert_with(|| why.to_owned());
    }

    fn hear(&mut self) {
        loop {
            let Some(wire) = &mut self.wire else { return };
            match wire.read(&mut self.buffer) {
                Ok(0) => return self.lose("the server closed the connection"),
                Ok(count) => self.input.extend_from_slice(&self.buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return self.lose(&error.to_string()),
            }
        }
        while let Some((first, payload)) = take_frame(&mut self.input) {
            match first {
                0x81 => self.take_echo(&payload),
                0x88 => {
                    let code = payload.get(..2);
                    let code = code.map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or(&[]));
                    return self.lose(&format!("closed with {code} {reason}"));
                }
                0x89 => {
                    let pong = frames::frame(FIN | PONG, &payload, self.side);
                    self.write(&pong);
                }
                _ => return self.lose(&format!("a frame that begins with {first:#x}")),
            }
        }
    }

    fn take_echo(&mut self, payload: &[u8]) {
        match self.awaited.take() {
            Some((due, text)) if text.as_bytes() == payload => self.echoes.push(due.elapsed()),
            _ => self.lose("a message that is no echo"),
        }
    }

    /// What has no answer when the attack ends has waited until now, as have those behind it.
    fn settle(&mut self, now: Instant, next: Instant) {
        let mut unanswered = Vec::new();
        if let Some((due, _)) = &self.awaited {
            unanswered.push(now - *due);
        }
        let mut due = next;
        while due < now {
            unanswered.push(now - due);
            due += self.manners.every;
        }
        self.report.echo = waits(&mut self.echoes, unanswered);
        let late = self.newcomer.iter().map(|newcomer| now - newcomer.due);
        self.report.newcomers = waits(&mut self.arrivals, late.collect());
        let deadline = now + GRACE;
        while (self.awaited.is_some() && self.wire.is_some() || self.newcomer.is_some())
            && Instant::now() < deadline
        {
            if let Err(error) = self.look(deadline.min(Instant::now() + NAP)) {
                self.lose(&error.to_string());
            }
        }
        self.report.recovered = self.awaited.is_none() && self.newcomer.is_none();
    }

    fn cut_off_is_an_error(&self) -> io::Result<()> {
        match &self.report.cut_off {
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(()),
        }
    }

    fn into_report(self) -> Report {
        self.report
    }
}

impl Newcomer {
    fn wants(&self) -> PollFlags {
        match self.stage {
            Arrival::Connecting | Arrival::Requesting => PollFlags::OUT,
            Arrival::Securing if self.wire.wants_write() => PollFlags::OUT,
            Arrival::Securing | Arrival::Awaiting => PollFlags::IN,
        }
    }

    /// The status of the answer, once it is there.
    fn step(&mut self) -> io::Result<Option<u16>> {
        loop {
            match self.stage {
                Arrival::Connecting => {
                    let mut fds = [PollFd::new(&self.wire, PollFlags::OUT)];
                    if poll(&mut fds, Some(&Timespec::default()))? == 0 {
                        return Ok(None);
                    }
                    self.wire.connected()?;
                    self.stage = Arrival::Securing;
                }
                Arrival::Securing => {
                    if !self.wire.secure()? {
                        return Ok(None);
                    }
                    self.stage = Arrival::Requesting;
                }
                Arrival::Requesting => {
                    let request = frames::upgrade("/", false);
                    if self.wire.write(&request)? < request.len() {
                        return Err(io::Error::other("the socket did not take a head"));
                    }
                    self.stage = Arrival::Awaiting;
                }
                Arrival::Awaiting => {
                    if !read_head_of_any(&mut self.wire, &mut self.head)? {
                        return Ok(None);
                    }
                    let status = self.head.get(9..12);
                    let status = status.and_then(|digits| std::str::from_utf8(digits).ok());
                    let status = status.and_then(|digits| digits.parse().ok());
                    return match status {
                        Some(status) => Ok(Some(status)),
                        None => Err(io::Error::other("no HTTP reply")),
                    };
                }
            }
        }
    }
}

/// As [`read_head`], for a reply that may have a body.
fn read_head_of_any(wire: &mut Wire, head: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        if head.windows(4).any(|four| four == b"\r\n\r\n") {
            return Ok(true);
        }
        match wire.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => head.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Takes a whole frame of at most 64 KiB: its first byte and its payload.
fn take_frame(input: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&first, &second) = (input.first()?, input.get(1)?);
    let (len, mut at) = match second & 0x7f {
        126 => {
            let len = input.get(2..4)?;
            (usize::from(u16::from_be_bytes([len[0], len[1]])), 4)
        }
        127 => {
            let len: [u8; 8] = input.get(2..10)?.try_into().ok()?;
            (u64::from_be_bytes(len) as usize, 10)
        }
        len => (usize::from(len), 2),
    };
    let mut key = [0; 4];
    if second & 0x80 != 0 {
        key.copy_from_slice(input.get(at..at + 4)?);
        at += 4;
    }
    let mut payload = input.get(at..at + len)?.to_vec();
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[index % 4];
    }
    input.drain(..at + len);
    Some((first, payload))
}

fn waits(answered: &mut Vec<Duration>, unanswered: Vec<Duration>) -> Waits {
    let missing = unanswered.len();
    answered.extend(unanswered);
    answered.sort_unstable();
    let at = |share: f64| {
        let rank = (answered.len() as f64 * share).ceil() as usize;
        let wait = answered.get(rank.saturating_sub(1));
        wait.map_or(0.0, |wait| wait.as_secs_f64() * 1e3)
    };
    Waits {
        count: answered.len(),
        p50: at(0.5),
        p99: at(0.99),
        worst: at(1.0),
        unanswered: missing,
    }
}

fn wait(watched: &[(&Wire, PollFlags)], until: Instant) -> io::Result<()> {
    let mut fds: Vec<_> = watched
        .iter()
        .map(|(wire, flags)| PollFd::new(*wire, *flags))
        .collect();
    let patience = until.saturating_duration_since(Instant::now());
    let patience = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: patience.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&patience)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn in_time(deadline: Instant) -> io::Result<()> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(io::Error::new(
        ErrorKind::TimedOut,
        "no answer, and nobody attacks yet",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_without_an_answer_counts() {
        let ms = Duration::from_millis;
        let mut answered = (1..=98).map(ms).collect();
        let waits = waits(&mut answered, vec![ms(5000), ms(4000)]);
        assert_eq!((waits.count, waits.unanswered), (100, 2));
        assert_eq!((waits.p50, waits.p99, waits.worst), (50.0, 4000.0, 5000.0));
    }

    #[test]
    fn a_frame_is_taken_when_it_is_whole() {
        let mut input = Vec::new();
        for side in [Side::Client, Side::Server] {
            input.extend(frames::frame(FIN | TEXT, &[b'a'; 300], side));
        }
        let last = input.pop().expect("a byte");
        assert_eq!(take_frame(&mut input), Some((0x81, vec![b'a'; 300])));
        assert_eq!(take_frame(&mut input), None);
        input.push(last);
        assert_eq!(take_frame(&mut input), Some((0x81, vec![b'a'; 300])));
        assert!(input.is_empty());
    }
}
