//! Messages of topics that wait until a peer has taken what was sent to it before.
//!
//! Knows: whole frames in the order in which they came, how many bytes they are, and what may be
//! left out. Refuses to know: what is sent now, and everything that is no message of a topic:
//! control frames and answers never wait here, so that none of them is ever left out.
//!
//! A frame that waits takes [`WAITING_BYTES`], whatever its length: its bytes are shared by all who
//! wait for it. There is a backlog only while a send is in flight; its end takes the next ones.

use std::collections::VecDeque;

use crate::ring::{Common, SendArena, SendQueue};

/// What one frame takes while it waits.
pub const WAITING_BYTES: usize = size_of::<Waiting>();

const _: () = assert!(WAITING_BYTES <= 16);

/// Shorter frames are copied into one piece of a send: it has few pieces, and they are many.
const COPIED_BYTES_MAX: usize = 1024;

/// So many bytes go into one send, unless a single frame has more.
const LOAD_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
struct Waiting {
    frame: Common,
    /// A newer frame with the same number may take its place.
    key: u64,
}

/// What waits for one peer.
#[derive(Debug, Default)]
pub struct Backlog {
    frames: VecDeque<Waiting>,
    bytes: usize,
}

impl Backlog {
    /// Frames that wait.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes that they are.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory that it takes, without those that all share.
    pub fn held_bytes(&self) -> usize {
        self.frames.capacity() * WAITING_BYTES
    }

    /// Every frame that waits.
    #[cfg(feature = "sim")]
    pub fn frames(&self) -> impl Iterator<Item = &Common> {
        self.frames.iter().map(|waiting| &waiting.frame)
    }

    /// Puts a frame behind all others.
    pub fn push(&mut self, frame: Common, key: u64) {
        self.bytes += frame.len();
        self.frames.push_back(Waiting { frame, key });
    }

    /// Leaves the oldest frame out. Returns whether there was one.
    pub fn drop_oldest(&mut self) -> bool {
        let oldest = self.frames.pop_front();
        self.bytes -= oldest.as_ref().map_or(0, |oldest| oldest.frame.len());
        oldest.is_some()
    }

    /// Puts a frame into the place of the one with the same key, if there is one.
    ///
    /// # Errors
    ///
    /// The frame, when there is none.
    pub fn replace(&mut self, frame: Common, key: u64) -> Result<(), Common> {
        match self.frames.iter_mut().rev().find(|it| it.key == key) {
            Some(waiting) => {
                self.bytes = self.bytes - waiting.frame.len() + frame.len();
                waiting.frame = frame;
                Ok(())
            }
            None => Err(frame),
        }
    }

    /// Moves as many frames to the end of a queue as go well into one send.
    pub fn load(&mut self, queue: &mut SendQueue, arena: &mut SendArena) {
        while queue.is_empty() || queue.len() < LOAD_BYTES_MAX && queue.room_for_pieces() > 1 {
            let Some(Waiting { frame, .. }) = self.frames.pop_front() else {
                break;
            };
            self.bytes -= frame.len();
            if frame.len() < COPIED_BYTES_MAX {
                queue.write(arena, frame.bytes());
            } else {
                queue.push_common(frame);
            }
        }
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
    }

    /// Moves all frames to the end of a queue.
    pub fn load_all(self, queue: &mut SendQueue) {
        for Waiting { frame, .. } in self.frames {
            queue.push_common(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ring::SendArena;

    fn contents(queue: Box<SendQueue>, arena: &mut SendArena) -> Vec<u8> {
        let all = queue.pieces().flatten().copied().collect();
        arena.retire(queue);
        all
    }

    #[test]
    fn frames_leave_in_order_and_in_loads() {
        let mut arena = SendArena::new(1 << 15, 0);
        let mut backlog = Backlog::default();
        for byte in 0..=255 {
            backlog.push(arena.common(Bytes::from(vec![byte; 1024])), 0);
        }
        assert_eq!((backlog.len(), backlog.bytes()), (256, 256 << 10));
        assert_eq!(arena.held_bytes(), 256 << 10);
        let mut taken = Vec::new();
        let mut loads = 0;
        while !backlog.is_empty() {
            let mut queue = arena.queue();
            backlog.load(&mut queue, &mut arena);
            assert!(queue.len() <= LOAD_BYTES_MAX + 1024);
            taken.extend(contents(queue, &mut arena));
            loads += 1;
        }
        assert_eq!(loads, 5);
        let wanted: Vec<u8> = (0..=255).flat_map(|byte| vec![byte; 1024]).collect();
        assert_eq!(taken, wanted);
        assert_eq!(
            (backlog.bytes(), backlog.held_bytes(), arena.out_bytes()),
            (0, 0, 0)
        );
    }

    #[test]
    fn short_frames_go_out_in_few_pieces() {
        let mut arena = SendArena::new(1 << 15, 0);
        let mut backlog = Backlog::default();
        let frame = arena.common(Bytes::from_static(b"\x81\x05short"));
        for _ in 0..4000 {
            backlog.push(frame.clone(), 0);
        }
        let mut queue = arena.queue();
        backlog.load(&mut queue, &mut arena);
        assert!(backlog.is_empty() && queue.pieces().count() < 4);
        assert_eq!(queue.len(), 28_000);
        arena.retire(queue);
    }

    #[test]
    fn ten_thousand_references_to_one_payload_take_32_bytes_each_at_most() {
        let arena = SendArena::new(1 << 15, 0);
        let frame = arena.common(Bytes::from(vec![7; 4096]));
        let mut backlogs: Vec<Backlog> = (0..100).map(|_| Backlog::default()).collect();
        for backlog in &mut backlogs {
            for _ in 0..100 {
                backlog.push(frame.clone(), 0);
            }
        }
        let held: usize = backlogs.iter().map(Backlog::held_bytes).sum();
        assert!(held <= 10_000 * 32, "{held}");
        assert_eq!(arena.held_bytes(), 4096);
        drop((backlogs, frame));
        assert_eq!(arena.held_bytes(), 0);
    }

    #[test]
    fn the_oldest_is_left_out_and_the_newest_takes_the_place_of_its_like() {
        let mut arena = SendArena::new(1 << 15, 0);
        let mut backlog = Backlog::default();
        let frame = |text: &'static str| Bytes::from_static(text.as_bytes());
        for (text, key) in [("a1 ", 1), ("b1 ", 2), ("c1 ", 3)] {
            backlog.push(arena.common(frame(text)), key);
        }
        assert!(
            backlog
                .replace(arena.common(frame("b2, newer ")), 2)
                .is_ok()
        );
        assert!(backlog.replace(arena.common(frame("d1 ")), 4).is_err());
        assert!(backlog.drop_oldest());
        assert_eq!(backlog.bytes(), 13);
        let mut queue = arena.queue();
        backlog.load_all(&mut queue);
        assert_eq!(contents(queue, &mut arena), b"b2, newer c1 ");
        assert!(!Backlog::default().drop_oldest());
    }
}
