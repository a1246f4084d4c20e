//! WebSockets in `async` code, on tokio-uring or tokio.
//!
//! For applications whose handlers await databases, HTTP clients or queues: the protocol core,
//! limits, opening handshake, compression, TLS and counts of the shard engine, behind futures that
//! any library of the tokio world can be used in. A thread has a runtime, a listener and
//! connections of its own; futures stay on it and need not be `Send`.
//!
//! ```no_run
//! use ringwire::aio::{Server, WebSocket};
//!
//! async fn echo(mut socket: WebSocket) {
//!     let writer = socket.writer();
//!     while let Some(message) = socket.next().await {
//!         if writer.send(message).await.is_err() {
//!             break;
//!         }
//!     }
//! }
//!
//! fn main() -> Result<(), ringwire::StartError> {
//!     Server::builder().listen("127.0.0.1:9001").start(echo)?.join()
//! }
//! ```
//!
//! A client, on the same kind of runtime:
//!
//! ```no_run
//! use ringwire::{CloseCode, aio};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     aio::block_on(async {
//!         let mut socket = aio::connect("ws://127.0.0.1:9001/").await?;
//!         socket.send("hello").await?;
//!         if let Some(message) = socket.next().await {
//!             println!("{:?}", message.text());
//!         }
//!         socket.close(CloseCode::NORMAL_CLOSURE, "").await?;
//!         Ok(())
//!     })?
//! }
//! ```
//!
//! # Which runtime
//!
//! The threads of a [`Server`] and [`block_on`] have tokio-uring's where this host allows io_uring,
//! and tokio's own current-thread runtime where it does not ([`Builder::ring`]). In a runtime of
//! the application's, [`accept`], [`connect`] and [`Context`] work as well:
//!
//! | runtime | |
//! |---|---|
//! | `#[tokio::main(flavor = "current_thread")]`, `tokio_uring::start` | as it is |
//! | a `LocalSet` in one of these | as it is |
//! | `#[tokio::main]`, and a `LocalSet` in it | in [`local`] |
//! | none, or another crate's | an error says what to do |
//!
//! A server of another make, such as hyper or axum, hands connections over that it has upgraded:
//! [`Upgraded`].
//!
//! # How bytes move
//!
//! ```text
//!   readable? --> buffer of the thread --> Endpoint --> Message<'_>, borrowed from the buffer
//!                  (back when the connection waits)          |
//!   socket <------ queue, sent before the thread waits <---- Writer::send
//!     '- full? --> a task of its own sends the rest; send waits above queue_high_bytes
//! ```
//!
//! Readiness comes first, then the buffer: an idle connection holds none, and the connections of a
//! thread receive into the same memory one after the other. Receives and sends are calls that do
//! not block, so that the kernel has no memory of ours when a future is dropped.
//!
//! They are calls, and no operations of the runtime's ring, because that ring is waited for through
//! epoll: a completion costs its own event and the ring's, and a receive that waits holds a buffer.
//! A raw TCP echo of 64 B takes 8.45 us of processor time a message on it with one connection and
//! 3.63 with 8, where one on epoll takes 5.40 and 3.46; with 64 both take the same
//! (`benches/peers.md`). A ring that is waited for itself is what the shard engine has.
//!
//! Knows: the same protocol core, limits and counts as the shard engine, behind futures. Refuses to
//! know: services, and a ring of its own.

pub mod bridge;

mod buffers;
mod connection;
mod entrance;
mod entry;
mod farewell;
mod handler;
mod input;
mod local;
mod newcomers;
mod opening;
mod pieces;
mod relief;
mod rota;
mod runtime;
mod sending;
mod server;
mod share;
mod socket;
mod stream;
mod threads;
mod timer;
mod upgraded;
mod websocket;

pub use entry::{Accept, accept, connect, dial};
pub use handler::Handler;
pub use local::Context;
pub use opening::OpenError;
pub use pieces::MessagePieces;
pub use runtime::{NoHome, block_on, local};
pub use server::{Builder, Handle, Server};
pub use upgraded::Upgraded;
pub use websocket::{Observer, OwnedMessage, Reader, WebSocket, Writer};
