//! Where a clause of the contract is tried: a ring, listeners for it, and raw peers.

use std::{
    io::{ErrorKind, Read, Write},
    marker::PhantomData,
    net::{Shutdown, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ringwire::ring::{
    Address, Epoll, EpollOptions, Errno, PeerAddress, Ring, Uring, UringOptions,
    sim::{Knobs, SimKernel, SimOptions, SimPeer, SimRead, SimRing, SimSocket},
    socket::Listener,
};

/// Sizes of a ring. Small ones make its corners easy to reach.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub submission_entries: u32,
    pub completion_entries: u32,
    pub recv_buffers: u16,
    pub recv_buffer_bytes: u32,
    pub large_buffers: u16,
    pub large_buffer_bytes: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            submission_entries: 64,
            completion_entries: 256,
            recv_buffers: 16,
            recv_buffer_bytes: 4096,
            large_buffers: 2,
            large_buffer_bytes: 16 * 1024,
        }
    }
}

pub type Socket<E> = <E as Env>::Socket;

pub trait Env {
    type Ring: Ring<Socket = Self::Socket>;
    type Socket: std::fmt::Debug;
    type Peer: Peer;

    /// Whether turns really wait.
    const WAITS: bool;

    fn ring(&self, sizes: Sizes) -> Self::Ring;

    /// Whether the ends of unawaited sends are really told late.
    fn tells_late(ring: &Self::Ring) -> bool;

    fn listen(&mut self, ring: &mut Self::Ring) -> (Self::Socket, Address);

    /// A raw peer, connected to a listener of ours.
    fn connect(&self, address: &Address) -> Self::Peer;

    /// An address at which nobody listens.
    fn vacant(&mut self) -> Address;

    /// Whether this can be who connected to a listener of ours.
    fn is_plausible(&self, peer: PeerAddress) -> bool;

    /// Called when all rings, sockets and peers are gone.
    fn finish(self);
}

/// The other end of a connection. Nothing here waits.
pub trait Peer {
    /// Writes what there is room for, and says how much.
    fn write(&mut self, bytes: &[u8]) -> usize;

    fn read(&mut self, max: usize) -> SimRead;

    fn shutdown_write(&mut self);

    /// Is gone without a goodbye. The other end has sent something that was never read.
    fn reset(self);
}

// The simulated ring.

pub struct SimEnv {
    kernel: SimKernel,
    next_port: u16,
}

impl SimEnv {
    pub fn new(seed: u64, knobs: Knobs) -> Self {
        Self {
            kernel: SimKernel::new(seed, knobs),
            next_port: 1,
        }
    }
}

impl Env for SimEnv {
    type Ring = SimRing;
    type Socket = SimSocket;
    type Peer = SimPeer;

    const WAITS: bool = false;

    fn ring(&self, sizes: Sizes) -> SimRing {
        let options = SimOptions {
            submission_entries: sizes.submission_entries as usize,
            recv_buffers: sizes.recv_buffers,
            recv_buffer_bytes: sizes.recv_buffer_bytes,
            large_buffers: sizes.large_buffers,
            large_buffer_bytes: sizes.large_buffer_bytes,
        };
        self.kernel.ring(&options).unwrap()
    }

    fn tells_late(_: &SimRing) -> bool {
        true
    }

    fn listen(&mut self, _: &mut SimRing) -> (Self::Socket, Address) {
        let address = self.vacant();
        (self.kernel.listen(&address), address)
    }

    fn connect(&self, address: &Address) -> SimPeer {
        self.kernel.connect(address).unwrap()
    }

    fn vacant(&mut self) -> Address {
        self.next_port += 1;
        format!("127.0.0.1:{}", self.next_port).parse().unwrap()
    }

    fn is_plausible(&self, peer: PeerAddress) -> bool {
        peer.ip().is_some_and(|ip| ip.is_loopback())
    }

    fn finish(self) {
        self.kernel.assert_clean();
    }
}

impl Peer for SimPeer {
    fn write(&mut self, bytes: &[u8]) -> usize {
        SimPeer::write(self, bytes).unwrap()
    }

    fn read(&mut self, max: usize) -> SimRead {
        SimPeer::read(self, max)
    }

    fn shutdown_write(&mut self) {
        SimPeer::shutdown_write(self);
    }

    fn reset(self) {
        SimPeer::reset(self);
    }
}

// The kernel's rings.

#[derive(Clone, Copy, PartialEq)]
enum Family {
    Tcp,
    Unix,
}

/// What a real ring is asked to do where it has a choice.
#[derive(Clone, Copy)]
pub struct Manner {
    incremental: bool,
    quiet: bool,
    busy_poll_us: u32,
}

/// A ring of the kernel.
pub trait RealRing: Ring<Detached = OwnedFd> + Sized {
    fn make(sizes: Sizes, manner: Manner) -> Self;

    fn is_quiet(&self) -> bool;
}

impl RealRing for Uring {
    fn make(sizes: Sizes, manner: Manner) -> Self {
        let options = UringOptions {
            submission_entries: sizes.submission_entries,
            completion_entries: sizes.completion_entries,
            recv_buffers: sizes.recv_buffers,
            recv_buffer_bytes: sizes.recv_buffer_bytes,
            large_buffers: sizes.large_buffers,
            large_buffer_bytes: sizes.large_buffer_bytes,
            recv_incremental: manner.incremental,
            quiet_sends: manner.quiet,
            busy_poll_us: manner.busy_poll_us,
        };
        let ring = Self::new(&options).expect("this kernel lets the tests use io_uring");
        // A kernel before 6.12 cannot; then both variants are the same one.
        assert!(manner.incremental || !ring.is_incremental());
        assert_eq!(manner.quiet, ring.is_quiet(), "every kernel since 6.1 can");
        ring
    }

    fn is_quiet(&self) -> bool {
        Uring::is_quiet(self)
    }
}

/// It always fills buffers piece by piece, and is always quiet.
impl RealRing for Epoll {
    fn make(sizes: Sizes, manner: Manner) -> Self {
        let options = EpollOptions {
            recv_buffers: sizes.recv_buffers,
            recv_buffer_bytes: sizes.recv_buffer_bytes,
            large_buffers: sizes.large_buffers,
            large_buffer_bytes: sizes.large_buffer_bytes,
            busy_poll_us: manner.busy_poll_us,
        };
        Self::new(&options).unwrap()
    }

    fn is_quiet(&self) -> bool {
        true
    }
}

pub struct RealEnv<R> {
    family: Family,
    manner: Manner,
    folder: tempfile::TempDir,
    next_name: u32,
    listeners: Vec<Listener>,
    _ring: PhantomData<R>,
}

impl<R> RealEnv<R> {
    pub fn tcp(incremental: bool) -> Self {
        Self::new(Family::Tcp, incremental)
    }

    pub fn unix(incremental: bool) -> Self {
        Self::new(Family::Unix, incremental)
    }

    fn new(family: Family, incremental: bool) -> Self {
        Self {
            family,
            manner: Manner {
                incremental,
                quiet: true,
                busy_poll_us: 0,
            },
            folder: tempfile::tempdir().unwrap(),
            next_name: 0,
            listeners: Vec::new(),
            _ring: PhantomData,
        }
    }

    /// As on a kernel that tells of every send.
    pub fn loud(mut self) -> Self {
        self.manner.quiet = false;
        self
    }

    /// One that looks for something to do before it sleeps.
    pub fn busy(mut self) -> Self {
        self.manner.busy_poll_us = 200;
        self
    }

    fn any_address(&mut self) -> Address {
        match self.family {
            Family::Tcp => "127.0.0.1:0".parse().unwrap(),
            Family::Unix => {
                self.next_name += 1;
                Address::Unix(self.folder.path().join(format!("{}.sock", self.next_name)))
            }
        }
    }
}

impl<R: RealRing> Env for RealEnv<R> {
    type Ring = R;
    type Socket = R::Socket;
    type Peer = RealPeer;

    const WAITS: bool = true;

    fn ring(&self, sizes: Sizes) -> R {
        R::make(sizes, self.manner)
    }

    fn tells_late(ring: &R) -> bool {
        ring.is_quiet()
    }

    fn listen(&mut self, ring: &mut R) -> (R::Socket, Address) {
        let mut listener = Listener::bind(&self.any_address(), 1, 1024, None).unwrap();
        let address = listener.address().clone();
        let socket = ring.adopt(listener.take_socket().unwrap());
        self.listeners.push(listener);
        (socket, address)
    }

    fn connect(&self, address: &Address) -> RealPeer {
        match address {
            Address::Inet(inet) => {
                let stream = TcpStream::connect(inet).unwrap();
                stream.set_nonblocking(true).unwrap();
                stream.set_nodelay(true).unwrap();
                RealPeer::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_nonblocking(true).unwrap();
                RealPeer::Unix(stream)
            }
        }
    }

    fn vacant(&mut self) -> Address {
        match self.any_address() {
            Address::Inet(any) => {
                Address::Inet(TcpListener::bind(any).unwrap().local_addr().unwrap())
            }
            Address::Unix(path) => {
                drop(UnixListener::bind(&path).unwrap());
                Address::Unix(path)
            }
        }
    }

    fn is_plausible(&self, peer: PeerAddress) -> bool {
        match self.family {
            Family::Tcp => peer.ip().is_some_and(|ip| ip.is_loopback()),
            Family::Unix => peer == PeerAddress::Unix,
        }
    }

    fn finish(self) {}
}

pub enum RealPeer {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Peer for RealPeer {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let written = match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        };
        match written {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("a raw peer cannot write: {error}"),
        }
    }

    fn read(&mut self, max: usize) -> SimRead {
        let mut bytes = vec![0; max];
        let read = match self {
            Self::Tcp(stream) => stream.read(&mut bytes),
            Self::Unix(stream) => stream.read(&mut bytes),
        };
        match read {
            Ok(0) => SimRead::End,
            Ok(count) => {
                bytes.truncate(count);
                SimRead::Bytes(bytes)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => SimRead::Nothing,
            Err(error) => SimRead::Failed(Errno::from(error)),
        }
    }

    fn shutdown_write(&mut self) {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
        .unwrap();
    }

    fn reset(self) {
        // Closing with unread bytes is a reset on both kinds of socket; TCP is told to make sure.
        if let Self::Tcp(stream) = &self {
            let linger = Some(std::time::Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(stream, linger).unwrap();
        }
    }
}

// Descriptors belong to the process, and tests run in threads of one process: whoever counts them
// has to be alone.

static DESCRIPTORS: RwLock<()> = RwLock::new(());

pub fn with_others() -> RwLockReadGuard<'static, ()> {
    DESCRIPTORS.read().unwrap_or_else(PoisonError::into_inner)
}

pub fn alone() -> RwLockWriteGuard<'static, ()> {
    DESCRIPTORS.write().unwrap_or_else(PoisonError::into_inner)
}

/// What the open descriptors of this process refer to, but for the one that is needed to ask.
pub fn open_descriptors() -> Vec<PathBuf> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut open: Vec<PathBuf> = open
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .collect();
    open.retain(|target| !target.ends_with("fd"));
    open.sort();
    open
}
