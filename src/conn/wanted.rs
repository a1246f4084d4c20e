//! What is asked of topics.
//!
//! Knows: messages, and wishes for earlier ones, in the order in which somebody wanted them.
//! Refuses to know: who subscribes, and by which shard it is done.

use std::fmt;

use bytes::Bytes;

use super::ConnId;
use crate::{
    proto::message::{Frame, Outgoing},
    topics::{Position, Recalled, Since, TopicError, name::check_name},
};

/// Something that is asked of topics.
#[derive(Debug)]
pub enum Wanted {
    /// Give a message to all who subscribe.
    Publish(Publication),
    /// Tell what is kept.
    Recall(Request),
}

impl Wanted {
    /// Of which topic.
    pub const fn topic(&self) -> &Bytes {
        match self {
            Self::Publish(publication) => &publication.topic,
            Self::Recall(request) => &request.topic,
        }
    }

    /// Bytes of memory that it takes.
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Publish(publication) => publication.held_bytes(),
                Self::Recall(request) => request.topic.len(),
            }
    }
}

/// A message for all who subscribe to a topic.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The topic.
    pub topic: Bytes,
    /// The message.
    pub frame: Frame,
    /// What may be replaced by it where the topic is conflated; its topic if it has none.
    pub key: Option<Bytes>,
    /// Who does not get it.
    pub except: Option<ConnId>,
    /// It goes to the other shards as well.
    pub is_for_all: bool,
    /// Its number, where messages of the topic are kept: given at the topic's home.
    pub position: Option<Position>,
    /// It goes without a number although others of its topic have one: the home is gone.
    pub is_unnumbered: bool,
}

impl Publication {
    /// One that goes to everybody.
    ///
    /// # Errors
    ///
    /// When that is not the name of a topic.
    pub fn new(topic: &[u8], message: &Outgoing<'_>) -> Result<Self, TopicError> {
        check_name(topic)?;
        Ok(Self {
            topic: Bytes::copy_from_slice(topic),
            frame: Frame::new(message),
            key: None,
            except: None,
            is_for_all: true,
            position: None,
            is_unnumbered: false,
        })
    }

    /// One that was kept.
    pub const fn kept(topic: Bytes, frame: Frame, position: Position) -> Self {
        Self {
            topic,
            frame,
            key: None,
            except: None,
            is_for_all: false,
            position: Some(position),
            is_unnumbered: false,
        }
    }

    /// Whether it goes to the same connections as another one.
    pub fn is_for_those_of(&self, other: &Self) -> bool {
        self.topic == other.topic && self.except == other.except
    }

    /// Bytes of memory that it takes.
    pub fn held_bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, Bytes::len);
        size_of::<Self>() + self.topic.len() + self.frame.bytes().len() + key
    }
}

/// A wish for earlier messages of a topic, which are kept.
#[derive(Debug)]
pub struct Request {
    /// The topic.
    pub topic: Bytes,
    /// From there on.
    pub since: Since,
    /// Who wants it.
    pub asker: Asker,
}

/// Who gets an answer.
pub enum Asker {
    /// A connection, and which of its wishes it is.
    Connection(ConnId, u32),
    /// Somebody outside of all shards. Called once, on the home's thread.
    Outside(Box<dyn FnOnce(Recalled) + Send>),
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(id, ticket) => {
                f.debug_tuple("Connection").field(id).field(ticket).finish()
            }
            Self::Outside(_) => f.write_str("Outside"),
        }
    }
}
