//! A chat: what one says, all get.
//!
//! Each connection is a task on one of the server's threads; a channel of tokio's is between them.

use ringwire::{
    CloseCode, Config, StartError,
    aio::{OwnedMessage, Server, WebSocket},
};
use tokio::sync::broadcast::{self, error::RecvError};

/// Messages that a slow member may be behind.
const BEHIND_MAX: usize = 256;
const MESSAGE_BYTES_MAX: u64 = 16 << 10;

async fn chat(mut socket: WebSocket, room: &broadcast::Sender<OwnedMessage>) {
    let mut heard = room.subscribe();
    let writer = socket.writer();
    loop {
        // `next` and `recv` lose nothing when the other one is first: both are cancel-safe. While
        // `send` waits for a slow peer, nothing is received from it either.
        tokio::select! {
            said = socket.next() => match said {
                // An error says that nobody is in the room. This member is.
                Some(said) => drop(room.send(said.into())),
                None => return,
            },
            message = heard.recv() => {
                let sent = match message {
                    Ok(message) => writer.send(message).await,
                    Err(RecvError::Lagged(missed)) => {
                        writer.send(format!("({missed} messages were too fast for you)")).await
                    }
                    Err(RecvError::Closed) => writer.close(CloseCode::GOING_AWAY, ""),
                };
                if sent.is_err() {
                    return;
                }
            }
        }
    }
}

fn main() -> Result<(), StartError> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let (room, _) = broadcast::channel(BEHIND_MAX);
    let mut config = Config::default();
    config.message_bytes_max = MESSAGE_BYTES_MAX;
    let builder = Server::builder().listen(address).config(config);
    let server = builder.start(async move |socket| chat(socket, &room).await)?;
    println!("ws://{}/", server.addresses()[0]);
    server.join()
}
