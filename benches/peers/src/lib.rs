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
