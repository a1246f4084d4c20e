//! What topics are called, and what patterns name several of them.
//!
//! Knows: segments with dots between them, `*` and `>`. Refuses to know: who subscribes to what.
//!
//! The rules are those of NATS subjects (docs.nats.io, "Subject-Based Messaging"): a name is one
//! segment or several, none of them empty; in a pattern `*` stands for any one segment, and `>` at
//! the end for one or more. As in MQTT (version 5.0, section 4.7.2), names that begin with `$` are
//! not matched by patterns that begin with a wildcard: who asks for all does not ask for what a
//! server has to say of itself.

use std::fmt;

/// The longest name or pattern, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// The most segments of a name or pattern. Of patterns that differ in where they have a `*`, a name
/// with so many can match 2 to that power, and each costs time.
pub const SEGMENTS_MAX: usize = 16;

const ANY: &[u8] = b"*";
const REST: &[u8] = b">";

/// Why something is not the name of a topic, or not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicError {
    /// It has a segment without a byte, or nothing at all.
    EmptySegment,
    /// `>` stands for all that follows, so that it can only be the last segment.
    RestNotLast,
    /// It has more than 255 bytes.
    TooLong,
    /// It has more than 16 segments.
    TooManySegments,
    /// A message goes to one topic: `*` and `>` are for those who subscribe.
    Wildcard,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptySegment => {
                "a topic is one segment or several with a dot between them, as in news.sport, and \
                 none of them is empty"
            }
            Self::RestNotLast => {
                "a > stands for all segments that follow, so it has to be the last"
            }
            Self::TooLong => "a topic has at most 255 bytes",
            Self::TooManySegments => "a topic has at most 16 segments",
            Self::Wildcard => {
                "a message is published to one topic; * and > are for those who subscribe"
            }
        })
    }
}

impl std::error::Error for TopicError {}

/// Whether a pattern stands for more than itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It is the name of one topic.
    One,
    /// It has a `*` or a `>`.
    Several,
}

/// The segments of a name or pattern.
pub fn segments(name: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    name.split(|&byte| byte == b'.')
}

/// What a segment of a pattern stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Any one segment.
    Any,
    /// One segment or more.
    Rest,
    /// This one.
    This(&'a [u8]),
}

impl<'a> Segment<'a> {
    /// What it stands for in a pattern.
    pub fn of_pattern(segment: &'a [u8]) -> Self {
        match segment {
            ANY => Self::Any,
            REST => Self::Rest,
            _ => Self::This(segment),
        }
    }
}

/// Looks whether this is a pattern.
///
/// # Errors
///
/// Why it is not.
pub fn check_pattern(pattern: &[u8]) -> Result<Reach, TopicError> {
    if pattern.len() > NAME_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    let mut reach = Reach::One;
    let mut is_over = false;
    for (index, segment) in segments(pattern).enumerate() {
        if segment.is_empty() {
            return Err(TopicError::EmptySegment);
        }
        if index == SEGMENTS_MAX {
            return Err(TopicError::TooManySegments);
        }
        if is_over {
            return Err(TopicError::RestNotLast);
        }
        match Segment::of_pattern(segment) {
            Segment::Any => reach = Reach::Several,
            Segment::Rest => {
                reach = Reach::Several;
                is_over = true;
            }
            Segment::This(_) => {}
        }
    }
    Ok(reach)
}

/// Looks whether this is the name of a topic.
///
/// # Errors
///
/// Why it is not.
pub fn check_name(name: &[u8]) -> Result<(), TopicError> {
    match check_pattern(name)? {
        Reach::One => Ok(()),
        Reach::Several => Err(TopicError::Wildcard),
    }
}

/// Whether all that a pattern stands for is among what another one stands for: whoever may have the
/// wider one may have this one.
///
/// ```
/// use ringwire::topics::name::covers;
///
/// assert!(covers(b"chat.>", b"chat.*.read"));
/// assert!(!covers(b"chat.*", b"chat.>"));
/// ```
pub fn covers(wide: &[u8], pattern: &[u8]) -> bool {
    let mut wide = segments(wide).map(Segment::of_pattern);
    let mut pattern = segments(pattern).map(Segment::of_pattern);
    loop {
        match (wide.next(), pattern.next()) {
            (None, None) | (Some(Segment::Rest), Some(_)) => return true,
            (Some(Segment::Any), Some(Segment::Any | Segment::This(_))) => {}
            (Some(Segment::This(wide)), Some(Segment::This(this))) if wide == this => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_are_those_of_nats() {
        for name in ["a", "a.b", "a.b.c", "a*", "*a", ">a", "a>.b", "\u{e9}.\0"] {
            assert_eq!(check_name(name.as_bytes()), Ok(()), "{name}");
        }
        for pattern in ["*", ">", "a.*", "a.>", "*.b.*", "*.>"] {
            assert_eq!(check_pattern(pattern.as_bytes()), Ok(Reach::Several));
            assert_eq!(check_name(pattern.as_bytes()), Err(TopicError::Wildcard));
        }
        for wrong in ["", ".", "a.", ".a", "a..b", "*..*"] {
            let checked = check_pattern(wrong.as_bytes());
            assert_eq!(checked, Err(TopicError::EmptySegment), "{wrong}");
        }
        for wrong in [">.a", "a.>.b", ">.>"] {
            let checked = check_pattern(wrong.as_bytes());
            assert_eq!(checked, Err(TopicError::RestNotLast), "{wrong}");
        }
    }

    #[test]
    fn the_longest_and_the_deepest_are_within_their_bounds() {
        assert_eq!(check_name(&[b'a'; NAME_BYTES_MAX]), Ok(()));
        let long = check_name(&[b'a'; NAME_BYTES_MAX + 1]);
        assert_eq!(long, Err(TopicError::TooLong));
        let deep = vec!["a"; SEGMENTS_MAX].join(".");
        assert_eq!(check_name(deep.as_bytes()), Ok(()));
        let deeper = format!("{deep}.a");
        let checked = check_name(deeper.as_bytes());
        assert_eq!(checked, Err(TopicError::TooManySegments));
    }

    #[test]
    fn a_wider_pattern_covers_a_narrower_one() {
        for (wide, narrow) in [
            ("a", "a"),
            ("*", "a"),
            ("*", "*"),
            (">", "*"),
            (">", "a.b.*"),
            (">", ">"),
            ("a.>", "a.*.>"),
            ("a.*.c", "a.b.c"),
        ] {
            assert!(
                covers(wide.as_bytes(), narrow.as_bytes()),
                "{wide} {narrow}"
            );
        }
        for (wide, narrow) in [
            ("a", "b"),
            ("a", "*"),
            ("a", "a.b"),
            ("a.b", "a"),
            ("*", ">"),
            ("*", "a.b"),
            ("a.>", "a"),
            ("a.*", "a.>"),
            ("a.*.c", "a.*"),
        ] {
            assert!(
                !covers(wide.as_bytes(), narrow.as_bytes()),
                "{wide} {narrow}"
            );
        }
    }
}
