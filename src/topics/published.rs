//! A message on its way to those who subscribe.
//!
//! Knows: what a service may look at. Refuses to know: where it goes.

use super::Position;
use crate::proto::message::Message;

/// A message of a topic, as [`Service::envelope`](crate::Service::envelope) sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Published<'a> {
    /// Its topic.
    pub topic: &'a [u8],
    /// The message as it was published.
    pub message: Message<'a>,
    /// Its number, where the topic keeps messages.
    pub position: Option<Position>,
}

impl<'a> Published<'a> {
    /// A message of this topic.
    pub const fn new(topic: &'a [u8], message: Message<'a>, position: Option<Position>) -> Self {
        Self {
            topic,
            message,
            position,
        }
    }
}
