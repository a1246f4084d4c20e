//! Conversations as a script describes them.

use std::path::{Path, PathBuf};

use loadgen::result::{Run, VerdictKind};
use ringwire::{CloseCode, Conn, Message, Service};
use tempfile::TempDir;

use crate::{
    run_line,
    servers::{CLOSE, Running, Scripted, TEXT},
    verdicts::{assert_verdict, unfolded},
};

fn script(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn talk(url: &str, text: &str, more: &str) -> Run {
    let (_folder, path) = script(text);
    let file = path.display();
    run_line(&format!(
        "talk {url} --script {file} -c 3 --shards 1 {more}"
    ))
}

/// Answers what a small service would.
struct Desk;

impl Service for Desk {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        conn.send("welcome").unwrap();
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        match message.text() {
            Some("login") => {
                conn.send("news: 1").unwrap();
                conn.send(r#"{"user": {"id": 7.0}, "ok": true}"#).unwrap();
            }
            Some("bye") => conn.close(CloseCode::NORMAL_CLOSURE, "bye").unwrap(),
            _ => drop(conn.send(message)),
        }
    }
}

const VISIT: &str = r#"
[[step]]
expect_regex = '^wel'

[[step]]
name = "log in"
send = "login"
expect_json = { "/user/id" = 7, "/ok" = true }
skip_others = true

[[step]]
repeat = 3

[[step.step]]
send_hex = "00 01 ff"
expect_hex = "0001ff"

[[step.step]]
wait = "1ms"

[[step.step]]
name = "ask"
send = "how?"
expect = "how?"

[[step]]
repeat = 1000000
[[step.step]]
wait = "5ms"
[[step.step]]
send = "still there?"
expect_any = true
"#;

#[test]
fn a_script_is_gone_through_and_its_answers_are_timed() {
    let server = Running::start(|_| Desk);
    let run = talk(&server.url, VISIT, "-d 300ms");
    assert_verdict(&run, VerdictKind::Sound);
    let talk = run.talk.as_ref().unwrap();
    let step = |name: &str| talk.steps.iter().find(|step| step.name == name).unwrap();
    assert_eq!((step("log in").answered, step("log in").failed), (3, 0));
    assert_eq!((step("step 4").answered, step("ask").answered), (9, 9));
    // It answers nothing, and has no latency.
    assert_eq!(step("step 1").answered, 0);
    assert_eq!(talk.unexpected, 3, "the news are passed over: {talk:?}");
    let answered: u64 = talk.steps.iter().map(|step| step.answered).sum();
    assert_eq!(run.messages.received, answered);
    assert_eq!(run.latency.corrected_ns.len(), answered);
    assert_eq!(
        run.messages.received + run.messages.cut_off,
        run.messages.sent,
        "{:?}",
        run.messages
    );
    assert!(
        step("ask").p50_ns > 0 && step("ask").p50_ns < 100_000_000,
        "{talk:?}"
    );
    let said = unfolded(&run);
    assert!(said.contains("script talk.toml"), "{said}");
}

#[test]
fn what_did_not_match_is_named_with_its_step_and_what_came() {
    let server = Running::start(|_| Desk);
    let wrong = "[[step]]\nexpect = 'welcome'\n[[step]]\nname = 'greet'\nsend = 'hello'\n\
                 expect = 'hello, you'\n";
    let run = talk(&server.url, wrong, "-d 300ms");
    assert_verdict(&run, VerdictKind::Faulty);
    let reasons = run.verdict.reasons.join("; ");
    assert!(
        reasons.contains(
            "greet, line 3 of the script, expected the text 'hello, you', and 'hello' came"
        ),
        "{reasons}"
    );
    // Each begins anew, on another connection, and not at once.
    assert!(run.connections.renewed >= 3, "{:?}", run.connections);
    assert!(run.connections.opened < 20, "{:?}", run.connections);
    let talk = run.talk.unwrap();
    assert_eq!(talk.conversations, 0);
    assert!(talk.broken_off >= 3, "{talk:?}");
    assert_eq!(run.messages.corrupted, talk.steps[1].failed);
    assert_eq!(run.connections.lost, 0);
}

#[test]
fn an_answer_that_does_not_come_is_lost_and_named() {
    let server = Scripted::start(|asked, _| {
        let mut socket = asked.open();
        while socket.receive().is_some_and(|(opcode, _)| opcode != CLOSE) {}
        socket.send(CLOSE, b"");
    });
    let silent = "[[step]]\nsend = 'hello?'\nexpect_any = true\n";
    let run = talk(&server.url, silent, "-d 300ms --reply-timeout 150ms");
    assert_verdict(&run, VerdictKind::Faulty);
    assert!(run.messages.lost >= 3, "{:?}", run.messages);
    let reasons = run.verdict.reasons.join("; ");
    assert!(
        reasons.contains("step 1, line 1 of the script, expected any message, and nothing within"),
        "{reasons}"
    );
}

#[test]
fn who_closes_in_a_conversation_is_told_of_and_a_script_may_end() {
    let server = Running::start(|_| Desk);
    let leaves = "[[step]]\nexpect_any = true\n[[step]]\nsend = 'bye'\nexpect_any = true\n";
    let run = talk(&server.url, leaves, "-d 200ms");
    assert_verdict(&run, VerdictKind::NotAsAsked);
    assert_eq!((run.messages.cut_off, run.messages.lost), (3, 0));
    let once = "repeat = 1\n[[step]]\nexpect = 'welcome'\n[[step]]\nsend = 'a'\nexpect = 'a'\n";
    let run = talk(&server.url, once, "-d 200ms");
    assert_verdict(&run, VerdictKind::Sound);
    assert_eq!(run.talk.unwrap().conversations, 3);
    assert_eq!(run.messages.sent, 3);
}

#[test]
fn a_flood_of_a_script_leaves_others_their_turns() {
    let server = Running::echo();
    let flood = "[[step]]\nrepeat = 100000000\n[[step.step]]\nsend = 'x'\n\
                 [[step]]\nexpect_any = true\n";
    let run = talk(&server.url, flood, "-d 200ms --allow-client-bound");
    assert!(run.messages.sent > 1000, "{:?}", run.messages);
    assert!(run.times.measured_ms < 400.0, "{:?}", run.times);
}

#[test]
fn the_example_of_a_script_is_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/chat.toml");
    let server = Running::echo();
    let (url, file) = (&server.url, path.display());
    let run = run_line(&format!(
        "talk {url} --script {file} -c 2 -d 500ms --shards 1"
    ));
    assert_verdict(&run, VerdictKind::Sound);
    assert!(run.talk.unwrap().conversations >= 2, "{:?}", run.messages);
}

#[test]
fn whoever_speaks_while_nobody_listens_is_heard_later() {
    // The answer comes while the script waits.
    let server = Scripted::start(|asked, _| {
        let mut socket = asked.open();
        while let Some((opcode, payload)) = socket.receive() {
            socket.send(opcode, &payload);
            if opcode == CLOSE {
                return;
            }
            socket.send(TEXT, b"and more");
        }
    });
    let text = "[[step]]\nsend = 'a'\n[[step]]\nwait = '30ms'\n[[step]]\nexpect = 'a'\n\
                [[step]]\nexpect = 'and more'\n";
    let run = talk(&server.url, text, "-d 200ms");
    assert_verdict(&run, VerdictKind::Sound);
    let step = &run.talk.unwrap().steps[2];
    // From what was said to when it came, and not to when it was expected.
    assert!(step.answered > 3 && step.p50_ns < 25_000_000, "{step:?}");
}
