//! The admin side: HTTP for those who run the server.
//!
//! Knows: what can be asked for, by whom, and in which words it is answered. Refuses to know: how
//! it is carried out.
//!
//! | | |
//! |---|---|
//! | `GET /metrics` | every count, for Prometheus |
//! | `GET /healthz` | 200, or 503 while a shard stands still |
//! | `GET /readyz` | 200, or 503 from the start of a drain |
//! | `GET /connections?by=held&limit=20` | those that stand out; also by `age`, `queued` |
//! | `DELETE /connections/ID?code=1008` | close one |
//! | `GET /config` | the settings in force |
//! | `POST /topics/NAME` | publish the body to all who subscribe |
//! | `GET /topics/NAME?last=10` | how many do, and what is kept |
//! | `POST /publish` | publish several messages, one JSON object a line |
//! | `POST /reload` | read settings and certificates again |
//! | `POST /drain?spread=10s&code=1012` | stop |
//! | `GET`, `PUT /log-level` | the level of the log, until the next reload |
//!
//! Whoever reaches it can stop the server: it listens where nobody else comes, or asks for a token.
//! Pages of a browser that runs on the same machine come here as well, by its user's mistake: what
//! changes something is refused to whoever has an `Origin`.

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    net,
    os::{fd::OwnedFd, unix::net as unix},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use ringwire::{Address, CloseCode, ConnId, Listener, Outgoing, PublishError, Seen, SurveyOrder};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, oneshot},
    task::{spawn_blocking, spawn_local},
    time::timeout,
};

use super::{
    metrics::{Format, exposition},
    operations::Operations,
    publishing::{self, Stopped, topic_of},
};
use crate::{log, serve::in_the_way, settings};

/// Connections that are served at once: a few people and a few programs.
const CONNECTIONS_MAX: usize = 64;

/// How long a request's head may take, and a quiet connection stay.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);

/// How long one connection may last: a reload has a minute. Whoever has more to ask connects again.
const TALK_TIMEOUT: Duration = Duration::from_secs(90);

/// How long the body of a request may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest body that anything here has.
const BODY_BYTES_MAX: usize = 4096;

/// Several messages may have so many bytes, whatever one may.
const LINES_BYTES_MIN: usize = 1 << 20;

/// Connections that are kept waiting for the kernel.
const BACKLOG: u32 = 64;

/// How long shards have to tell who is there.
const SURVEY_PATIENCE: Duration = Duration::from_secs(2);

/// Connections that are told of, at most, and without a wish.
const SURVEY_MOST: usize = 1000;
const SURVEY_FEW: usize = 20;

/// How long is waited after an accept that failed, for want of descriptors.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

type Reply = Response<Full<Bytes>>;

/// Where it listens. Unix paths are removed with it.
pub struct Admin {
    listeners: Vec<Listener>,
}

/// A listener of the runtime.
enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Admin {
    /// Listens at these addresses, which were checked.
    ///
    /// # Errors
    ///
    /// A sentence about the first where that is not possible.
    pub fn bind(addresses: &[String]) -> Result<Self, String> {
        let mut listeners = Vec::new();
        for text in addresses {
            for address in settings::addresses(text)? {
                // Only for the user that it runs as, and root.
                let bound = Listener::bind(&address, 1, BACKLOG, Some(0o600));
                let listener = bound.map_err(|errno| {
                    in_the_way(&address).unwrap_or_else(|| {
                        format!(
                            "the admin side cannot listen on {address}: {errno}; choose another \
                             address for admin_listen"
                        )
                    })
                })?;
                listeners.push(listener);
            }
        }
        Ok(Self { listeners })
    }

    /// Where it listens, with the ports that the kernel chose.
    pub fn addresses(&self) -> Vec<Address> {
        let listeners = self.listeners.iter();
        listeners.map(|it| it.address().clone()).collect()
    }

    /// Its sockets, for whoever serves on them. The addresses stay taken as long as this is there.
    pub fn take_sockets(&mut self) -> Vec<OwnedFd> {
        let listeners = self.listeners.iter_mut();
        listeners.filter_map(Listener::take_socket).collect()
    }
}

/// Serves on these sockets as long as the runtime is there.
pub fn serve(operations: &Arc<Operations>, sockets: Vec<OwnedFd>) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for socket in sockets {
        match accepting(socket) {
            Ok(accepting) => {
                spawn_local(accept(accepting, operations.clone(), seats.clone()));
            }
            Err(error) => tracing::error!("the admin side cannot use a socket: {error}"),
        }
    }
}

fn accepting(socket: OwnedFd) -> io::Result<Accepting> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    let address = rustix::net::getsockname(&socket)?;
    if address.address_family() == rustix::net::AddressFamily::UNIX {
        let listener = UnixListener::from_std(unix::UnixListener::from(socket))?;
        return Ok(Accepting::Unix(listener));
    }
    let listener = TcpListener::from_std(net::TcpListener::from(socket))?;
    Ok(Accepting::Tcp(listener))
}

async fn accept(listener: Accepting, operations: Arc<Operations>, seats: Arc<Semaphore>) {
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else {
            return;
        };
        let operations = operations.clone();
        // Whoever has to show a token is no page.
        let has_tokens = operations.tokens().is_some();
        let accepted = match &listener {
            Accepting::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                spawn_local(async move {
                    let _seat = seat;
                    talk(stream, operations, has_tokens).await;
                });
            }),
            Accepting::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                spawn_local(async move {
                    let _seat = seat;
                    talk(stream, operations, true).await;
                });
            }),
        };
        if let Err(error) = accepted
            && error.kind() != ErrorKind::ConnectionAborted
        {
            tracing::warn!("the admin side cannot accept: {error}");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

/// One connection.
async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    operations: Arc<Operations>,
    is_local: bool,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let operations = operations.clone();
        async move {
            let reply = match is_local || is_named_by_address(&request) {
                true => answer(&operations, request).await,
                false => text(StatusCode::MISDIRECTED_REQUEST, BY_ADDRESS),
            };
            Ok::<_, Infallible>(reply)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(TALK_TIMEOUT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a connection of the admin side ended: {error}"),
        Err(_) => tracing::debug!("a connection of the admin side had its time"),
    }
}

const BY_ADDRESS: &str = "Ask by an address, or as localhost: by another name pages of a browser \
                          could ask as well. With admin_token_file any name is welcome.";

/// Whether a request is for an address or for localhost. A page of a browser can have a name of its
/// own stand for 127.0.0.1 (DNS rebinding), and then it may read what comes from there.
fn is_named_by_address(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|it| it.to_str().ok()).unwrap_or_default();
    if host.is_empty() || host.parse::<net::SocketAddr>().is_ok() {
        return true;
    }
    let without_port = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_address = |name: &str| {
        let name = name.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || name.parse::<net::IpAddr>().is_ok()
    };
    is_address(host) || is_address(without_port)
}

fn text(status: StatusCode, words: impl Into<String>) -> Reply {
    let mut words = words.into();
    if !words.ends_with('\n') {
        words.push('\n');
    }
    with_type(status, "text/plain; charset=utf-8", words)
}

fn object(status: StatusCode, value: &Value) -> Reply {
    with_type(status, "application/json", format!("{value:#}\n"))
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// What somebody asks for.
enum Wish {
    Metrics,
    Health,
    Ready,
    Connections,
    Close(String),
    Publish(String),
    PublishLines,
    Topic(String),
    Config,
    Reload,
    Drain,
    Level,
    SetLevel,
    Index,
}

impl Wish {
    /// What a request is for.
    ///
    /// # Errors
    ///
    /// The methods that its path has, or none.
    fn of(method: &Method, path: &str) -> Result<Self, &'static str> {
        let method = match *method {
            // A HEAD is a GET whose body hyper leaves out.
            Method::HEAD => "GET",
            _ => method.as_str(),
        };
        if let Some(id) = path.strip_prefix("/connections/") {
            return match method {
                "DELETE" => Ok(Self::Close(id.to_owned())),
                _ => Err("DELETE"),
            };
        }
        if let Some(topic) = path.strip_prefix("/topics/") {
            return match method {
                "GET" => Ok(Self::Topic(topic.to_owned())),
                "POST" => Ok(Self::Publish(topic.to_owned())),
                _ => Err("GET, HEAD, POST"),
            };
        }
        Ok(match (path, method) {
            ("/metrics", "GET") => Self::Metrics,
            ("/healthz", "GET") => Self::Health,
            ("/readyz", "GET") => Self::Ready,
            ("/connections", "GET") => Self::Connections,
            ("/config", "GET") => Self::Config,
            ("/publish", "POST") => Self::PublishLines,
            ("/reload", "POST") => Self::Reload,
            ("/drain", "POST") => Self::Drain,
            ("/log-level", "GET") => Self::Level,
            ("/log-level", "PUT") => Self::SetLevel,
            ("/", "GET") => Self::Index,
            ("/metrics" | "/healthz" | "/readyz" | "/connections" | "/config" | "/", _) => {
                return Err("GET, HEAD");
            }
            ("/publish" | "/reload" | "/drain", _) => return Err("POST"),
            ("/log-level", _) => return Err("GET, HEAD, PUT"),
            _ => return Err(""),
        })
    }

    /// Whether it is for programs that have no token: those that ask whether the server is there.
    const fn is_for_all(&self) -> bool {
        matches!(self, Self::Health | Self::Ready)
    }

    const fn changes_something(&self) -> bool {
        matches!(
            self,
            Self::Close(_)
                | Self::Publish(_)
                | Self::PublishLines
                | Self::Reload
                | Self::Drain
                | Self::SetLevel
        )
    }
}

async fn answer(operations: &Arc<Operations>, request: Request<Incoming>) -> Reply {
    let wish = match Wish::of(request.method(), request.uri().path()) {
        Ok(wish) => wish,
        Err("") => {
            return text(
                StatusCode::NOT_FOUND,
                format!("There is no such thing.\n{INDEX}"),
            );
        }
        Err(methods) => {
            let words = format!("That is done with {methods}.");
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, words);
            let allowed = HeaderValue::from_static(methods);
            reply.headers_mut().insert(header::ALLOW, allowed);
            return reply;
        }
    };
    if !wish.is_for_all()
        && let Some(tokens) = operations.tokens()
    {
        let shown = request.headers().get(header::AUTHORIZATION);
        let shown = shown.and_then(|it| it.to_str().ok()?.split_once(' '));
        let is_known = shown.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer") && tokens.has(token.trim())
        });
        if !is_known {
            let words = "A token of admin_token_file is needed: Authorization: Bearer TOKEN";
            let mut reply = text(StatusCode::UNAUTHORIZED, words);
            let challenge = HeaderValue::from_static("Bearer realm=\"ringwire admin\"");
            reply
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
            return reply;
        }
    }
    if wish.changes_something() && request.headers().contains_key(header::ORIGIN) {
        return text(
            StatusCode::FORBIDDEN,
            "That is not for pages of a browser; ask with curl, or 'ringwire reload'.",
        );
    }
    let query = Query::of(request.uri().query().unwrap_or_default());
    fulfil(wish, operations, &query, request)
        .await
        .unwrap_or_else(|sentence| text(StatusCode::BAD_REQUEST, sentence))
}

/// The body of a request, which is called so.
///
/// # Errors
///
/// Why there is none.
async fn body_of(
    request: Request<Incoming>,
    what: &str,
    bytes_max: usize,
) -> Result<Bytes, String> {
    let body = Limited::new(request.into_body(), bytes_max).collect();
    let body = timeout(BODY_TIMEOUT, body).await;
    let body = body.map_err(|_| format!("{what} did not come in time"))?;
    let body = body.map_err(|error| format!("{what} did not come: {error}"))?;
    Ok(body.to_bytes())
}

/// Publishes several messages.
///
/// # Errors
///
/// What is wrong with them.
async fn publish_lines(
    operations: &Operations,
    request: Request<Incoming>,
) -> Result<Reply, String> {
    let bytes_max = operations.with_settings(|settings| settings.config.message_bytes_max);
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let bytes_max = bytes_max.max(LINES_BYTES_MIN);
    let body = body_of(request, "The messages", bytes_max).await?;
    match publishing::publish_lines(&operations.operator, &body).await {
        Ok(published) => Ok(object(
            StatusCode::ACCEPTED,
            &json!({ "published": published }),
        )),
        Err(Stopped::Wrong(sentence)) => Err(sentence),
        Err(Stopped::After(published, error)) => Ok(object(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "published": published, "error": error.to_string() }),
        )),
    }
}

/// Publishes a body: as binary, if its type says that it is one, and as text else.
///
/// # Errors
///
/// What is wrong with the topic or the body.
async fn publish(
    operations: &Operations,
    topic: &str,
    request: Request<Incoming>,
) -> Result<Reply, String> {
    let bytes_max = operations.with_settings(|settings| settings.config.message_bytes_max);
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let is_binary = content_type.is_some_and(|it| it == "application/octet-stream");
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let body = body_of(request, "The message", bytes_max).await?;
    let message = if is_binary {
        Outgoing::from(body)
    } else {
        Outgoing::text(body).map_err(
            |_| "The message is no UTF-8: send it with Content-Type: application/octet-stream",
        )?
    };
    Ok(
        match operations.operator.publish(&topic_of(topic), message) {
            Ok(()) => text(StatusCode::ACCEPTED, "published"),
            Err(PublishError::Topic(error)) => return Err(format!("That is no topic: {error}")),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        },
    )
}

const INDEX: &str = "\
GET  /metrics                            counts, for Prometheus
GET  /healthz                            503 while a shard stands still
GET  /readyz                             503 from the start of a drain
GET  /connections?by=held&limit=20       those that stand out; by age, held or queued
DELETE /connections/ID?code=1008         close one
POST /topics/NAME                        publish the body to all who subscribe
GET  /topics/NAME?last=10                how many do, and what is kept
POST /publish                            publish several, one JSON object a line
GET  /config                             the settings in force
POST /reload                             read settings and certificates again
POST /drain?spread=10s&code=1012         stop
GET, PUT /log-level                      error, warn, info, debug or trace
";

/// # Errors
///
/// What is wrong with the wish.
async fn fulfil(
    wish: Wish,
    operations: &Arc<Operations>,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Reply, String> {
    Ok(match wish {
        Wish::Index => text(StatusCode::OK, INDEX),
        Wish::Metrics => {
            let accept = request.headers().get(header::ACCEPT);
            let format = Format::wanted(accept.and_then(|it| it.to_str().ok()));
            let all = exposition(operations, format);
            with_type(StatusCode::OK, format.content_type(), all)
        }
        Wish::Health => health(operations),
        Wish::Ready => match operations.life.is_ready() {
            true => text(StatusCode::OK, "ready"),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"),
        },
        Wish::Connections => connections(operations, query).await?,
        Wish::Close(id) => close(operations, &id, query)?,
        Wish::Publish(topic) => publish(operations, &topic, request).await?,
        Wish::PublishLines => publish_lines(operations, request).await?,
        Wish::Topic(topic) => {
            let asked = (query.get("last"), query.get("since"));
            let topic = topic_of(&topic);
            let told = publishing::look(&operations.operator, &topic, asked).await?;
            object(StatusCode::OK, &told)
        }
        Wish::Config => object(
            StatusCode::OK,
            &operations.with_settings(settings::in_force),
        ),
        Wish::Reload => reload(operations).await,
        Wish::Drain => drain(operations, query)?,
        Wish::Level => text(StatusCode::OK, operations.level()),
        Wish::SetLevel => {
            let body = body_of(request, "The level", BODY_BYTES_MAX).await?;
            let level = str::from_utf8(&body).unwrap_or_default().trim();
            if !log::LEVELS.contains(&level) {
                let levels = log::LEVELS.join(", ");
                return Err(format!("'{}' is no level: {levels}", level.escape_debug()));
            }
            operations.set_level(level);
            text(StatusCode::OK, level)
        }
    })
}

fn health(operations: &Operations) -> Reply {
    let stalled = operations.life.stalled();
    let stalled = stalled
        .iter()
        .enumerate()
        .filter(|(_, is_stalled)| **is_stalled);
    let names: Vec<String> = stalled.map(|(shard, _)| shard.to_string()).collect();
    match names.is_empty() {
        true => text(StatusCode::OK, "well"),
        false => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("standing still: shard {}", names.join(", shard ")),
        ),
    }
}

async fn connections(operations: &Arc<Operations>, query: &Query) -> Result<Reply, String> {
    let order = match query.get("by").unwrap_or("held") {
        "age" => SurveyOrder::Age,
        "held" => SurveyOrder::Held,
        "queued" => SurveyOrder::Queued,
        other => {
            let other = other.escape_debug();
            return Err(format!(
                "by is '{other}', but it has to be age, held or queued"
            ));
        }
    };
    let limit = query.get("limit").map_or(Ok(SURVEY_FEW), str::parse);
    let limit = limit.ok().filter(|limit| (1..=SURVEY_MOST).contains(limit));
    let limit = limit.ok_or(format!("limit has to be from 1 to {SURVEY_MOST}"))?;
    let operator = operations.operator.clone();
    let walked = spawn_blocking(move || operator.survey(order, limit, SURVEY_PATIENCE));
    let seen = walked.await.map_err(|error| error.to_string())?;
    let all = operations.operator.connections_open();
    let seen: Vec<Value> = seen.iter().map(of_seen).collect();
    let value = json!({ "connections_open": all, "connections": seen });
    Ok(object(StatusCode::OK, &value))
}

fn of_seen(seen: &Seen) -> Value {
    json!({
        "id": seen.id.to_string(),
        "peer": seen.peer.to_string(),
        "tls": seen.is_secure,
        "stage": seen.stage,
        "age_seconds": seen.age.as_secs_f64(),
        "silent_seconds": seen.silence.as_secs_f64(),
        "held_bytes": seen.held_bytes,
        "queued_bytes": seen.queued_bytes,
    })
}

fn close(operations: &Operations, id: &str, query: &Query) -> Result<Reply, String> {
    let known: ConnId = id.parse().map_err(|_| {
        let id = id.escape_debug();
        format!("'{id}' is no connection's name: GET /connections has them")
    })?;
    let code = code_of(query)?.unwrap_or(CloseCode::POLICY_VIOLATION);
    let closed = operations
        .operator
        .close(known, code, "closed by an administrator");
    closed.map_err(|error| error.to_string())?;
    tracing::info!(
        "{known} is closed with {} for an administrator",
        code.number()
    );
    Ok(text(
        StatusCode::ACCEPTED,
        format!("{known} is told to close, if it is there"),
    ))
}

/// The status that a close frame is to have, if one is wished for.
fn code_of(query: &Query) -> Result<Option<CloseCode>, String> {
    let Some(code) = query.get("code") else {
        return Ok(None);
    };
    match code.parse().ok().and_then(CloseCode::new) {
        Some(code) => Ok(Some(code)),
        None => Err(format!(
            "code is '{}', but it has to be a status that can be sent, such as 1001",
            code.escape_debug()
        )),
    }
}

async fn reload(operations: &Operations) -> Reply {
    let (tell, told) = oneshot::channel();
    // Whoever has asked may be gone.
    operations.reload("POST /reload", move |outcome| drop(tell.send(outcome)));
    match told.await {
        Ok(Ok(lines)) => text(StatusCode::OK, lines.join("\n")),
        Ok(Err(lines)) => text(StatusCode::UNPROCESSABLE_ENTITY, lines.join("\n")),
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "nobody reads the settings again any more: see the log",
        ),
    }
}

fn drain(operations: &Operations, query: &Query) -> Result<Reply, String> {
    let mut drain = operations.drain_of_settings();
    if let Some(code) = code_of(query)? {
        drain.code = code;
    }
    for (key, place) in [
        ("spread", &mut drain.spread_ms),
        ("timeout", &mut drain.timeout_ms),
    ] {
        if let Some(time) = query.get(key) {
            *place = settings::milliseconds(time)
                .map_err(|what| format!("{key} is '{}', but {what}", time.escape_debug()))?;
        }
    }
    let had_begun = operations.drain("POST /drain", drain);
    Ok(text(
        StatusCode::ACCEPTED,
        match had_begun {
            false => "stopping",
            true => "stopping already",
        },
    ))
}

/// What stands behind the question mark.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), value.to_owned())
        });
        Self(pairs.collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(it, _)| it == key);
        found.map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_with_which_methods_it_is_asked_for() {
        let of = |method: &str, path| Wish::of(&method.parse().unwrap(), path);
        assert!(matches!(of("GET", "/metrics"), Ok(Wish::Metrics)));
        assert!(matches!(of("HEAD", "/readyz"), Ok(Wish::Ready)));
        assert!(matches!(of("DELETE", "/connections/0.1.2"), Ok(Wish::Close(id)) if id == "0.1.2"));
        assert_eq!(of("GET", "/reload").err(), Some("POST"));
        assert_eq!(of("POST", "/metrics").err(), Some("GET, HEAD"));
        assert_eq!(of("GET", "/nowhere").err(), Some(""));
    }

    #[test]
    fn what_is_asked_without_a_token_changes_nothing() {
        for (method, path) in [
            ("GET", "/metrics"),
            ("GET", "/healthz"),
            ("GET", "/readyz"),
            ("GET", "/connections"),
            ("DELETE", "/connections/1"),
            ("GET", "/config"),
            ("POST", "/reload"),
            ("POST", "/drain"),
            ("PUT", "/log-level"),
        ] {
            let wish = Wish::of(&method.parse().unwrap(), path).unwrap();
            assert!(!(wish.is_for_all() && wish.changes_something()), "{path}");
            assert_eq!(wish.changes_something(), method != "GET", "{path}");
        }
    }
}
