//! The path of a Unix domain socket: taken where nobody listens, and removed by who has it.
//!
//! Knows: a name in a folder, and what is there at the moment. Refuses to know: who listens there
//! and what for.
//!
//! The kernel takes no path over from a server that was killed, and removes none of one that ends.
//! Both take several steps, between which others may come: another server that starts, or an old
//! one that ends while the new one is there already. So whoever takes or removes a path holds the
//! lock of its folder meanwhile ([`flock(2)`], which leaves no file behind), and removes only what
//! is the very file that it looked at. Programs that do not know of the lock can still come between
//! looking and removing; the kernel has no call that does both.
//!
//! [`flock(2)`]: https://man7.org/linux/man-pages/man2/flock.2.html

use std::{
    os::{fd::OwnedFd, unix::fs::FileTypeExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, chmod, flock, fstat, lstat, open, unlink},
    io::Errno as Sys,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    },
};

use super::{
    Errno,
    socket::{Address, stream},
};

/// For how many milliseconds the lock is waited for. Whoever has it needs microseconds; one who
/// keeps it is not to keep a server from starting or ending.
const LOCK_WAIT_MS: u32 = 1000;

/// A path on which a socket of ours was bound. It is removed with this, if it is still that socket.
#[derive(Debug)]
pub(super) struct BoundPath {
    path: PathBuf,
    /// The file at the path. No other file has its number while this is open.
    file: OwnedFd,
}

impl BoundPath {
    /// Binds `path` and listens there. A path where nobody listens any more is taken over; anything
    /// else at that path is left alone.
    ///
    /// # Errors
    ///
    /// What the kernel said; `EADDRINUSE` when there is something at that path.
    pub(super) fn listen(
        path: &Path,
        backlog: i32,
        mode: Option<u32>,
    ) -> Result<(OwnedFd, Self), Errno> {
        let name = SocketAddrUnix::new(path)?;
        let socket = stream(&Address::Unix(path.to_owned()))?;
        let lock = lock_folder(path);
        match bind(&socket, &name) {
            Err(Sys::ADDRINUSE) if is_abandoned(path, &name) => {
                unlink(path)?;
                bind(&socket, &name)?;
            }
            other => other?,
        }
        let file = open(
            path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let file = match file {
            Ok(file) => file,
            Err(errno) => {
                // Nobody but us can have been here meanwhile.
                let _ = unlink(path);
                return Err(errno.into());
            }
        };
        // Nobody can connect before it listens.
        let changed = mode.map_or(Ok(()), |mode| chmod(path, Mode::from_raw_mode(mode)));
        // Others take a socket that does not listen yet for one that was left behind.
        let listening = listen(&socket, backlog);
        // Removing the path takes the lock again.
        drop(lock);
        let path = path.to_owned();
        let bound = Self { path, file };
        changed?;
        listening?;
        Ok((socket, bound))
    }

    /// Whether the path still leads to the socket that was bound.
    fn is_ours(&self) -> bool {
        let (Ok(bound), Ok(there)) = (fstat(&self.file), lstat(&self.path)) else {
            return false;
        };
        (bound.st_dev, bound.st_ino) == (there.st_dev, there.st_ino)
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        let _lock = lock_folder(&self.path);
        if self.is_ours() {
            let _ = unlink(&self.path);
        }
    }
}

/// The lock of the folder of `path`, or nothing where it cannot be had: a folder that may not be
/// read, or somebody who keeps it.
fn lock_folder(path: &Path) -> Option<OwnedFd> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(folder, flags, Mode::empty()).ok()?;
    for _ in 0..LOCK_WAIT_MS {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(Sys::WOULDBLOCK | Sys::INTR) => thread::park_timeout(Duration::from_millis(1)),
            Err(_) => return None,
        }
    }
    None
}

/// Whether `path` is a socket on which nobody listens.
fn is_abandoned(path: &Path, name: &SocketAddrUnix) -> bool {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    // Where so many wait that there is no room for another, connecting would wait with them.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    is_socket && probe().is_ok_and(|probe| connect(&probe, name) == Err(Sys::CONNREFUSED))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::net::{UnixListener, UnixStream},
        sync::Barrier,
    };

    use super::*;

    #[test]
    fn a_path_that_leads_to_another_socket_by_now_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        // The number of the first one's file would be free for the second one otherwise.
        for _ in 0..20 {
            let (_old_socket, old) = BoundPath::listen(&path, 16, None).unwrap();
            fs::remove_file(&path).unwrap();
            let (_new_socket, new) = BoundPath::listen(&path, 16, None).unwrap();
            drop(old);
            UnixStream::connect(&path).expect("the new one is reached");
            drop(new);
            assert!(!path.exists());
        }
    }

    #[test]
    fn an_old_socket_that_is_closed_and_not_removed_is_taken_over_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        for _ in 0..20 {
            let (old_socket, old) = BoundPath::listen(&path, 16, None).unwrap();
            drop(old_socket);
            let (_new_socket, new) = BoundPath::listen(&path, 16, None).unwrap();
            drop(old);
            UnixStream::connect(&path).expect("the new one is reached");
            drop(new);
        }
    }

    #[test]
    fn of_many_that_start_at_once_one_gets_the_path_and_keeps_it() {
        const COUNT: usize = 8;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        for round in 0..50 {
            if round % 2 == 0 {
                drop(UnixListener::bind(&path).unwrap());
            }
            let begin = Barrier::new(COUNT);
            let bound: Vec<_> = thread::scope(|scope| {
                let starting: Vec<_> = (0..COUNT)
                    .map(|_| {
                        scope.spawn(|| {
                            begin.wait();
                            BoundPath::listen(&path, 16, None)
                        })
                    })
                    .collect();
                let ended = starting.into_iter().map(|it| it.join().unwrap());
                ended.collect()
            });
            let (won, lost): (Vec<_>, Vec<_>) = bound.into_iter().partition(Result::is_ok);
            assert_eq!(won.len(), 1, "round {round}: {won:?}");
            for error in lost.into_iter().map(Result::unwrap_err) {
                assert_eq!(error.number(), libc::EADDRINUSE);
            }
            UnixStream::connect(&path).expect("the one that has it is reached");
            drop(won);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_server_whose_backlog_is_full_has_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (_socket, _bound) = BoundPath::listen(&path, 1, None).unwrap();
        let name = SocketAddrUnix::new(&path).unwrap();
        let mut waiting = Vec::new();
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            match connect(&probe, &name) {
                Ok(()) => waiting.push(probe),
                Err(errno) => break assert_eq!(errno, Sys::AGAIN),
            }
        }
        let error = BoundPath::listen(&path, 16, None).unwrap_err();
        assert_eq!(error.number(), libc::EADDRINUSE);
        assert!(path.exists());
    }

    #[test]
    fn somebody_who_keeps_the_lock_delays_a_start_and_an_end_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _kept = lock_folder(&path).unwrap();
        let (_socket, bound) = BoundPath::listen(&path, 16, None).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }
}
