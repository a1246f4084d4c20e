//! Drives a server as hard as one thread can, and tells what that cost both sides.
//!
//! A closed loop on epoll: so many connections, so many messages in flight on each, the same
//! prebuilt bytes every time. All replies are compared before anything is measured and once more
//! afterwards; while it is measured they are counted in bytes. What has come in one read is asked
//! for again in one write.
//!
//! ```text
//!   epoll_wait --> read, count --> so many replies are complete --> as many messages in one write
//! ```
//!
//! It does not sleep: on another machine the server would not pay for waking it, and on this one an
//! interrupt for the other processor is the most uneven part of a message.
//!
//! A measurement begins and ends with nothing in flight, so that the processor time that is read
//! from `/proc/PID/task/*/schedstat` then is that of the messages counted and of nothing else.

use std::{
    collections::VecDeque,
    error::Error,
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A closed loop of messages, a flood, or a storm of handshakes, against one server
#[derive(Parser)]
struct Arguments {
    /// Where it listens: IP:PORT, ws://IP:PORT/ or tcp://IP:PORT/
    address: String,
    /// Connections at a time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Messages in flight on each of them
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Bytes of payload of each message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// What messages hold
    #[arg(long, value_enum, default_value_t = Content::Binary)]
    content: Content,
    /// The server is a floor: no handshake, and every byte comes back
    #[arg(long, conflicts_with = "connect_storm")]
    raw: bool,
    /// Send to /sink, which answers nothing, and ask it how many messages it has seen; a floor has
    /// seen all when it ends the connection that we have ended
    #[arg(long, conflicts_with = "connect_storm")]
    ingest: bool,
    /// Connect, open, and close again, as often as possible
    #[arg(long)]
    connect_storm: bool,
    /// End connections of a storm with the closing handshake; without it they are reset
    #[arg(long, requires = "connect_storm")]
    close: bool,
    /// Seconds to measure
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Seconds before, unmeasured
    #[arg(long, default_value_t = 0.3)]
    warmup: f64,
    /// Sleep while there is nothing to do; waking us is then a part of what the server does
    #[arg(long)]
    sleep: bool,
    /// The server's process, whose processor time is read
    #[arg(long)]
    pid: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Content {
    Binary,
    /// Text of one byte each
    Ascii,
    /// Text of three bytes each
    Cjk,
}

/// Nobody waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that a flood writes at once.
const FLOOD_BYTES: usize = 64 << 10;

const READ_BYTES: usize = 256 << 10;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    raise_open_file_limit()?;
    let address = parse_address(&arguments.address)?;
    let mut report = if arguments.connect_storm {
        storm(&arguments, address)?
    } else if arguments.ingest {
        ingest(&arguments, address)?
    } else {
        echo(&arguments, address)?
    };
    if let Value::Object(fields) = &mut report {
        fields.insert("connections".to_owned(), arguments.connections.into());
    }
    println!("{report}");
    Ok(())
}

fn parse_address(text: &str) -> Outcome<SocketAddr> {
    let bare = ["ws://", "tcp://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    bare.parse()
        .map_err(|_| format!("'{text}' is not an address: write IP:PORT or ws://IP:PORT/").into())
}

fn raise_open_file_limit() -> Outcome<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

// What messages look like.

/// The payload of every message. It never contains what its length would allow to be cut in two.
fn payload(content: Content, size: usize) -> Vec<u8> {
    match content {
        // Runs through all bytes, and is no valid text.
        Content::Binary => (0..size).map(|index| (index % 251) as u8 ^ 0xc0).collect(),
        Content::Ascii => (0..size).map(|index| b'a' + (index % 26) as u8).collect(),
        Content::Cjk => {
            let characters = "環線通信試験中文字列".bytes().cycle();
            let whole = size / 3 * 3;
            let rest = std::iter::repeat_n(b'.', size - whole);
            characters.take(whole).chain(rest).collect()
        }
    }
}

/// One frame (RFC 6455 5.2), with the final bit, masked or not.
fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask_bit = if masked { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        size @ 0..=125 => frame.push(mask_bit | size as u8),
        size @ 126..=0xffff => {
            frame.push(mask_bit | 126);
            frame.extend((size as u16).to_be_bytes());
        }
        size => {
            frame.push(mask_bit | 127);
            frame.extend((size as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend(KEY);
        let key = KEY.iter().cycle();
        frame.extend(payload.iter().zip(key).map(|(byte, key)| byte ^ key));
    } else {
        frame.extend(payload);
    }
    frame
}

// Connections.

fn request(address: SocketAddr, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A connection that blocks, after its opening handshake if there is one.
fn open(address: SocketAddr, path: Option<&str>) -> Outcome<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let Some(path) = path else {
        return Ok(stream);
    };
    stream.write_all(request(address, path).as_bytes())?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(format!("refused: {}", String::from_utf8_lossy(&head)).into());
    }
    Ok(stream)
}

/// What happens on sockets.
struct Poll {
    epoll: OwnedFd,
    sleep: bool,
    /// Since when nothing has happened.
    idle_since: Option<Instant>,
}

impl Poll {
    fn new(sleep: bool) -> Outcome<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            sleep,
            idle_since: None,
        })
    }

    fn add(&self, stream: &TcpStream, slot: usize, flags: EventFlags) -> Outcome<()> {
        let data = EventData::new_u64(slot as u64);
        Ok(epoll::add(&self.epoll, stream, data, flags)?)
    }

    fn watch(&self, stream: &TcpStream, slot: usize, flags: EventFlags) -> Outcome<()> {
        let data = EventData::new_u64(slot as u64);
        Ok(epoll::modify(&self.epoll, stream, data, flags)?)
    }

    /// What has happened, which may be nothing; an error when it is nothing for too long.
    #[inline]
    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> Outcome<()> {
        let timeout = Timespec {
            tv_sec: i64::from(self.sleep),
            tv_nsec: 0,
        };
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(0) => {
                let since = *self.idle_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    let seconds = PATIENCE.as_secs();
                    return Err(format!("nothing has happened for {seconds} s").into());
                }
                Ok(())
            }
            Ok(_) => {
                self.idle_since = None;
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

// The closed loop.

struct Connection {
    stream: TcpStream,
    /// Bytes of replies that have come, of those that are not complete.
    partial: usize,
    /// Bytes to be written, and where in the block they begin.
    unwritten: usize,
    position: usize,
    /// When messages were sent that are not answered, and how many at a time.
    waiting: VecDeque<(Instant, usize)>,
    in_flight: usize,
    blocked: bool,
}

struct Loop {
    poll: Poll,
    connections: Vec<Connection>,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    /// The frame, over and over: as often as are in flight, and once more.
    block: Vec<u8>,
    frame_bytes: usize,
    reply: Vec<u8>,
    /// Whether what comes is compared.
    verifying: bool,
    latencies: Histogram<u64>,
    messages: u64,
    in_flight: u64,
}

fn echo(arguments: &Arguments, address: SocketAddr) -> Outcome<Value> {
    let payload = payload(arguments.content, arguments.size);
    let opcode = if arguments.content == Content::Binary {
        2
    } else {
        1
    };
    let sent = frame(opcode, &payload, true);
    let reply = if arguments.raw {
        sent.clone()
    } else {
        frame(opcode, &payload, false)
    };
    let mut all = Loop {
        poll: Poll::new(arguments.sleep)?,
        connections: Vec::new(),
        events: Vec::with_capacity(arguments.connections.max(1)),
        buffer: vec![0; READ_BYTES],
        block: sent.repeat(arguments.in_flight + 1),
        frame_bytes: sent.len(),
        reply,
        verifying: true,
        latencies: Histogram::new_with_bounds(1, 100_000_000_000, 3)?,
        messages: 0,
        in_flight: 0,
    };
    for slot in 0..arguments.connections {
        let stream = open(address, (!arguments.raw).then_some("/"))?;
        compare(&stream, &sent, &all.reply)?;
        stream.set_nonblocking(true)?;
        all.poll.add(&stream, slot, EventFlags::IN)?;
        all.connections.push(Connection {
            stream,
            partial: 0,
            unwritten: 0,
            position: 0,
            waiting: VecDeque::new(),
            in_flight: 0,
            blocked: false,
        });
    }
    all.run(arguments.in_flight, arguments.warmup)?;
    let before_all = all.messages + arguments.connections as u64;
    all.messages = 0;
    all.latencies.reset();
    all.verifying = false;
    let before = Reading::take(arguments.pid)?;
    all.run(arguments.in_flight, arguments.seconds)?;
    let mut report = before.report(all.messages)?;
    // What was only counted has left every connection where it should be.
    all.verifying = true;
    all.run(arguments.in_flight, 0.0)?;
    report["messages_in_all"] = json!(before_all + all.messages);
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
        report[format!("{name}_us")] =
            json!(all.latencies.value_at_quantile(quantile) as f64 / 1000.0);
    }
    Ok(report)
}

/// Sends one message and looks at what comes back, so that nothing else is measured than an echo.
fn compare(mut stream: &TcpStream, sent: &[u8], reply: &[u8]) -> Outcome<()> {
    // A large message does not fit into the sockets: it is written while its reply is read.
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (&*stream).write_all(sent));
        let mut came = vec![0; reply.len()];
        stream.read_exact(&mut came)?;
        writer.join().map_err(|_| "the writer panicked")??;
        if came != reply {
            return Err("what came back is not what was sent".into());
        }
        Ok(())
    })
}

impl Loop {
    /// Keeps so many messages in flight on each connection for so long, and waits for the last.
    fn run(&mut self, in_flight: usize, seconds: f64) -> Outcome<()> {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let mut connections = std::mem::take(&mut self.connections);
        for (slot, connection) in connections.iter_mut().enumerate() {
            self.send(connection, slot, in_flight, Instant::now())?;
        }
        while self.in_flight > 0 {
            self.poll.wait(&mut self.events)?;
            let events = std::mem::take(&mut self.events);
            for event in &events {
                let (data, flags) = (event.data, event.flags);
                let slot = data.u64() as usize;
                let connection = &mut connections[slot];
                if flags.contains(EventFlags::OUT) {
                    self.write(connection, slot)?;
                }
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    self.read(connection, slot, until)?;
                }
            }
            self.events = events;
        }
        self.connections = connections;
        Ok(())
    }

    #[inline]
    fn read(&mut self, connection: &mut Connection, slot: usize, until: Instant) -> Outcome<()> {
        let count = match connection.stream.read(&mut self.buffer) {
            Ok(0) => return Err("the server closed a connection".into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if self.verifying {
            self.verify(connection.partial, &self.buffer[..count])?;
        }
        connection.partial += count;
        if connection.partial < self.reply.len() {
            return Ok(());
        }
        let replies = connection.partial / self.reply.len();
        connection.partial %= self.reply.len();
        if replies > connection.in_flight {
            return Err("more came back than was sent".into());
        }
        connection.in_flight -= replies;
        self.in_flight -= replies as u64;
        self.messages += replies as u64;
        let now = Instant::now();
        let mut left = replies;
        while left > 0
            && let Some((sent, count)) = connection.waiting.front_mut()
        {
            let of_these = left.min(*count);
            let latency = (now - *sent).as_nanos() as u64;
            self.latencies.saturating_record_n(latency, of_these as u64);
            left -= of_these;
            *count -= of_these;
            if *count == 0 {
                connection.waiting.pop_front();
            }
        }
        if now < until {
            self.send(connection, slot, replies, now)?;
        }
        Ok(())
    }

    /// Compares what came with replies, of which so many bytes had come before.
    fn verify(&self, mut position: usize, mut came: &[u8]) -> Outcome<()> {
        while !came.is_empty() {
            let expected = &self.reply[position..];
            let (these, later) = came.split_at(came.len().min(expected.len()));
            if these != &expected[..these.len()] {
                return Err("what came back is not what was sent".into());
            }
            position = (position + these.len()) % self.reply.len();
            came = later;
        }
        Ok(())
    }

    #[inline]
    fn send(
        &mut self,
        connection: &mut Connection,
        slot: usize,
        messages: usize,
        now: Instant,
    ) -> Outcome<()> {
        connection.waiting.push_back((now, messages));
        connection.in_flight += messages;
        self.in_flight += messages as u64;
        connection.unwritten += messages * self.frame_bytes;
        if connection.blocked {
            return Ok(());
        }
        self.write(connection, slot)
    }

    /// Writes what there is to write, or as much as the socket takes.
    #[inline]
    fn write(&mut self, connection: &mut Connection, slot: usize) -> Outcome<()> {
        while connection.unwritten > 0 {
            let end = (connection.position + connection.unwritten).min(self.block.len());
            let bytes = &self.block[connection.position..end];
            match connection.stream.write(bytes) {
                Ok(count) => {
                    connection.unwritten -= count;
                    connection.position = (connection.position + count) % self.frame_bytes;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !connection.blocked {
                        connection.blocked = true;
                        let both = EventFlags::IN | EventFlags::OUT;
                        self.poll.watch(&connection.stream, slot, both)?;
                    }
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        if connection.blocked {
            connection.blocked = false;
            self.poll.watch(&connection.stream, slot, EventFlags::IN)?;
        }
        Ok(())
    }
}

// The flood.

fn ingest(arguments: &Arguments, address: SocketAddr) -> Outcome<Value> {
    let opcode = if arguments.content == Content::Binary {
        2
    } else {
        1
    };
    let sent = frame(opcode, &payload(arguments.content, arguments.size), true);
    let block = sent.repeat((FLOOD_BYTES / sent.len()).max(1));
    if arguments.raw {
        return ingest_raw(arguments, address, &block, sent.len());
    }
    let (mut poll, streams) = sinks(arguments, address, Some("/sink"))?;
    flood(&mut poll, &streams, &block, sent.len(), arguments.warmup)?;
    let counted = sunk(&streams)?;
    let before = Reading::take(arguments.pid)?;
    let messages = flood(&mut poll, &streams, &block, sent.len(), arguments.seconds)?;
    // Its answer comes after everything that was sent before the question.
    let counted = sunk(&streams)? - counted;
    let report = before.report(counted)?;
    if messages != counted {
        return Err(format!("{messages} messages were sent, and {counted} arrived").into());
    }
    Ok(report)
}

fn sinks(
    arguments: &Arguments,
    address: SocketAddr,
    path: Option<&str>,
) -> Outcome<(Poll, Vec<TcpStream>)> {
    let poll = Poll::new(arguments.sleep)?;
    let mut streams = Vec::new();
    for slot in 0..arguments.connections {
        let stream = open(address, path)?;
        poll.add(&stream, slot, EventFlags::OUT)?;
        streams.push(stream);
    }
    Ok((poll, streams))
}

/// A floor counts nothing: it has seen all that came before the end, once it has seen the end.
fn ingest_raw(
    arguments: &Arguments,
    address: SocketAddr,
    block: &[u8],
    frame_bytes: usize,
) -> Outcome<Value> {
    let run = |seconds| -> Outcome<Value> {
        let (mut poll, streams) = sinks(arguments, address, None)?;
        let before = Reading::take(arguments.pid)?;
        let messages = flood(&mut poll, &streams, block, frame_bytes, seconds)?;
        for stream in &streams {
            stream.shutdown(Shutdown::Write)?;
        }
        for mut stream in &streams {
            if stream.read(&mut [0])? != 0 {
                return Err("this is no sink: it answers".into());
            }
        }
        before.report(messages)
    };
    run(arguments.warmup)?;
    run(arguments.seconds)
}

/// Writes to whoever takes it for so long, and tells how many messages that were.
fn flood(
    poll: &mut Poll,
    streams: &[TcpStream],
    block: &[u8],
    frame_bytes: usize,
    seconds: f64,
) -> Outcome<u64> {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut positions = vec![0; streams.len()];
    let mut events = Vec::with_capacity(streams.len());
    let mut bytes = 0;
    for stream in streams {
        stream.set_nonblocking(true)?;
    }
    while Instant::now() < until {
        poll.wait(&mut events)?;
        for event in &events {
            let data = event.data;
            let slot = data.u64() as usize;
            let position: &mut usize = &mut positions[slot];
            match (&streams[slot]).write(&block[*position..]) {
                Ok(count) => {
                    bytes += count;
                    *position = (*position + count) % block.len();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    for (mut stream, position) in streams.iter().zip(positions) {
        stream.set_nonblocking(false)?;
        let rest = position.next_multiple_of(frame_bytes) - position;
        stream.write_all(&block[position..position + rest])?;
        bytes += rest;
    }
    Ok((bytes / frame_bytes) as u64)
}

/// Asks every connection's sink how many messages it has seen.
fn sunk(streams: &[TcpStream]) -> Outcome<u64> {
    let question = frame(1, b"stats", true);
    for mut stream in streams {
        stream.write_all(&question)?;
    }
    let mut messages = 0;
    for mut stream in streams {
        let mut head = [0; 2];
        stream.read_exact(&mut head)?;
        if head[0] != 0x81 || head[1] > 125 {
            return Err("this is no sink: it does not answer the text 'stats' shortly".into());
        }
        let mut answer = vec![0; usize::from(head[1])];
        stream.read_exact(&mut answer)?;
        let answer: Value = serde_json::from_slice(&answer)?;
        messages += answer["messages"]
            .as_u64()
            .ok_or("this is no sink: its answer to 'stats' has no \"messages\"")?;
    }
    Ok(messages)
}

// The storm.

struct Caller {
    stream: TcpStream,
    head: Vec<u8>,
    closing: bool,
    since: Instant,
}

struct Storm {
    poll: Poll,
    address: SocketAddr,
    request: String,
    /// Ends connections with the closing handshake.
    close: bool,
    callers: Vec<Option<Caller>>,
    opened: u64,
    running: u64,
    latencies: Histogram<u64>,
    /// Counts connections, each of which comes from the next address.
    next: u32,
}

fn storm(arguments: &Arguments, address: SocketAddr) -> Outcome<Value> {
    let mut storm = Storm {
        poll: Poll::new(arguments.sleep)?,
        address,
        request: request(address, "/"),
        close: arguments.close,
        callers: (0..arguments.connections).map(|_| None).collect(),
        opened: 0,
        running: 0,
        latencies: Histogram::new_with_bounds(1, 100_000_000_000, 3)?,
        next: 0,
    };
    storm.run(arguments.warmup)?;
    storm.opened = 0;
    storm.latencies.reset();
    let before = Reading::take(arguments.pid)?;
    storm.run(arguments.seconds)?;
    let mut report = before.report(storm.opened)?;
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
        report[format!("{name}_us")] =
            json!(storm.latencies.value_at_quantile(quantile) as f64 / 1000.0);
    }
    Ok(report)
}

impl Storm {
    fn run(&mut self, seconds: f64) -> Outcome<()> {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        for slot in 0..self.callers.len() {
            self.call(slot)?;
        }
        let mut events = Vec::with_capacity(self.callers.len());
        let mut buffer = vec![0; 4096];
        while self.running > 0 {
            self.poll.wait(&mut events)?;
            for event in &events {
                let data = event.data;
                let slot = data.u64() as usize;
                if self.hear(slot, &mut buffer)? {
                    self.callers[slot] = None;
                    self.running -= 1;
                    if Instant::now() < until {
                        self.call(slot)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens the next connection. It blocks until the kernel has connected it, which on one machine
    /// does not wait for the server.
    fn call(&mut self, slot: usize) -> Outcome<()> {
        let since = Instant::now();
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if self.address.ip().is_loopback() {
            // Ports are counted for each address: from one, they would run out in a second.
            let [_, _, high, low] = (self.next % 0xfa00).to_be_bytes();
            self.next += 1;
            let from = Ipv4Addr::new(127, 1, high, low.max(1));
            bind(&socket, &SocketAddr::V4(SocketAddrV4::new(from, 0)))?;
        }
        if !self.close {
            sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        }
        connect(&socket, &self.address)?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(self.request.as_bytes())?;
        stream.set_nonblocking(true)?;
        self.poll.add(&stream, slot, EventFlags::IN)?;
        self.running += 1;
        self.callers[slot] = Some(Caller {
            stream,
            head: Vec::with_capacity(256),
            closing: false,
            since,
        });
        Ok(())
    }

    /// Reads what has come; true when the connection is over.
    fn hear(&mut self, slot: usize, buffer: &mut [u8]) -> Outcome<bool> {
        let caller = self.callers[slot].as_mut().ok_or("an event of nobody")?;
        let count = match caller.stream.read(buffer) {
            Ok(0) if caller.closing => return Ok(true),
            Ok(0) => return Err("the server closed a connection".into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if caller.closing {
            return Ok(false);
        }
        caller.head.extend_from_slice(&buffer[..count]);
        if !caller.head.windows(4).any(|end| end == b"\r\n\r\n") {
            return Ok(false);
        }
        if !caller.head.starts_with(b"HTTP/1.1 101 ") {
            return Err(format!("refused: {}", String::from_utf8_lossy(&caller.head)).into());
        }
        self.opened += 1;
        let latency = caller.since.elapsed().as_nanos() as u64;
        self.latencies.saturating_record(latency);
        if self.close {
            caller.closing = true;
            let goodbye = frame(8, &1000_u16.to_be_bytes(), true);
            caller.stream.write_all(&goodbye)?;
        }
        Ok(!self.close)
    }
}

// What it costs.

/// What processes have used at one moment.
struct Reading {
    pid: Option<u32>,
    at: Instant,
    server: Option<Usage>,
    own: Usage,
}

#[derive(Default)]
struct Usage {
    cpu_ns: u64,
    /// Of its task that waited most for a processor, because others were on it.
    waited_ns: u64,
    voluntary_switches: u64,
}

impl Usage {
    /// Of all tasks of a process: what the kernel does for it in threads of its own is among them.
    fn of(process: &str) -> Outcome<Self> {
        let folder = format!("/proc/{process}/task");
        let mut usage = Self::default();
        let tasks = fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))?;
        for task in tasks {
            let task = task?.path();
            let schedstat = fs::read_to_string(task.join("schedstat"))?;
            let mut fields = schedstat.split(' ');
            let mut field = || fields.next().unwrap_or_default().parse::<u64>();
            usage.cpu_ns += field()?;
            usage.waited_ns = usage.waited_ns.max(field()?);
            let status = fs::read_to_string(task.join("status"))?;
            let switches = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .ok_or("no voluntary_ctxt_switches in /proc")?;
            usage.voluntary_switches += switches.trim().parse::<u64>()?;
        }
        Ok(usage)
    }
}

impl Reading {
    fn take(pid: Option<u32>) -> Outcome<Self> {
        let server = pid.map(|pid| Usage::of(&pid.to_string())).transpose()?;
        Ok(Self {
            pid,
            server,
            own: Usage::of("self")?,
            at: Instant::now(),
        })
    }

    /// What was used since, by so many messages.
    fn report(&self, messages: u64) -> Outcome<Value> {
        let seconds = self.at.elapsed().as_secs_f64();
        let now = Self::take(self.pid)?;
        if messages == 0 {
            return Err("nothing was measured".into());
        }
        let each = |used: u64| used as f64 / messages as f64;
        let share = |ns: u64| ns as f64 / 1e9 / seconds;
        let mut report = json!({
            "messages": messages,
            "seconds": seconds,
            "rate_per_s": messages as f64 / seconds,
            "own_cpu_ns": each(now.own.cpu_ns - self.own.cpu_ns),
            "own_waited": share(now.own.waited_ns.saturating_sub(self.own.waited_ns)),
        });
        if let (Some(before), Some(now)) = (&self.server, &now.server) {
            let switches = now.voluntary_switches - before.voluntary_switches;
            report["server_cpu_ns"] = json!(each(now.cpu_ns - before.cpu_ns));
            let waited_ns = now.waited_ns.saturating_sub(before.waited_ns);
            report["server_waited"] = json!(share(waited_ns));
            report["server_voluntary_switches"] = json!(each(switches));
        }
        Ok(report)
    }
}
