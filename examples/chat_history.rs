//! A chat that remembers: whoever comes is shown the last lines, which are kept in SQLite.
//!
//! `chat_history [FILE] [ADDRESS]`. SQLite reads and writes files, and a shard must not wait for
//! that. So the service hands everything over a bridge to async code, which has a thread of its
//! own, and that answers through the server's handle.

use std::{
    collections::HashMap,
    env,
    error::Error,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ringwire::{
    CloseCause, CloseCode, Config, Conn, ConnId, Message, Outgoing, Server, Service, Turn,
    aio::bridge::{self, Limits, Payload, Refused, Request, Sender},
};
use rusqlite::{Connection, params};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// Lines that somebody who comes is shown.
const SHOWN: u32 = 50;
/// Lines that are kept.
const KEPT: u32 = 10_000;
const LINE_BYTES_MAX: u64 = 4096;

/// What the async code is asked for.
enum Ask {
    /// Show them the history, and everything that is said from then on.
    Join,
    Say(String),
}

impl Payload for Ask {
    fn payload_bytes(&self) -> usize {
        match self {
            Self::Join => 0,
            Self::Say(line) => line.len(),
        }
    }
}

/// Who is connected, and whether they have been shown the history: before that they are not sent
/// what is said, so that they see each line once.
#[derive(Clone, Default)]
struct Members(Arc<Mutex<HashMap<ConnId, bool>>>);

impl Members {
    /// Held for an instant, and never over an `await`: shards take it as well.
    fn lock(&self) -> MutexGuard<'_, HashMap<ConnId, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn who_joined(&self) -> Vec<ConnId> {
        let members = self.lock();
        let joined = members.iter().filter(|&(_, &joined)| joined);
        joined.map(|(&id, _)| id).collect()
    }
}

/// The chat on one shard.
struct Chat {
    sender: Sender<Ask>,
    members: Members,
}

impl Chat {
    fn ask(&self, conn: &mut Conn<'_, ()>, ask: Ask) {
        // A connection on which nothing can be said has been closed already.
        let _ = match self.sender.try_send(conn.id(), ask) {
            Ok(()) => Ok(()),
            Err(Refused::ConnFull(_)) => conn.close(CloseCode::POLICY_VIOLATION, "too fast"),
            Err(_) => conn.close(CloseCode::TRY_AGAIN_LATER, "too much is being said"),
        };
    }
}

impl Service for Chat {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        self.members.lock().insert(conn.id(), false);
        self.ask(conn, Ask::Join);
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        match message.text() {
            Some(line) => self.ask(conn, Ask::Say(line.to_owned())),
            None => {
                let _ = conn.close(CloseCode::UNSUPPORTED_DATA, "say it in text");
            }
        }
    }

    fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, (): (), _cause: &CloseCause) {
        self.members.lock().remove(&id);
    }
}

struct History(Connection);

impl History {
    fn open(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        // With a write-ahead log a line is one short write. When the machine loses its power, the
        // last lines may be missing, but the file is whole.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute(
            "CREATE TABLE IF NOT EXISTS lines (number INTEGER PRIMARY KEY, line TEXT NOT NULL)",
            [],
        )?;
        Ok(Self(connection))
    }

    fn add(&self, line: &str) -> rusqlite::Result<()> {
        let transaction = self.0.unchecked_transaction()?;
        let mut add = transaction.prepare_cached("INSERT INTO lines (line) VALUES (?1)")?;
        let number = add.insert(params![line])?;
        let mut forget = transaction.prepare_cached("DELETE FROM lines WHERE number <= ?1")?;
        forget.execute(params![number - i64::from(KEPT)])?;
        drop((add, forget));
        transaction.commit()
    }

    /// The last lines, the oldest first.
    fn last(&self) -> rusqlite::Result<Vec<String>> {
        let mut last = self.0.prepare_cached(
            "SELECT line FROM (SELECT * FROM lines ORDER BY number DESC LIMIT ?1) ORDER BY number",
        )?;
        last.query_map(params![SHOWN], |row| row.get(0))?.collect()
    }
}

async fn answer(
    history: &History,
    members: &Members,
    request: &Request<Ask>,
) -> Result<(), Box<dyn Error>> {
    // These calls block. Nothing else is on this thread; where there is, `spawn_blocking` is for
    // them.
    match &request.body {
        Ask::Join => {
            for line in history.last()? {
                request.answer(line).await?;
            }
            // Unless they have gone meanwhile.
            if let Some(joined) = members.lock().get_mut(&request.id) {
                *joined = true;
            }
        }
        Ask::Say(line) => {
            history.add(line)?;
            // All get the same bytes.
            let line = Outgoing::from(line.clone());
            for id in members.who_joined() {
                request.handle().send_when_room(id, line.clone()).await?;
            }
        }
    }
    Ok(())
}

fn run(file: &str, address: &str) -> Result<(), Box<dyn Error>> {
    let history = History::open(file.as_ref()).map_err(|error| format!("{file}: {error}"))?;
    // One at a time: between the last line of the history and being a member, nothing is said.
    let mut limits = Limits::default();
    limits.concurrent_max = 1;
    let (sender, bridge) = bridge::new(limits)?;
    let members = Members::default();
    let everybody = members.clone();
    let mut config = Config::default();
    config.message_bytes_max = LINE_BYTES_MAX;
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let builder = Server::builder().listen(address).config(config);
    let server = builder.start(move |_shard| Chat {
        sender: sender.clone(),
        members: everybody.clone(),
    })?;
    let bridge = bridge.start(server.handle(), async move |request: Request<Ask>| {
        if let Err(error) = answer(&history, &members, &request).await {
            eprintln!("chat_history: {}: {error}", request.id);
            let handle = request.handle();
            let _ = handle.close(request.id, CloseCode::INTERNAL_ERROR, "not kept");
        }
    })?;
    println!("ws://{}/", server.addresses()[0]);
    signals.forever().next();
    // The bridge first: what has been said is kept, and reaches everybody, before they are closed.
    let counts = bridge.stop(5000);
    if counts.abandoned > 0 {
        eprintln!("chat_history: {} lines were not kept", counts.abandoned);
    }
    server.handle().stop();
    Ok(server.join()?)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str);
    let file = argument(0).unwrap_or("chat.sqlite");
    match run(file, argument(1).unwrap_or("127.0.0.1:9001")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat_history: {error}");
            ExitCode::FAILURE
        }
    }
}
