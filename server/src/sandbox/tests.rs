//! What a server may not do any more, by trying, each time on a thread that ends then.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::{UnixDatagram, UnixListener, UnixStream},
    path::Path,
    process::Command,
    thread,
};

use rustix::{
    io::Errno,
    process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit},
    thread::{set_no_new_privs, set_thread_uid},
};

use super::*;

const EPERM: i32 = libc::EPERM;
const EACCES: i32 = libc::EACCES;

/// What a body finds out on a thread of its own, in the sandbox that `settings` describe.
fn inside<T: Send>(folder: &Path, body: impl FnOnce() -> T + Send) -> T {
    let token = folder.join("token");
    fs::write(&token, "secret").unwrap();
    let mut settings = Settings::default();
    settings.sandbox = "on".to_owned();
    settings.admin_token_file = token.display().to_string();
    settings.admin_listen = vec![format!("unix:{}", folder.join("admin").display())];
    let sandbox = Sandbox::new(&settings, None, &["127.0.0.1:0"]).unwrap();
    assert!(sandbox.lacks.is_empty(), "{:?}", sandbox.lacks);
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sandbox.restrict_files().unwrap();
            sandbox.confine_this_thread().unwrap();
            body()
        });
        thread.join().unwrap()
    })
}

/// The number of the error of something that has to fail.
fn refused<T>(done: io::Result<T>) -> i32 {
    done.err()
        .and_then(|error| error.raw_os_error())
        .unwrap_or(0)
}

fn refused_by<T>(done: Result<T, Errno>) -> i32 {
    done.err().map_or(0, Errno::raw_os_error)
}

#[test]
fn files_are_read_where_those_of_the_settings_lie_and_nowhere_else() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(other.path().join("file"), "").unwrap();
    let (ours, theirs) = (folder.path(), other.path());
    inside(ours, || {
        assert_eq!(fs::read_to_string(ours.join("token")).unwrap(), "secret");
        assert!(fs::read_to_string("/proc/self/stat").is_ok());
        for path in [
            Path::new("/etc/shadow"),
            Path::new("/etc/passwd"),
            &theirs.join("file"),
        ] {
            assert_eq!(refused(File::open(path)), EACCES, "{}", path.display());
        }
        assert_eq!(refused(fs::read_dir("/")), EACCES);
        // Not even there anything is written.
        assert_eq!(refused(fs::write(ours.join("token"), "")), EPERM);
        assert_eq!(refused(File::create(ours.join("new"))), EPERM);
        assert_eq!(refused(fs::create_dir(ours.join("new"))), EPERM);
        assert_eq!(
            refused(fs::rename(ours.join("token"), ours.join("new"))),
            EPERM
        );
        assert_eq!(refused(fs::remove_file(theirs.join("file"))), EACCES);
    });
}

#[test]
fn threads_start_and_programs_do_not() {
    let folder = tempfile::tempdir().unwrap();
    inside(folder.path(), || {
        assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
        let spawned = Command::new("/bin/true").status();
        assert_eq!(spawned.unwrap_err().kind(), ErrorKind::PermissionDenied);
        use std::os::unix::process::CommandExt as _;
        let replaced = Command::new("/bin/true").exec();
        assert_eq!(replaced.raw_os_error(), Some(EPERM));
        let other = Pid::from_raw(1).unwrap();
        assert_eq!(refused_by(kill_process(other, Signal::CONT)), EPERM);
        // Nor does the thread get back what it has given up.
        assert_eq!(
            refused_by(set_thread_uid(rustix::process::Uid::ROOT)),
            EPERM
        );
        assert_eq!(refused_by(set_no_new_privs(true)), EPERM);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(refused_by(setrlimit(Resource::Nofile, limit)), EPERM);
    });
}

#[test]
fn nobody_is_connected_to_by_tcp_and_nobody_listened_for() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let path = folder.path().join("datagrams");
    let manager = UnixDatagram::bind(&path).unwrap();
    inside(folder.path(), || {
        assert_eq!(refused(TcpStream::connect(address)), EPERM);
        assert_eq!(refused(TcpListener::bind("127.0.0.1:0")), EPERM);
        assert_eq!(refused(UdpSocket::bind("127.0.0.1:0")), EPERM);
        assert_eq!(
            refused(UnixListener::bind(folder.path().join("new"))),
            EPERM
        );
        // What a service manager is told goes out.
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(b"READY=1", &path).unwrap();
        assert!(UnixStream::connect(folder.path().join("nobody")).is_err());
    });
    let mut read = [0; 16];
    assert_eq!(manager.recv(&mut read).unwrap(), 7);
}
