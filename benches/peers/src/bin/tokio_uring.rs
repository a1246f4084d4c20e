//! The floor of tokio-uring: a raw TCP echo on that runtime, as its own example has it.

use std::error::Error;

use clap::Parser;
use mimalloc::MiMalloc;
use ringwire_peers::Arguments;
use tokio_uring::{
    buf::BoundedBuf,
    net::{TcpListener, TcpStream},
};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Of each connection. What is never filled costs address space only.
const BUFFER_BYTES: usize = 256 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let listener = arguments.listener("tcp")?;
    let mut ring = tokio_uring::uring_builder();
    ring.setup_single_issuer()
        .setup_coop_taskrun()
        .setup_cqsize(4096);
    tokio_uring::builder()
        .entries(1024)
        .uring_builder(&ring)
        .start(async {
            let listener = TcpListener::from_std(listener);
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio_uring::spawn(echo(stream, arguments.sink));
            }
        })
}

async fn echo(stream: TcpStream, sink: bool) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (read, back) = stream.read(buffer).await;
        let Ok(count @ 1..) = read else {
            return;
        };
        if sink {
            buffer = back;
            continue;
        }
        let (written, back) = stream.write_all(back.slice(..count)).await;
        if written.is_err() {
            return;
        }
        buffer = back.into_inner();
    }
}
