//! `ringwire top` in a terminal: what it shows, and that the terminal is as it was afterwards.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::TcpListener,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{
    common::Peer,
    guard::guarded,
    peer::until,
    serve::{LISTEN, Ringwire, command, output},
};

/// A terminal with a command in it.
struct Terminal {
    child: Child,
    keys: File,
    /// The command's side of it, which says how it is set.
    side: OwnedFd,
    shown: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    fn with(command: &mut Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let size = Winsize {
            ws_row: 30,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&ours, size).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let side = open(&name, flags, Mode::empty()).unwrap();
        let stdio = || Stdio::from(side.try_clone().unwrap());
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        let child = command.env("TERM", "xterm-256color").spawn().unwrap();
        // The command has its own by now.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let shown = Arc::new(Mutex::new(String::new()));
        let (written, mut screen) = (shown.clone(), File::from(ours.try_clone().unwrap()));
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                match screen.read(&mut bytes) {
                    Ok(count @ 1..) => {
                        let text = String::from_utf8_lossy(&bytes[..count]);
                        written.lock().unwrap().push_str(&text);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // Nobody has the other side any more.
                    Ok(0) | Err(_) => return,
                }
            }
        });
        Self {
            child,
            keys: File::from(ours),
            side,
            shown,
            reader,
        }
    }

    fn shows(&self, text: &str) -> bool {
        self.shown.lock().unwrap().contains(text)
    }

    fn set(&self) -> String {
        let Termios {
            input_modes,
            output_modes,
            control_modes,
            local_modes,
            ..
        } = tcgetattr(&self.side).unwrap();
        format!("{input_modes:?} {output_modes:?} {control_modes:?} {local_modes:?}")
    }

    /// Waits for the end of the command. Returns its status and all that was shown.
    fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        drop(self.side);
        drop(self.keys);
        self.reader.join().unwrap();
        let shown = self.shown.lock().unwrap().clone();
        (status.unwrap().code(), shown)
    }
}

const ENTERED: &str = "\x1b[?1049h";
const LEFT: &str = "\x1b[?1049l";
const CURSOR: &str = "\x1b[?25h";

#[test]
fn a_server_is_shown_until_q_or_a_signal_and_the_terminal_is_as_it_was() {
    guarded(|| {
        let mut serving = command(&LISTEN);
        serving.args(["--admin-listen", "127.0.0.1:0", "--shards", "2"]);
        let ringwire = Ringwire::start(&mut serving);
        let mut peer = Peer::open(&ringwire.addresses[0], "/");
        peer.echo("shown");
        let url = format!("http://{}/", ringwire.admin[0]);
        for end in [None, Some(Signal::TERM), Some(Signal::HUP)] {
            let mut terminal = Terminal::with(&mut command(&["top", &url]));
            until("the connection is there", || {
                terminal.shows("Connections by held") && terminal.shows("127.0.0.1:")
            });
            assert!(terminal.shows(ENTERED) && !terminal.shows(LEFT));
            // Another column, in the other order: the arrows to the right and up.
            terminal.keys.write_all(b"\x1b[C\x1b[A").unwrap();
            until("they are sorted", || {
                terminal.shows("queued") && terminal.shows("^")
            });
            match end {
                None => terminal.keys.write_all(b"q").unwrap(),
                Some(signal) => {
                    kill_process(Pid::from_child(&terminal.child), signal).unwrap();
                }
            }
            until("it leaves", || {
                terminal.shows(LEFT) && terminal.shows(CURSOR)
            });
            let flags = "ICANON";
            until("lines are lines again", || terminal.set().contains(flags));
            assert!(terminal.set().contains("ECHO"));
            let (status, shown) = terminal.end();
            assert_eq!(status, Some(0), "{shown}");
        }
        peer.close();
        ringwire.signal(Signal::TERM);
        assert!(ringwire.wait().0.success());
    });
}

#[test]
fn what_is_no_admin_side_is_said_in_one_sentence() {
    guarded(|| {
        let ringwire = Ringwire::start(&mut command(&LISTEN));
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = nobody.local_addr().unwrap().to_string();
        drop(nobody);
        let serving = ringwire.addresses[0].to_string();
        let secure = format!("wss://{serving}/");
        for (url, expected) in [
            (
                Some(&serving),
                "it answers 404 to /metrics, so it is no admin side",
            ),
            (Some(&secure), "is no admin side: that is asked by http://"),
            (Some(&closed), "cannot be asked: Connection refused"),
            (None, "there is no admin_listen to ask at"),
        ] {
            let mut arguments = vec!["top"];
            arguments.extend(url.map(String::as_str));
            let (output, stdout, stderr) = output(&arguments);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert_eq!(stdout, "");
            assert!(stderr.contains(expected), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
        ringwire.signal(Signal::TERM);
        assert!(ringwire.wait().0.success());
    });
}
