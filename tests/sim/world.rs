//! One seed from its beginning to its end: a server shard, a client shard, raw peers, and the
//! driver that turns them.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ringwire::{
    Address, CloseCause, CloseCode, ConnId, Drain, ProtocolError, Seen, SurveyOrder, Timeout,
    client::{ClientHandshakeError, ClientRequest, Dial, Time, Wait, WsUrl},
    conn::{Key, mistake::Mistake, survey::Survey},
    ring::{
        Ring,
        sim::{Mark as SimMark, Marks, Prng, SimKernel, SimRing},
    },
    shard::{Shard, check::Watch, mailbox::Command},
};

use crate::{
    marks::{Journal, Mark, Tally},
    plan::{Ending, HARMFUL, PURPOSE_DRIVER, Plan, RawKind, StopOrder},
    raw::{Crowd, HostileServer, Raw},
    services::{Client, Dialled, Echo, PUSH, Whose},
};

/// No seed needs more turns; one that does is stuck.
const TURNS_MAX: usize = 500_000;

/// A service that is told to send without end has no time to receive.
const PUSHES_MAX: u32 = 50;

/// Of so many turns, one has somebody look who is there; and so many are wanted.
const SURVEY_ONE_IN: u64 = 500;
const SURVEY_MOST: usize = 3;

/// Over how long a server takes its leave at most.
const SPREAD_MS_MAX: u64 = 100;

/// What may come on top of the drain timeout: completions that are late, and ticks of the wheel.
const FINISH_SLACK_MS: u64 = 500;

/// What the turns of stopping may cost a machine like ours, in milliseconds: on a slow one each
/// takes many times as long.
const FINISH_TURNS_MS: u64 = 32;

/// Turns after which all that is left of an end has to be gone, and those that there are anyway, in
/// which nothing may come back.
const CLEAN_TURNS_MAX: usize = 10_000;
const CLEAN_TURNS_MIN: usize = 64;

/// What a turn may take beside the calls of the service: nothing else takes time here.
const TURN_NS_MAX: u64 = 1_000;

/// Calls of the service that may come before the clock was looked at: a batch, one of the rota's,
/// and those that are not messages.
const CALLS_MAX: u64 = 160 + 160 + 16;

/// What one seed reached.
pub struct Report {
    pub sim_marks: Marks,
    pub tally: Tally,
    pub hash: u64,
    pub turns: usize,
    pub clients: usize,
    pub complete: usize,
    /// The longest wait for a turn, and how long it may have been.
    pub longest: (u64, u64),
    pub most_above: usize,
}

struct World {
    plan: Rc<Plan>,
    journal: Journal,
    kernel: SimKernel,
    prng: Prng,
    /// Walks over the server's connections that have come to their end.
    surveys_told: Arc<AtomicU64>,
    server: Shard<SimRing, Echo>,
    client: Shard<SimRing, Client>,
    server_address: Address,
    raw: Vec<Raw>,
    hostile_server: Option<HostileServer>,
    crowd: Crowd,
    watches: [Watch; 2],
    mailbox_closed: Vec<bool>,
    pushes: u32,
    server_was_last: bool,
    /// Whether the client and the server were turned since a raw peer did something.
    saw_raw: [bool; 2],
    turns: usize,
    stopped_at: Option<Time>,
    stopped_early: bool,
}

/// Runs one seed. `print` writes the trace to the standard output.
///
/// # Errors
///
/// What was found wrong.
pub fn run(seed: u64, print: bool) -> Result<Report, String> {
    run_with(seed, print, None)
}

/// As [`run`], with a server that makes a mistake.
///
/// # Errors
///
/// What was found wrong.
pub fn run_with(seed: u64, print: bool, mistake: Option<Mistake>) -> Result<Report, String> {
    let journal = Journal::default();
    let plan = Rc::new(Plan::draw(seed, &journal));
    let kernel = SimKernel::new(seed, plan.knobs.clone());
    if print {
        kernel.keep_trace();
    }
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut world = World::new(seed, &kernel, &plan, &journal);
        if let Some(mistake) = mistake {
            world.server.make(mistake);
        }
        let report = world.run();
        if report.is_err() {
            // Its sockets would be dropped while in use, which is a failure of its own.
            std::mem::forget(world);
        }
        report
    }));
    if print {
        println!("{}", kernel.trace());
        println!("{:#?}\n{:#?}", plan.clients, plan.raw);
    }
    match caught {
        Ok(report) => report,
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without words".to_owned())),
    }
}

fn address(text: &str) -> Address {
    text.parse().expect("an address")
}

impl World {
    fn new(seed: u64, kernel: &SimKernel, plan: &Rc<Plan>, journal: &Journal) -> Self {
        let server_address = address("127.0.0.1:80");
        let server_ring = kernel.ring(&plan.server_ring).expect("memory for a ring");
        let client_ring = kernel.ring(&plan.client_ring).expect("memory for a ring");
        let echo = Echo::new(Rc::clone(plan), journal.clone(), kernel.clone());
        let clients = Client::new(Rc::clone(plan), journal.clone(), kernel.clone());
        let mut server = Shard::new(0, server_ring, echo, plan.server.clone(), [1; 32]);
        let client = Shard::new(1, client_ring, clients, plan.client.clone(), [2; 32]);
        server.slow_down(plan.slowness);
        server.inflate_in_steps(plan.step_ns, plan.inflate_freely_bytes);
        for _ in 0..plan.listeners {
            server.listen(kernel.listen(&server_address));
        }
        let raw = (0..plan.raw.len()).map(|index| Raw::against_server(seed, index, plan));
        let hostile_address = address("127.0.0.1:81");
        Self {
            raw: raw.collect(),
            hostile_server: plan
                .hostile_server
                .then(|| HostileServer::new(seed, kernel, &hostile_address)),
            crowd: Crowd::default(),
            watches: Default::default(),
            mailbox_closed: vec![false; plan.clients.len()],
            plan: Rc::clone(plan),
            journal: journal.clone(),
            kernel: kernel.clone(),
            prng: Prng::new(seed, PURPOSE_DRIVER),
            surveys_told: Arc::default(),
            server,
            client,
            server_address,
            pushes: 0,
            server_was_last: false,
            saw_raw: [false; 2],
            turns: 0,
            stopped_at: None,
            stopped_early: false,
        }
    }

    fn run(&mut self) -> Result<Report, String> {
        while !self.is_exchange_over() {
            if self.plan.early_stop_turn == Some(self.turns) {
                self.stopped_early = true;
                break;
            }
            self.dial();
            self.post();
            self.turn()?;
        }
        self.journal
            .check(Mark::CheckExchangeEnds, true, String::new);
        self.stop()?;
        while !(self.server.is_finished() && self.client.is_finished()) {
            self.post();
            self.turn()?;
        }
        self.journal
            .check(Mark::CheckFinishedInTurns, true, String::new);
        self.check_end()?;
        self.report()
    }

    /// One turn of everybody, in any order.
    fn turn(&mut self) -> Result<(), String> {
        self.turns += 1;
        if self.turns > TURNS_MAX {
            return Err(self.stuck());
        }
        for raw in &mut self.raw {
            raw.act(
                self.turns,
                &self.kernel,
                &self.server_address,
                &self.journal,
            );
        }
        if let Some(hostile_server) = &mut self.hostile_server {
            hostile_server.act(&self.kernel, &self.journal);
        }
        self.crowd.act(
            &self.plan,
            &self.kernel,
            &self.server_address,
            &self.journal,
        );
        let hostile_server = self.hostile_server.as_ref();
        let busy =
            self.raw.iter().any(Raw::is_busy) || hostile_server.is_some_and(HostileServer::is_busy);
        let raw_left = !(self.raw.iter().all(Raw::is_done) && self.crowd.is_done(&self.plan));
        if busy {
            self.saw_raw = [false; 2];
        }
        for may_wait in [self.saw_raw == [true; 2], false] {
            let until = self.kernel.now().plus_ms(1 + self.prng.below(50));
            // The kernel does not know that a raw peer has to answer before time passes.
            let forever = if raw_left {
                Wait::Until(until)
            } else {
                Wait::Forever
            };
            let wait = [Wait::Poll, forever, Wait::Until(until)][self.prng.below(3) as usize];
            let server_next = self.prng.coin();
            // A ring that waits twice in a row, or before both have seen what the raw peers did
            // last, would let time pass over what others have to do now.
            let again = std::mem::replace(&mut self.server_was_last, server_next) == server_next;
            // Nor does the kernel know of what a shard has put off to its next turn.
            let busy = self.server.hurries() || self.client.hurries();
            let wait = if again || busy || !may_wait {
                Wait::Poll
            } else {
                wait
            };
            let turned = if server_next {
                self.server.turn(wait)
            } else {
                self.client.turn(wait)
            };
            turned.map_err(|errno| errno.to_string())?;
            let [server, client] = &mut self.watches;
            if server_next {
                server.step_ns_max = self.plan.step_ns + PIECE_NS;
                server.turn_ns_max = TURN_NS_MAX + CALLS_MAX * 1_000 * self.plan.service_us;
                check_turn(&self.journal, &mut self.server, server)?;
                self.journal.count_turn();
                if self.plan.slowness > 1 {
                    // That its machine is slow shows on the clock, too.
                    self.kernel.advance_us(self.server.spent_ns() / 1_000);
                }
            } else {
                check_turn(&self.journal, &mut self.client, client)?;
            }
            self.saw_raw[usize::from(server_next)] = true;
        }
        self.journal.failure().map_or(Ok(()), Err)
    }

    fn stuck(&mut self) -> String {
        let stopping = if self.stopped_at.is_some() {
            "stopping"
        } else {
            "the exchange"
        };
        let connections = (self.server.connections(), self.client.connections());
        let in_flight = (
            self.server.ring().in_flight(),
            self.client.ring().in_flight(),
        );
        format!(
            "after {TURNS_MAX} turns {stopping} is not over; of server and client, in flight \
             {in_flight:?}, connections {connections:?}\n{:?}\n{:?}",
            self.client.service().dialled,
            self.server.service().accepted,
        )
    }

    fn is_exchange_over(&mut self) -> bool {
        let clients = self.client.service();
        (0..clients.dialled.len()).all(|index| clients.is_settled(index))
            && self.raw.iter().all(Raw::is_done)
            && self.crowd.is_done(&self.plan)
    }

    fn dial(&mut self) {
        for index in 0..self.client.service().dialled.len() {
            let client = self.plan.clients.get(index);
            let due = client.is_none_or(|client| client.dial_turn <= self.turns);
            if !due || self.client.service().dialled[index].is_some() {
                continue;
            }
            let port = if client.is_some() { 80 } else { 81 };
            let url = format!("ws://127.0.0.1:{port}/client/{index}");
            let mut request = ClientRequest::new(WsUrl::parse(&url).expect("a URL"));
            if let Some(offer) = self.plan.offer {
                request.offer_compression(offer).expect("a valid offer");
            }
            let dial = Dial {
                address: address(&format!("127.0.0.1:{port}")),
                from: None,
                request,
                tls: None,
            };
            match self.client.dial(dial) {
                Ok(id) => self.client.service().was_dialled(index, id),
                // There was no descriptor: again in the next turn.
                Err(_) => self.journal.reach(Mark::DialFailed),
            }
        }
    }

    /// Messages and closes from "other threads", for connections that may be gone by now.
    fn post(&mut self) {
        let postbox = self.server.postbox();
        for index in 0..self.plan.clients.len() {
            let Ending::MailboxCloses { after, code } = self.plan.clients[index].ending else {
                continue;
            };
            let dialled = &self.client.service().dialled[index];
            let reached = dialled
                .as_ref()
                .is_some_and(|dialled| dialled.echoes >= after);
            let id = self
                .server
                .service()
                .of_client(index)
                .and_then(|accepted| accepted.id);
            if let Some(id) = id.filter(|_| reached && !self.mailbox_closed[index]) {
                let reason = self.plan.clients[index].reason.clone().into_boxed_str();
                let posted = postbox.post(Command::Close(key(id), code, reason));
                self.mailbox_closed[index] = posted.is_ok();
            }
        }
        if self.prng.below(SURVEY_ONE_IN) == 0 {
            let order = [SurveyOrder::Age, SurveyOrder::Held, SurveyOrder::Queued];
            let order = order[self.prng.below(3) as usize];
            let told = self.surveys_told.clone();
            let tell = move |seen: Vec<Seen>| {
                assert!(seen.len() <= SURVEY_MOST);
                told.fetch_add(1, Ordering::Relaxed);
            };
            let survey = Survey::new(order, SURVEY_MOST, Box::new(tell));
            // A full mailbox takes none.
            let _ = postbox.post(Command::Survey(Box::new(survey)));
        }
        if self.surveys_told.load(Ordering::Relaxed) > 0 {
            self.journal.reach(Mark::SurveyTold);
        }
        if self.turns < self.plan.mail_turns {
            // For a connection that there never was.
            let nobody = Key {
                slot: 0xff_ffff,
                generation: 0,
            };
            let close = || Command::Close(nobody, CloseCode::NORMAL_CLOSURE, "".into());
            while postbox.post(close()).is_ok() {}
        }
        let Some(one_in) = self.plan.push_one_in else {
            return;
        };
        let accepted = &self.server.service().accepted;
        let due = self.pushes < PUSHES_MAX && self.prng.below(one_in) == 0;
        if accepted.is_empty() || !due {
            return;
        }
        let any = &accepted[self.prng.below(accepted.len() as u64) as usize];
        if let (Whose::Client(index), Some(id)) = (any.whose, any.id) {
            let gone = any.cause.is_some();
            let message = format!("{PUSH}{index}").into();
            if postbox.post(Command::Send(key(id), message)).is_ok() {
                self.pushes += 1;
                self.journal.reach(if gone {
                    Mark::PushToTheGone
                } else {
                    Mark::PushPosted
                });
            }
        }
    }

    fn stop(&mut self) -> Result<(), String> {
        let drain_timeout_ms = self.plan.drain_timeout_ms;
        let drain = Drain::at_once(drain_timeout_ms);
        // One after the other; what is left when it stops once more is told at once then.
        let spread = Drain {
            spread_ms: self.prng.below(SPREAD_MS_MAX),
            ..drain
        };
        match self.plan.stop_order {
            StopOrder::Both => {}
            StopOrder::ClientFirst => self.client.stop(drain),
            StopOrder::ClientVanishes => self.client.stop(Drain::at_once(0)),
            StopOrder::ServerFirst => self.server.stop(spread),
            // A full mailbox is emptied by a turn, and then stopped directly.
            StopOrder::ServerByMailbox => {
                let _ = self.server.postbox().post(Command::Stop(spread));
            }
        }
        if self.plan.stop_order != StopOrder::Both {
            for _ in 0..self.prng.below(200) {
                self.turn()?;
            }
        }
        self.stopped_at = Some(self.kernel.now());
        // Sooner or not: what is left has to be told in time all the same.
        self.server.stop(spread);
        self.client.stop(drain);
        Ok(())
    }

    fn sim_marks(&self) -> Marks {
        self.kernel.marks()
    }

    /// Whether something acted that can cost a connection.
    fn is_harmed(&self) -> bool {
        let marks = self.sim_marks();
        let acted = HARMFUL.iter().any(|&knob| marks.count(knob.into()) > 0);
        acted || self.stopped_early || self.plan.short_deadlines || self.plan.tight_memory
    }

    fn check_end(&mut self) -> Result<(), String> {
        let journal = self.journal.clone();
        let stopped_at = self.stopped_at.unwrap_or_default();
        let took_ms = self.kernel.now().ns_since(stopped_at) / 1_000_000;
        let slow_ms = (self.plan.slowness - 1) * FINISH_TURNS_MS;
        let most_ms = self.plan.drain_timeout_ms + SPREAD_MS_MAX + FINISH_SLACK_MS + slow_ms;
        if self.sim_marks().count(SimMark::ClockJump) == 0 {
            journal.check(Mark::CheckFinishedInTime, took_ms <= most_ms, || {
                format!("stopping took {took_ms} ms of at most {most_ms}")
            });
        }
        // The cancellation of a tick may be under way still, and fail and be tried again.
        for turn in 0..CLEAN_TURNS_MAX {
            if turn >= CLEAN_TURNS_MIN && self.kernel.is_clean() {
                break;
            }
            self.turn()?;
        }
        let spread = self.server.stats().spread();
        if spread
            .iter()
            .any(|it| it.name == "stage_taken" && it.count() > 0)
        {
            journal.reach(Mark::StagesTraced);
        }
        check_empty(&journal, "server", &self.server);
        check_empty(&journal, "client", &self.client);
        self.kernel.assert_clean();
        let harmed = self.is_harmed();
        for index in 0..self.plan.clients.len() {
            self.check_client(index, harmed);
        }
        self.check_accepted();
        for raw in std::mem::take(&mut self.raw) {
            self.check_raw(&raw, harmed);
        }
        self.check_counts();
        journal.failure().map_or(Ok(()), Err)
    }

    fn check_client(&mut self, index: usize, harmed: bool) {
        let plan = Rc::clone(&self.plan);
        let journal = self.journal.clone();
        let client = &plan.clients[index];
        let accepted = self.server.service().of_client(index);
        let server_cause = accepted.and_then(|accepted| accepted.cause.clone());
        let server_messages = accepted.map_or(0, |accepted| accepted.messages);
        let dialled = &self.client.service().dialled[index];
        let Some(dialled) = dialled else {
            return;
        };
        let cause = dialled.cause.clone();
        journal.check(Mark::CheckEveryDialEnded, cause.is_some(), || {
            format!("client {index} was not told of its end")
        });
        let Some(cause) = cause else { return };
        journal.reach(mark_of(&cause));
        if let CloseCause::Peer {
            code: Some(code), ..
        } = cause
        {
            let sent = server_cause.as_ref().and_then(code_of);
            journal.check(Mark::CheckCodeWasSent, sent == Some(code), || {
                format!("client {index} was closed with {code}, but the server: {server_cause:?}")
            });
        }
        let overflowed = plan.tight_queue
            && server_cause == Some(CloseCause::Application(CloseCode::TRY_AGAIN_LATER));
        // Whoever has waited for a place for as long as anybody may is told that there is none.
        let refusals = self.server.shared().counts.places_refusals;
        let full = CloseCause::HandshakeFailed(ClientHandshakeError::Status(503));
        if harmed || overflowed || (refusals > 0 && cause == full) {
            return;
        }
        let facts = || {
            format!(
                "client {index} ({:?}, {} messages): {cause:?}; the server: {server_cause:?} after \
                 {server_messages} messages; {dialled:?}",
                client.ending,
                client.messages.len(),
            )
        };
        journal.reach(mark_of_ending(&client.ending));
        let reason = client.reason.as_str();
        let peer = |code, reason: &str| CloseCause::Peer {
            code: Some(code),
            reason: reason.into(),
        };
        let all = client.messages.len();
        // Of the causes of both sides, and how many messages and echoes there have to be.
        let (client_causes, server_causes, messages, echoes) = match client.ending {
            Ending::ClientCloses { after, code } => (
                vec![CloseCause::Application(code)],
                vec![Some(peer(code, reason))],
                dialled.sent,
                after,
            ),
            Ending::ServerCloses { after, code } | Ending::MailboxCloses { after, code } => (
                vec![peer(code, reason)],
                vec![Some(CloseCause::Application(code))],
                server_messages,
                if matches!(client.ending, Ending::ServerCloses { .. }) {
                    after
                } else {
                    server_messages
                },
            ),
            Ending::BothClose { code, .. } => (
                vec![CloseCause::Application(code), peer(code, reason)],
                vec![
                    Some(CloseCause::Application(code)),
                    Some(peer(code, reason)),
                ],
                server_messages,
                dialled.echoes,
            ),
            Ending::TooBig => {
                let error = ProtocolError::MessageTooBig;
                (
                    vec![peer(error.close_code(), error.reason())],
                    vec![Some(CloseCause::Protocol(error))],
                    all,
                    all,
                )
            }
            Ending::ServerPanics { after } => (
                vec![peer(CloseCode::INTERNAL_ERROR, "")],
                vec![Some(CloseCause::ServicePanicked)],
                after,
                after,
            ),
            Ending::Refused => (vec![cause.clone()], vec![None], 0, 0),
            Ending::StaysOpen => {
                let away = peer(CloseCode::GOING_AWAY, "");
                // A client that is gone at once says nothing, or breaks what was being sent to it.
                let vanished = plan.stop_order == StopOrder::ClientVanishes
                    && matches!(
                        server_cause,
                        Some(CloseCause::Vanished | CloseCause::Transport(_))
                    );
                let server = if vanished {
                    server_cause.clone()
                } else {
                    Some(CloseCause::Stopping)
                };
                (
                    vec![CloseCause::Stopping, away.clone()],
                    vec![Some(CloseCause::Stopping), Some(away), server],
                    all,
                    all,
                )
            }
        };
        journal.check(
            Mark::CheckCauseOfClient,
            client_causes.contains(&cause),
            facts,
        );
        journal.check(
            Mark::CheckCauseOfServer,
            server_causes.contains(&server_cause),
            facts,
        );
        if client.ending == Ending::Refused {
            let refused = matches!(cause, CloseCause::HandshakeFailed(_));
            journal.check(Mark::CheckCauseOfClient, refused, facts);
        }
        // A client that closes early does not want to know what was still under way.
        let exact = match client.ending {
            Ending::ClientCloses { after, .. } if after < all => dialled.echoes >= echoes,
            _ => dialled.echoes == echoes,
        };
        let kept = server_messages == messages && exact;
        journal.check(Mark::CheckNothingLost, kept, facts);
        self.check_pongs(index, &cause);
    }

    fn check_pongs(&mut self, index: usize, cause: &CloseCause) {
        let client = &self.plan.clients[index];
        let all = client.messages.len();
        let complete = match client.ending {
            Ending::ClientCloses { after, .. } => after == all,
            Ending::StaysOpen => *cause != CloseCause::Application(CloseCode::GOING_AWAY),
            _ => false,
        };
        if let Some(Dialled { pings, pongs, .. }) = &self.client.service().dialled[index]
            && complete
        {
            self.journal
                .check(Mark::CheckPongsComplete, pings == pongs, || {
                    format!("client {index} got {pongs} pongs for {pings} pings")
                });
        }
    }

    fn check_accepted(&mut self) {
        let journal = self.journal.clone();
        for accepted in &self.server.service().accepted {
            let ended = accepted.cause.is_some();
            journal.check(Mark::CheckEveryAcceptEnded, ended, || {
                format!(
                    "the service was not told of the end of {:?}",
                    accepted.whose
                )
            });
            if let Some(cause) = &accepted.cause {
                journal.reach(mark_of(cause));
            }
        }
    }

    fn check_raw(&mut self, raw: &Raw, harmed: bool) {
        let (status, closed_with) = raw.check_received(&self.journal);
        let mut all = self.server.service().accepted.iter();
        let accepted = all.find(|accepted| accepted.whose == Whose::Raw(raw.index));
        if accepted.is_some_and(|it| it.cause == Some(CloseCause::Overloaded)) {
            let mark = Mark::CheckOverloadIsTold;
            let fine = matches!(closed_with, None | Some(1013));
            self.journal.check(mark, fine, || {
                format!("raw peer {} held much and got {closed_with:?}", raw.index)
            });
        }
        if harmed || self.plan.tight_queue || raw.ended_by_server_at.is_none() {
            return;
        }
        let journal = &self.journal;
        let index = raw.index;
        match raw.kind {
            Some(RawKind::Http) => {
                let fine = status == Some(200) && raw.received.ends_with(b"/page");
                journal.check(Mark::CheckHttpIsAnswered, fine, || {
                    format!("raw peer {index} asked for a page and got {status:?}")
                });
            }
            Some(RawKind::Legacy) => {
                let mark = Mark::CheckLegacyEchoesAll;
                journal.check(mark, raw.got_all_echoes(), || {
                    format!(
                        "raw peer {index} of hixie-76 got {} bytes",
                        raw.received.len()
                    )
                });
            }
            Some(RawKind::LegacySlow) => {
                let silent = raw.received.ends_with(b"\r\n\r\n");
                let mut all = self.server.service().accepted.iter();
                let accepted = all.find(|accepted| accepted.whose == Whose::Raw(index));
                let cause = accepted.and_then(|accepted| accepted.cause.as_ref());
                let late = CloseCause::Timeout(Timeout::Handshake);
                let fine = status == Some(101) && silent && cause == Some(&late);
                journal.check(Mark::CheckLegacySlowIsDropped, fine, || {
                    format!("raw peer {index} of hixie-76 was slow, got {status:?} and {cause:?}")
                });
                let (waited, most) = (raw.waited_ms(), self.plan.server.handshake_timeout_ms);
                let fine = waited.is_some_and(|waited| waited >= most);
                journal.check(Mark::CheckTimeoutNotEarly, fine, || {
                    format!("raw peer {index} was given up after {waited:?} of {most} ms")
                });
            }
            Some(RawKind::Slow) => {
                journal.check(Mark::CheckSlowIsAnswered408, status == Some(408), || {
                    format!("raw peer {index} was slow and got {status:?}")
                });
                let (waited, most) = (raw.waited_ms(), self.plan.server.handshake_timeout_ms);
                let fine = waited.is_some_and(|waited| waited >= most);
                journal.check(Mark::CheckTimeoutNotEarly, fine, || {
                    format!("raw peer {index} was given up after {waited:?} of {most} ms")
                });
            }
            Some(RawKind::Violation) => {
                let Some(error) = raw.violation else { return };
                let expected = error.close_code().number();
                journal.check(
                    Mark::CheckViolationIsAnswered,
                    closed_with == Some(expected),
                    || {
                        format!(
                            "raw peer {index} did '{error}', got {status:?} and {closed_with:?}"
                        )
                    },
                );
                let mut all = self.server.service().accepted.iter();
                let cause = all.find(|accepted| accepted.whose == Whose::Raw(index));
                let cause = cause.and_then(|accepted| accepted.cause.as_ref());
                let told = cause == Some(&CloseCause::Protocol(error));
                journal.check(Mark::CheckViolationIsToldToTheService, told, || {
                    format!("raw peer {index} did '{error}' and the service learnt {cause:?}")
                });
            }
            _ => {}
        }
    }

    fn check_counts(&mut self) {
        let (server, client) = (
            self.server.stats().snapshot(),
            self.client.stats().snapshot(),
        );
        let dialled = self.client.service().dialled.iter().flatten();
        let told = dialled.filter(|one| matches!(one.cause, Some(CloseCause::Timeout(_))));
        // Whoever closes learns that it closed, and not that the answer never came.
        let close_timeouts = client.counts.timeouts - told.count() as u64;
        let accepted = self.server.service().accepted.iter();
        let causes: Vec<_> = accepted.filter_map(|one| one.cause.clone()).collect();
        let of = |cause| causes.iter().filter(|&other| *other == cause).count() as u64;
        let without_room = of(CloseCause::Protocol(ProtocolError::NoMemory));
        let shared = &self.server.shared().counts;
        let (told, shed) = (of(CloseCause::Overloaded), shared.memory_shed);
        self.journal
            .check(Mark::CheckOverloadIsCounted, told <= shed, || {
                format!("{told} connections were told that memory ran short, of {shed}")
            });
        let reached = [
            (Mark::CloseTimedOut, close_timeouts),
            (Mark::ReadsPaused, shared.reads_paused),
            (Mark::AcceptsPaused, shared.accept_pauses),
            (Mark::PlaceWaitedFor, shared.places_waited),
            (Mark::PlaceRefused, shared.places_refusals),
            (Mark::DoorRefused, shared.door_refusals),
            (Mark::RecvStarved, shared.recv_starved),
            (Mark::MessageCompressed, shared.inflate_messages),
            (Mark::EchoCompressed, shared.compress_messages),
            (Mark::WindowsRefused, shared.compress_windows_refused),
            (Mark::MemoryRefused, shared.memory_refusals),
            (Mark::MemoryPaused, shared.memory_pauses),
            (Mark::MemoryShed, shared.memory_shed),
            (Mark::MemoryWithoutRoom, without_room),
        ];
        for (mark, count) in reached {
            if count > 0 {
                self.journal.reach(mark);
            }
        }
        let echo = self.server.service();
        let counts = server.counts;
        let opened = echo.accepted.iter().filter(|accepted| accepted.opened);
        let opened = opened.count() as u64;
        let answered = counts.handshakes + counts.handshakes_refused + counts.http_requests;
        let with_protocol_cause = echo
            .accepted
            .iter()
            .filter(|accepted| matches!(accepted.cause, Some(CloseCause::Protocol(_))));
        let with_protocol_cause = with_protocol_cause.count() as u64;
        let server_facts = [
            ("connections_open", server.connections_open == 0),
            ("queued_bytes", server.queued_bytes == 0),
            ("handshakes", counts.handshakes == opened),
            ("answers", answered <= counts.connections),
            ("http_requests", counts.http_requests == echo.http_requests),
            (
                "messages_received",
                counts.messages_received == echo.messages,
            ),
            (
                "payload_bytes_received",
                counts.payload_bytes_received == echo.payload_bytes,
            ),
            ("messages_sent", counts.messages_sent >= echo.sent),
            ("service_panics", counts.service_panics == echo.panics),
            (
                "protocol_errors",
                counts.protocol_errors >= with_protocol_cause,
            ),
        ];
        let clients = self.client.service();
        let dialled = clients.dialled.iter().flatten();
        let (mut dials, mut opened) = (0, 0);
        for one in dialled {
            dials += 1;
            opened += u64::from(one.opened);
        }
        let client_facts = [
            ("connections_open", client.connections_open == 0),
            ("queued_bytes", client.queued_bytes == 0),
            ("connections", client.counts.connections == dials),
            ("handshakes", client.counts.handshakes == opened),
            (
                "messages_received",
                client.counts.messages_received == clients.messages,
            ),
            ("messages_sent", client.counts.messages_sent == clients.sent),
            ("service_panics", client.counts.service_panics == 0),
        ];
        for (side, facts, snapshot) in [
            ("server", &server_facts[..], &server),
            ("client", &client_facts[..], &client),
        ] {
            for (name, holds) in facts {
                self.journal.check(Mark::CheckCountsConserved, *holds, || {
                    format!("{name} of the {side} does not add up: {snapshot:?}")
                });
            }
        }
    }

    fn report(&mut self) -> Result<Report, String> {
        let clients = self.client.service();
        let plan = &self.plan;
        let complete = clients
            .dialled
            .iter()
            .zip(&plan.clients)
            .filter(|(dialled, client)| {
                dialled
                    .as_ref()
                    .is_some_and(|one| one.echoes == client.messages.len())
            });
        Ok(Report {
            complete: complete.count(),
            clients: plan.clients.len(),
            sim_marks: self.kernel.marks(),
            tally: self.journal.tally(),
            hash: self.kernel.trace_hash(),
            turns: self.turns,
            longest: self.watches[0].longest.max(self.watches[1].longest),
            most_above: self.watches[0].most_above,
        })
    }
}

/// What a step of inflating may cost beyond its limit: a piece of output, or of input that becomes
/// nothing.
const PIECE_NS: u64 = 140_000;

/// The oracles that look after every turn.
fn check_turn<S: ringwire::Service>(
    journal: &Journal,
    shard: &mut Shard<SimRing, S>,
    watch: &mut Watch,
) -> Result<(), String> {
    for (mark, checked) in [
        (Mark::CheckStates, shard.check_states()),
        (Mark::CheckLedger, shard.check_ledger(watch)),
        (Mark::CheckFairness, shard.check_fairness(watch)),
    ] {
        journal.reach(mark);
        checked.map_err(|wrong| format!("{mark:?}: shard {}: {wrong}", shard.id()))?;
    }
    if shard.is_behind() {
        journal.reach(Mark::PutOff);
    }
    if shard.is_inflating() {
        journal.reach(Mark::InflatedInPart);
    }
    if shard.waits_to_inflate() {
        journal.reach(Mark::WaitedToInflate);
    }
    Ok(())
}

fn check_empty<S: ringwire::Service>(journal: &Journal, side: &str, shard: &Shard<SimRing, S>) {
    let in_flight = shard.ring().in_flight();
    journal.check(
        Mark::CheckOnlyTickAndWakeInFlight,
        (1..=2).contains(&in_flight),
        || format!("{in_flight} operations of the {side} are in flight at the end"),
    );
    let shared = shard.shared();
    for (mark, left, what) in [
        (
            Mark::CheckChunksBack,
            shared.arena.chunks_out(),
            "send chunks",
        ),
        (
            Mark::CheckQueuesBack,
            shared.arena.queues_out(),
            "send queues",
        ),
        (
            Mark::CheckMessageBuffersBack,
            shared.pool.out(),
            "message buffers",
        ),
        (Mark::CheckLeasesBack, shard.ring().leases(), "leases"),
        (
            Mark::CheckWindowsBack,
            shared.codec.tally().windows_bytes as usize,
            "bytes of windows",
        ),
    ] {
        journal.check(mark, left == 0, || {
            format!("{left} {what} of the {side} are not back")
        });
    }
}

/// The key of a connection, from its public id.
fn key(id: ConnId) -> Key {
    Key {
        slot: id.bits() as u32 & 0xff_ffff,
        generation: (id.bits() >> 24) as u32 & 0xff_ffff,
    }
}

/// The status code that a side with this cause put on the wire.
fn code_of(cause: &CloseCause) -> Option<CloseCode> {
    match cause {
        CloseCause::Application(code) => Some(*code),
        CloseCause::Protocol(error) => Some(error.close_code()),
        CloseCause::Overloaded => Some(CloseCode::TRY_AGAIN_LATER),
        CloseCause::Stopping => Some(CloseCode::GOING_AWAY),
        CloseCause::ServicePanicked => Some(CloseCode::INTERNAL_ERROR),
        CloseCause::Timeout(Timeout::Message) => Some(CloseCode::POLICY_VIOLATION),
        _ => None,
    }
}

fn mark_of(cause: &CloseCause) -> Mark {
    match cause {
        CloseCause::Application(_) => Mark::CauseApplication,
        CloseCause::HandshakeFailed(_) => Mark::CauseHandshakeFailed,
        CloseCause::Peer { .. } => Mark::CausePeer,
        CloseCause::Protocol(_) => Mark::CauseProtocol,
        CloseCause::Overloaded => Mark::CauseOverloaded,
        CloseCause::Stopping => Mark::CauseStopping,
        CloseCause::ServicePanicked => Mark::CauseServicePanicked,
        CloseCause::Timeout(Timeout::Close) => Mark::CloseTimedOut,
        CloseCause::Timeout(Timeout::Handshake) => Mark::CauseTimeoutHandshake,
        CloseCause::Timeout(Timeout::Idle) => Mark::CauseTimeoutIdle,
        CloseCause::Transport(_) => Mark::CauseTransport,
        _ => Mark::CauseVanished,
    }
}

fn mark_of_ending(ending: &Ending) -> Mark {
    match ending {
        Ending::ClientCloses { .. } => Mark::EndClientCloses,
        Ending::ServerCloses { .. } => Mark::EndServerCloses,
        Ending::BothClose { .. } => Mark::EndBothClose,
        Ending::TooBig => Mark::EndTooBig,
        Ending::ServerPanics { .. } => Mark::EndServerPanics,
        Ending::Refused => Mark::EndRefused,
        Ending::MailboxCloses { .. } => Mark::EndMailboxCloses,
        Ending::StaysOpen => Mark::EndStaysOpen,
    }
}
