//! A reverse proxy: each message becomes an HTTP request to an upstream, and its answer a message.
//!
//! `async_proxy UPSTREAM [ADDRESS] [TIMEOUT_MS]`, with `UPSTREAM` as `http://127.0.0.1:8080/rpc`.
//! A message is the body of a POST. What a WebSocket has no answer for ends it with the status code
//! of its kind: 1014 (bad gateway) when the upstream fails, is too slow or says too much, 1013 (try
//! again later) when it, or this proxy, has too much to do.

use std::{env, error::Error, process::ExitCode, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, StatusCode, Uri,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use ringwire::{
    CloseCode, Config, MessageKind, Outgoing,
    aio::{OwnedMessage, Server, WebSocket},
};
use tokio::{sync::Semaphore, time::timeout};

const MESSAGE_BYTES_MAX: u64 = 256 << 10;
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Requests at the same time; more messages wait for their turn, within their timeout.
const REQUESTS_MAX: usize = 256;

/// The way upstream. Each thread of the server has its own connections.
struct Upstream {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    timeout: Duration,
    turns: Arc<Semaphore>,
}

/// Why there is no answer: a close frame's code and reason.
type Failure = (CloseCode, String);

fn bad_gateway(error: impl ToString) -> Failure {
    (CloseCode::BAD_GATEWAY, error.to_string())
}

impl Upstream {
    fn new(uri: Uri, timeout: Duration, turns: Arc<Semaphore>) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            client,
            uri,
            timeout,
            turns,
        }
    }

    async fn ask(&self, message: OwnedMessage) -> Result<Outgoing<'static>, Failure> {
        let Ok(turn) = timeout(self.timeout, self.turns.acquire()).await else {
            return Err((CloseCode::TRY_AGAIN_LATER, "too many requests".to_owned()));
        };
        let _turn = turn.map_err(bad_gateway)?;
        match timeout(self.timeout, self.exchange(message)).await {
            Ok(answered) => answered,
            Err(_) => Err(bad_gateway("the upstream did not answer in time")),
        }
    }

    /// One request and its whole answer.
    async fn exchange(&self, message: OwnedMessage) -> Result<Outgoing<'static>, Failure> {
        let mime = match message.kind() {
            MessageKind::Text => "text/plain; charset=utf-8",
            MessageKind::Binary => "application/octet-stream",
        };
        let mut request = hyper::Request::new(Full::new(message.into_payload()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(mime));
        let answer = self.client.request(request).await.map_err(|error| {
            // What hyper says is for the log: a peer need not know where the upstream is.
            eprintln!("async_proxy: {}", with_causes(&error));
            bad_gateway("the upstream failed")
        })?;
        let is_text = is_text(answer.headers().get(CONTENT_TYPE));
        match answer.status() {
            status if status.is_success() => {}
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                return Err((
                    CloseCode::TRY_AGAIN_LATER,
                    "the upstream is busy".to_owned(),
                ));
            }
            status => {
                return Err(bad_gateway(format!(
                    "the upstream said {}",
                    status.as_u16()
                )));
            }
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await;
        let body =
            body.map_err(|_| bad_gateway("the upstream's answer was cut short or too long"))?;
        let body = body.to_bytes();
        if is_text {
            return Outgoing::text(body).map_err(bad_gateway);
        }
        Ok(body.into())
    }
}

/// Whether an answer's type says text.
fn is_text(mime: Option<&HeaderValue>) -> bool {
    let mime = mime.and_then(|mime| mime.to_str().ok()).unwrap_or("");
    mime.starts_with("text/") || mime.starts_with("application/json")
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// One message at a time: the next one is received when this one is answered, and a client that
/// sends faster than the upstream answers is held up by TCP.
async fn proxy(mut socket: WebSocket, upstream: &Upstream) {
    while let Some(message) = socket.next_owned().await {
        let told = match upstream.ask(message).await {
            Ok(answer) => socket.send(answer).await,
            Err((code, reason)) => socket.close(code, &reason).await,
        };
        if told.is_err() {
            return;
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let argument = |at: usize| arguments.get(at).map(String::as_str);
    let upstream = argument(0).ok_or("usage: async_proxy UPSTREAM [ADDRESS] [TIMEOUT_MS]")?;
    let uri: Uri = upstream.parse()?;
    if uri.scheme_str() != Some("http") || uri.authority().is_none() {
        return Err(format!("'{upstream}' is not a URL with http://").into());
    }
    let timeout = Duration::from_millis(argument(2).unwrap_or("5000").parse()?);
    let turns = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut config = Config::default();
    config.message_bytes_max = MESSAGE_BYTES_MAX;
    let builder = Server::builder().config(config);
    let builder = builder.listen(argument(1).unwrap_or("127.0.0.1:9001"));
    let server = builder.start_each(move |_thread| {
        let upstream = Upstream::new(uri.clone(), timeout, turns.clone());
        async move |socket| proxy(socket, &upstream).await
    })?;
    println!("ws://{}/", server.addresses()[0]);
    Ok(server.join()?)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("async_proxy: {error}");
            ExitCode::FAILURE
        }
    }
}
