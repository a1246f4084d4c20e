//! What `scripts/attack.sh` attacks beside the server itself: services that cost something.
//!
//! `attacked serve` prints its address and serves until it is ended, on one thread:
//!
//! - `/` echoes,
//! - `/slow` echoes too, and takes 20 us for it,
//! - `/posted` gets messages from another thread, through a handle, as fast as they can be posted,
//! - `/shared` answers a number with as many references to one payload of 4 KiB.
//!
//! `attacked dial URL...` opens a connection to each URL, on one thread, and echoes what comes.
//! A URL with `*N` behind it is dialled N times.

use std::{
    error::Error,
    hint,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use ringwire::{
    Answer, CloseCause, Config, Conn, ConnId, Handle, HandleError, HandshakeError, Message,
    Refusal, Remote, RingKind, Server, Service, Turn, Upgrade,
    client::{Client, Dial, Wait},
};
use rustix::thread::{CpuSet, sched_setaffinity};

/// What a message takes at `/slow`.
const SLOW: Duration = Duration::from_micros(20);

/// Bytes that are posted, and that are referred to.
const POSTED_BYTES: usize = 64;
const SHARED_BYTES: usize = 4 << 10;

/// The most references that one message may ask for.
const REFERENCES_MAX: usize = 100_000;

/// Services that cost something, to be attacked
#[derive(Parser)]
enum Arguments {
    /// Serve
    Serve {
        /// What serves
        #[arg(long, value_enum, default_value = "shard")]
        engine: Engine,
        /// What shards run on
        #[arg(long, value_enum, default_value = "auto")]
        ring: Ring,
        /// Where to listen; port 0 lets the kernel choose
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: String,
        /// The processor of the thread that posts
        #[arg(long)]
        poster_cpu: Option<usize>,
    },
    /// Dial, and echo
    Dial {
        /// What dials
        #[arg(long, value_enum, default_value = "shard")]
        engine: Engine,
        /// What shards run on
        #[arg(long, value_enum, default_value = "auto")]
        ring: Ring,
        /// Whom, and *N behind it for how often
        urls: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    Shard,
    #[value(alias = "tokio-uring")]
    Async,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ring {
    Auto,
    Epoll,
    Uring,
}

impl From<Ring> for RingKind {
    fn from(ring: Ring) -> Self {
        match ring {
            Ring::Auto => Self::Auto,
            Ring::Epoll => Self::Epoll,
            Ring::Uring => Self::Uring,
        }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Route {
    #[default]
    Echo,
    Slow,
    Posted,
    Shared,
}

impl Route {
    fn of(upgrade: &Upgrade<'_>) -> Result<Self, Refusal> {
        match upgrade.request().path() {
            "/" => Ok(Self::Echo),
            "/slow" => Ok(Self::Slow),
            "/posted" => Ok(Self::Posted),
            "/shared" => Ok(Self::Shared),
            _ => Err(HandshakeError::NotFound.into()),
        }
    }
}

/// What the thread that posts is told.
enum Mail {
    Come(ConnId),
    Gone(ConnId),
}

struct Costly {
    mail: Sender<Mail>,
    shared: Bytes,
}

impl Service for Costly {
    type State = Route;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        _peer: Remote<'_>,
        _answer: &mut Answer,
    ) -> Result<Route, Refusal> {
        Route::of(upgrade)
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Route>) {
        if *conn.state() == Route::Posted {
            let _ = self.mail.send(Mail::Come(conn.id()));
        }
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Route>, message: Message<'_>) {
        match conn.state() {
            Route::Echo => {
                let _ = conn.send(message);
            }
            Route::Slow => {
                spin();
                let _ = conn.send(message);
            }
            Route::Posted => {}
            Route::Shared => {
                for _ in 0..references(&message) {
                    if conn.send(self.shared.clone()).is_err() {
                        break;
                    }
                }
            }
        }
    }

    fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, route: Route, _cause: &CloseCause) {
        if route == Route::Posted {
            let _ = self.mail.send(Mail::Gone(id));
        }
    }
}

fn references(message: &Message<'_>) -> usize {
    let asked = message.text().and_then(|text| text.parse().ok());
    asked.unwrap_or(0).min(REFERENCES_MAX)
}

fn spin() {
    let begin = Instant::now();
    while begin.elapsed() < SLOW {
        hint::spin_loop();
    }
}

/// Posts to everybody in turn, for as long as there is anybody.
fn post(handle: &Handle, mail: &Receiver<Mail>, cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        // Elsewhere it takes the shard's time as well, which is only a worse neighbour.
        let _ = sched_setaffinity(None, &set);
    }
    let message = Bytes::from_static(&[b'x'; POSTED_BYTES]);
    let mut conns: Vec<ConnId> = Vec::new();
    loop {
        let news = if conns.is_empty() {
            mail.recv_timeout(Duration::from_secs(3600))
        } else {
            mail.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            })
        };
        match news {
            Ok(Mail::Come(id)) => conns.push(id),
            Ok(Mail::Gone(id)) => conns.retain(|conn| *conn != id),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for id in &conns {
            match handle.send(*id, message.clone()) {
                Ok(()) => {}
                Err(HandleError::Stopped) => return,
                Err(_) => thread::yield_now(),
            }
        }
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse() {
        Arguments::Serve {
            engine: Engine::Shard,
            ring,
            listen,
            poster_cpu,
        } => serve(ring.into(), &listen, poster_cpu),
        Arguments::Dial {
            engine: Engine::Shard,
            ring,
            urls,
        } => dial(ring.into(), &urls),
        Arguments::Serve { ring, listen, .. } => in_async_code::serve(ring.into(), &listen),
        Arguments::Dial { ring, urls, .. } => in_async_code::dial(ring.into(), &urls),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attacked: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(ring: RingKind, listen: &str, cpu: Option<usize>) -> Result<(), Box<dyn Error>> {
    let (mail, arrived) = mpsc::channel();
    let mail = Mutex::new(mail);
    let builder = Server::builder().ring(ring).listen(listen).shards(1);
    let server = builder.start(move |_| {
        let mail = mail.lock().unwrap_or_else(PoisonError::into_inner);
        Costly {
            mail: mail.clone(),
            shared: vec![0; SHARED_BYTES].into(),
        }
    })?;
    let handle = server.handle();
    thread::spawn(move || post(&handle, &arrived, cpu));
    for address in server.addresses() {
        println!("ws://{address}/");
    }
    Ok(server.join()?)
}

/// The URLs, each as often as it says.
fn each(urls: &[String]) -> Result<Vec<String>, Box<dyn Error>> {
    let mut all = Vec::new();
    for text in urls {
        let (url, times) = match text.split_once('*') {
            Some((url, times)) => (url, times.parse()?),
            None => (text.as_str(), 1),
        };
        all.extend(vec![url.to_owned(); times]);
    }
    Ok(all)
}

/// Echoes on connections that were dialled.
#[derive(Default)]
struct Dialled {
    gone: usize,
}

impl Service for Dialled {
    type State = ();

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let _ = conn.send(message);
    }

    fn on_close(&mut self, _: &mut Turn<'_>, _id: ConnId, _state: (), _cause: &CloseCause) {
        self.gone += 1;
    }
}

fn dial(ring: RingKind, urls: &[String]) -> Result<(), Box<dyn Error>> {
    let mut client = Client::on(ring, Config::default(), Dialled::default())?;
    let urls = each(urls)?;
    for url in &urls {
        client.dial(Dial::to(url)?)?;
    }
    while client.service().gone < urls.len() {
        client.turn(Wait::Forever)?;
    }
    Ok(())
}

/// The same on the other engine, as far as it has it: nobody posts there.
mod in_async_code {
    use ringwire::aio::{self, Handler, WebSocket};

    use super::*;

    struct Costly {
        shared: Bytes,
    }

    impl Handler for Costly {
        type State = Route;

        fn on_handshake(
            &self,
            upgrade: &Upgrade<'_>,
            _peer: Remote<'_>,
            _answer: &mut Answer,
        ) -> Result<Route, Refusal> {
            Route::of(upgrade)
        }

        async fn serve(&self, mut socket: WebSocket, route: Route) {
            let writer = socket.writer();
            while let Some(message) = socket.next().await {
                let sent = match route {
                    Route::Posted => Ok(()),
                    Route::Echo => writer.send(message).await,
                    Route::Slow => {
                        spin();
                        writer.send(message).await
                    }
                    Route::Shared => {
                        let mut sent = Ok(());
                        for _ in 0..references(&message) {
                            sent = writer.send(self.shared.clone()).await;
                            if sent.is_err() {
                                break;
                            }
                        }
                        sent
                    }
                };
                if sent.is_err() {
                    break;
                }
            }
        }
    }

    pub fn serve(ring: RingKind, listen: &str) -> Result<(), Box<dyn Error>> {
        let server = aio::Server::builder().ring(ring).listen(listen).threads(1);
        let server = server.start(Costly {
            shared: vec![0; SHARED_BYTES].into(),
        })?;
        for address in server.addresses() {
            println!("ws://{address}/");
        }
        Ok(server.join()?)
    }

    pub fn dial(ring: RingKind, urls: &[String]) -> Result<(), Box<dyn Error>> {
        let dialling = dial_each(each(urls)?);
        if ring == RingKind::Epoll {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build()?;
            runtime.block_on(aio::local(dialling));
        } else {
            aio::block_on(dialling)?;
        }
        Ok(())
    }

    async fn dial_each(urls: Vec<String>) {
        let mut tasks = Vec::new();
        for url in urls {
            tasks.push(tokio::task::spawn_local(async move {
                let Ok(mut socket) = aio::connect(&url).await else {
                    return;
                };
                let writer = socket.writer();
                while let Some(message) = socket.next().await {
                    if writer.send(message).await.is_err() {
                        break;
                    }
                }
            }));
        }
        for task in tasks {
            let _ = task.await;
        }
    }
}
