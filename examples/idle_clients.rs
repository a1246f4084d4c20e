//! Opens connections that each echo one message and are idle then, until its input ends.
//!
//! `idle_clients URL CONNECTIONS` prints `idle` once every connection has had its echo. Each offers
//! compression, as browsers do. It is what `scripts/idle-memory.sh` measures a server with. For
//! `wss://` every certificate will do.

use std::{
    env, io,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use ringwire::{
    CloseCause, Config, Conn, ConnId, Message, Service, Turn,
    client::{Client, CompressionOffer, Dial, Wait},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections on their way at once: fewer than a listener's backlog holds.
const OPENING_MAX: usize = 256;

/// Bytes of the message that each of them sends: enough of them touch all of a server's buffers.
const MESSAGE_BYTES: usize = 4000;

/// Says hello once on each connection and counts the answers.
#[derive(Default)]
struct Greeter {
    echoed: usize,
    lost: Option<String>,
}

impl Service for Greeter {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        if let Err(error) = conn.send(&[7; MESSAGE_BYTES][..]) {
            self.lost = Some(error.to_string());
        }
    }

    fn on_message(&mut self, _conn: &mut Conn<'_, ()>, _message: Message<'_>) {
        self.echoed += 1;
    }

    fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, _state: (), cause: &CloseCause) {
        self.lost = Some(format!("connection {id}: {cause}"));
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match &arguments[..] {
        [url, connections] => match connections.parse() {
            Ok(connections) => run(url, connections).map_err(|error| error.to_string()),
            Err(_) => Err(format!("'{connections}' is not a number of connections")),
        },
        _ => Err("usage: idle_clients URL CONNECTIONS".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("idle_clients: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "tls")]
fn dial(url: &str) -> Result<Dial, Box<dyn std::error::Error>> {
    if !url.starts_with("wss:") {
        return Ok(Dial::to(url)?);
    }
    let tls = ringwire::tls::ClientTls::builder().insecure().load()?;
    Ok(Dial::with_tls(url, &tls)?)
}

#[cfg(not(feature = "tls"))]
fn dial(url: &str) -> Result<Dial, Box<dyn std::error::Error>> {
    Ok(Dial::to(url)?)
}

fn run(url: &str, connections: usize) -> Result<(), Box<dyn std::error::Error>> {
    let limit = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, raised)?;
    let mut dial = dial(url)?;
    dial.request
        .offer_compression(CompressionOffer::default())?;
    let mut client = Client::new(Config::default(), Greeter::default())?;
    let mut dialled = 0;
    while client.service().echoed < connections {
        while dialled < connections && dialled < client.service().echoed + OPENING_MAX {
            client.dial(dial.clone())?;
            dialled += 1;
        }
        client.turn(Wait::Forever)?;
        fail_if_lost(&mut client)?;
    }
    println!("idle");

    let over = Arc::new(AtomicBool::new(false));
    let (told, waker) = (over.clone(), client.waker());
    thread::spawn(move || {
        // Whatever comes, the end is what counts.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        told.store(true, Ordering::Release);
        waker.wake();
    });
    while !over.load(Ordering::Acquire) {
        client.turn(Wait::Forever)?;
        fail_if_lost(&mut client)?;
    }
    Ok(())
}

fn fail_if_lost(client: &mut Client<Greeter>) -> Result<(), String> {
    client.service().lost.take().map_or(Ok(()), Err)
}
