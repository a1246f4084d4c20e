//! What is wrong with settings, or unwise, and where it stands.
//!
//! Knows: places and sentences. Refuses to know: how they were found.

use std::fmt;

/// Where a setting was given its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nowhere: it has its default.
    #[default]
    Nowhere,
    /// In a file, at a line and a column that both count from 1.
    File {
        /// The path, as it was named.
        path: String,
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// In a variable of the environment.
    Variable(String),
    /// On the command line, by this flag.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("the settings"),
            Self::File { path, line, column } => write!(f, "{path}:{line}:{column}"),
            Self::Variable(name) => write!(f, "{name} in the environment"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

impl Place {
    /// The line in a file; 0 elsewhere.
    pub const fn line(&self) -> usize {
        match self {
            Self::File { line, .. } => *line,
            _ => 0,
        }
    }

    /// What a person calls a setting that stands here: by its flag, its variable or its key.
    pub fn name_of(&self, key: &str) -> String {
        match self {
            Self::Flag(flag) => flag.clone(),
            Self::Variable(name) => name.clone(),
            Self::Nowhere | Self::File { .. } => key.to_owned(),
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing can be served with it.
    Error,
    /// It is legal and most likely not what was meant.
    Warning,
}

/// Something that is wrong or unwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// How bad.
    pub severity: Severity,
    /// What, and what to do.
    pub sentence: String,
}

impl Finding {
    /// Nothing can be served.
    pub fn error(place: Place, sentence: impl Into<String>) -> Self {
        Self {
            place,
            severity: Severity::Error,
            sentence: sentence.into(),
        }
    }

    /// It is served.
    pub fn warning(place: Place, sentence: impl Into<String>) -> Self {
        Self {
            place,
            severity: Severity::Warning,
            sentence: sentence.into(),
        }
    }

    /// Whether nothing can be served with it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        match &self.place {
            // A file's place is read by editors, and its sentence names the key.
            Place::File { .. } => write!(f, "{}: {severity}: {}", self.place, self.sentence),
            _ => write!(f, "{severity}: {}", self.sentence),
        }
    }
}
