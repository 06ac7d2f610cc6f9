//! Why a template is refused, or a rendering ends.

use std::fmt;

/// An error with the template's line, where it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error {
    /// The line, from 1.
    pub line: Option<u32>,
    /// What was found, and what is accepted.
    pub reason: String,
}

/// What compiling and rendering return.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error at a line.
    pub(crate) fn at(line: u32, reason: impl Into<String>) -> Self {
        Self {
            line: Some(line),
            reason: reason.into(),
        }
    }

    /// An error whose line whoever called knows.
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self {
            line: None,
            reason: reason.into(),
        }
    }

    /// The same error, at this line unless it has one.
    pub(crate) fn or_at(mut self, line: u32) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for Error {}

/// An error of a value of the wrong kind.
pub(super) fn type_error<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::new(reason))
}
