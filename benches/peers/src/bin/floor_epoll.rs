//! The floor of `epoll(7)`: a raw TCP echo with one buffer, which stays in the cache.
//!
//! Level-triggered: what is readable is read once into the one buffer and written back at once.
//! What the socket does not take waits, and nothing more is read from that peer until it has gone.

use std::{
    error::Error,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::OwnedFd,
};

use clap::Parser;
use ringwire_peers::Arguments;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
};

/// A raw TCP echo on epoll
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    common: Arguments,
    /// Bytes of the one buffer
    #[arg(long, default_value_t = 128 << 10)]
    buffer_bytes: usize,
}

/// The data of the listener's events; those of connections are their slots.
const LISTENER: u64 = u64::MAX;

struct Connection {
    stream: TcpStream,
    /// What was read and could not be written at once, and how much of it has been since.
    rest: Vec<u8>,
    written: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Options {
        common,
        buffer_bytes,
    } = Options::parse();
    let listener = common.listener("tcp")?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Vec::with_capacity(1024);
    let mut buffer = vec![0; buffer_bytes];
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        for event in &events {
            // The event is packed, so that its fields can be copied and not borrowed.
            let (data, flags) = (event.data, event.flags);
            if data.u64() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    let slot = free.pop().unwrap_or_else(|| {
                        connections.push(None);
                        connections.len() - 1
                    });
                    connections[slot] = Some(adopt(&epoll, stream, slot)?);
                }
                continue;
            }
            let slot = data.u64() as usize;
            let Some(connection) = &mut connections[slot] else {
                continue;
            };
            let alive = if common.sink {
                matches!(connection.stream.read(&mut buffer), Ok(1..))
            } else {
                echo(&epoll, connection, slot, flags, &mut buffer)
            };
            if !alive {
                connections[slot] = None;
                free.push(slot);
            }
        }
    }
}

fn adopt(epoll: &OwnedFd, stream: TcpStream, slot: usize) -> Result<Connection, Box<dyn Error>> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    epoll::add(
        epoll,
        &stream,
        EventData::new_u64(slot as u64),
        EventFlags::IN,
    )?;
    Ok(Connection {
        stream,
        rest: Vec::new(),
        written: 0,
    })
}

/// Reads and writes once; false when the connection is over.
#[inline]
fn echo(
    epoll: &OwnedFd,
    connection: &mut Connection,
    slot: usize,
    flags: EventFlags,
    buffer: &mut [u8],
) -> bool {
    if !connection.rest.is_empty() {
        if !flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
            return true;
        }
        let rest = &connection.rest[connection.written..];
        let Some(written) = write(&mut connection.stream, rest) else {
            return false;
        };
        connection.written += written;
        if connection.written < connection.rest.len() {
            return true;
        }
        connection.rest.clear();
        connection.written = 0;
        return watch(epoll, connection, slot, EventFlags::IN);
    }
    match connection.stream.read(buffer) {
        Ok(0) => false,
        Ok(count) => match write(&mut connection.stream, &buffer[..count]) {
            Some(written) if written == count => true,
            Some(written) => {
                connection.rest.extend_from_slice(&buffer[written..count]);
                watch(epoll, connection, slot, EventFlags::OUT)
            }
            None => false,
        },
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

/// How much the socket took; `None` when it is broken.
#[inline]
fn write(stream: &mut TcpStream, bytes: &[u8]) -> Option<usize> {
    match stream.write(bytes) {
        Ok(written) => Some(written),
        Err(error) => {
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted).then_some(0)
        }
    }
}

fn watch(epoll: &OwnedFd, connection: &Connection, slot: usize, flags: EventFlags) -> bool {
    let data = EventData::new_u64(slot as u64);
    epoll::modify(epoll, &connection.stream, data, flags).is_ok()
}
