//! The examples do what they say, as processes of their own.
//!
//! Knows where Cargo puts them: `cargo test` builds them, and with `--test` alone it takes
//! `cargo build --examples` before.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use ringwire::Address;
use rustix::process::Signal;

use crate::{
    common::{BINARY, PATIENCE, Peer, TEXT, masked},
    guard::guarded,
    peer::{CLOSE, close_payload},
    serve::{Ringwire, command},
};

const ANYWHERE: &str = "127.0.0.1:0";

fn example(name: &str, arguments: &[&str]) -> Command {
    let folder = Path::new(env!("CARGO_BIN_EXE_ringwire")).with_file_name("examples");
    let path: PathBuf = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build --examples makes it",
        path.display()
    );
    let mut command = Command::new(path);
    command.args(arguments);
    command
}

/// A server among the examples.
fn serving(name: &str, arguments: &[&str]) -> (Ringwire, Address) {
    let command = &mut example(name, arguments);
    let server = Ringwire::start_until(command, |line| line.starts_with("ws://"));
    let address = server.addresses[0].clone();
    (server, address)
}

/// What an example that cannot go on says, and that it ends as one that failed.
#[track_caller]
fn complaint(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The peer says something and hears it.
#[track_caller]
fn say(peer: &mut Peer, line: &str) {
    peer.send(TEXT, line.as_bytes());
    peer.expect_text(line);
}

#[test]
fn chat_tells_a_room_what_is_said_and_who_comes_and_goes() {
    guarded(|| {
        let (chat, address) = serving("chat", &[ANYWHERE]);
        let mut ann = Peer::open(&address, "/tea?name=Ann");
        ann.expect_text("Ann is here");
        let mut elsewhere = Peer::open(&address, "/coffee");
        elsewhere.expect_text("somebody is here");
        let mut bob = Peer::open(&address, "/tea?name=Bob%20B.");
        for peer in [&mut ann, &mut bob] {
            peer.expect_text("Bob B. is here");
        }
        for number in 0..50 {
            ann.send(TEXT, number.to_string().as_bytes());
            for peer in [&mut ann, &mut bob] {
                peer.expect_text(&format!("Ann: {number}"));
            }
        }
        ann.close();
        bob.expect_text("Ann has left");
        let nowhere = Peer::open(&address, "/");
        nowhere.answer_close(1008);
        chat.signal(Signal::KILL);
        chat.wait();
    });
}

#[test]
fn chat_history_keeps_what_was_said() {
    guarded(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chat.sqlite");
        let arguments = [file.to_str().unwrap(), ANYWHERE];
        let (chat, address) = serving("chat_history", &arguments);
        let mut ann = Peer::open(&address, "/");
        say(&mut ann, "0");
        let mut bob = Peer::open(&address, "/");
        bob.expect_text("0");
        // From here on both hear everything, once.
        for number in 1..60 {
            let number = number.to_string();
            say(&mut ann, &number);
            bob.expect_text(&number);
        }
        bob.send(BINARY, b"noise");
        bob.answer_close(1003);
        chat.signal(Signal::TERM);
        ann.answer_close(1001);
        let (status, log) = chat.wait();
        assert!(status.success() && log.is_empty(), "{status} {log}");

        // The last 50 of 60.
        let (mut chat, address) = serving("chat_history", &arguments);
        let mut ann = Peer::open(&address, "/");
        for number in 10..60 {
            ann.expect_text(&number.to_string());
        }
        say(&mut ann, "60");
        // What was heard is kept, whatever the end.
        chat.kill();
        ann.expect_gone();
        chat.wait();

        let (chat, address) = serving("chat_history", &arguments);
        let mut ann = Peer::open(&address, "/");
        for number in 11..61 {
            ann.expect_text(&number.to_string());
        }
        ann.close();
        chat.signal(Signal::INT);
        assert!(chat.wait().0.success());
    });
}

#[test]
fn chat_history_sends_away_who_says_too_much() {
    guarded(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chat.sqlite");
        let (chat, address) = serving("chat_history", &[file.to_str().unwrap(), ANYWHERE]);
        let mut ann = Peer::open(&address, "/");
        ann.send(TEXT, &[b'x'; 4097]);
        ann.answer_close(1009);
        // More than the bridge takes of one, in one piece.
        let mut bob = Peer::open(&address, "/");
        let line = masked(TEXT, b"again");
        bob.write(&line.repeat(5000));
        loop {
            let frame = bob.read_frame();
            if frame.first == CLOSE {
                assert_eq!(frame.payload, close_payload(1008, b"too fast"));
                bob.send(CLOSE, &close_payload(1008, b""));
                bob.expect_end();
                break;
            }
            assert_eq!(frame.payload, b"again");
        }
        chat.signal(Signal::TERM);
        assert!(chat.wait().0.success());
    });
}

#[test]
fn chat_history_says_what_is_wrong_with_its_file() {
    guarded(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chat.sqlite");
        let nowhere = file.join("chat.sqlite");
        std::fs::write(
            &file,
            "this is not a database, and longer than its header".repeat(20),
        )
        .unwrap();
        for (path, expected) in [
            (&file, "file is not a database"),
            (&nowhere, "unable to open"),
        ] {
            let path = path.to_str().unwrap();
            let complaint = complaint(&mut example("chat_history", &[path, ANYWHERE]));
            assert!(complaint.starts_with("chat_history: "), "{complaint}");
            assert!(complaint.contains(path), "{complaint}");
            assert!(complaint.contains(expected), "{complaint}");
        }
    });
}

#[test]
fn async_echo_echoes() {
    guarded(|| {
        let (_echo, address) = serving("async_echo", &[ANYWHERE]);
        let mut peers: Vec<_> = (0..8).map(|_| Peer::open(&address, "/")).collect();
        for peer in &mut peers {
            peer.echo("hello");
            peer.send(BINARY, &[7; 200_000]);
            let frame = peer.read_frame();
            assert_eq!((frame.first, frame.payload), (BINARY, vec![7; 200_000]));
        }
        for peer in peers {
            peer.close();
        }
    });
}

#[test]
fn async_chat_tells_all_what_one_says() {
    guarded(|| {
        let (_chat, address) = serving("async_chat", &[ANYWHERE]);
        let mut peers: Vec<Peer> = Vec::new();
        for number in 0..8 {
            // Hearing itself, it has come; those before hear it, too.
            let mut peer = Peer::open(&address, "/");
            let hello = format!("hello {number}");
            say(&mut peer, &hello);
            for peer in &mut peers {
                peer.expect_text(&hello);
            }
            peers.push(peer);
        }
        for round in 0..20 {
            let text = format!("round {round}");
            peers[round % 8].send(TEXT, text.as_bytes());
            for peer in &mut peers {
                peer.expect_text(&text);
            }
        }
        let mut last = peers.pop().unwrap();
        for peer in peers {
            peer.close();
        }
        say(&mut last, "alone");
        last.close();
    });
}

#[test]
fn async_client_sends_lines_and_prints_answers() {
    guarded(|| {
        let server = Ringwire::start(&mut command(&["--listen", ANYWHERE]));
        let url = format!("ws://{}/", server.addresses[0]);
        let mut client = example("async_client", &[&url]);
        let spawn = |client: &mut Command| {
            client.stdin(Stdio::piped()).stdout(Stdio::piped());
            client.stderr(Stdio::piped()).spawn().unwrap()
        };
        let talk = |client: &mut Command| {
            let mut running = spawn(client);
            let mut stdin = running.stdin.take().unwrap();
            let mut stdout = BufReader::new(running.stdout.take().unwrap());
            for line in ["one\n", "two\n", "three\n"] {
                stdin.write_all(line.as_bytes()).unwrap();
                let mut printed = String::new();
                stdout.read_line(&mut printed).unwrap();
                assert_eq!(printed, line);
            }
            (running, stdin)
        };
        let (running, stdin) = talk(&mut client);
        drop(stdin);
        let output = running.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");

        // The server ends first: an error, which says so.
        let (running, stdin) = talk(&mut client);
        server.signal(Signal::TERM);
        let output = running.wait_with_output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(complaint.contains("1001"), "{complaint}");
        drop(stdin);
        server.wait();
        let complaint = self::complaint(client.stdin(Stdio::null()));
        assert!(complaint.starts_with("async_client: "), "{complaint}");
    });
}

/// An HTTP server that does what the body of a request says.
struct Upstream {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    fn start() -> Self {
        let listener = TcpListener::bind(ANYWHERE).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let body = move || {
            let mut connections = VecDeque::new();
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let stream = stream.unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                connections.push_back(thread::spawn(move || serve_http(stream)));
            }
            for connection in connections {
                connection.join().unwrap();
            }
        };
        let thread = Some(thread::spawn(body));
        Self {
            address,
            stop,
            thread,
        }
    }
}

/// Its clients have to be gone before it.
impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it.
        drop(TcpStream::connect(self.address));
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

/// Answers requests until the client has gone.
fn serve_http(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut len = 0;
        let mut mime = String::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                len = value.parse().unwrap();
            }
            if let Some(value) = line.strip_prefix("content-type: ") {
                value.clone_into(&mut mime);
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; len];
        reader.read_exact(&mut body).unwrap();
        let (status, body) = match &body[..] {
            b"busy" => ("503 Service Unavailable", Vec::new()),
            b"missing" => ("404 Not Found", Vec::new()),
            b"long" => ("200 OK", vec![b'x'; (1 << 20) + 1]),
            b"garbage" => {
                let _ = stream.write_all(b"this is no HTTP\r\n\r\n");
                return;
            }
            b"cut" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut");
                return;
            }
            b"slow" => {
                // Until the client has had enough.
                let _ = reader.read(&mut [0]);
                return;
            }
            _ => ("200 OK", [b"answer to ", &body[..]].concat()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {mime}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream
            .write_all(&[head.as_bytes(), &body].concat())
            .is_err()
        {
            return;
        }
    }
}

#[test]
fn async_proxy_asks_upstream_and_says_what_went_wrong() {
    guarded(|| {
        let upstream = Upstream::start();
        let url = format!("http://{}/rpc", upstream.address);
        let (mut proxy, address) = serving("async_proxy", &[&url, ANYWHERE, "1000"]);
        let mut peers: Vec<_> = (0..4).map(|_| Peer::open(&address, "/")).collect();
        for round in 0..10 {
            for (number, peer) in peers.iter_mut().enumerate() {
                peer.send(TEXT, format!("{round} of {number}").as_bytes());
            }
            for (number, peer) in peers.iter_mut().enumerate() {
                peer.expect_text(&format!("answer to {round} of {number}"));
            }
        }
        let mut peer = peers.pop().unwrap();
        peer.send(BINARY, &[0xff; 100_000]);
        let frame = peer.read_frame();
        assert_eq!((frame.first, frame.payload.len()), (BINARY, 100_010));
        peer.send(BINARY, &vec![0; (256 << 10) + 1]);
        peer.answer_close(1009);
        for (text, code, reason) in [
            ("busy", 1013, "the upstream is busy"),
            ("missing", 1014, "the upstream said 404"),
            ("garbage", 1014, "the upstream failed"),
            ("slow", 1014, "the upstream did not answer in time"),
            (
                "long",
                1014,
                "the upstream's answer was cut short or too long",
            ),
            (
                "cut",
                1014,
                "the upstream's answer was cut short or too long",
            ),
        ] {
            let mut peer = Peer::open(&address, "/");
            peer.send(TEXT, text.as_bytes());
            assert_eq!(peer.expect_close(code), reason, "{text}");
            peer.send(CLOSE, &close_payload(code, b""));
            peer.expect_end();
        }
        // None of that was the others' trouble.
        for peer in &mut peers {
            peer.send(TEXT, b"you");
            peer.expect_text("answer to you");
        }
        proxy.kill();
        for mut peer in peers {
            peer.expect_gone();
        }
        proxy.wait();
        drop(upstream);

        // Nobody is upstream any more.
        let (mut proxy, address) = serving("async_proxy", &[&url, ANYWHERE]);
        let mut peer = Peer::open(&address, "/");
        peer.send(TEXT, b"anybody");
        assert_eq!(peer.expect_close(1014), "the upstream failed");
        proxy.kill();
        peer.expect_gone();
        let (_, log) = proxy.wait();
        assert!(log.contains("Connection refused"), "{log}");
        for (url, expected) in [
            ("https://x/", "'https://x/' is not a URL with http://"),
            ("", ""),
        ] {
            let complaint = complaint(&mut example("async_proxy", &[url, ANYWHERE]));
            assert!(complaint.starts_with("async_proxy: "), "{complaint}");
            assert!(complaint.contains(expected), "{complaint}");
        }
    });
}

/// What a server says to a plain request.
fn page(address: &Address, target: &str) -> (u16, String) {
    let mut peer = Peer::connect(address);
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    peer.write(request.as_bytes());
    let reply = peer.read_reply(false);
    (reply.status, reply.body)
}

#[test]
fn upgraded_hyper_has_pages_and_an_echo_on_one_port() {
    guarded(|| {
        let (server, address) = serving("upgraded_hyper", &[ANYWHERE]);
        let (status, text) = page(&address, "/");
        assert!(status == 200 && text.starts_with("A page."), "{text}");
        let mut peers: Vec<_> = (0..3).map(|_| Peer::open(&address, "/")).collect();
        for peer in &mut peers {
            peer.echo("hello");
            let long = vec![7; 300_000];
            peer.send(BINARY, &long);
            assert!(peer.read_frame().payload == long);
        }
        peers.into_iter().for_each(Peer::close);
        // What is wrong is said as a server of ours says it.
        let mut peer = Peer::connect(&address);
        peer.write(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
        let refused = peer.read_reply(false);
        assert_eq!(refused.status, 400);
        assert!(refused.body.contains("base64 of 16 bytes"), "{refused:?}");
        drop(server);
    });
}

#[test]
fn upgraded_axum_routes_to_a_page_and_a_chat() {
    guarded(|| {
        let (server, address) = serving("upgraded_axum", &[ANYWHERE]);
        let (_, text) = page(&address, "/");
        assert!(text.contains("The chat is at /chat."), "{text}");
        assert_eq!(page(&address, "/chat").0, 426);
        let mut ann = Peer::open(&address, "/chat");
        say(&mut ann, "is anybody there?");
        let mut bob = Peer::open(&address, "/chat");
        // Bob hears what is said from the moment on in which he says something.
        bob.send(TEXT, b"I am");
        bob.expect_text("I am");
        ann.expect_text("I am");
        say(&mut ann, "hello");
        bob.expect_text("hello");
        ann.close();
        bob.close();
        drop(server);
    });
}
