//! What can go wrong in the authority, told so that the next step is known.

use std::{io, path::PathBuf};

/// A command of the authority that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// What was asked for is wrong: names, options, a profile, a file's content.
    #[error("{0}")]
    Invalid(String),
    /// A certificate that a peer would not accept.
    #[error("{0}")]
    Refused(String),
    /// A file could not be read, written or locked.
    #[error("can't {act} {}: {source}", path.display())]
    File {
        /// read, write, lock…
        act: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is done, but not all of it is in its place yet.
    #[error("{0}: it is done all the same, and the next command on this store completes it")]
    Unfinished(Box<Self>),
    /// A key or certificate could not be made or read.
    #[error("{what}: {reason}")]
    Crypto {
        /// Which.
        what: String,
        /// The library's word.
        reason: String,
    },
}

impl PkiError {
    /// 2: what was typed or a file that it names is wrong; 1: the machine failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid(_) => 2,
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => 2,
            Self::Refused(_) | Self::File { .. } | Self::Unfinished(_) | Self::Crypto { .. } => 1,
        }
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    pub(super) fn file(act: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File {
            act,
            path: path.into(),
            source,
        }
    }

    pub(super) fn crypto(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Crypto {
            what: what.into(),
            reason: reason.to_string(),
        }
    }
}
