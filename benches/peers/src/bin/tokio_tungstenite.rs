//! An echo on tokio-tungstenite, as its own example has it: what has come is forwarded, and flushed
//! when no more is there.

use std::error::Error;

use futures_util::{SinkExt, StreamExt, TryStreamExt, future};
use mimalloc::MiMalloc;
use ringwire_peers::{MESSAGE_BYTES_MAX, count_of, serve};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, accept_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

/// All of it is set to zero for each read: with the default of 128 KiB, 64 bytes take 9.7 us, with
/// this 3.7, and nothing takes longer.
const READ_BUFFER_BYTES: usize = 16 << 10;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    serve(echo)
}

async fn echo(stream: TcpStream, sink: bool) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let Ok(socket) = accept_async_with_config(stream, Some(config)).await else {
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

async fn count(mut socket: WebSocketStream<TcpStream>) -> tungstenite::Result<()> {
    let mut messages = 0;
    while let Some(message) = socket.try_next().await? {
        match message {
            Message::Binary(_) => messages += 1,
            Message::Text(_) => socket.send(Message::text(count_of(messages))).await?,
            _ => {}
        }
    }
    Ok(())
}
