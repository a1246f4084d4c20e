//! What clients send, for `loadgen replay` to offer again: when and on which connection a message
//! of which kind and size came, and never what was in it.
//!
//! Knows: the file's format, which `loadgen/recording.md` describes, and its bound. Refuses to
//! know: payloads, paths, addresses.
//!
//! ```text
//!   shards --(a bounded channel)--> a thread --> the file
//!     |                                |
//!     +-- full: counted                +-- full: counted
//! ```
//!
//! The invariant: no shard waits for it, or wakes anybody. The thread looks into the channel by
//! itself, a hundred times a second.
//!
//! Only the writing half is here. `loadgen` has the reading half, and one file holds the two
//! together, which the tests of both look at.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ringwire::{ConnId, Message, MessageKind};

/// How a file begins.
const MAGIC: &[u8] = b"ringwire recording 1\n";

/// What the channel holds: as much as six million messages a second bring in one look.
const EVENTS_MAX: usize = 1 << 16;

/// How often the thread looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How often what was written goes to the file, so that whoever kills the server loses little.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Room that is kept for the last entry: a step, a tag, two numbers.
const END_BYTES: u64 = 24;

/// Connections whose numbers are kept. Those whose end did not fit into the channel stay.
const CONNECTIONS_MAX: usize = 1 << 22;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Opened,
    Closed,
    Text(u64),
    Binary(u64),
}

#[derive(Clone, Copy, Debug)]
struct Event {
    at_us: u64,
    connection: u64,
    what: What,
}

/// Where shards put what happens.
#[derive(Clone, Debug)]
pub struct Recorder {
    events: SyncSender<Event>,
    behind: Arc<AtomicU64>,
    began: Instant,
}

impl Recorder {
    /// A connection opened.
    pub fn opened(&self, connection: ConnId) {
        self.put(connection, What::Opened);
    }

    /// A connection ended.
    pub fn closed(&self, connection: ConnId) {
        self.put(connection, What::Closed);
    }

    /// A message came.
    pub fn came(&self, connection: ConnId, message: &Message<'_>) {
        let bytes = message.payload().len() as u64;
        let what = match message.kind() {
            MessageKind::Text => What::Text(bytes),
            MessageKind::Binary => What::Binary(bytes),
        };
        self.put(connection, what);
    }

    fn put(&self, connection: ConnId, what: What) {
        let event = Event {
            at_us: self.began.elapsed().as_micros() as u64,
            connection: connection.bits(),
            what,
        };
        if self.events.try_send(event).is_err() {
            self.behind.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A file that is being written.
pub struct Recording {
    /// Until it has begun.
    writer: Option<Writer>,
    thread: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

impl Recording {
    /// Opens a file of at most so many bytes, in place of what has its name. Nothing is written to
    /// it before [`begin`](Self::begin): a thread that is started later has given up what the
    /// server gives up.
    ///
    /// # Errors
    ///
    /// A sentence with the file.
    pub fn open(path: &Path, bytes_max: u64) -> Result<(Recorder, Self), String> {
        let failed = |error: io::Error| {
            format!(
                "the recording {} cannot be written: {error}",
                path.display()
            )
        };
        // Who may read it learns who is busy when.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path).map_err(failed)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_ms = since.map_or(0, |since| since.as_millis() as u64);
        let written = Written::begin(BufWriter::new(file), unix_ms, bytes_max).map_err(failed)?;
        let (sender, events) = sync_channel(EVENTS_MAX);
        let recorder = Recorder {
            events: sender,
            behind: Arc::default(),
            began: Instant::now(),
        };
        let is_over = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            events,
            behind: recorder.behind.clone(),
            is_over: is_over.clone(),
            written,
            path: path.to_owned(),
        };
        let recording = Self {
            writer: Some(writer),
            thread: None,
            is_over,
        };
        Ok((recorder, recording))
    }

    /// Starts the thread that writes.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub fn begin(&mut self) -> io::Result<()> {
        if let Some(writer) = self.writer.take() {
            let thread = thread::Builder::new().name("recording".to_owned());
            self.thread = Some(thread.spawn(move || writer.run())?);
        }
        Ok(())
    }

    /// Writes what is left, when nobody puts anything there any more.
    pub fn finish(self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread {
            thread.thread().unpark();
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// The thread.
struct Writer {
    events: Receiver<Event>,
    behind: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    written: Written<BufWriter<File>>,
    path: PathBuf,
}

impl Writer {
    fn run(mut self) {
        if let Err(error) = self.write() {
            let path = self.path.display();
            tracing::error!("the recording {path} cannot be written: {error}; it ends here");
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let mut flushed = Instant::now();
        loop {
            // Looked at before the channel: what was put there before the end is seen after it.
            let is_over = self.is_over.load(Ordering::Acquire);
            let was_full = self.written.beyond > 0;
            while let Ok(event) = self.events.try_recv() {
                self.written.event(event)?;
            }
            if !was_full && self.written.beyond > 0 {
                let path = self.path.display();
                tracing::warn!("the recording {path} is full: what follows is only counted");
            }
            if is_over {
                break;
            }
            if flushed.elapsed() >= FLUSH_EVERY {
                self.written.out.flush()?;
                flushed = Instant::now();
            }
            thread::park_timeout(LOOK_EVERY);
        }
        let behind = self.behind.load(Ordering::Relaxed);
        self.written.end(behind)?;
        let Written {
            events,
            bytes,
            beyond,
            ..
        } = self.written;
        let path = self.path.display();
        tracing::info!(
            events,
            bytes,
            behind,
            beyond,
            "the recording {path} is complete"
        );
        Ok(())
    }
}

/// The format, and the bound.
struct Written<W> {
    out: W,
    /// Bytes so far, and at most.
    bytes: u64,
    bytes_max: u64,
    at_us: u64,
    numbers: HashMap<u64, u64>,
    next_number: u64,
    /// What was written, and what did not fit.
    events: u64,
    beyond: u64,
}

impl<W: Write> Written<W> {
    fn begin(mut out: W, unix_ms: u64, bytes_max: u64) -> io::Result<Self> {
        let mut head = MAGIC.to_vec();
        number(&mut head, unix_ms);
        out.write_all(&head)?;
        out.flush()?;
        Ok(Self {
            out,
            bytes: head.len() as u64,
            bytes_max,
            at_us: 0,
            numbers: HashMap::new(),
            next_number: 0,
            events: 0,
            beyond: 0,
        })
    }

    fn event(&mut self, event: Event) -> io::Result<()> {
        if self.beyond > 0 || self.numbers.len() > CONNECTIONS_MAX {
            self.beyond += 1;
            return Ok(());
        }
        let next = self.next_number;
        let connection = *self.numbers.entry(event.connection).or_insert(next);
        self.next_number += u64::from(connection == next);
        let mut bytes = Vec::with_capacity(32);
        let (kind, size) = match event.what {
            What::Opened => (0, None),
            What::Closed => (1, None),
            What::Text(size) => (2, Some(size)),
            What::Binary(size) => (3, Some(size)),
        };
        if event.what == What::Closed {
            self.numbers.remove(&event.connection);
        }
        entry(&mut bytes, self.at_us, event.at_us, connection << 3 | kind);
        if let Some(size) = size {
            number(&mut bytes, size);
        }
        if self.bytes + bytes.len() as u64 + END_BYTES > self.bytes_max {
            self.beyond += 1;
            return Ok(());
        }
        self.at_us = event.at_us;
        self.events += 1;
        self.put(&bytes)
    }

    fn end(&mut self, behind: u64) -> io::Result<()> {
        let mut bytes = Vec::new();
        entry(&mut bytes, self.at_us, self.at_us, 7);
        number(&mut bytes, behind);
        number(&mut bytes, self.beyond);
        self.put(&bytes)?;
        self.out.flush()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// What each entry begins with: how much later it is, or earlier, as shards write in turns; and
/// what it is.
fn entry(bytes: &mut Vec<u8>, before_us: u64, at_us: u64, tag: u64) {
    let step = at_us as i64 - before_us as i64;
    number(bytes, ((step << 1) ^ (step >> 63)) as u64);
    number(bytes, tag);
}

/// Seven bits in each byte, the least significant first (LEB128).
fn number(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file that `loadgen` reads in its test.
    const GOLDEN: &[u8] = include_bytes!("../../loadgen/src/recording.golden");

    fn write(bytes_max: u64) -> Vec<u8> {
        let (one, other) = (71, 72);
        let mut file = Vec::new();
        let mut written = Written::begin(&mut file, 1_798_761_600_250, bytes_max).unwrap();
        for (at_us, connection, what) in [
            (1_000, one, What::Opened),
            (850, other, What::Opened),
            (2_000, other, What::Text(5)),
            (1_151_000, other, What::Closed),
            (1_149_900, one, What::Binary(70_000)),
        ] {
            let event = Event {
                at_us,
                connection,
                what,
            };
            written.event(event).unwrap();
        }
        written.end(4).unwrap();
        file
    }

    #[test]
    fn what_is_written_is_what_loadgen_reads() {
        let mut file = write(1 << 20);
        // Nothing was beyond the bound here, and three things in the file that is read.
        assert_eq!(file.pop(), Some(0));
        file.push(3);
        assert_eq!(file, GOLDEN);
    }

    #[test]
    fn no_file_is_longer_than_its_bound_and_what_is_left_out_is_counted() {
        for bytes_max in 60..120 {
            let file = write(bytes_max);
            assert!(
                file.len() as u64 <= bytes_max,
                "{bytes_max}: {}",
                file.len()
            );
        }
        assert_eq!(write(60).last(), Some(&3), "two fit, and three do not");
    }
}
