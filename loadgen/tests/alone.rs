//! loadgen as a program of its own: what it brings, and what it shows on a terminal.

use std::{
    fs::File,
    io::Read as _,
    process::{Command, Stdio},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// What the server's binary is made of, and a load generator has no use for.
const OF_THE_SERVER: [&str; 11] = [
    "http-body-util",
    "hyper",
    "hyper-util",
    "jsonwebtoken",
    "listenfd",
    "matchit",
    "prometheus-client",
    "ringwire-server",
    "sd-notify",
    "tokio",
    "tracing-subscriber",
];

#[test]
fn it_brings_nothing_of_the_server_s_binary() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", "loadgen", "--edges", "normal,build"])
        .args(["--prefix", "none", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8(output.stdout).unwrap();
    let crates: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(crates.contains(&"hdrhistogram"), "{tree}");
    for name in OF_THE_SERVER {
        assert!(!crates.contains(&name), "loadgen brings {name}");
    }
}

/// What a command line shows on a terminal, and its status.
fn on_a_terminal(words: &[&str]) -> (String, Option<i32>) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: 60,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&terminal, size).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let other_end = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(words)
        .env("TERM", "xterm")
        .stdout(Stdio::null())
        .stderr(other_end)
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    // It fails when nobody has the other end any more.
    let _ = File::from(terminal).read_to_end(&mut shown);
    let status = child.wait().unwrap().code();
    (String::from_utf8_lossy(&shown).into_owned(), status)
}

#[test]
fn a_live_view_is_a_board_that_is_rewritten_and_gone_at_the_end() {
    let server = ringwire::Server::builder()
        .listen("127.0.0.1:0")
        .shards(1)
        .pinned(false)
        .start(|_| ringwire::service::Echo)
        .unwrap();
    let ringwire::Address::Inet(address) = server.addresses()[0] else {
        unreachable!("an IP address was listened on");
    };
    let url = format!("ws://{address}/");
    let rest = "-c 4 --rate 400 -d 900ms --warmup 0s --shards 1 --no-spin --allow-client-bound";
    let words: Vec<&str> = ["echo", &url, "--live"]
        .into_iter()
        .chain(rest.split(' '))
        .collect();
    let (shown, status) = on_a_terminal(&words);
    assert_eq!(status, Some(0), "{shown}");
    for part in [
        "measuring",
        "p99",
        "errors      none",
        "open        4 of 4",
        "of a processor",
    ] {
        assert!(shown.contains(part), "'{part}' in {shown}");
    }
    // Seven lines each time, over those before; and nothing of it stays.
    assert!(shown.matches("\x1b[6A\x1b[J").count() >= 3, "{shown:?}");
    assert!(shown.ends_with("\r\x1b[6A\x1b[J"), "{shown:?}");
    let widest = shown
        .split(['\n', '\r'])
        .map(|line| line.chars().count())
        .max();
    assert!(widest <= Some(70), "{shown}");
    server.handle().stop_within(0);
    server.join().unwrap();
}
