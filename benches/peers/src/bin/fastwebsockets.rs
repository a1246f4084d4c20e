//! An echo on fastwebsockets, as its own example has it. It writes each frame when it is told to;
//! there is no way to have it write several at once.

use std::{convert::Infallible, error::Error};

use fastwebsockets::{
    FragmentCollector, Frame, OpCode, Payload, WebSocketError,
    upgrade::{UpgradeFut, upgrade},
};
use http_body_util::Empty;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use mimalloc::MiMalloc;
use ringwire_peers::{MESSAGE_BYTES_MAX, count_of, serve};
use tokio::net::TcpStream;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    serve(open)
}

async fn open(stream: TcpStream, sink: bool) {
    let answer = service_fn(move |request| answer(request, sink));
    // A connection that breaks is over, whatever broke it.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades()
        .await;
}

async fn answer(
    mut request: Request<Incoming>,
    sink: bool,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let Ok((response, upgraded)) = upgrade(&mut request) else {
        let mut refusal = Response::new(Empty::new());
        *refusal.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return Ok(refusal);
    };
    tokio::task::spawn_local(tokio::task::unconstrained(echo(upgraded, sink)));
    Ok(response)
}

async fn echo(upgraded: UpgradeFut, sink: bool) -> Result<(), WebSocketError> {
    let mut messages = 0;
    let mut socket = upgraded.await?;
    socket.set_max_message_size(MESSAGE_BYTES_MAX);
    let mut socket = FragmentCollector::new(socket);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text if sink => {
                let count = Payload::Owned(count_of(messages).into_bytes());
                socket.write_frame(Frame::text(count)).await?;
            }
            OpCode::Binary if sink => messages += 1,
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
