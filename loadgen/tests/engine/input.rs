//! The command itself: what it says to bad input, and how it exits.

use std::{
    net::TcpListener,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::{
    servers::{Asked, Choosy, PING, Running, Scripted, Shut},
    words,
};

fn loadgen(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(words)
        .env_remove("GITHUB_STEP_SUMMARY")
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn bad_input_is_one_clear_sentence() {
    let server = Running::echo();
    let shut = Running::start(|_| Shut);
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = format!("ws://{free}");
    let missing = format!("{}nowhere", server.url);
    let url = server.url.as_str();
    let secure = url.replace("ws://", "wss://");
    let table: [(&[&str], &[&str]); 54] = [
        (
            &["echo", "http://127.0.0.1:1"],
            &["http://127.0.0.1:1", "ws://"],
        ),
        (&["echo", "ws://127.0.0.1:99999"], &["port"]),
        (&["echo", "ws://"], &["names no host"]),
        (&["echo", &secure, "--insecure"], &["is this port for TLS?"]),
        (
            &["echo", &secure, "--ca", "/nowhere/ca.pem"],
            &["/nowhere/ca.pem", "No such file"],
        ),
        (
            &["echo", &secure, "--ca", "x.pem", "--insecure"],
            &["cannot be used with"],
        ),
        (
            &["echo", &secure, "--insecure", "--cert", "x.pem"],
            &["--key"],
        ),
        (&["echo", "ws://nobody.invalid:1"], &["nobody.invalid"]),
        (&["echo", &nobody, "-d", "1s"], &["Connection refused"]),
        (
            &["connect", &nobody, "-d", "200ms"],
            &["Connection refused"],
        ),
        (&["idle", &nobody], &["Connection refused"]),
        (&["check", &nobody], &["Connection refused"]),
        (&["echo", "ws+unix:/nowhere/at/all.sock"], &["No such file"]),
        (&["echo", &shut.url], &["403", "members only"]),
        (
            &["connect", &shut.url, "-d", "200ms"],
            &["403", "members only"],
        ),
        (&["check", &shut.url], &["403", "members only"]),
        (&["echo", &missing], &["404"]),
        (&["echo", url, "--rate", "0"], &["impossible"]),
        (&["echo", url, "--rate", "5G"], &["is not a rate"]),
        (&["echo", url, "--rate", "2000M"], &["impossible"]),
        (&["echo", url, "--size", "20,"], &["is not a size"]),
        (
            &["echo", url, "--size", "20:60%,30:60%"],
            &["leave nothing"],
        ),
        (
            &["echo", url, "--size", "20:60%,30:30%"],
            &["add up to 100%"],
        ),
        (&["echo", url, "--size", "2000M"], &["more than"]),
        (&["echo", url, "--fragment", "0"], &["carries nothing"]),
        (&["echo", url, "--duration", "0s"], &["measures nothing"]),
        (&["echo", url, "--duration", "ten"], &["is not a time"]),
        (&["echo", url, "--in-flight", "0"], &["sends nothing"]),
        (&["echo", url, "-c", "0"], &["from 1 to"]),
        (&["echo", url, "-c", "9000000"], &["open files"]),
        (
            &["idle", url, "-c", "100000", "--source", "127.0.0.1"],
            &["more ports"],
        ),
        (
            &["echo", url, "--compress", "--compress-level", "10"],
            &["--compress-level", "1..=9"],
        ),
        (&["echo", url, "--header", "nonsense"], &["no colon"]),
        (&["echo", url, "--header", "Upgrade: no"], &["--header"]),
        (&["echo", url, "-H", "Host: other"], &["use --host other"]),
        (
            &["echo", url, "--host", "a b"],
            &["--host 'a b'", "chat.example.com:8080"],
        ),
        (&["echo", url, "--pid", "4194999"], &["no process"]),
        (
            &["echo", url, "--fail-if", "p99"],
            &["'p99' has no bound", "in quotes"],
        ),
        (&["echo", url, "--fail-if", "p99>5"], &["write it as 5ms"]),
        (
            &["echo", url, "--fail-if", "speed<5"],
            &["'speed' is no figure"],
        ),
        (
            &["echo", url, "--fail-if", "cpu>5us"],
            &["cpu>5us", "name it with --pid"],
        ),
        (
            &["idle", url, "--fail-if", "p99>5ms"],
            &["idle measures none"],
        ),
        (&["echo", url, "--github-summary"], &["GITHUB_STEP_SUMMARY"]),
        (
            &["echo", url, "--stages", "1000"],
            &["'1000' is not a stage", "5000@2m"],
        ),
        (&["echo", url, "--stages", "0@10s"], &["send nothing"]),
        (
            &["idle", url, "--from", "127.0.0.0/40"],
            &["'127.0.0.0/40' is not a network"],
        ),
        (
            &["idle", url, "--from", "198.51.100.0/30"],
            &["holds no address of this machine"],
        ),
        (
            &["echo", url, "--message", "/nowhere/a.json"],
            &["--message /nowhere/a.json cannot be read", "No such file"],
        ),
        (
            &["echo", url, "--message", "/dev/null"],
            &["holds no message"],
        ),
        (
            &["fanout", url, "--message", "/dev/null"],
            &["cannot be published"],
        ),
        (
            &["echo", url, "--message", "x", "--size", "5"],
            &["--message", "--size"],
        ),
        (
            &["echo", url, "--stages", "1@1s", "--rate", "5"],
            &["--stages", "--rate"],
        ),
        (&["fanout", url, "--size", "20"], &["too small"]),
        (
            &["echo", url, "--json", "/nowhere/at/all.json", "-d", "100ms"],
            &["/nowhere/at/all.json"],
        ),
    ];
    for (words, expected) in table {
        let output = loadgen(words);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        for part in expected {
            assert!(said.contains(part), "{words:?} should say {part:?}: {said}");
        }
        assert!(!said.contains("panicked"), "{words:?}: {said}");
    }
}

#[test]
fn a_slow_generator_is_told_and_refused_a_verdict() {
    let server = Running::echo();
    let slow = [
        "echo",
        &server.url,
        "-c",
        "4",
        "-d",
        "500ms",
        "--warmup",
        "100ms",
        "--shards",
        "1",
    ];
    let slow = [&slow[..], &["--rate", "20000", "--test-delay-ns", "200000"]].concat();
    let output = loadgen(&[&slow[..], &["--reply-timeout", "200ms"]].concat());
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{table}{}", said(&output));
    assert!(table.to_lowercase().contains("bottleneck"), "{table}");
    assert!(
        table.contains("p99"),
        "the figures are shown all the same: {table}"
    );
}

#[test]
fn a_slow_generator_can_be_allowed() {
    let server = Running::echo();
    let slow = [
        "echo",
        &server.url,
        "-c",
        "1",
        "-d",
        "500ms",
        "--warmup",
        "100ms",
        "--shards",
        "1",
    ];
    let output = loadgen(
        &[
            &slow[..],
            &["--test-delay-ns", "1000000", "--allow-client-bound"],
        ]
        .concat(),
    );
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}{}", said(&output));
    assert!(table.to_lowercase().contains("bottleneck"), "{table}");
}

#[test]
fn a_rate_that_no_generator_can_keep_is_its_own_fault() {
    let server = Running::echo();
    let words = [
        "echo",
        &server.url,
        "-c",
        "4",
        "-d",
        "300ms",
        "--warmup",
        "0s",
        "--rate",
        "100M",
    ];
    let output = loadgen(&[&words[..], &["--reply-timeout", "200ms", "--shards", "1"]].concat());
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn failed_connections_show_in_the_exit_status_and_keep_the_results() {
    let server = Running::start(|_| Choosy::default());
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("run.json");
    let words = [
        "echo",
        &server.url,
        "-c",
        "4",
        "-d",
        "300ms",
        "--rate",
        "100",
        "--quiet",
    ];
    let json = ["--json", json.to_str().unwrap(), "--allow-client-bound"];
    let output = loadgen(&[&words[..], &json].concat());
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let written = std::fs::read_to_string(json[1]).unwrap();
    let run: loadgen::result::Run = serde_json::from_str(&written).unwrap();
    assert_eq!((run.connections.opened, run.connections.failed), (2, 2));
    assert_eq!(run.messages.received, 30);
    assert_eq!(run.latency.corrected_ns.len(), 30);
}

#[test]
fn an_interrupt_ends_the_run_early_and_still_reports() {
    let server = Running::echo();
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args([
            "echo",
            &server.url,
            "-c",
            "2",
            "-d",
            "60s",
            "--warmup",
            "0s",
            "--quiet",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while server.handle().stats().counts.messages_received < 100 {
        assert!(Instant::now() < until, "the run does not begin");
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "the run does not end");
        std::thread::yield_now();
    }
    let output = child.wait_with_output().unwrap();
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("p99"), "{table}{}", said(&output));
    assert_eq!(output.status.code(), Some(130), "{table}");
    let words: Vec<&str> = table.split_whitespace().collect();
    let said = words.join(" ");
    assert!(said.contains("it was interrupted: "), "{table}");
    assert!(
        said.contains("of the 1 min 00 s that were asked for"),
        "{table}"
    );
    assert!(!said.contains("Sound"), "{table}");
}

/// What waits for a server that is silent is not waited for, and what was sent has its own time.
#[test]
fn an_interrupt_is_followed_by_one_reply_timeout_and_no_more() {
    let (first, came) = std::sync::mpsc::channel();
    let server = Scripted::start(move |asked: Asked, _| {
        let mut socket = asked.open();
        while socket.receive().is_some() {
            // Only the first matters.
            let _ = first.send(());
        }
    });
    let line = format!(
        "echo {} -c 1 --rate 50 -d 60s --warmup 0s --quiet --reply-timeout 1500ms --no-spin",
        server.url
    );
    let child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(words(&line))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    came.recv_timeout(Duration::from_secs(20)).unwrap();
    let asked = Instant::now();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    let waited = asked.elapsed();
    assert!(waited < Duration::from_millis(2800), "{waited:?}");
}

/// Every file that a run writes, and what it prints, by name.
fn all_reports(words: &[&str]) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let kinds = ["json", "html", "svg", "hgrm", "hlog"];
    let files = kinds.map(|kind| folder.path().join(kind).display().to_string());
    let options = kinds.map(|kind| format!("--{kind}"));
    let mut all = words.to_vec();
    for (option, file) in options.iter().zip(&files) {
        all.extend([option.as_str(), file.as_str()]);
    }
    let output = loadgen(&all);
    let mut reports = vec![
        (
            "stdout".to_owned(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ),
        ("stderr".to_owned(), said(&output)),
    ];
    for (kind, file) in kinds.iter().zip(&files) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| {
            panic!("{kind}: {error}; {}", said(&output));
        });
        reports.push(((*kind).to_owned(), text));
    }
    reports
}

#[test]
fn no_report_lets_its_reader_in() {
    let server = Running::echo();
    let url = format!("{}?token=s3cret&room=17", server.url);
    let words = [
        "echo",
        &url,
        "-c",
        "2",
        "-d",
        "200ms",
        "--warmup",
        "0s",
        "-H",
        "Cookie: session=s3cret",
        "--header=Authorization: Bearer s3cret",
        "-HProxy-Authorization: s3cret",
    ];
    for (name, text) in all_reports(&words) {
        assert!(!text.contains("s3cret"), "{name}: {text}");
        assert!(!text.contains("room=17"), "{name}: {text}");
    }
    // What they were called is still there.
    let reports = all_reports(&words);
    let html = &reports.iter().find(|(name, _)| name == "html").unwrap().1;
    assert!(html.contains("?token=…&amp;room=…"), "{html}");
    assert!(html.contains("Cookie: …"), "{html}");
}

#[test]
fn a_host_of_one_s_own_is_what_the_server_reads() {
    let server = Scripted::start(|asked, _| asked.open_if("Host: chat.example.com:81\r\n"));
    let words = [
        "echo",
        &server.url,
        "-c",
        "1",
        "-d",
        "100ms",
        "--warmup",
        "0s",
    ];
    let named = loadgen(&[&words[..], &["--host", "chat.example.com:81"]].concat());
    let table = String::from_utf8_lossy(&named.stdout);
    assert!(table.contains("p50"), "{table}{}", said(&named));
    let unnamed = loadgen(&words);
    assert_eq!(unnamed.status.code(), Some(2), "{}", said(&unnamed));
}

#[test]
fn an_interrupt_before_the_run_has_its_status_as_well() {
    let (asked, is_asked) = std::sync::mpsc::channel();
    let silent = Scripted::start(move |connection: Asked, _| {
        // Nobody waits for more than the first.
        let _ = asked.send(());
        connection.listen();
    });
    let child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["echo", &silent.url, "-c", "1", "--quiet"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    is_asked.recv_timeout(Duration::from_secs(20)).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(
        said(&output).contains("nothing was measured"),
        "{}",
        said(&output)
    );
}

#[test]
fn results_that_get_nowhere_are_not_passed_over() {
    let server = Running::echo();
    let words = ["-c", "1", "-d", "100ms", "--warmup", "0s", "--quiet"];
    let echo = [&["echo", &server.url], &words[..]].concat();
    let full = || std::fs::File::create("/dev/full").unwrap();
    for words in [&echo[..], &["check", &server.url, "--timeout", "2s"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(words)
            .stdout(full())
            .output()
            .unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(
            said.contains("cannot write to standard output: No space left"),
            "{said}"
        );
    }
    // A reader that has seen enough is another matter.
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args([&echo[..], &["--allow-client-bound"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_hyphen_is_standard_output() {
    let server = Running::echo();
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(words)
            .current_dir(folder.path())
            .output()
            .unwrap()
    };
    let words = [
        "echo",
        &server.url,
        "-c",
        "1",
        "-d",
        "100ms",
        "--warmup",
        "0s",
    ];
    let output = run(&[&words[..], &["--json", "-"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["scenario"], "echo");
    assert!(
        said(&output).contains("p99"),
        "the table: {}",
        said(&output)
    );
    let output = run(&["check", &server.url, "--timeout", "2s", "--json", "-"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["probes"].is_array());
    assert!(
        said(&output).contains("PASS"),
        "the table: {}",
        said(&output)
    );
    let both = run(&[&words[..], &["--json", "-", "--html", "-"]].concat());
    assert!(
        said(&both).contains("named for two formats"),
        "{}",
        said(&both)
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_check_of_who_never_answers_says_where_and_how_long() {
    let silent = Scripted::start(|asked, _| asked.listen());
    let output = loadgen(&["check", &silent.url, "--timeout", "300ms"]);
    assert_eq!(output.status.code(), Some(2));
    let said = said(&output);
    let address = silent.url.trim_start_matches("ws://").trim_end_matches('/');
    assert!(
        said.contains(&format!(
            "{address} accepted the connection and did not answer the opening handshake within \
             300 ms"
        )),
        "{said}"
    );
}

#[test]
fn a_check_stops_when_the_server_is_gone() {
    // The first ping is the end of it.
    let server = Scripted::start(|asked: Asked, _| {
        let listens = asked.listens();
        let mut socket = asked.open();
        while let Some((opcode, _)) = socket.receive() {
            if opcode == PING {
                return listens.end();
            }
        }
    });
    let url = server.url.clone();
    let output = loadgen(&["check", &url, "--timeout", "2s", "--json", "-"]);
    assert_eq!(output.status.code(), Some(1));
    let table = said(&output);
    let check: loadgen::result::Check = serde_json::from_slice(&output.stdout).unwrap();
    let last = check.probes.last().unwrap();
    assert_eq!(
        check.gone_since.as_ref(),
        Some(&last.expectation),
        "{table}"
    );
    assert_eq!(last.group, "frames", "{table}");
    assert!(
        table.contains("The server is gone since the probe 'answers a ping"),
        "{table}"
    );
    assert_eq!(table.matches("cannot connect").count(), 0, "{table}");
    assert!(!table.contains("KiB are accepted"), "{table}");
}

#[test]
fn a_bound_that_is_passed_fails_the_run_and_is_told_to_a_ci() {
    let server = Scripted::slow_echo(Duration::from_millis(30));
    let folder = tempfile::tempdir().unwrap();
    let (junit, summary) = (
        folder.path().join("junit.xml"),
        folder.path().join("summary.md"),
    );
    std::fs::write(&summary, "what another step wrote\n").unwrap();
    let words = [
        "echo",
        &server.url,
        "-c",
        "2",
        "-d",
        "300ms",
        "--warmup",
        "0s",
        "--quiet",
    ];
    let run = |bounds: &[&str]| {
        let mut words = words.to_vec();
        for bound in bounds {
            words.extend(["--fail-if", bound]);
        }
        words.extend(["--junit", junit.to_str().unwrap(), "--github-summary"]);
        words.push("--allow-client-bound");
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(words)
            .env("GITHUB_STEP_SUMMARY", &summary)
            .output()
            .unwrap();
        let xml = std::fs::read_to_string(&junit).unwrap();
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), table, xml)
    };
    let (status, table, xml) = run(&["p99<30ms", "errors>0", "rate<1"]);
    assert_eq!(status, Some(0), "{table}");
    assert_eq!(xml.matches("<failure").count(), 0, "{xml}");
    assert_eq!(xml.matches("<testcase").count(), 4, "{xml}");
    let (status, table, xml) = run(&["p50>10ms", "errors>0"]);
    assert_eq!(status, Some(5), "{table}");
    assert!(table.contains("FAILED: p50 was 30"), "{table}");
    assert!(table.contains("kept: errors was 0"), "{table}");
    assert_eq!(xml.matches("<failure").count(), 1, "{xml}");
    let markdown = std::fs::read_to_string(&summary).unwrap();
    assert!(
        markdown.starts_with("what another step wrote\n### loadgen: echo"),
        "{markdown}"
    );
    assert_eq!(markdown.matches("### loadgen").count(), 2, "{markdown}");
    assert!(markdown.contains("- **failed**: p50 was 30"), "{markdown}");
}

#[test]
fn what_was_not_measured_is_an_error_to_a_ci() {
    let shut = Running::start(|_| Shut);
    let folder = tempfile::tempdir().unwrap();
    let junit = folder.path().join("junit.xml");
    let output = loadgen(&["echo", &shut.url, "--junit", junit.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let xml = std::fs::read_to_string(&junit).unwrap();
    assert!(
        xml.contains("errors=\"1\"") && xml.contains("members only"),
        "{xml}"
    );
    for words in [
        ["check", &shut.url, "--junit", junit.to_str().unwrap()],
        [
            "echo",
            "ws://nobody.invalid:1",
            "--junit",
            junit.to_str().unwrap(),
        ],
    ] {
        std::fs::remove_file(&junit).unwrap();
        assert_eq!(loadgen(&words).status.code(), Some(2));
        let xml = std::fs::read_to_string(&junit).unwrap();
        assert!(xml.contains("errors=\"1\""), "{words:?}: {xml}");
    }
    let server = Running::echo();
    let words = ["check", &server.url, "--timeout", "2s", "--junit"];
    let output = loadgen(&[&words[..], &[junit.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let xml = std::fs::read_to_string(&junit).unwrap();
    assert!(xml.matches("<testcase").count() > 30, "{xml}");
    assert!(
        xml.contains("name=\"frames: answers a ping with its payload"),
        "{xml}"
    );
}
