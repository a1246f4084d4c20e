//! HTTP by hyper, WebSockets by ringwire, on one port: hyper reads requests, and hands those
//! connections over that become WebSockets.
//!
//! hyper's tasks move between the threads of the runtime. A connection of ringwire's stays on one,
//! so that a channel leads to it.

use std::{convert::Infallible, error::Error, net::TcpStream as StdStream};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Request, Response, StatusCode, body::Incoming, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use ringwire::{
    HandshakeError,
    aio::{self, Upgraded, WebSocket},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, Receiver, Sender},
    task::spawn_local,
};

/// Connections that wait to be taken over.
const WAITING_MAX: usize = 64;

/// A connection that hyper has answered with 101, and what it had read of it by then.
type Handed = (Upgraded, StdStream, Bytes);

async fn echo(mut socket: WebSocket) {
    let writer = socket.writer();
    while let Some(message) = socket.next().await {
        if writer.send(message).await.is_err() {
            break;
        }
    }
}

/// Takes connections over, all on this thread.
async fn serve(mut handed: Receiver<Handed>) {
    while let Some((upgraded, stream, read)) = handed.recv().await {
        match upgraded.open(stream, &read) {
            Ok(socket) => {
                spawn_local(echo(socket));
            }
            Err(error) => eprintln!("upgraded_hyper: {error}"),
        }
    }
}

/// A header's name and value, as they were sent.
fn lines(headers: &HeaderMap) -> impl Iterator<Item = (&str, &[u8])> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
}

/// Answers one request, of whatever kind.
async fn answer(
    mut request: Request<Incoming>,
    hand_over: Sender<Handed>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.uri().to_string();
    let answered =
        Upgraded::answering(request.method().as_str(), &target, lines(request.headers()));
    let upgraded = match answered {
        Ok(upgraded) => upgraded,
        Err(HandshakeError::UpgradeRequired) => {
            return Ok(Response::new(Full::from(
                "A page. The WebSocket is here too.\n",
            )));
        }
        Err(error) => return Ok(refusal(error)),
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in upgraded.headers() {
        if let Ok(value) = value.parse() {
            response.headers_mut().append(name, value);
        }
    }
    tokio::spawn(async move {
        // Once the response is on its way.
        let Ok(stream) = hyper::upgrade::on(&mut request).await else {
            return;
        };
        if let Ok(parts) = stream.downcast::<TokioIo<TcpStream>>()
            && let Ok(stream) = parts.io.into_inner().into_std()
        {
            let _ = hand_over.send((upgraded, stream, parts.read_buf)).await;
        }
    });
    Ok(response)
}

/// What is wrong with an opening handshake.
fn refusal(error: HandshakeError) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(error.body()));
    *response.status_mut() =
        StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    for &(name, value) in error.reply_headers() {
        if let Ok(value) = value.parse() {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Serves HTTP until the process ends.
async fn listen(listener: TcpListener, hand_over: Sender<Handed>) {
    while let Ok((stream, _)) = listener.accept().await {
        let hand_over = hand_over.clone();
        let service = service_fn(move |request| answer(request, hand_over.clone()));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // A peer that breaks off is not worth a word.
        tokio::spawn(connection.with_upgrades());
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:9001")).await?;
    println!("ws://{}/", listener.local_addr()?);
    let (hand_over, handed) = mpsc::channel(WAITING_MAX);
    tokio::spawn(listen(listener, hand_over));
    aio::local(serve(handed)).await;
    Ok(())
}
