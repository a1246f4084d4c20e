//! `ringwire top`: a running server, live in a terminal.
//!
//! Knows: when figures are asked for, which key does what, and that the terminal is as it was
//! afterwards, whichever way out is taken. Refuses to know: what figures mean, and how they look.
//!
//! ```text
//!   asking  --> /metrics, /connections, every half second --> a reading, or why there is none
//!   drawing <-- readings, keys, the size of the terminal
//! ```

mod figures;
mod view;

use std::{
    io::{self, IsTerminal as _, Write},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use clap::ArgMatches;
use hyper::{Method, StatusCode};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use crate::{control::client::Client, serve::WRONG_USAGE, settings};
use figures::{Reading, Row};
use view::{By, View};

/// How often figures are asked for.
const EVERY: Duration = Duration::from_millis(500);

/// How long a server has for one answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a key, a signal or a new reading waits until it is seen.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Connections that are asked for: more than a screen has lines.
const CONNECTIONS_MAX: usize = 200;

/// Shows a server until somebody has seen enough.
///
/// # Errors
///
/// When nothing can be printed.
pub fn run(matches: &ArgMatches, out: &mut impl Write) -> io::Result<ExitCode> {
    match show(matches) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(sentence) => {
            writeln!(out, "ringwire: {sentence}")?;
            Ok(ExitCode::from(WRONG_USAGE))
        }
    }
}

/// # Errors
///
/// Why nothing can be shown, as a sentence.
fn show(matches: &ArgMatches) -> Result<(), String> {
    let mut settings = settings::load_unchecked(matches).map_err(|findings| {
        let said: Vec<_> = findings.iter().map(ToString::to_string).collect();
        said.join("\nringwire: ")
    })?;
    if let Some(url) = matches.get_one::<String>("url") {
        settings.admin_listen = vec![address_of(url)?.to_owned()];
    }
    let client = Client::new(&settings)?;
    let address = client.address().to_string();
    let by = Arc::new(Mutex::new(By::Held));
    let mut asker = Asker {
        client,
        by: by.clone(),
    };
    // Before the terminal is another one: what is wrong is said where the command was typed.
    let first = asker.ask();
    let first =
        first.map_err(|why| format!("the admin side at {address} cannot be asked: {why}"))?;
    if !io::stdout().is_terminal() {
        return Err("this is no terminal; for programs there is GET /metrics".to_owned());
    }
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let heard = flag::register(signal, is_over.clone());
        heard.map_err(|error| format!("cannot wait for signals: {error}"))?;
    }
    let (tell, told) = channel();
    let ending = is_over.clone();
    let asking = thread::Builder::new().name("asking".to_owned());
    asking
        .spawn(move || asker.ask_until(&ending, &tell))
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    let mut screen = Screen::new(address, first, by);
    let terminal = ratatui::try_init();
    let mut terminal = terminal.map_err(|error| format!("this terminal is of no use: {error}"))?;
    // A panic restores it as well.
    let shown = screen.run(&mut terminal, &told, &is_over);
    let restored = ratatui::try_restore();
    is_over.store(true, Ordering::SeqCst);
    shown
        .and(restored)
        .map_err(|error| format!("the terminal has gone: {error}"))
}

/// The address in what a person has for the admin side: a URL, or the address itself.
fn address_of(url: &str) -> Result<&str, String> {
    if url.starts_with("https://") || url.starts_with("ws") && url.contains("://") {
        return Err(format!(
            "'{url}' is no admin side: that is asked by http://, without TLS, where admin_listen is"
        ));
    }
    let url = url.strip_prefix("http://").unwrap_or(url);
    match url.starts_with("unix:") {
        true => Ok(url),
        false => Ok(url.split('/').next().unwrap_or(url)),
    }
}

/// Who asks the server.
struct Asker {
    client: Client,
    by: Arc<Mutex<By>>,
}

type Told = Result<(Instant, Reading), String>;

impl Asker {
    /// # Errors
    ///
    /// Why there is no answer, as the end of a sentence.
    fn ask(&mut self) -> Told {
        let by = *self.by.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = self.get("/metrics")?;
        let path = format!("/connections?by={}&limit={CONNECTIONS_MAX}", by.name());
        let connections = self.get(&path)?;
        Ok((Instant::now(), Reading::of(&metrics, &connections)?))
    }

    fn get(&mut self, path: &str) -> Result<String, String> {
        let (status, words) = self.client.ask(&Method::GET, path, PATIENCE)?;
        match status {
            StatusCode::OK => Ok(words),
            StatusCode::UNAUTHORIZED => {
                Err("it wants a token: name its file with --admin-token-file".to_owned())
            }
            status => Err(format!(
                "it answers {} to {path}, so it is no admin side; that is where admin_listen is",
                status.as_u16()
            )),
        }
    }

    fn ask_until(mut self, is_over: &AtomicBool, tell: &Sender<Told>) {
        while !is_over.load(Ordering::SeqCst) {
            let begun = Instant::now();
            if tell.send(self.ask()).is_err() {
                return;
            }
            while let Some(left) = EVERY.checked_sub(begun.elapsed()) {
                thread::park_timeout(left);
            }
        }
    }
}

/// What is shown now.
struct Screen {
    address: String,
    reading: Reading,
    read_at: Instant,
    rows: Vec<Row>,
    cpu: f64,
    trouble: Option<String>,
    by: Arc<Mutex<By>>,
    is_upward: bool,
}

impl Screen {
    fn new(address: String, (read_at, reading): (Instant, Reading), by: Arc<Mutex<By>>) -> Self {
        let rows = reading.rows_since(&reading, EVERY);
        Self {
            address,
            reading,
            read_at,
            rows,
            cpu: 0.0,
            trouble: None,
            by,
            is_upward: false,
        }
    }

    /// # Errors
    ///
    /// What the terminal said.
    fn run(
        &mut self,
        terminal: &mut DefaultTerminal,
        told: &Receiver<Told>,
        is_over: &AtomicBool,
    ) -> io::Result<()> {
        let mut is_new = true;
        while !is_over.load(Ordering::SeqCst) {
            loop {
                match told.try_recv() {
                    Ok(told) => self.take(told),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => {
                        return Err(io::Error::other("nobody asks any more"));
                    }
                }
                is_new = true;
            }
            if is_new {
                self.draw(terminal)?;
            }
            is_new = event::poll(LOOK_EVERY)?;
            if is_new && self.is_enough(&event::read()?) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn take(&mut self, told: Told) {
        match told {
            Err(why) => self.trouble = Some(why),
            Ok((read_at, reading)) => {
                let passed = read_at.duration_since(self.read_at);
                self.rows = reading.rows_since(&self.reading, passed);
                let used = |reading: &Reading| reading.count("process_cpu_seconds_total", None);
                let used = (used(&reading) - used(&self.reading)).max(0.0);
                self.cpu = used / passed.as_secs_f64().max(1e-3);
                (self.reading, self.read_at, self.trouble) = (reading, read_at, None);
            }
        }
    }

    fn draw(&self, terminal: &mut DefaultTerminal) -> io::Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let view = View {
            address: &self.address,
            reading: &self.reading,
            rows: &self.rows,
            now_seconds: now.unwrap_or_default().as_secs_f64(),
            cpu: self.cpu,
            trouble: self.trouble.as_deref(),
            by: *self.by.lock().unwrap_or_else(PoisonError::into_inner),
            is_upward: self.is_upward,
        };
        terminal.draw(|frame| view.draw(frame))?;
        Ok(())
    }

    /// Does what a key asks for. Returns whether that is the end.
    fn is_enough(&mut self, event: &Event) -> bool {
        let Event::Key(key) = event else {
            return false;
        };
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            // The terminal makes no signal of it now.
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Right => *by = by.next(1),
            KeyCode::Left => *by = by.next(2),
            KeyCode::Up | KeyCode::Down => self.is_upward = !self.is_upward,
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_side_is_named_by_its_url_or_its_address() {
        for (url, address) in [
            ("http://127.0.0.1:9002", "127.0.0.1:9002"),
            ("http://localhost:9002/metrics", "localhost:9002"),
            ("127.0.0.1:9002", "127.0.0.1:9002"),
            (
                "unix:/run/ringwire/admin.sock",
                "unix:/run/ringwire/admin.sock",
            ),
        ] {
            assert_eq!(address_of(url).unwrap(), address);
        }
        for url in ["ws://127.0.0.1:9001/", "https://127.0.0.1:9002"] {
            assert!(address_of(url).unwrap_err().contains("is no admin side"));
        }
    }
}
