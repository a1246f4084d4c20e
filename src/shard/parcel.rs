//! What shards have for each other's subscribers.
//!
//! Knows: what is in a parcel and how much memory that takes. Refuses to know: how it gets from one
//! shard to another, and what is done there.
//!
//! A parcel can always be taken in. What a shard is to do as the home of a topic
//! ([`Wanted`]) may have to wait for that: it travels on a way of its own.

use bytes::Bytes;

use crate::{
    conn::{
        ConnId,
        wanted::{Publication, Wanted},
    },
    topics::Recalled,
};

/// Something for the subscribers of a shard.
#[derive(Debug)]
pub enum Parcel {
    /// To all who subscribe to its topic.
    Message(Publication),
    /// To the one who has asked for it.
    Recalled(Box<Answer>),
}

/// What a subscriber has asked for of a topic's history.
#[derive(Debug)]
pub struct Answer {
    /// Who has.
    pub to: ConnId,
    /// Which of its wishes it was.
    pub ticket: u32,
    /// The topic.
    pub topic: Bytes,
    /// What is kept.
    pub recalled: Recalled,
}

/// What can wait in a queue of messages.
pub trait Carries {
    /// The message that it is, if it is one.
    fn publication(&self) -> Option<&Publication>;

    /// The same.
    fn into_publication(self) -> Option<Publication>;

    /// Bytes of memory that it takes.
    fn held_bytes(&self) -> usize;
}

impl Carries for Parcel {
    fn publication(&self) -> Option<&Publication> {
        match self {
            Self::Message(publication) => Some(publication),
            Self::Recalled(_) => None,
        }
    }

    fn into_publication(self) -> Option<Publication> {
        match self {
            Self::Message(publication) => Some(publication),
            Self::Recalled(_) => None,
        }
    }

    fn held_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Message(publication) => publication.held_bytes(),
                Self::Recalled(answer) => answer.topic.len() + answer.recalled.held_bytes(),
            }
    }
}

impl Carries for Wanted {
    fn publication(&self) -> Option<&Publication> {
        match self {
            Self::Publish(publication) => Some(publication),
            Self::Recall(_) => None,
        }
    }

    fn into_publication(self) -> Option<Publication> {
        match self {
            Self::Publish(publication) => Some(publication),
            Self::Recall(_) => None,
        }
    }

    fn held_bytes(&self) -> usize {
        Self::held_bytes(self)
    }
}
