//! A chat on shards: the path is the room, `?name=` who somebody is, and all in a room hear what is
//! said there, and who comes and goes. `chat [ADDRESS]`.

use ringwire::{
    Answer, CloseCause, CloseCode, Conn, ConnId, Message, Refusal, Remote, Server, Service,
    StartError, Turn, Upgrade,
};

struct Chat;

#[derive(Clone, Default)]
struct Member {
    room: String,
    name: String,
}

impl Service for Chat {
    type State = Member;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        _: Remote<'_>,
        _: &mut Answer,
    ) -> Result<Member, Refusal> {
        let room = format!("room.{}", upgrade.request().path().trim_matches('/'));
        let name = upgrade
            .request()
            .query_value("name")
            .unwrap_or("somebody".into());
        Ok(Member {
            room,
            name: name.into_owned(),
        })
    }

    fn on_open(&mut self, conn: &mut Conn<'_, Member>) {
        let Member { room, name } = conn.state().clone();
        if let Err(error) = conn.subscribe(&room) {
            let _ = conn.close(CloseCode::POLICY_VIOLATION, &error.to_string());
            return;
        }
        let _ = conn.publish(&room, format!("{name} is here"));
    }

    fn on_message(&mut self, conn: &mut Conn<'_, Member>, message: Message<'_>) {
        let Member { room, name } = conn.state().clone();
        let _ = conn.publish(
            &room,
            format!("{name}: {}", message.text().unwrap_or("(noise)")),
        );
    }

    fn on_close(&mut self, turn: &mut Turn<'_>, _: ConnId, member: Member, _: &CloseCause) {
        let _ = turn.publish(&member.room, format!("{} has left", member.name));
    }
}

fn main() -> Result<(), StartError> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or("127.0.0.1:9001".to_owned());
    let server = Server::builder().listen(address).start(|_shard| Chat)?;
    for address in server.addresses() {
        println!("ws://{address}/");
    }
    server.join()
}
