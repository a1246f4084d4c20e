//! Twenty servers that misbehave in twenty ways, each named rightly, and twenty good ones with
//! habits of their own, of which never a word of loss is said.
//!
//! All run beside each other, with little load each: what is judged is what is said of them.

use std::{
    any::Any,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use loadgen::result::{Run, Scenario, VerdictKind};
use ringwire::{Config, service::Echo, tls::ServerTls};

use crate::{
    authority::Authority,
    scenarios::repeater,
    servers::{
        Asked, BINARY, CLOSE, Choosy, FIN, Fault, Faulty, PING, PONG, Running, Scripted, Sink,
        Socket, Stalling, TEXT, frame,
    },
    try_run,
    verdicts::{after_one, assert_verdict, unfolded},
    words,
};

/// A server for as long as it is kept, and where it is.
struct Served {
    url: String,
    _kept: Box<dyn Any>,
}

impl From<Running> for Served {
    fn from(server: Running) -> Self {
        Self {
            url: server.url.clone(),
            _kept: Box::new(server),
        }
    }
}

impl From<Scripted> for Served {
    fn from(server: Scripted) -> Self {
        Self {
            url: server.url.clone(),
            _kept: Box::new(server),
        }
    }
}

/// What a server is called, what it does, how it is loaded, and what has to be said of it.
type Row = (
    &'static str,
    fn() -> Served,
    &'static str,
    VerdictKind,
    &'static [&'static str],
);

fn faulty(fault: Fault) -> Served {
    let service = move |_| Faulty {
        fault,
        every: 3,
        done: Arc::default(),
        held: Arc::default(),
    };
    Running::start(service).into()
}

/// Does something with each message of a connection, until it is closed.
fn each(act: fn(&mut Socket, u8, &[u8])) -> Served {
    opened(move |mut socket| {
        while let Some((opcode, payload)) = socket.receive() {
            match opcode {
                CLOSE => return socket.send(opcode, &payload),
                // It answers a ping of ours.
                PONG => {}
                _ => act(&mut socket, opcode, &payload),
            }
        }
    })
}

/// Opens every connection and does something with it.
fn opened(act: impl Fn(Socket) + Send + Sync + 'static) -> Served {
    Scripted::start(move |asked: Asked, _| act(asked.open())).into()
}

/// Answers one message, and breaks the protocol after that.
fn after_one_sends(bytes: &'static [u8]) -> Served {
    Scripted::start(move |asked: Asked, _| {
        after_one(asked, |mut socket| {
            socket.write(bytes);
            while socket.receive().is_some() {}
        });
    })
    .into()
}

const ENDED: &str = "of the connections ended before the run did";
const DAMAGED: &str = "not what had been sent";
const IN_ORDER: &str = "the server closed 2 of 2 connections in good order";

fn misbehaving() -> [Row; 20] {
    use VerdictKind::Faulty;
    [
        (
            "loses replies",
            || faulty(Fault::Lose),
            "echo --reply-timeout 300ms",
            Faulty,
            &["lost: no answer came within --reply-timeout 300 ms"],
        ),
        (
            "sends replies twice",
            || faulty(Fault::Duplicate),
            "echo",
            Faulty,
            &["came twice"],
        ),
        (
            "swaps replies",
            || faulty(Fault::Reorder),
            "echo --reply-timeout 500ms",
            Faulty,
            &["came out of order"],
        ),
        (
            "damages stamps",
            || faulty(Fault::CorruptStamp),
            "echo",
            Faulty,
            &[DAMAGED],
        ),
        (
            "damages the last byte",
            || faulty(Fault::CorruptEnd),
            "echo --verify all",
            Faulty,
            &[DAMAGED],
        ),
        (
            "cuts a byte off",
            || faulty(Fault::Cut),
            "echo",
            Faulty,
            &[DAMAGED],
        ),
        (
            "invents answers",
            || faulty(Fault::Invent),
            "echo --reply-timeout 300ms",
            Faulty,
            &[DAMAGED],
        ),
        (
            "answers too late",
            || Scripted::slow_echo(Duration::from_millis(1500)).into(),
            "echo --reply-timeout 200ms",
            Faulty,
            &["lost: no answer came within --reply-timeout 200 ms"],
        ),
        (
            "closes over a message that waited",
            || {
                opened(|mut socket| {
                    let _ = socket.receive();
                    socket.close_after(Duration::from_millis(300), 1000);
                })
            },
            "echo --in-flight 1 --reply-timeout 250ms",
            Faulty,
            &["its connection ended long after one was due"],
        ),
        (
            "leaves deliveries out",
            || repeater(7, false, false).0.into(),
            "fanout -n 3 --rate 100 -d 300ms --warmup 0s --reply-timeout 300ms --no-spin",
            Faulty,
            &["did not come within --reply-timeout 300 ms"],
        ),
        (
            "counts less than it was sent",
            || Running::start(|_| Sink { forgets_every: 1 }).into(),
            "ingest -c 1 -d 200ms --warmup 0s -s 10k --shards 1",
            Faulty,
            &["missing in the server's own count"],
        ),
        (
            "ends connections without a word",
            || Scripted::start(|asked, _| after_one(asked, |socket| socket.drop_it())).into(),
            "echo",
            Faulty,
            &[ENDED, "ended the stream without a close frame"],
        ),
        (
            "closes for an error of its own",
            || Scripted::start(|asked, _| after_one(asked, |mut it| it.close(1011))).into(),
            "echo",
            Faulty,
            &[ENDED, "the server closed it with 1011"],
        ),
        (
            "masks its frames",
            || after_one_sends(&[FIN | BINARY, 0x81, 1, 2, 3, 4, 5]),
            "echo",
            Faulty,
            &[ENDED, "mask"],
        ),
        (
            "sets bits that are reserved",
            || after_one_sends(&[FIN | 0x40 | BINARY, 1, 5]),
            "echo",
            Faulty,
            &[ENDED, "reserved"],
        ),
        (
            "sends text that is none",
            || after_one_sends(&[FIN | TEXT, 2, 0xc3, 0x28]),
            "echo --text",
            Faulty,
            &[ENDED, "UTF-8"],
        ),
        (
            "goes on with what it has not begun",
            || after_one_sends(&[FIN, 1, 5]),
            "echo",
            Faulty,
            &[ENDED, "continu"],
        ),
        (
            "is silent to a handshake",
            || {
                let script = |asked: Asked, number| match number {
                    0 => asked.listen(),
                    _ => asked.open().echo_after(Duration::ZERO, u64::MAX),
                };
                Scripted::start(script).into()
            },
            "echo --handshake-timeout 300ms",
            Faulty,
            &["1 of the connections did not open", "did not answer"],
        ),
        (
            "refuses some",
            || Running::start(|_| Choosy::default()).into(),
            "echo",
            Faulty,
            &["1 of the connections did not open", "503"],
        ),
        (
            "proves another key than it was shown",
            || {
                const WRONG: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                let script = |asked: Asked, number| match number {
                    0 => asked.answer_with(WRONG),
                    _ => asked.open().echo_after(Duration::ZERO, u64::MAX),
                };
                Scripted::start(script).into()
            },
            "echo",
            Faulty,
            &["1 of the connections did not open", "Sec-WebSocket-Accept"],
        ),
    ]
}

/// Says something to whoever opens a connection.
fn greets() -> Served {
    opened(|mut socket| {
        for _ in 0..2 {
            socket.send(TEXT, b"welcome to the server of welcomes");
        }
        socket.echo_after(Duration::ZERO, u64::MAX);
    })
}

fn over_tls() -> Served {
    let authority = Authority::new();
    let pair = authority.issue(&["127.0.0.1"]);
    let tls = ServerTls::builder().certificate(pair.certificate, pair.key);
    Running::echo_over(&tls.load().unwrap()).into()
}

fn at_a_path() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::echo_at(&folder.path().join("it.sock"));
    Served {
        url: server.url.clone(),
        _kept: Box::new((server, folder)),
    }
}

fn stalls() -> Served {
    let at = Instant::now() + Duration::from_millis(150);
    let service = move |_| Stalling {
        at,
        lasts: Duration::from_millis(200),
        done: false,
    };
    Running::start(service).into()
}

fn compresses() -> Served {
    let mut config = Config::default();
    config.compress = true;
    config.compress_context_takeover = true;
    Running::start_with(config, |_| Echo).into()
}

fn good() -> [Row; 20] {
    use VerdictKind::{NotAsAsked, Sound};
    [
        ("echoes", || Running::echo().into(), "echo", Sound, &[]),
        (
            "is slow",
            || Scripted::slow_echo(Duration::from_millis(300)).into(),
            "echo --in-flight 20",
            Sound,
            &[],
        ),
        ("greets", greets, "echo --greeting 2", Sound, &[]),
        (
            "greets whoever does not expect it",
            greets,
            "echo",
            NotAsAsked,
            &["sends before it is asked: 4 messages", "use --greeting 2"],
        ),
        (
            "fragments",
            || each(|socket, opcode, payload| socket.send_fragmented(opcode, payload, 7)),
            "echo -s 3,64,400 --verify all",
            Sound,
            &[],
        ),
        (
            "pings between fragments, of which some are empty",
            || {
                each(|socket, opcode, payload| {
                    let (head, tail) = payload.split_at(payload.len() / 2);
                    socket.send_frame(opcode, head);
                    socket.send(PING, b"still there?");
                    socket.send_frame(0, b"");
                    socket.send_frame(FIN, tail);
                })
            },
            "echo --verify all",
            Sound,
            &[],
        ),
        (
            "compresses",
            compresses,
            "echo --compress --text --script json -s 900 --verify all",
            Sound,
            &[],
        ),
        ("stalls once", stalls, "echo --in-flight 20", Sound, &[]),
        (
            "closes properly, as it goes away",
            || opened(|socket| socket.echo_after(Duration::from_millis(5), 3)),
            "echo --in-flight 1",
            NotAsAsked,
            &[IN_ORDER, "closed it with 1001"],
        ),
        (
            "closes without a status",
            || {
                let end = |mut socket: Socket| {
                    socket.send(CLOSE, b"");
                    while socket.receive().is_some() {}
                };
                Scripted::start(move |asked, _| after_one(asked, end)).into()
            },
            "echo --in-flight 1",
            NotAsAsked,
            &[IN_ORDER, "closed it without a status"],
        ),
        (
            "closes with a code of its own",
            || Scripted::start(|asked, _| after_one(asked, |mut it| it.close(4000))).into(),
            "echo --in-flight 1",
            NotAsAsked,
            &[IN_ORDER, "closed it with 4000"],
        ),
        (
            "pings before each answer",
            || {
                each(|socket, opcode, payload| {
                    socket.send(PING, b"");
                    socket.send(opcode, payload);
                })
            },
            "echo",
            Sound,
            &[],
        ),
        (
            "sends pongs that nobody asked for",
            || {
                each(|socket, opcode, payload| {
                    socket.send(PONG, b"I am well");
                    socket.send(opcode, payload);
                })
            },
            "echo",
            Sound,
            &[],
        ),
        (
            "gives interim answers first",
            || {
                const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
                let script = |asked: Asked, _| {
                    let socket = asked.open_after(HINTS);
                    socket.echo_after(Duration::ZERO, u64::MAX);
                };
                Scripted::start(script).into()
            },
            "echo",
            Sound,
            &[],
        ),
        (
            "takes its time to open",
            || {
                let script = |asked: Asked, _| {
                    let socket = asked.open_later(Duration::from_millis(200));
                    socket.echo_after(Duration::ZERO, u64::MAX);
                };
                Scripted::start(script).into()
            },
            "echo",
            Sound,
            &["2 of 2 connections"],
        ),
        (
            "writes byte by byte",
            || {
                each(|socket, opcode, payload| {
                    for byte in frame(FIN | opcode, payload) {
                        socket.write(&[byte]);
                    }
                })
            },
            "echo --verify all",
            Sound,
            &[],
        ),
        (
            "answers two at a time, in one write",
            || {
                opened(|mut socket| {
                    while let Some((opcode, first)) = socket.receive() {
                        let mut both = frame(FIN | opcode, &first);
                        if opcode != CLOSE
                            && let Some((opcode, second)) = socket.receive()
                        {
                            both.extend(frame(FIN | opcode, &second));
                        }
                        socket.write(&both);
                    }
                })
            },
            // Sixteen messages on two connections: nobody is left alone.
            "echo --in-flight 8",
            Sound,
            &["16"],
        ),
        ("speaks TLS", over_tls, "echo --insecure", Sound, &[]),
        ("is on a Unix path", at_a_path, "echo", Sound, &[]),
        (
            "counts what it reads",
            || Running::start(|_| Sink::default()).into(),
            "ingest -c 1 -d 200ms --warmup 0s -s 10k --shards 1",
            Sound,
            &[],
        ),
    ]
}

/// The command line of a row: what every echo has, unless the row says otherwise.
fn command_line(url: &str, given: &str) -> String {
    let (scenario, options) = given.split_once(' ').unwrap_or((given, ""));
    let mut line = format!("{scenario} {url} {options}");
    let all = [
        "-c 2",
        "--rate 40",
        "-d 400ms",
        "--warmup 0s",
        "--in-flight 4",
        "--reply-timeout 20s",
        "--shards 1",
        "--no-spin",
    ];
    for default in all {
        let name = default.split(' ').next().unwrap_or_default();
        if scenario == "echo" && !words(options).contains(&name) {
            line = format!("{line} {default}");
        }
    }
    line
}

/// What was asked for is done, and the figures are about all of it.
fn nobody_is_accused(run: &Run) {
    let said = unfolded(run).replace("nothing was lost or wrong", "");
    for word in ["lost", "FAULTY", "corrupted", "missing", DAMAGED] {
        assert!(!said.contains(word), "'{word}' in {said}");
    }
    if run.scenario == Scenario::Echo {
        let messages = &run.messages;
        assert_eq!(
            messages.received + messages.cut_off,
            messages.sent,
            "{messages:?}"
        );
    }
}

fn judge((name, serve, given, kind, says): &Row) {
    let served = serve();
    let line = command_line(&served.url, given);
    let run = try_run(&words(&line)).unwrap_or_else(|sentence| panic!("{line}: {sentence}"));
    let said = unfolded(&run);
    assert_verdict(&run, *kind);
    for part in *says {
        assert!(
            said.contains(part),
            "of one that {name} it says nothing of '{part}': {said}"
        );
    }
    if *kind != VerdictKind::Faulty {
        nobody_is_accused(&run);
    }
}

#[test]
fn twenty_are_named_for_what_they_do_and_twenty_are_left_in_peace() {
    let rows: Vec<Row> = misbehaving().into_iter().chain(good()).collect();
    let wrong: Vec<&str> = thread::scope(|scope| {
        let judges: Vec<_> = rows
            .iter()
            .map(|row| {
                let named = thread::Builder::new().name(row.0.to_owned());
                (row.0, named.spawn_scoped(scope, || judge(row)).unwrap())
            })
            .collect();
        let ended = judges.into_iter().map(|(name, judge)| (name, judge.join()));
        ended
            .filter_map(|(name, judged)| judged.is_err().then_some(name))
            .collect()
    });
    assert!(wrong.is_empty(), "judged wrongly: a server that {wrong:?}");
}
