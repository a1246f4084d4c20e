//! A client that does as little as a client can: what `loadgen` is measured against.
//!
//! `bare_epoll 127.0.0.1:9001 --connections 64 --size 64 --duration 5` opens the connections, sends
//! one masked message on each, the same prebuilt bytes every time, and sends it again when as many
//! bytes have come back as a reply has. It looks at none of them. Prints one line of JSON.
//!
//! ```text
//!   epoll_wait --> read, count --> all of the reply? --> write the same frame again
//! ```

use std::{
    error::Error,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use clap::Parser;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    time::{ClockId, clock_gettime},
};

/// A client that only counts bytes
#[derive(Parser)]
struct Arguments {
    /// Where the server listens
    address: String,
    /// How many connections, each with one message in flight
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Bytes of payload of each message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Seconds to measure
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds before, unmeasured
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
}

struct Connection {
    stream: TcpStream,
    /// Bytes of the reply that have not come yet.
    missing: usize,
    /// Bytes of the message that the socket took.
    written: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let frame = frame(arguments.size);
    // A reply has no masking key.
    let reply_bytes = frame.len() - 4;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut connections = Vec::new();
    for index in 0..arguments.connections {
        let stream = open(&arguments.address)?;
        epoll::add(
            &epoll,
            &stream,
            EventData::new_u64(index as u64),
            EventFlags::IN,
        )?;
        connections.push(Connection {
            stream,
            missing: reply_bytes,
            written: 0,
        });
    }
    for (index, connection) in connections.iter_mut().enumerate() {
        if !write(connection, &frame)? {
            watch(&epoll, connection, index, EventFlags::IN | EventFlags::OUT)?;
        }
    }
    let begin = Instant::now();
    let measured_from = begin + Duration::from_secs_f64(arguments.warmup);
    let until = measured_from + Duration::from_secs_f64(arguments.duration);
    let mut events = Vec::with_capacity(arguments.connections.max(1));
    let mut buffer = vec![0; 256 << 10];
    let (mut messages, mut before, mut cpu_before) = (0_u64, None, Duration::ZERO);
    let patience = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    loop {
        let now = Instant::now();
        if before.is_none() && now >= measured_from {
            before = Some((now, messages));
            cpu_before = process_cpu();
        }
        if now >= until {
            break;
        }
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), Some(&patience))?;
        for event in &events {
            let data = event.data;
            let index = data.u64() as usize;
            let connection = &mut connections[index];
            // The event is packed, so that its fields can be copied and not borrowed.
            let flags = event.flags;
            if flags.contains(EventFlags::OUT) && write(connection, &frame)? {
                watch(&epoll, connection, index, EventFlags::IN)?;
            }
            if !flags.contains(EventFlags::IN) {
                continue;
            }
            match connection.stream.read(&mut buffer) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(count) if count > connection.missing => {
                    return Err("more bytes came back than were sent".into());
                }
                Ok(count) => connection.missing -= count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if connection.missing == 0 {
                messages += 1;
                connection.missing = reply_bytes;
                connection.written = 0;
                if !write(connection, &frame)? {
                    watch(&epoll, connection, index, EventFlags::IN | EventFlags::OUT)?;
                }
            }
        }
    }
    let (from, messages_before) = before.ok_or("nothing was measured")?;
    let seconds = from.elapsed().as_secs_f64();
    let counted = messages - messages_before;
    let cpu = process_cpu() - cpu_before;
    println!(
        "{{\"messages\": {counted}, \"seconds\": {seconds:.3}, \"rate_per_s\": {:.1}, \
         \"cpu_ns_per_message\": {:.1}}}",
        counted as f64 / seconds,
        cpu.as_secs_f64() * 1e9 / counted.max(1) as f64,
    );
    Ok(())
}

/// A masked binary frame (RFC 6455 5.2) of bytes that the server may not mistake for anything.
fn frame(size: usize) -> Vec<u8> {
    const MASKING_KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x82];
    match size {
        0..=125 => frame.push(0x80 | size as u8),
        126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((size as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((size as u64).to_be_bytes());
        }
    }
    frame.extend(MASKING_KEY);
    frame.extend((0..size).map(|index| MASKING_KEY[index % 4]));
    frame
}

/// A connection after its opening handshake.
fn open(address: &str) -> Result<TcpStream, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(String::from_utf8_lossy(&head).into());
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Writes what is left of the message; true when that was all.
fn write(connection: &mut Connection, frame: &[u8]) -> io::Result<bool> {
    while connection.written < frame.len() {
        match connection.stream.write(&frame[connection.written..]) {
            Ok(count) => connection.written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn watch(
    epoll: &rustix::fd::OwnedFd,
    connection: &Connection,
    index: usize,
    flags: EventFlags,
) -> io::Result<()> {
    epoll::modify(
        epoll,
        &connection.stream,
        EventData::new_u64(index as u64),
        flags,
    )?;
    Ok(())
}

fn process_cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}
