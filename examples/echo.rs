//! The smallest service: every message goes back.

use ringwire::{Conn, Message, Service};

struct Echo;

impl Service for Echo {
    type State = ();

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let _ = conn.send(message);
    }
}

fn main() -> Result<(), ringwire::StartError> {
    ringwire::serve("127.0.0.1:9001", |_shard| Echo)
}
