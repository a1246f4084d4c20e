//! Addresses and sockets, before anything is in flight on them.
//!
//! Knows: how an address is written, how a listener is bound so that several shards can share it,
//! which socket options matter. Refuses to know: who accepts, who connects.

use std::{
    ffi::OsString,
    fmt,
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    str::FromStr,
    thread,
    time::Duration,
};

use rustix::{
    net::{
        AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, bind, getsockname,
        listen, socket_with, sockopt,
    },
    process::{Resource, getrlimit},
};

use super::{Errno, Shutdown, unix_path::BoundPath};

/// Where to listen or connect: `127.0.0.1:9001`, `[::1]:9001` or `unix:/run/ringwire.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6 and a port. Port 0 lets the kernel choose when listening.
    Inet(SocketAddr),
    /// The path of a Unix domain socket; or, behind an `@`, a name that is in no folder (an
    /// abstract address, `unix(7)`).
    Unix(PathBuf),
}

/// An address that could not be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    text: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is not an address: write IP:PORT (127.0.0.1:9001), [IPV6]:PORT ([::1]:9001) \
             or unix:/path of at most 107 bytes",
            self.text
        )
    }
}

impl std::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:")
            && !path.is_empty()
            && unix_name(Path::new(path)).is_ok()
        {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        text.parse().map(Self::Inet).map_err(|_| AddressError {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerAddress {
    /// An IP address and port.
    Inet(SocketAddr),
    /// A process on this machine, by a Unix domain socket.
    Unix,
    /// The connection was gone before anyone asked.
    Unknown,
}

impl PeerAddress {
    /// The IP address, when there is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Inet(address) => Some(address.ip()),
            Self::Unix | Self::Unknown => None,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// The name by which the kernel knows a Unix socket.
pub(super) fn unix_name(path: &Path) -> Result<SocketAddrUnix, Errno> {
    match abstract_name(path) {
        Some(name) => Ok(SocketAddrUnix::new_abstract_name(name)?),
        None => Ok(SocketAddrUnix::new(path)?),
    }
}

/// What stands behind the `@` of an abstract address.
fn abstract_name(path: &Path) -> Option<&[u8]> {
    let name = path.as_os_str().as_bytes().strip_prefix(b"@")?;
    (!name.is_empty()).then_some(name)
}

pub(crate) fn to_any(address: &Address) -> Result<SocketAddrAny, Errno> {
    Ok(match address {
        Address::Inet(address) => (*address).into(),
        Address::Unix(path) => unix_name(path)?.into(),
    })
}

/// A stream socket for `address`, with what every connection of ours wants set.
///
/// # Errors
///
/// What `socket(2)` or `setsockopt(2)` said.
pub(crate) fn stream(address: &Address) -> Result<OwnedFd, Errno> {
    let family = match address {
        Address::Inet(SocketAddr::V4(_)) => AddressFamily::INET,
        Address::Inet(SocketAddr::V6(_)) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if family != AddressFamily::UNIX {
        // We batch by turn ourselves; Nagle's delay on top would only add latency. Accepted
        // sockets inherit it from their listener, so that it costs no call per connection.
        sockopt::set_tcp_nodelay(&socket, true)?;
    }
    Ok(socket)
}

/// As [`stream`], bound to `from`. Its port is chosen when it connects, so that ports are counted
/// for each pair of addresses and not for the whole machine (`IP_BIND_ADDRESS_NO_PORT`, `ip(7)`).
///
/// # Errors
///
/// As `stream`, and what `bind(2)` said.
pub(crate) fn stream_from(address: &Address, from: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = stream(address)?;
    if matches!(address, Address::Inet(_)) {
        if from.port() == 0 {
            choose_port_late(&socket)?;
        }
        bind(&socket, &from)?;
    }
    Ok(socket)
}

/// What the kernel takes of a connection's queue beyond what it can send right now. Whoever does
/// not read would fill a buffer of megabytes otherwise, outside of every limit of ours; whoever
/// reads gets the next bytes as soon as half of these are on their way.
const UNSENT_BYTES_MAX: libc::c_int = 128 << 10;

/// Has the port chosen when the socket connects (`IP_BIND_ADDRESS_NO_PORT`, `ip(7)`).
fn choose_port_late(socket: &OwnedFd) -> Result<(), Errno> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Sets an option whose value is an integer, and which has no safe wrapper.
fn set_option(
    socket: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    // SAFETY: the descriptor is open, and the option's value is an integer of the length given,
    // which the call only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error().into())
    }
}

/// How long an address may be taken by what is left of a process that has been killed: its sockets
/// are closed behind the back of whoever starts the next one.
const LEFT_BEHIND_MS: u64 = 500;

/// How long is waited for that at a time.
const AGAIN_AFTER_MS: u64 = 5;

/// A listener, and where it listens after the kernel's choice of port. A Unix path is removed with
/// it, unless another socket is there by then.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<OwnedFd>,
    address: Address,
    _path: Option<BoundPath>,
}

impl Listener {
    /// Binds `address` for `shards` shards: one socket each with `SO_REUSEPORT`, so that the kernel
    /// spreads connections over them, or one socket shared by all for a Unix path, which gets this
    /// mode (`chmod(2)`) before anybody can connect. Waits for at most half a second while
    /// somebody listens there.
    ///
    /// # Errors
    ///
    /// What the kernel said. An address that another process listens on is refused even though
    /// `SO_REUSEPORT` alone would let two servers of one user share it unnoticed. A Unix path
    /// where nobody listens any more is taken over; anything else at that path is left alone.
    pub fn bind(
        address: &Address,
        shards: usize,
        backlog: u32,
        unix_mode: Option<u32>,
    ) -> Result<Self, Errno> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        let mut waited_ms = 0;
        loop {
            let bound = match address {
                Address::Unix(path) => Self::bind_unix(path, shards, backlog, unix_mode),
                Address::Inet(inet) => Self::bind_inet(*inet, shards, backlog),
            };
            match bound {
                Err(errno) if errno.number() == libc::EADDRINUSE && waited_ms < LEFT_BEHIND_MS => {
                    thread::park_timeout(Duration::from_millis(AGAIN_AFTER_MS));
                    waited_ms += AGAIN_AFTER_MS;
                }
                bound => return bound,
            }
        }
    }

    /// The first socket listens alone, which the kernel grants to one of those who ask for it at
    /// once; those of the other shards join it then.
    fn bind_inet(inet: SocketAddr, shards: usize, backlog: i32) -> Result<Self, Errno> {
        let first = listening_socket(inet)?;
        bind(&first, &inet)?;
        // With SO_REUSEADDR several may be bound, and only one may listen.
        listen(&first, backlog)?;
        let chosen = SocketAddr::try_from(getsockname(&first)?)?;
        if shards > 1 {
            sockopt::set_socket_reuseport(&first, true)?;
        }
        let mut sockets = Vec::with_capacity(shards);
        sockets.push(first);
        for _ in 1..shards {
            let socket = listening_socket(inet)?;
            sockopt::set_socket_reuseport(&socket, true)?;
            bind(&socket, &chosen)?;
            listen(&socket, backlog)?;
            sockets.push(socket);
        }
        Ok(Self {
            sockets,
            address: Address::Inet(chosen),
            _path: None,
        })
    }

    fn bind_unix(
        path: &Path,
        shards: usize,
        backlog: i32,
        mode: Option<u32>,
    ) -> Result<Self, Errno> {
        let (socket, bound) = if abstract_name(path).is_some() {
            // Nothing is left of it when its last socket is closed.
            let socket = stream(&Address::Unix(path.to_owned()))?;
            bind(&socket, &unix_name(path)?)?;
            listen(&socket, backlog)?;
            (socket, None)
        } else {
            let (socket, bound) = BoundPath::listen(path, backlog, mode)?;
            (socket, Some(bound))
        };
        let mut sockets = Vec::with_capacity(shards);
        for _ in 1..shards {
            sockets.push(rustix::io::fcntl_dupfd_cloexec(&socket, 0)?);
        }
        sockets.push(socket);
        Ok(Self {
            sockets,
            address: Address::Unix(path.to_owned()),
            _path: bound,
        })
    }

    /// A socket that somebody else has bound and listens on already, for `shards` shards: they
    /// share it. Its path, if it has one, is left where it is.
    ///
    /// # Errors
    ///
    /// What the kernel said; `EINVAL` for what is no stream socket that listens.
    pub fn of_open(socket: &OwnedFd, shards: usize) -> Result<Self, Errno> {
        let is_stream = sockopt::socket_type(socket)? == SocketType::STREAM;
        if !is_stream || !sockopt::socket_acceptconn(socket)? {
            return Err(Errno::new(libc::EINVAL));
        }
        let address = match getsockname(socket)?.try_into() {
            Ok(inet) => {
                sockopt::set_tcp_nodelay(socket, true)?;
                be_brief(socket)?;
                Address::Inet(inet)
            }
            Err(_) => Address::Unix(path_of(socket)?),
        };
        let copies = (0..shards).map(|_| rustix::io::fcntl_dupfd_cloexec(socket, 0));
        Ok(Self {
            sockets: copies.collect::<Result<_, _>>()?,
            address,
            _path: None,
        })
    }

    /// Where it listens, with the port that the kernel chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Takes one shard's socket.
    pub fn take_socket(&mut self) -> Option<OwnedFd> {
        self.sockets.pop()
    }
}

/// A socket that is to listen on `inet`.
fn listening_socket(inet: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = stream(&Address::Inet(inet))?;
    // What the kernel remembers of connections that have ended is no reason not to listen.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if inet.is_ipv6() {
        // [::] and 0.0.0.0 are two addresses: each is served when it is asked for.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    be_brief(&socket)?;
    Ok(socket)
}

/// Has the kernel hold little of what cannot be sent right now. Accepted sockets inherit it.
fn be_brief(socket: &OwnedFd) -> Result<(), Errno> {
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT);
    set_option(socket, level, name, UNSENT_BYTES_MAX)
}

/// The path of a Unix socket, or its abstract name behind an `@`.
fn path_of(socket: &OwnedFd) -> Result<PathBuf, Errno> {
    let unix = SocketAddrUnix::try_from(getsockname(socket)?)?;
    let abstract_name = unix.abstract_name().map(|name| [b"@", name].concat());
    let path = unix.path().map(|path| path.to_bytes().to_vec());
    let bytes = abstract_name.or(path).unwrap_or_default();
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

/// Shuts directions of a connection, which may be gone already.
pub(super) fn shutdown(socket: &impl AsFd, how: Shutdown) {
    let how = match how {
        Shutdown::Both => rustix::net::Shutdown::Both,
        Shutdown::Write => rustix::net::Shutdown::Write,
    };
    // ENOTCONN: the peer was faster. Nothing else can happen to a socket of ours.
    let _ = rustix::net::shutdown(socket, how);
}

/// Which descriptors are the last that this process may have.
///
/// The kernel gives out the lowest number that is free (`open(2)`), so that a high one says that
/// few are left, whoever has the others. An eighth of them are the last, 8 at least and 1,024 at
/// most: enough to tell newcomers that there is no place, and for what an application opens itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastDescriptors {
    from: RawFd,
}

impl LastDescriptors {
    /// Those under the limit on open files that the process has now (`RLIMIT_NOFILE`,
    /// `getrlimit(2)`).
    pub(crate) fn of_process() -> Self {
        Self::under(getrlimit(Resource::Nofile).current)
    }

    fn under(limit: Option<u64>) -> Self {
        let limit = limit.unwrap_or(u64::MAX);
        let from = limit.saturating_sub((limit / 8).clamp(8, 1024));
        Self {
            from: RawFd::try_from(from).unwrap_or(RawFd::MAX),
        }
    }

    /// Whether this is one of them.
    #[inline]
    pub(crate) fn have(self, descriptor: &impl AsRawFd) -> bool {
        descriptor.as_raw_fd() >= self.from
    }
}

/// Who is at the other end of `socket`.
pub(crate) fn peer_address(socket: &impl AsFd) -> PeerAddress {
    match rustix::net::getpeername(socket) {
        Ok(Some(any)) => match SocketAddr::try_from(any) {
            Ok(address) => PeerAddress::Inet(address),
            Err(_) => PeerAddress::Unix,
        },
        Ok(None) => PeerAddress::Unix,
        Err(_) => PeerAddress::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_those_who_ask_for_an_address_at_once_one_gets_it() {
        for round in 0..50 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let inet = free.local_addr().unwrap();
            drop(free);
            let together = std::sync::Barrier::new(4);
            let bound: Vec<_> = thread::scope(|scope| {
                let bind = || {
                    together.wait();
                    Listener::bind_inet(inet, 3, 16)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                threads.into_iter().map(|it| it.join().unwrap()).collect()
            });
            let count = bound.iter().filter(|bound| bound.is_ok()).count();
            assert_eq!(count, 1, "round {round}: {bound:?}");
        }
    }

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["127.0.0.1:9001", "[::1]:9001", "unix:/run/ringwire.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "localhost",
            "127.0.0.1",
            ":9001",
            "unix:",
            "[::1]",
            "1.2.3.4:99999",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains("IP:PORT"), "{error}");
        }
        let long = format!("unix:/{}", "x".repeat(200));
        assert!(long.parse::<Address>().is_err());
    }

    #[test]
    fn the_last_descriptors_are_an_eighth_of_them_within_bounds() {
        for (limit, first) in [
            (Some(0), 0),
            (Some(20), 12),
            (Some(256), 224),
            (Some(20_000), 18_976),
            (None, RawFd::MAX),
        ] {
            let last = LastDescriptors::under(limit);
            assert_eq!(last.from, first, "{limit:?}");
            assert!(last.have(&first) && (first == 0 || !last.have(&(first - 1))));
        }
    }

    #[test]
    fn shards_share_one_port_and_others_may_not() {
        let address = "127.0.0.1:0".parse().unwrap();
        let mut listener = Listener::bind(&address, 3, 16, None).unwrap();
        let bound = listener.address().clone();
        let error = Listener::bind(&bound, 1, 16, None).unwrap_err();
        assert_eq!(error.number(), libc::EADDRINUSE);
        let mut count = 0;
        while let Some(socket) = listener.take_socket() {
            count += 1;
            let name = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
            assert_eq!(Address::Inet(name), bound);
        }
        assert_eq!(count, 3);
        Listener::bind(&bound, 1, 16, None).unwrap();
    }

    #[test]
    fn an_abstract_address_is_in_no_folder_and_goes_with_its_sockets() {
        let text = format!("unix:@ringwire-test-{}", std::process::id());
        let address: Address = text.parse().unwrap();
        assert_eq!(address.to_string(), text);
        let listener = Listener::bind(&address, 2, 16, Some(0o600)).unwrap();
        let client = stream(&address).unwrap();
        rustix::net::connect(&client, &to_any(&address).unwrap()).unwrap();
        let error = Listener::bind(&address, 1, 16, None).unwrap_err();
        assert_eq!(error.number(), libc::EADDRINUSE);
        drop(listener);
        Listener::bind(&address, 1, 16, None).unwrap();
        assert!(
            "unix:@"
                .parse::<Address>()
                .is_ok_and(|it| it == Address::Unix("@".into()))
        );
    }

    #[test]
    fn a_unix_path_gets_its_mode() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ringwire.sock");
        let address = Address::Unix(path.clone());
        for mode in [0o600, 0o666] {
            let _listener = Listener::bind(&address, 1, 16, Some(mode)).unwrap();
            let found = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode);
        }
    }

    #[test]
    fn an_abandoned_unix_path_is_taken_over_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ringwire.sock");
        let address = Address::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&address, 2, 16, None).unwrap();
        assert_eq!(
            Listener::bind(&address, 1, 16, None).unwrap_err().number(),
            libc::EADDRINUSE
        );
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(
            Listener::bind(&address, 1, 16, None).unwrap_err().number(),
            libc::EADDRINUSE
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
