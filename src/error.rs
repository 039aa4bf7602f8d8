//! Configuration errors: what is wrong, and with which entry.

use std::fmt;

/// An entry of the configuration that cannot be used. Returned by builders at the call that takes the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    entry: Box<str>,
    why: Box<str>,
}

impl ConfigError {
    /// `entry` is the offending input as the operator wrote it (never a secret), `why` a sentence about it.
    #[must_use]
    pub fn new(entry: impl Into<Box<str>>, why: impl Into<Box<str>>) -> Self {
        Self { entry: entry.into(), why: why.into() }
    }

    /// The offending entry.
    #[must_use]
    pub fn entry(&self) -> &str {
        &self.entry
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.entry.escape_debug(), self.why)
    }
}

impl std::error::Error for ConfigError {}
