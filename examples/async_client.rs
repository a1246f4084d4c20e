//! A client: sends each line of its input, and prints what comes.
//!
//! `async_client URL`, with `ws://` or `wss://`. At the end of its input it closes the connection,
//! and ends when the server has agreed; what the server says meanwhile is too late.

use std::{env, error::Error, io, process::ExitCode, thread};

use ringwire::{
    CloseCode,
    aio::{self, WebSocket},
};
use tokio::sync::mpsc;

/// Lines that are read ahead.
const AHEAD_MAX: usize = 64;

/// The lines of the input. A terminal cannot be awaited, so that a thread waits for it.
fn input() -> mpsc::Receiver<String> {
    let (lines, input) = mpsc::channel(AHEAD_MAX);
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    input
}

async fn talk(mut socket: WebSocket) -> Result<(), Box<dyn Error>> {
    let mut input = input();
    let writer = socket.writer();
    let mut is_closing = false;
    loop {
        tokio::select! {
            line = input.recv(), if !is_closing => match line {
                Some(line) => writer.send(line).await?,
                None => {
                    writer.close(CloseCode::NORMAL_CLOSURE, "")?;
                    is_closing = true;
                }
            },
            message = socket.next() => match message {
                Some(message) => match message.text() {
                    Some(text) => println!("{text}"),
                    None => println!("({} bytes)", message.payload().len()),
                },
                None => break,
            }
        }
    }
    match socket.cause() {
        Some(cause) if !is_closing => Err(cause.to_string().into()),
        _ => Ok(()),
    }
}

fn main() -> ExitCode {
    let Some(url) = env::args().nth(1) else {
        eprintln!("usage: async_client URL");
        return ExitCode::from(2);
    };
    let talked = aio::block_on(async {
        let socket = aio::connect(&url).await?;
        talk(socket).await
    });
    match talked.map_err(Into::into).flatten() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("async_client: {error}");
            ExitCode::FAILURE
        }
    }
}
