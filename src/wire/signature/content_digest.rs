//! `Content-Digest` (RFC 9530): the hash of a body, which a signature of the head can cover.

use aws_lc_rs::digest::{self, Context};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::structured;

/// `Content-Digest`.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// The field for a body: SHA-256.
#[must_use]
pub fn of_body<'a>(body: impl IntoIterator<Item = &'a [u8]>) -> HeaderValue {
    let mut context = Context::new(&digest::SHA256);
    for part in body {
        context.update(part);
    }
    let text = [
        "sha-256=",
        &structured::byte_sequence(context.finish().as_ref()),
    ]
    .concat();
    // letters, digits and base64
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("sha-256=::"))
}

/// A body that is hashed while it passes, and has to come to what its head says.
pub struct Expected {
    hashes: Vec<(Context, Vec<u8>)>,
}

impl std::fmt::Debug for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expected").finish_non_exhaustive()
    }
}

/// Why a body can't be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDigest {
    /// There is no such field.
    #[error("no Content-Digest")]
    Absent,
    /// It can't be read.
    #[error("Content-Digest is no dictionary of byte sequences")]
    Malformed,
    /// It has neither of the two that are safe.
    #[error("Content-Digest has neither sha-256 nor sha-512")]
    Unknown,
}

impl Expected {
    /// What the head says: every hash in it that is known has to fit.
    ///
    /// # Errors
    /// It says nothing that can be checked.
    pub fn of(headers: &HeaderMap) -> Result<Self, NoDigest> {
        let field = super::joined(headers, &CONTENT_DIGEST).ok_or(NoDigest::Absent)?;
        let members = structured::octets(&field).map_err(|_malformed| NoDigest::Malformed)?;
        let known = |(name, value): (String, Vec<u8>)| match name.as_str() {
            "sha-256" => Some((Context::new(&digest::SHA256), value)),
            "sha-512" => Some((Context::new(&digest::SHA512), value)),
            _ => None,
        };
        let hashes: Vec<_> = members.into_iter().filter_map(known).collect();
        if hashes.is_empty() {
            return Err(NoDigest::Unknown);
        }
        Ok(Self { hashes })
    }

    /// The next part of the body.
    pub fn update(&mut self, part: &[u8]) {
        for (context, _) in &mut self.hashes {
            context.update(part);
        }
    }

    /// Whether the whole body was what its head says.
    #[must_use]
    pub fn fits(self) -> bool {
        self.hashes
            .into_iter()
            .all(|(context, value)| context.finish().as_ref() == value.as_slice())
    }
}
