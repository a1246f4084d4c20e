//! Attacks a server of this machine, beside well-behaved neighbours whose waits it measures.
//!
//! `attack --kind ping --connections 2 --seconds 3 --target 127.0.0.1:9001 --neighbour
//! 127.0.0.1:9001 --neighbour 127.0.0.1:9002` is two connections that send pings as fast as they
//! can, one neighbour on the same server, and one on another server as the measure of it. It is
//! what `scripts/attack.sh` is made of. It attacks loopback addresses and no others, and ends by
//! itself.
//!
//! Each line that it prints is an object of JSON with an `event`:
//!
//! ```text
//!   listening   with --reverse: whose addresses those that are to be attacked dial
//!   ready       the neighbours are there; a line on standard input lets the attack begin
//!   begun       all connections of the attack are there
//!   all-sent    each of them has sent everything, if that is not endless
//!   closed      the attack is over and its connections are closed; with all that was counted
//! ```
//!
//! Knows: arguments, threads, phases. Refuses to know: frames, sockets.

mod crowd;
mod frames;
mod kinds;
mod neighbour;
mod plan;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    error::Error,
    io::{self, BufRead},
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    process::ExitCode,
    sync::{
        atomic::{AtomicBool, AtomicU8, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit},
    thread::gettid,
};
use serde_json::json;

use crate::{
    crowd::{Crowd, Front, News},
    frames::Side,
    kinds::Makings,
    neighbour::{MEASURING, Manners, OVER},
    plan::Security,
    wire::Target,
};

/// Bounds of what is asked for: it is a test of one's own machine.
const CONNECTIONS_MAX: usize = 20_000;
const SECONDS_MAX: f64 = 120.0;

/// How long those that dial may take.
const ACCEPT_MAX: Duration = Duration::from_secs(15);

/// Neighbours are on the processor of those who attack, and are not to wait for it.
const NEIGHBOURS_PRIORITY: i32 = -5;

/// Attacks a server of this machine beside neighbours
#[derive(Parser)]
struct Arguments {
    /// What to do to it
    #[arg(long, required_unless_present = "list_kinds")]
    kind: Option<String>,
    /// How many at once
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// For how long, once all connections are there
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How long what was sent is held before it is closed, for attacks that come to an end
    #[arg(long)]
    hold: Option<f64>,
    /// Whom to attack: 127.0.0.1:PORT
    #[arg(long)]
    target: Option<String>,
    /// Attack over TLS, whatever the kind
    #[arg(long)]
    tls: bool,
    /// Attack those that dial: prints where to
    #[arg(long)]
    reverse: bool,
    /// Where a neighbour lives. Repeat it for several; with --reverse, how many is what counts
    #[arg(long)]
    neighbour: Vec<String>,
    /// The neighbours speak TLS
    #[arg(long)]
    neighbour_tls: bool,
    /// Messages a second of each neighbour
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Bytes in each of them
    #[arg(long, default_value_t = 32)]
    message_bytes: usize,
    /// Milliseconds between two newcomers beside each neighbour; 0: none
    #[arg(long, default_value_t = 250)]
    newcomer_ms: u64,
    /// The address that attackers come from
    #[arg(long)]
    from: Option<IpAddr>,
    /// The address that neighbours come from
    #[arg(long)]
    neighbour_from: Option<IpAddr>,
    /// Name the attacks there are
    #[arg(long)]
    list_kinds: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list_kinds {
        for kind in kinds::KINDS {
            println!("{:24}{}", kind.name, kind.what);
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attack: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    if !(1..=CONNECTIONS_MAX).contains(&arguments.connections) {
        return Err(format!("--connections is from 1 to {CONNECTIONS_MAX}").into());
    }
    if !(0.0..=SECONDS_MAX).contains(&arguments.seconds) {
        return Err(format!("--seconds is at most {SECONDS_MAX}").into());
    }
    if arguments.rate <= 0.0 {
        return Err("--rate is more than 0".into());
    }
    let loopback = |address: &Option<IpAddr>| address.is_none_or(|address| address.is_loopback());
    if !loopback(&arguments.from) || !loopback(&arguments.neighbour_from) {
        return Err("--from and --neighbour-from are loopback addresses".into());
    }
    raise_descriptors()?;
    let tls = wire::trusting()?;
    let kind = kinds::find(arguments.kind.as_deref().unwrap_or_default())?;
    let makings = Makings {
        side: if arguments.reverse {
            Side::Server
        } else {
            Side::Client
        },
        secured: arguments.tls,
        tls: tls.clone(),
    };
    let plan = kind.plan(&makings)?;
    let ground = Ground::new(arguments)?;

    let phase = AtomicU8::new(neighbour::WARMING);
    let stop = AtomicBool::new(false);
    let manners: Vec<Manners> = ground
        .neighbours
        .iter()
        .map(|(target, _)| Manners {
            target: *target,
            from: arguments.neighbour_from,
            tls: tls.clone(),
            security: if arguments.neighbour_tls {
                Security::Tls
            } else {
                Security::None
            },
            every: Duration::from_secs_f64(1.0 / arguments.rate),
            newcomer_every: Duration::from_millis(arguments.newcomer_ms),
            message_bytes: arguments.message_bytes.clamp(20, 32 << 10),
        })
        .collect();
    thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        // Whatever happens here, the threads have to end.
        let _over = Over {
            phase: &phase,
            stop: &stop,
        };
        let (ready, readied) = mpsc::channel();
        let mut neighbours = Vec::new();
        for (manners, (_, accepted)) in manners.iter().zip(ground.neighbours) {
            let (ready, phase) = (ready.clone(), &phase);
            neighbours.push(scope.spawn(move || {
                // Only this thread: the number of a thread is one of a process here. Whoever may
                // not has two neighbours that wait alike.
                let _ = setpriority_process(Some(gettid()), NEIGHBOURS_PRIORITY);
                let report = neighbour::run(manners, accepted, phase, &ready);
                // After it has been ready nobody listens.
                let _ = ready.send(false);
                report
            }));
        }
        drop(ready);
        if !readied.iter().take(manners.len()).all(|ready| ready) {
            phase.store(OVER, Ordering::Release);
            for neighbour in neighbours {
                joined(neighbour.join())?;
            }
            return Err("a neighbour ended before the attack".into());
        }
        println!("{}", json!({"event": "ready"}));
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Err("standard input has ended: nobody lets the attack begin".into());
        }
        phase.store(MEASURING, Ordering::Release);
        let (news, heard) = mpsc::channel();
        let front = ground.target.map(|target| Front {
            target,
            from: arguments.from,
            tls: tls.clone(),
        });
        let (plan, stop) = (&plan, &stop);
        let (connections, accepted) = (arguments.connections, ground.accepted);
        let crowd = scope.spawn(move || {
            let crowd = match front {
                Some(front) => Crowd::dialling(plan, connections, front)?,
                None => Crowd::accepted(plan, accepted)?,
            };
            crowd.run(stop, &news)
        });
        let began = Instant::now();
        let attacked = attend(arguments, &heard);
        phase.store(OVER, Ordering::Release);
        let mut reports = Vec::new();
        let measured = began.elapsed();
        // Neighbours see the end of what was measured before the attackers let go.
        thread::yield_now();
        stop.store(true, Ordering::Release);
        let tally = joined(crowd.join())?;
        for neighbour in neighbours {
            reports.push(joined(neighbour.join())?);
        }
        let done = json!({
            "event": "closed",
            "kind": kind.name,
            "connections": arguments.connections,
            "begun_after_s": attacked.map(|begun| begun.as_secs_f64()),
            "seconds": measured.as_secs_f64(),
            "attack": tally,
            "neighbours": reports,
        });
        println!("{done}");
        Ok(())
    })
}

/// Tells what the crowd tells, until time is over. Returns after what time all were there.
fn attend(arguments: &Arguments, heard: &mpsc::Receiver<News>) -> Option<Duration> {
    let began = Instant::now();
    let mut until = None;
    let mut begun = None;
    // Connections wait for each other; and if they wait for ever, so does not this.
    let mut deadline = began + Duration::from_secs(20) + Duration::from_secs_f64(arguments.seconds);
    loop {
        let patience = deadline.saturating_duration_since(Instant::now());
        match heard.recv_timeout(patience) {
            Ok(News::Begun) => {
                begun = Some(began.elapsed());
                println!("{}", json!({"event": "begun"}));
                deadline = Instant::now() + Duration::from_secs_f64(arguments.seconds);
            }
            Ok(News::AllSent) => {
                println!("{}", json!({"event": "all-sent"}));
                if let Some(hold) = arguments.hold {
                    let held = Instant::now() + Duration::from_secs_f64(hold);
                    until.get_or_insert(held);
                    deadline = deadline.min(held);
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return begun,
        }
    }
}

/// Who is attacked, and whose neighbours live where.
struct Ground {
    target: Option<Target>,
    accepted: Vec<OwnedFd>,
    neighbours: Vec<(Option<Target>, Option<OwnedFd>)>,
}

impl Ground {
    fn new(arguments: &Arguments) -> Result<Self, Box<dyn Error>> {
        if !arguments.reverse {
            let target = arguments.target.as_deref().ok_or("--target is missing")?;
            let neighbours = arguments.neighbour.iter();
            let neighbours: Result<_, String> = neighbours
                .map(|text| Ok((Some(Target::parse(text)?), None)))
                .collect();
            return Ok(Self {
                target: Some(Target::parse(target)?),
                accepted: Vec::new(),
                neighbours: neighbours?,
            });
        }
        let listen = || TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let flood = listen()?;
        let doors: Vec<_> = arguments
            .neighbour
            .iter()
            .map(|_| listen())
            .collect::<Result<_, _>>()?;
        let addresses: Vec<_> = doors
            .iter()
            .map(|door| door.local_addr().map(|address| address.to_string()))
            .collect::<Result<_, _>>()?;
        let flood_address = flood.local_addr()?.to_string();
        println!(
            "{}",
            json!({"event": "listening", "flood": flood_address, "neighbours": addresses})
        );
        let deadline = Instant::now() + ACCEPT_MAX;
        let accepted: Result<Vec<_>, _> = (0..arguments.connections)
            .map(|_| accept(&flood, deadline))
            .collect();
        let neighbours: Result<Vec<_>, _> = doors
            .iter()
            .map(|door| accept(door, deadline).map(|socket| (None, Some(socket))))
            .collect();
        Ok(Self {
            target: None,
            accepted: accepted?,
            neighbours: neighbours?,
        })
    }
}

fn accept(listener: &TcpListener, deadline: Instant) -> io::Result<OwnedFd> {
    let patience = deadline.saturating_duration_since(Instant::now());
    let patience = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: patience.subsec_nanos().into(),
    };
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    if poll(&mut fds, Some(&patience))? == 0 {
        return Err(io::Error::other(
            "those that are to be attacked did not dial",
        ));
    }
    let (stream, _) = listener.accept()?;
    Ok(stream.into())
}

/// Ends everybody, whichever way this ends.
struct Over<'a> {
    phase: &'a AtomicU8,
    stop: &'a AtomicBool,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.phase.store(OVER, Ordering::Release);
        self.stop.store(true, Ordering::Release);
    }
}

fn joined<T>(done: thread::Result<io::Result<T>>) -> io::Result<T> {
    done.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}

fn raise_descriptors() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: limit,
        maximum: limit,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}
