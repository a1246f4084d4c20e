//! Which route a request takes, and what stands before it.
//!
//! Knows: hosts, paths, who may come in, how many. Refuses to know: what an application does with
//! messages, and where the settings of a route come from.
//!
//! ```text
//!   request --> address --> host, path --> route --> origin --> token --> a seat --> application
//!               429, 503       404                    403        401       503
//! ```
//!
//! The invariant: routes change as a whole. Whoever is judged is judged by one table, and whoever
//! has come in stays, under what was in force then.

mod auth;
mod hosts;
mod meter;
mod session;
mod topics;

use std::{
    path::Path,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use auth::{Auth, Identity, Proof, Source};
#[cfg(feature = "jwt")]
use auth::{Claims, Jwts, algorithm};
use hosts::{Host, Hosts};
use meter::{Meter, Rate};
use ringwire::{
    Answer, CloseCause, CloseCode, Conn, ConnId, HandshakeError, HttpReply, Message, Outgoing,
    Proxies, Refusal, Remote, Request, Service, Tally, Turn, Upgrade,
    service::{Echo, EchoState, OriginError, Origins},
    topics::{Published, Resumed, TopicOptions},
};
use topics::Listener;

use crate::{
    access::{AccessLog, Client, Record},
    recording::Recorder,
    settings::{Allowed, Finding, RouteSettings, Settings},
    tokens::Tokens,
};

/// What is served at a route.
#[derive(Debug)]
enum Application {
    Echo,
    Sink,
    Page,
    Health,
    Topics(Arc<topics::Rules>),
}

/// One route.
struct Route {
    /// By which it is known again when routes are read anew.
    name: String,
    application: Application,
    origins: Origins,
    auth: Option<Auth>,
    subprotocols: Vec<String>,
    compress: bool,
    message_bytes_max: Option<u64>,
    rate: Rate,
    /// How many may have one of its seats.
    seats_max: Option<u32>,
    taken: Arc<AtomicU32>,
}

/// All routes, at one time.
pub struct Routes {
    routes: Vec<Route>,
    by_host: Hosts<matchit::Router<usize>>,
    like_kaazing: bool,
}

/// A connection's place at a route that has so many.
#[derive(Debug)]
struct Seat(Arc<AtomicU32>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is kept for a connection.
#[derive(Debug, Default)]
pub struct Visitor {
    echo: EchoState,
    /// What it has said lately, where that is limited.
    meter: Option<Box<Meter>>,
    /// What few have: one place for it, which most leave empty.
    kept: Option<Box<Kept>>,
}

/// What is kept for connections at routes with so many places or with topics, and for those with a
/// line in the access log.
#[derive(Debug, Default)]
struct Kept {
    record: Option<Box<Record>>,
    listener: Option<Box<Listener>>,
    _seat: Option<Seat>,
}

/// Why a connection is closed that says more than it may.
const TOO_MUCH: &str = "more messages or bytes in a second than are allowed here";

/// Somebody is turned away.
struct Turned {
    /// What he is told.
    refusal: Refusal,
    /// What the log is told, if that is more.
    why: Option<&'static str>,
}

impl<R: Into<Refusal>> From<R> for Turned {
    fn from(refusal: R) -> Self {
        Self {
            refusal: refusal.into(),
            why: None,
        }
    }
}

/// Serves what routes say, for every shard.
#[derive(Clone)]
pub struct Router {
    current: Arc<RwLock<Arc<Routes>>>,
    /// Who says in requests whom they are for.
    proxies: Arc<Proxies>,
    access: Arc<AccessLog>,
    /// Whoever records what comes.
    recorder: Option<Recorder>,
}

impl Routes {
    /// The routes of settings that were checked, with the files that they name.
    ///
    /// # Errors
    ///
    /// All that is wrong.
    pub fn new(settings: &Settings) -> Result<Self, Vec<Finding>> {
        let built_in = [("/", "page"), ("/sink", "sink")];
        let built_in = built_in.map(|(path, what)| RouteSettings::built_in(path, what));
        let all = match settings.routes.is_empty() {
            true => &built_in[..],
            false => &settings.routes,
        };
        let mut findings = Vec::new();
        let everywhere = match Everywhere::new(settings) {
            Ok(everywhere) => everywhere,
            Err(error) => {
                let place = settings.place("allow_origin");
                return Err(vec![Finding::error(place, error.to_string())]);
            }
        };
        let mut routes = Self {
            routes: Vec::new(),
            by_host: Hosts::default(),
            like_kaazing: settings.compat == "kaazing",
        };
        for route in all {
            routes.add(route, &everywhere, &mut findings);
        }
        match findings.iter().any(Finding::is_error) {
            true => Err(findings),
            false => Ok(routes),
        }
    }

    fn add(
        &mut self,
        settings: &RouteSettings,
        everywhere: &Everywhere,
        findings: &mut Vec<Finding>,
    ) {
        let before = findings.len();
        let mut error = |key: &str, sentence: String| {
            findings.push(Finding::error(settings.place(key), sentence));
        };
        let mut hosts = Vec::new();
        for text in &settings.host {
            match Host::parse(text) {
                Ok(host) => hosts.push(host),
                Err(what) => error("host", format!("host is '{text}', but it {what}")),
            }
        }
        if settings.host.is_empty() {
            hosts.push(Host::Any);
        }
        hosts.sort();
        let path = &settings.path;
        if path.is_empty() {
            error(
                "path",
                "a route needs a path, such as path = '/'".to_owned(),
            );
        } else if !path.starts_with('/') || path.contains(['?', '#']) {
            let sentence =
                format!("path is '{path}', but it has to begin with / and have no query");
            error("path", sentence);
        } else {
            for host in &hosts {
                let added = self
                    .by_host
                    .entry(host.clone())
                    .insert(path, self.routes.len());
                if let Err(why) = added {
                    error("path", format!("path is '{path}', but {}", in_words(&why)));
                    break;
                }
            }
        }
        let origins = match settings.origins.is_empty() {
            true => everywhere.origins_at(path),
            false => origins_of(&settings.origins).unwrap_or_else(|why| {
                error("origins", format!("origins: {why}"));
                Origins::default()
            }),
        };
        let auth = auth_of(settings, &mut error);
        let application = match settings.application.as_str() {
            "sink" => Application::Sink,
            "page" => Application::Page,
            "health" => Application::Health,
            "topics" => match topics::Rules::new(settings) {
                Ok(rules) => Application::Topics(Arc::new(rules)),
                Err((key, sentence)) => {
                    error(key, sentence);
                    return;
                }
            },
            _ => Application::Echo,
        };
        if findings.len() > before {
            return;
        }
        self.routes.push(Route {
            name: format!("{hosts:?} {path}"),
            application,
            origins,
            auth,
            subprotocols: settings.subprotocols.clone(),
            compress: settings.compress,
            message_bytes_max: not_zero(settings.message_bytes_max),
            rate: Rate {
                messages: settings.messages_per_second_max,
                bytes: settings.bytes_per_second_max,
            },
            seats_max: not_zero(settings.connections_max)
                .map(|seats| u32::try_from(seats).unwrap_or(u32::MAX)),
            taken: Arc::default(),
        });
    }

    /// The route of a request, and what stands in its path for a topic.
    fn find<'a>(
        &'a self,
        request: &Request<'a>,
    ) -> Result<(&'a Route, Option<&'a str>), HandshakeError> {
        let mut paths = self.by_host.find(request.host());
        let found = paths.find_map(|paths| paths.at(request.path()).ok());
        let found = found.ok_or(HandshakeError::NotFound)?;
        let route = self.routes.get(*found.value);
        let topic = found.params.get(topics::HOLE);
        Ok((route.ok_or(HandshakeError::NotFound)?, topic))
    }

    /// How topics of routes are treated.
    pub fn topics(&self) -> Vec<(String, TopicOptions)> {
        let routes = self.routes.iter();
        let all = routes.filter_map(|route| match &route.application {
            Application::Topics(rules) => Some(rules.of_server()),
            _ => None,
        });
        all.collect()
    }

    /// Who has a seat at a route keeps it when routes are read anew.
    fn keep_seats_of(&mut self, old: &Self) {
        for route in &mut self.routes {
            if let Some(same) = old.routes.iter().find(|it| it.name == route.name) {
                route.taken = same.taken.clone();
            }
        }
    }
}

const fn not_zero(number: u64) -> Option<u64> {
    match number {
        0 => None,
        number => Some(number),
    }
}

/// Why a path cannot be added, as the end of a sentence.
fn in_words(error: &matchit::InsertError) -> String {
    use matchit::InsertError::{Conflict, InvalidCatchAll, InvalidParam, InvalidParamSegment};
    match error {
        Conflict { with } => {
            format!("this route can never match: {with} of an earlier route is for the same")
        }
        InvalidParamSegment => "a segment has at most one {name}".to_owned(),
        InvalidParam => "a { has to be closed by a }, with a name between them".to_owned(),
        InvalidCatchAll => "a {*name} has to be the end of a path, behind a /".to_owned(),
        other => other.to_string(),
    }
}

fn origins_of(texts: &[String]) -> Result<Origins, OriginError> {
    let mut texts = texts.iter();
    texts.try_fold(Origins::default(), |origins, text| origins.allow(text))
}

/// The origins of routes that have none of their own: those of `allow_origin`.
struct Everywhere(Vec<Allowed>);

impl Everywhere {
    fn new(settings: &Settings) -> Result<Self, OriginError> {
        let texts = settings.allow_origin.iter();
        let allowed = texts.map(|text| Allowed::parse(text));
        Ok(Self(allowed.collect::<Result<_, _>>()?))
    }

    /// Those of the path alone, or else those of all, or else every one.
    fn origins_at(&self, path: &str) -> Origins {
        let of = |path: Option<&str>| {
            let mut here = self.0.iter().filter(|it| it.path.as_deref() == path);
            let first = here.next()?;
            let all = [first].into_iter().chain(here);
            let origins = all.map(|allowed| allowed.origin.clone());
            // They were read before; were one wrong all the same, nobody would be welcome.
            Some(origins_of(&origins.collect::<Vec<_>>()).unwrap_or_default())
        };
        of(Some(path))
            .or_else(|| of(None))
            .unwrap_or_else(Origins::any)
    }
}

/// Who may come in at a route.
fn auth_of(settings: &RouteSettings, error: &mut impl FnMut(&str, String)) -> Option<Auth> {
    let proof = match settings.auth.as_str() {
        "token" => match Tokens::read(Path::new(&settings.auth_tokens_file)) {
            _ if settings.auth_tokens_file.is_empty() => {
                error(
                    "auth",
                    "auth is token, so auth_tokens_file has to name them".to_owned(),
                );
                return None;
            }
            Ok(tokens) => Proof::Tokens(tokens),
            Err(sentence) => {
                error("auth_tokens_file", sentence);
                return None;
            }
        },
        #[cfg(feature = "jwt")]
        "jwt" => Proof::Jwt(jwts_of(settings, error)?),
        _ => return None,
    };
    let mut sources = Vec::new();
    for text in &settings.auth_from {
        match Source::parse(text) {
            Ok(source) => sources.push(source),
            Err(what) => error(
                "auth_from",
                format!("auth_from has '{text}', but it {what}"),
            ),
        }
    }
    if settings.auth_from.is_empty() {
        error(
            "auth_from",
            "auth_from is empty: where do clients have their token?".to_owned(),
        );
    }
    Some(Auth { sources, proof })
}

#[cfg(feature = "jwt")]
fn jwts_of(settings: &RouteSettings, error: &mut impl FnMut(&str, String)) -> Option<Jwts> {
    let mut algorithms = Vec::new();
    for name in &settings.jwt_algorithms {
        match algorithm(name) {
            Some(algorithm) => algorithms.push(algorithm),
            None => {
                let sentence = format!(
                    "jwt_algorithms has '{name}', but it has to be HS256, RS256, ES256 or EdDSA"
                );
                error("jwt_algorithms", sentence);
                return None;
            }
        }
    }
    if settings.jwt_keys_file.is_empty() {
        error(
            "auth",
            "auth is jwt, so jwt_keys_file has to name the keys".to_owned(),
        );
        return None;
    }
    let claims = Claims {
        algorithms,
        audience: settings.jwt_audience.clone(),
        issuer: settings.jwt_issuer.clone(),
        leeway_s: settings.jwt_leeway_ms / 1000,
    };
    let jwts = Jwts::read(Path::new(&settings.jwt_keys_file), &claims);
    jwts.map_err(|sentence| error("jwt_keys_file", sentence))
        .ok()
}

impl Route {
    /// Whether a client may open a connection, and under what.
    fn open(
        &self,
        upgrade: &Upgrade<'_>,
        in_path: Option<&str>,
        answer: &mut Answer,
    ) -> Result<(Visitor, Option<String>), Turned> {
        let request = upgrade.request();
        self.origins.check(request)?;
        let mut identity = Identity::default();
        if let Some(auth) = &self.auth {
            identity = auth.check(request).map_err(|denied| {
                // The access log has a sample of them.
                tracing::debug!(path = request.path(), "401: {}", denied.reason());
                Turned {
                    refusal: denied.refusal(),
                    why: Some(denied.reason()),
                }
            })?;
        }
        let user = identity.user.clone();
        let mut listener = None;
        let mut chosen = None;
        let echo = match &self.application {
            Application::Echo | Application::Page => EchoState::echo(request)?,
            Application::Sink => EchoState::sink(),
            Application::Topics(rules) => {
                let speaks_json = upgrade.subprotocols().any(|name| name == session::PROTOCOL);
                chosen = speaks_json.then_some(session::PROTOCOL);
                let listens = rules.listen(request, in_path, speaks_json, identity)?;
                listener = Some(Box::new(listens));
                EchoState::default()
            }
            Application::Health => return Err(HandshakeError::NotFound.into()),
        };
        if let Some(chosen) = chosen.or_else(|| self.subprotocol(upgrade)) {
            // It was offered.
            let _ = answer.choose_subprotocol(upgrade, chosen);
        }
        if !self.compress {
            answer.refuse_compression();
        }
        if let Some(bytes_max) = self.message_bytes_max {
            answer.limit_message_bytes(bytes_max);
        }
        let seat = match self.seats_max {
            None => None,
            Some(most) => Some(self.seat(most)?),
        };
        let meter = (!self.rate.is_any()).then(|| Box::new(Meter::new(self.rate)));
        let kept = (seat.is_some() || listener.is_some()).then(|| {
            Box::new(Kept {
                record: None,
                listener,
                _seat: seat,
            })
        });
        let visitor = Visitor { echo, meter, kept };
        Ok((visitor, user))
    }

    fn seat(&self, most: u32) -> Result<Seat, HandshakeError> {
        let seat = Seat(self.taken.clone());
        // Beyond the most it is given back as it is dropped.
        match self.taken.fetch_add(1, Ordering::Relaxed) {
            taken if taken < most => Ok(seat),
            _ => Err(HandshakeError::Overloaded),
        }
    }

    fn subprotocol<'a>(&'a self, upgrade: &'a Upgrade<'_>) -> Option<&'a str> {
        let is_token = |name: &&str| self.auth.as_ref().is_some_and(|it| it.is_token(name));
        let mut offered = upgrade.subprotocols().filter(|name| !is_token(name));
        if self.subprotocols.is_empty() {
            return offered.next();
        }
        let known = |name: &&str| self.subprotocols.iter().any(|known| known == name);
        offered.find(known)
    }

    /// The answer to a request that is no handshake.
    fn reply(&self, request: &Request<'_>, in_path: Option<&str>) -> Result<HttpReply, Refusal> {
        let is_read = matches!(request.method(), "GET" | "HEAD");
        let is_health = matches!(self.application, Application::Health);
        let is_options = request.method() == "OPTIONS" && is_health;
        if !is_read && !is_options {
            return Err(HandshakeError::MethodNotAllowed.into());
        }
        if request.announces_body() {
            return Err(HandshakeError::ContentTooLarge.into());
        }
        match &self.application {
            Application::Page => Echo::page(),
            Application::Health => health(),
            Application::Topics(_) => topics::reply(in_path),
            Application::Echo | Application::Sink => Err(HandshakeError::UpgradeRequired.into()),
        }
    }
}

fn health() -> Result<HttpReply, Refusal> {
    let reply = HttpReply::new(200, "text/plain; charset=utf-8", &b"ok\n"[..]);
    let reply = reply.and_then(|mut reply| {
        reply.add_header("Cache-Control", "no-store")?;
        Ok(reply)
    });
    reply.map_err(|_| HandshakeError::ServicePanicked.into())
}

impl Router {
    /// Serves these routes, behind these proxies.
    pub fn new(routes: Routes, proxies: Proxies) -> Self {
        Self {
            current: Arc::new(RwLock::new(Arc::new(routes))),
            proxies: Arc::new(proxies),
            access: Arc::default(),
            recorder: None,
        }
    }

    /// Records what comes from here on.
    pub fn record_with(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// Its access log.
    pub fn access(&self) -> &AccessLog {
        &self.access
    }

    /// Serves others from here on.
    pub fn replace(&self, mut routes: Routes) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        routes.keep_seats_of(&current);
        *current = Arc::new(routes);
    }

    /// For as long as one request is judged.
    fn routes(&self) -> Arc<Routes> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Who asks, as far as that is known.
    fn client<'a>(&self, request: &Request<'_>, peer: Remote<'a>) -> Client<'a> {
        let forwarded = self.proxies.client(request, peer.address());
        Client { peer, forwarded }
    }

    fn let_in(
        &self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<Visitor, Refusal> {
        let request = upgrade.request();
        let client = self.client(request, peer);
        let judged = self.judge(upgrade, client, answer);
        match judged {
            Ok((mut visitor, user)) => {
                let record = self.access.record(client, request, answer, user);
                if let Some(record) = record {
                    let kept = visitor.kept.get_or_insert_default();
                    kept.record = Some(Box::new(record));
                }
                Ok(visitor)
            }
            Err(Turned { refusal, why }) => {
                let reason = why.unwrap_or(refusal.reason());
                self.access
                    .refused(client, request, refusal.status(), reason);
                Err(refusal)
            }
        }
    }

    fn judge(
        &self,
        upgrade: &Upgrade<'_>,
        client: Client<'_>,
        answer: &mut Answer,
    ) -> Result<(Visitor, Option<String>), Turned> {
        let request = upgrade.request();
        if self.proxies.forwards(client.peer.address()) {
            // Who is not named counts as well, if for no address.
            client.peer.count_as(client.forwarded)?;
        }
        let routes = self.routes();
        let (route, in_path) = routes.find(request)?;
        let opened = route.open(upgrade, in_path, answer)?;
        if routes.like_kaazing {
            answer.imitate_kaazing(request);
        }
        Ok(opened)
    }

    fn reply(&self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        let client = self.client(request, peer);
        let replied = self.reply_of_route(request);
        match &replied {
            Ok(reply) => self.access.answered(client, request, reply.status()),
            Err(refusal) => {
                let (status, reason) = (refusal.status(), refusal.reason());
                self.access.refused(client, request, status, reason);
            }
        }
        replied
    }

    fn reply_of_route(&self, request: &Request<'_>) -> Result<HttpReply, Refusal> {
        let routes = self.routes();
        let (route, in_path) = routes.find(request)?;
        if Origins::is_preflight(request) {
            if request.announces_body() {
                return Err(HandshakeError::ContentTooLarge.into());
            }
            return route.origins.answer_preflight(request);
        }
        let mut reply = route.reply(request, in_path)?;
        route.origins.add_headers(request, &mut reply);
        Ok(reply)
    }
}

/// Whether a message is one of those that a connection may send now. Apart, so that the echo of
/// those without limits is short.
#[inline(never)]
fn allows(conn: &mut Conn<'_, Visitor>, message: &Message<'_>) -> bool {
    let now = Duration::from_millis(conn.now().as_ms());
    let meter = conn.state().meter.as_mut();
    meter.is_none_or(|meter| meter.allows(message.payload().len(), now))
}

/// Does something with what a connection has of topics. Returns whether it has anything.
#[inline(never)]
fn with_listener(
    conn: &mut Conn<'_, Visitor>,
    act: impl FnOnce(&mut Listener, &mut Conn<'_, Visitor>),
) -> bool {
    let Some(kept) = &mut conn.state().kept else {
        return false;
    };
    // It is back before anybody else looks for it.
    let Some(mut listener) = kept.listener.take() else {
        return false;
    };
    act(&mut listener, conn);
    if let Some(kept) = &mut conn.state().kept {
        kept.listener = Some(listener);
    }
    true
}

impl Service for Router {
    type State = Visitor;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<Visitor, Refusal> {
        self.let_in(upgrade, peer, answer)
    }

    fn on_http(&mut self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        self.reply(request, peer)
    }

    #[inline]
    fn tally(visitor: &mut Visitor) -> Option<&mut Tally> {
        let record = visitor.kept.as_mut()?.record.as_mut()?;
        Some(&mut record.tally)
    }

    fn on_close(&mut self, turn: &mut Turn<'_>, id: ConnId, visitor: Visitor, cause: &CloseCause) {
        if let Some(recorder) = &self.recorder {
            recorder.closed(id);
        }
        let Some(kept) = visitor.kept else {
            return;
        };
        if let Some(record) = kept.record {
            record.end(id, cause);
        }
        if let Some(listener) = kept.listener {
            listener.close(turn);
        }
    }

    fn on_subscribed(&mut self, conn: &mut Conn<'_, Visitor>, topic: &[u8], resumed: &Resumed) {
        with_listener(conn, |listener, conn| {
            listener.resumed(conn, topic, resumed)
        });
    }

    fn envelope<'p>(&mut self, published: &Published<'p>) -> Outgoing<'p> {
        session::envelope(published)
    }

    #[inline]
    fn on_open(&mut self, conn: &mut Conn<'_, Visitor>) {
        if let Some(recorder) = &self.recorder {
            recorder.opened(conn.id());
        }
        if conn.state().kept.is_some() {
            with_listener(conn, |listener, conn| listener.open(conn));
        }
    }

    #[inline]
    fn on_message(&mut self, conn: &mut Conn<'_, Visitor>, message: Message<'_>) {
        if let Some(recorder) = &self.recorder {
            recorder.came(conn.id(), &message);
        }
        if conn.state().meter.is_some() && !allows(conn, &message) {
            let _ = conn.close(CloseCode::POLICY_VIOLATION, TOO_MUCH);
            return;
        }
        if conn.state().kept.is_some()
            && with_listener(conn, |listener, conn| listener.hear(conn, message))
        {
            return;
        }
        EchoState::answer(conn, |visitor| &mut visitor.echo, message);
    }
}

/// A connection of async code, of which the access log is told when it is over.
#[cfg(feature = "aio")]
struct ToldAtLast {
    record: Box<Record>,
    observer: ringwire::aio::Observer,
}

#[cfg(feature = "aio")]
impl Drop for ToldAtLast {
    fn drop(&mut self) {
        self.record.tally = self.observer.tally();
        let cause = self.observer.cause().unwrap_or(CloseCause::Vanished);
        self.record.end(self.observer.id(), &cause);
    }
}

/// Serves one connection to its end, within what it may say.
#[cfg(feature = "aio")]
async fn serve_echo(echo: EchoState, meter: Option<Box<Meter>>, socket: ringwire::aio::WebSocket) {
    match meter {
        None => echo.serve(socket).await,
        Some(mut meter) => {
            let begin = std::time::Instant::now();
            let allows = |bytes| meter.allows(bytes, begin.elapsed());
            echo.serve_while(socket, allows, TOO_MUCH).await;
        }
    }
}

#[cfg(feature = "aio")]
impl ringwire::aio::Handler for Router {
    type State = Visitor;

    fn on_handshake(
        &self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<Visitor, Refusal> {
        self.let_in(upgrade, peer, answer)
    }

    fn on_http(&self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        self.reply(request, peer)
    }

    async fn serve(&self, socket: ringwire::aio::WebSocket, visitor: Visitor) {
        let Visitor {
            echo,
            meter,
            mut kept,
        } = visitor;
        if let Some(record) = kept.as_mut().and_then(|kept| kept.record.take()) {
            let observer = socket.observer();
            // In memory of its own: connections without a line do without it.
            return Box::pin(async move {
                let _told = ToldAtLast { record, observer };
                serve_echo(echo, meter, socket).await;
                drop(kept);
            })
            .await;
        }
        match meter {
            None => echo.serve(socket).await,
            meter => Box::pin(serve_echo(echo, meter, socket)).await,
        }
    }
}
