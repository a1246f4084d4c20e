//! Pages by axum, a chat by ringwire, on one port: axum routes requests, and hands those
//! connections over that become WebSockets.
//!
//! axum's handlers run on any thread of the runtime. A connection of ringwire's stays on one, so
//! that a channel leads to it.

use std::{error::Error, net::TcpStream as StdStream};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade::downcast};
use ringwire::{
    HandshakeError,
    aio::{self, Upgraded, WebSocket},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{
        broadcast,
        mpsc::{self, Receiver, Sender},
    },
    task::spawn_local,
};

/// Connections that wait to be taken over.
const WAITING_MAX: usize = 64;

/// Lines that may wait for whoever is slow; the oldest are lost then.
const LINES_MAX: usize = 256;

/// A connection that axum has answered with 101, and what was read of it by then.
type Handed = (Upgraded, StdStream, Bytes);

/// What one says, all get.
async fn chat(mut socket: WebSocket, said: broadcast::Sender<Box<str>>) {
    let mut heard = said.subscribe();
    loop {
        tokio::select! {
            message = socket.next() => match message.as_ref().map(|message| message.text()) {
                // Nobody listening is no error: this one does.
                Some(Some(line)) => drop(said.send(line.into())),
                Some(None) => {}
                None => return,
            },
            line = heard.recv() => match line {
                Ok(line) if socket.send(&*line).await.is_err() => return,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            },
        }
    }
}

/// Takes connections over, all on this thread.
async fn serve(mut handed: Receiver<Handed>) {
    let (said, _) = broadcast::channel(LINES_MAX);
    while let Some((upgraded, stream, read)) = handed.recv().await {
        match upgraded.open(stream, &read) {
            Ok(socket) => {
                spawn_local(chat(socket, said.clone()));
            }
            Err(error) => eprintln!("upgraded_axum: {error}"),
        }
    }
}

/// An opening handshake, or what is none.
async fn open(State(hand_over): State<Sender<Handed>>, mut request: Request) -> Response {
    let target = request.uri().to_string();
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let upgraded = match Upgraded::answering(request.method().as_str(), &target, headers) {
        Ok(upgraded) => upgraded,
        Err(error) => return refusal(error),
    };
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    for (name, value) in upgraded.headers() {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    tokio::spawn(async move {
        // Once the response is on its way.
        let Ok(stream) = hyper::upgrade::on(&mut request).await else {
            return;
        };
        if let Ok(parts) = downcast::<TokioIo<TcpStream>>(stream)
            && let Ok(stream) = parts.io.into_inner().into_std()
        {
            let _ = hand_over.send((upgraded, stream, parts.read_buf)).await;
        }
    });
    response
}

/// What is wrong with an opening handshake.
fn refusal(error: HandshakeError) -> Response {
    let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = (status, error.body()).into_response();
    for &(name, value) in error.reply_headers() {
        response
            .headers_mut()
            .append(name, HeaderValue::from_static(value));
    }
    response
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:9001")).await?;
    println!("ws://{}/", listener.local_addr()?);
    let (hand_over, handed) = mpsc::channel(WAITING_MAX);
    let page = Html("<!doctype html><title>chat</title><p>The chat is at /chat.\n");
    let routes = Router::new()
        .route("/", get(move || async move { page }))
        .route("/chat", get(open))
        .with_state(hand_over);
    tokio::spawn(axum::serve(listener, routes).into_future());
    aio::local(serve(handed)).await;
    Ok(())
}
