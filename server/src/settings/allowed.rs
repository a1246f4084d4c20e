//! `[PATH=]ORIGIN`, as people write who may connect.
//!
//! Knows: the form. Refuses to know: how a request is judged; the library does.

use ringwire::service::{OriginError, Origins};

/// An origin that is welcome, at one path or at all.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// Here, or everywhere.
    pub path: Option<String>,
    /// As it was written.
    pub origin: String,
}

impl Allowed {
    /// Reads `[PATH=]ORIGIN`.
    ///
    /// # Errors
    ///
    /// Why it is no origin.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        // An origin begins with a letter or an asterisk.
        let (path, origin) = match text.split_once('=') {
            Some((path, origin)) if path.starts_with('/') => (Some(path.to_owned()), origin),
            _ => (None, text),
        };
        Origins::default().allow(origin)?;
        let origin = origin.to_owned();
        Ok(Self { path, origin })
    }
}
