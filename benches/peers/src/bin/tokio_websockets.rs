//! An echo on tokio-websockets, with the settings of its own echo for benchmarks. It flushes what
//! is queued whenever it is asked for the next message, so that messages leave one by one.

use std::error::Error;

use futures_util::{SinkExt, StreamExt, TryStreamExt, future};
use mimalloc::MiMalloc;
use ringwire_peers::{MESSAGE_BYTES_MAX, count_of, serve};
use tokio::net::TcpStream;
use tokio_websockets::{Config, Error as Failure, Limits, Message, ServerBuilder, WebSocketStream};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    serve(|stream, sink| tokio::task::unconstrained(echo(stream, sink)))
}

async fn echo(stream: TcpStream, sink: bool) {
    let accepted = ServerBuilder::new()
        .config(Config::default().frame_size(usize::MAX))
        .limits(Limits::default().max_payload_len(Some(MESSAGE_BYTES_MAX)))
        .accept(stream)
        .await;
    let Ok((_request, socket)) = accepted else {
        return;
    };
    // A connection that breaks is over, whatever broke it.
    if sink {
        let _ = count(socket).await;
        return;
    }
    let (write, read) = socket.split();
    let _ = read
        .try_filter(|message| future::ready(message.is_text() || message.is_binary()))
        .forward(write)
        .await;
}

async fn count(mut socket: WebSocketStream<TcpStream>) -> Result<(), Failure> {
    let mut messages = 0;
    while let Some(message) = socket.try_next().await? {
        if message.is_binary() {
            messages += 1;
        } else if message.is_text() {
            socket.send(Message::text(count_of(messages))).await?;
        }
    }
    Ok(())
}
