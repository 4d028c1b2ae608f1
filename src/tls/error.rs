//! What can be wrong with files: which one, which certificate in it, what was expected, what to do.

use std::path::{Path, PathBuf};

use crate::identity::{CertFacts, UnixSeconds};

/// A certificate, key or CRL file that can't be used. A load reports all of them at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; {advice}", self.what())]
pub struct MaterialError {
    /// The file.
    pub file: PathBuf,
    /// Which certificate or CRL in it, where that is known.
    pub certificate: Option<String>,
    /// What is wrong, and what was expected.
    pub problem: String,
    /// What to do.
    pub advice: String,
    /// Key and certificate do not fit each other. They are two files: one of them may just have
    /// been replaced, and the other is about to be.
    pub half: bool,
}

impl MaterialError {
    /// File, certificate and problem, without the advice.
    #[must_use]
    pub fn what(&self) -> String {
        let file = self.file.display();
        match &self.certificate {
            Some(certificate) => format!("{file}: {certificate}: {}", self.problem),
            None => format!("{file}: {}", self.problem),
        }
    }

    /// A problem of a whole file.
    pub(super) fn file(file: &Path, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            certificate: None,
            problem: problem.into(),
            advice: advice.into(),
            half: false,
        }
    }

    /// A problem of one certificate in a file.
    pub(super) fn certificate(
        file: &Path,
        facts: &CertFacts,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            certificate: Some(format!("certificate {}", facts.describe())),
            ..Self::file(file, problem, advice)
        }
    }
}

/// TLS options that yield no working configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the TLS options can't be used: {reason}; see [tls] min_version, ciphers and key_exchange")]
pub struct SetupError {
    /// What the library said.
    pub reason: String,
}

impl From<rustls::Error> for SetupError {
    fn from(error: rustls::Error) -> Self {
        Self {
            reason: error.to_string(),
        }
    }
}

/// A time for people: RFC 3339, UTC.
pub(super) fn when(at: UnixSeconds) -> String {
    time::OffsetDateTime::from_unix_timestamp(at.0)
        .ok()
        .and_then(|t| {
            t.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_else(|| format!("{} s after 1970", at.0))
}
