//! The log: lines on their way to standard error, for which nobody waits.
//!
//! Knows: a queue with a limit, and a thread that writes what is in it. Refuses to know: who says
//! what.
//!
//! Standard error may be a pipe that nobody reads, a disk that is full, a terminal that was
//! stopped. None of that is a reason for a shard to stand still or to end, so that a shard only
//! puts its line into the queue. A line that finds no room there, and one that cannot be written,
//! is dropped and counted; how many were is said as soon as something can be written again.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    io::{self, Write},
    os::fd::AsFd,
    panic,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
};

/// What may wait to be written: some ten thousand lines.
const QUEUE_BYTES_MAX: usize = 1 << 20;

/// What is written at once: a pipe takes so much as one piece, so that the lines of several
/// processes that share it stay whole (`PIPE_BUF`).
const PIECE_BYTES_MAX: usize = 4096;

/// Memory that is kept from one burst of lines to the next.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// How long the end of the process waits for what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The way into the log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

type Out = Box<dyn AsFd + Send>;

#[derive(Default)]
struct Shared {
    /// Where to, as long as nobody writes there.
    out: Mutex<Option<Out>>,
    queue: Mutex<Queue>,
    /// There is something to write.
    filled: Condvar,
    /// All of it was.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Vec<u8>,
    /// Lines that found no room behind these.
    refused: u64,
    /// All lines that were dropped so far.
    dropped: u64,
    is_writing: bool,
}

/// The names of its levels.
pub const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// For those who want to see more of one part than of others, as `tracing` has it: it wins over the
/// settings.
const VARIABLE: &str = "RUST_LOG";

/// What is written at the level of this name, which is one of [`LEVELS`]; or as the variable
/// `RUST_LOG` has it, if that is set.
///
/// # Errors
///
/// What is wrong about the variable, as a sentence.
pub fn filter(level: &str) -> Result<Targets, String> {
    match variable() {
        Some(text) => text.parse().map_err(|error| {
            format!("{VARIABLE} is '{text}', but it has to be like ringwire=debug,warn: {error}")
        }),
        None => Ok(of_level(level)),
    }
}

/// What `RUST_LOG` says, if anything.
pub fn variable() -> Option<String> {
    env::var(VARIABLE).ok().filter(|text| !text.is_empty())
}

/// What is written at the level of this name.
pub fn of_level(name: &str) -> Targets {
    Targets::new().with_default(name.parse().unwrap_or(LevelFilter::INFO))
}

impl Log {
    /// A log on this descriptor. Lines wait until it [begins](Self::begin).
    pub fn on(out: impl AsFd + Send + 'static) -> Self {
        let shared = Shared {
            out: Mutex::new(Some(Box::new(out))),
            ..Shared::default()
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Starts the thread that writes until the process ends, if it is not there yet. It may do what
    /// the thread may do that calls this, and no more.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub fn begin(&self) -> io::Result<()> {
        let out = self.shared.out.lock();
        let Some(out) = out.unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let writer = Writer {
            out,
            log: self.clone(),
            lost: 0,
            is_torn: false,
        };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run())?;
        Ok(())
    }

    /// Puts whole lines into the queue, or counts them as dropped.
    pub fn put(&self, lines: &[u8]) {
        let mut queue = self.queue();
        // What did not find room is behind all that did.
        if queue.refused > 0 || queue.lines.len() + lines.len() > QUEUE_BYTES_MAX {
            let count = count(lines);
            queue.refused += count;
            queue.dropped += count;
            return;
        }
        queue.lines.extend_from_slice(lines);
        let is_writing = queue.is_writing;
        drop(queue);
        if !is_writing {
            self.shared.filled.notify_one();
        }
    }

    /// How many lines were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.queue().dropped
    }

    /// Waits until everything is written that was put here, if somebody reads it: a second at most.
    pub fn flush(&self) {
        if let Err(error) = self.begin() {
            // Nothing serves that could be kept waiting.
            let _ = writeln!(io::stderr(), "ringwire: cannot start a thread: {error}");
            return;
        }
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        let queue = self.queue();
        // Whether it was or not, the process goes on to its end.
        let _ = self
            .shared
            .emptied
            .wait_timeout_while(queue, FLUSH_TIMEOUT, is_busy);
    }

    /// Lets panics be said here, and not by the thread that panics and has to wait for it.
    pub fn take_panics(&self) {
        let log = self.clone();
        panic::set_hook(Box::new(move |info| {
            let thread = thread::current();
            let name = thread.name().unwrap_or("without a name");
            let text = info.payload().downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| info.payload().downcast_ref::<&str>().copied());
            let text = text.unwrap_or("something that is no text");
            let place = info.location().map(ToString::to_string);
            let place = place.as_deref().unwrap_or("a place unknown");
            tracing::error!("the thread {name} panicked at {place}: {text}");
            let backtrace = Backtrace::capture();
            if backtrace.status() == BacktraceStatus::Captured {
                log.put(format!("{}\n", backtrace.to_string().trim_end()).as_bytes());
            }
            if name == "main" {
                // The process ends with it.
                log.flush();
            }
        }));
    }

    /// A panic cannot have left it half changed: nothing is done under the lock that could.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        let queue = self.shared.queue.lock();
        queue.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for lines, and takes them in exchange for an empty row. Returns how many were dropped
    /// behind them.
    fn take(&self, lines: &mut Vec<u8>) -> u64 {
        let mut queue = self.queue();
        queue.is_writing = false;
        if queue.lines.is_empty() {
            self.shared.emptied.notify_all();
        }
        while queue.lines.is_empty() {
            let waited = self.shared.filled.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
        queue.is_writing = true;
        std::mem::swap(&mut queue.lines, lines);
        std::mem::take(&mut queue.refused)
    }
}

/// Whole lines by `tracing`.
impl<'a> MakeWriter<'a> for Log {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(self)
    }
}

/// Writes into a [`Log`], at once and without an error.
pub struct LineWriter<'a>(&'a Log);

impl Write for LineWriter<'_> {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.put(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log's thread.
struct Writer {
    out: Out,
    log: Log,
    /// Lines that were dropped since somebody was told.
    lost: u64,
    /// The last line that was written has no end.
    is_torn: bool,
}

impl Writer {
    fn run(mut self) {
        let mut lines = Vec::new();
        loop {
            lines.clear();
            if lines.capacity() > KEPT_BYTES_MAX {
                lines = Vec::new();
            }
            let refused = self.log.take(&mut lines);
            let unwritten = match self.say_lost() {
                true => self.write_lines(&lines),
                false => &lines,
            };
            let failed = count(unwritten);
            self.log.queue().dropped += failed;
            self.lost += failed + refused;
            self.say_lost();
        }
    }

    /// Says how many lines were dropped, if any were. Returns whether nobody has to be told any
    /// more.
    fn say_lost(&mut self) -> bool {
        if self.lost == 0 {
            return true;
        }
        let end = if self.is_torn { "\n" } else { "" };
        let (lost, all) = (self.lost, self.log.dropped());
        let sentence = format!(
            "{end}ringwire: {lost} lines of the log were dropped here, {all} since the start: they \
             were not read in time, or could not be written\n"
        );
        if !self.write_lines(sentence.as_bytes()).is_empty() {
            return false;
        }
        self.lost = 0;
        true
    }

    /// Writes as much as can be written, in pieces of whole lines. Returns the rest, from the
    /// beginning of a line that is not whole.
    fn write_lines<'b>(&mut self, lines: &'b [u8]) -> &'b [u8] {
        let mut rest = lines;
        while !rest.is_empty() {
            let fits = &rest[..rest.len().min(PIECE_BYTES_MAX)];
            let whole = fits.iter().rposition(|&byte| byte == b'\n');
            let piece = &rest[..whole.map_or(fits.len(), |at| at + 1)];
            let written = self.write(piece);
            if written > 0 {
                self.is_torn = piece[written - 1] != b'\n';
            }
            if written < piece.len() {
                let begun = piece[..written].iter().rposition(|&byte| byte == b'\n');
                return &rest[begun.map_or(0, |at| at + 1)..];
            }
            rest = &rest[piece.len()..];
        }
        rest
    }

    /// Writes a piece, for as long as that takes. Returns how much of it was written before an
    /// error.
    fn write(&self, piece: &[u8]) -> usize {
        let mut written = 0;
        while written < piece.len() {
            match rustix::io::write(&self.out, &piece[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                // Whoever shares it with us does not want to wait; this thread does.
                Err(Errno::AGAIN) => {
                    let mut waited_for = [PollFd::new(&self.out, PollFlags::OUT)];
                    if poll(&mut waited_for, None).is_err_and(|errno| errno != Errno::INTR) {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        written
    }
}

/// How many lines these are; the last one may have no end.
fn count(lines: &[u8]) -> u64 {
    let ends = lines.iter().filter(|&&byte| byte == b'\n').count();
    let is_open = lines.last().is_some_and(|&byte| byte != b'\n');
    ends as u64 + u64::from(is_open)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, OpenOptions},
        io::{BufRead, BufReader, Read},
        os::fd::OwnedFd,
    };

    use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

    use super::*;

    /// A pipe that holds 4 KiB.
    fn narrow_pipe() -> (BufReader<File>, OwnedFd) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        fcntl_setpipe_size(&writer, 4096).unwrap();
        (BufReader::new(reader.into()), writer)
    }

    fn begun(out: OwnedFd) -> Log {
        let log = Log::on(out);
        log.begin().unwrap();
        log
    }

    fn line(number: usize) -> String {
        format!("{number} {}\n", "x".repeat(200))
    }

    /// The lines up to the one that begins with `last`: their numbers, and how many were dropped.
    fn read_until(reader: &mut BufReader<File>, last: &str) -> (Vec<usize>, u64) {
        let (mut numbers, mut dropped) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).unwrap() > 0, "no {last}");
            if let Some(rest) = line.strip_prefix("ringwire: ") {
                dropped += rest.split(' ').next().unwrap().parse::<u64>().unwrap();
            } else if line.starts_with(last) {
                return (numbers, dropped);
            } else {
                numbers.push(line.split(' ').next().unwrap().parse().unwrap());
            }
        }
    }

    #[test]
    fn nobody_waits_for_a_pipe_that_is_not_read_and_what_was_dropped_is_counted() {
        for is_nonblocking in [false, true] {
            let (mut reader, writer) = narrow_pipe();
            rustix::io::ioctl_fionbio(&writer, is_nonblocking).unwrap();
            let log = begun(writer);
            const COUNT: usize = 20_000;
            for number in 0..COUNT {
                log.put(line(number).as_bytes());
            }
            assert!(log.dropped() > 0);
            // In vain, and not for ever.
            log.flush();
            let reading = thread::spawn(move || {
                let read = read_until(&mut reader, "the end");
                (reader, read)
            });
            // There is room when the reader has caught up.
            log.flush();
            log.put(b"the end\n");
            let (mut reader, (numbers, dropped)) = reading.join().unwrap();
            // There is a gap wherever the queue was full.
            assert!(numbers.is_sorted());
            assert_eq!((numbers.len() as u64 + dropped) as usize, COUNT);
            assert_eq!(dropped, log.dropped());
            // And all is well again.
            for number in 0..10 {
                log.put(line(number).as_bytes());
            }
            log.put(b"the end\n");
            assert_eq!(read_until(&mut reader, "the end").0.len(), 10);
        }
    }

    #[test]
    fn what_is_queued_is_written_before_the_end() {
        let (mut reader, writer) = narrow_pipe();
        let log = begun(writer);
        for number in 0..1000 {
            log.put(line(number).as_bytes());
        }
        log.put(b"the end\n");
        let reading = thread::spawn(move || read_until(&mut reader, "the end"));
        log.flush();
        let queue = log.queue();
        assert!(queue.lines.is_empty() && !queue.is_writing);
        drop(queue);
        assert_eq!(reading.join().unwrap().0.len(), 1000);
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_nobody_waits_for_them() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (reader, gone) = narrow_pipe();
        drop(reader);
        for out in [full.into(), gone] {
            let log = begun(out);
            for number in 0..100 {
                log.put(line(number).as_bytes());
                log.flush();
            }
            assert_eq!(log.dropped(), 100);
        }
    }

    #[test]
    fn a_line_that_was_cut_short_has_an_end_before_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let out = File::create(&path).unwrap();
        let mut writer = Writer {
            out: Box::new(out),
            log: Log {
                shared: Arc::default(),
            },
            lost: 1,
            is_torn: true,
        };
        assert!(writer.say_lost());
        assert_eq!(writer.write_lines(b"next\n"), b"");
        let mut text = String::new();
        File::open(&path)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert!(text.starts_with("\nringwire: 1 lines"), "{text:?}");
        assert!(text.ends_with("\nnext\n"), "{text:?}");
    }
}
