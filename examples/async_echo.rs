//! The smallest asynchronous server: every message goes back.

use ringwire::{
    StartError,
    aio::{Server, WebSocket},
};

async fn echo(mut socket: WebSocket) {
    // The message lies where it was received, and `socket` is lent out with it: this is another way
    // to the same connection.
    let writer = socket.writer();
    while let Some(message) = socket.next().await {
        if writer.send(message).await.is_err() {
            break;
        }
    }
}

fn main() -> Result<(), StartError> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let server = Server::builder().listen(address).start(echo)?;
    println!("ws://{}/", server.addresses()[0]);
    server.join()
}
