//! What the echoes of this package share: how they are told where to listen, and how they say it.

use std::{
    error::Error,
    net::{SocketAddr, TcpListener},
};

use clap::Parser;

/// An echo on one thread. It prints its address, and runs until SIGTERM
#[derive(Debug, Parser)]
pub struct Arguments {
    /// Where to listen; port 0 lets the kernel choose
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Count messages instead of returning them; a WebSocket server answers a text with the count
    #[arg(long)]
    pub sink: bool,
}

impl Arguments {
    /// A listener at the address that was named, which is printed with this scheme.
    ///
    /// # Errors
    ///
    /// What the kernel said of that address.
    pub fn listener(&self, scheme: &str) -> Result<TcpListener, Box<dyn Error>> {
        let listener = TcpListener::bind(self.listen)?;
        println!("{scheme}://{}/", listener.local_addr()?);
        Ok(listener)
    }
}

/// Bytes of the longest message that a WebSocket echo takes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What a sink answers to a text: how many other messages this connection has sent.
pub fn count_of(messages: u64) -> String {
    format!("{{\"messages\":{messages}}}")
}

/// Serves each connection on the runtime that most peers are written for: tokio on this one thread.
/// What `connection` is told beside the stream is whether it is a sink.
///
/// # Errors
///
/// As [`Arguments::listener`], and what the runtime could not get from the kernel.
#[cfg(feature = "peers")]
pub fn serve<F>(connection: impl Fn(tokio::net::TcpStream, bool) -> F) -> Result<(), Box<dyn Error>>
where
    F: Future<Output = ()> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let arguments = Arguments::parse();
    let listener = arguments.listener("ws")?;
    listener.set_nonblocking(true)?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(connection(stream, arguments.sink));
        }
    })
}
