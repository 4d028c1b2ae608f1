//! Just enough of DER (X.690) for OCSP: elements one after the other in, a few kinds out.

use x509_parser::asn1_rs::{Any, Class, FromDer, GeneralizedTime, Tag};

use super::{Reason, Refused};
use crate::identity::UnixSeconds;

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    BitString,
    OctetString,
    Oid,
    Enumerated,
    Sequence,
    Time,
    Boolean,
    /// `[n]`, of this class of tags.
    Context(u32),
}

impl Kind {
    fn is_of(self, any: &Any<'_>) -> bool {
        let (class, tag, constructed) = match self {
            Self::Integer => (Class::Universal, Tag::Integer.0, Some(false)),
            Self::BitString => (Class::Universal, Tag::BitString.0, Some(false)),
            Self::OctetString => (Class::Universal, Tag::OctetString.0, Some(false)),
            Self::Oid => (Class::Universal, Tag::Oid.0, Some(false)),
            Self::Enumerated => (Class::Universal, Tag::Enumerated.0, Some(false)),
            Self::Sequence => (Class::Universal, Tag::Sequence.0, Some(true)),
            Self::Time => (Class::Universal, Tag::GeneralizedTime.0, Some(false)),
            Self::Boolean => (Class::Universal, Tag::Boolean.0, Some(false)),
            Self::Context(n) => (Class::ContextSpecific, n, None),
        };
        any.class() == class
            && any.tag().0 == tag
            && constructed.is_none_or(|wanted| any.header.is_constructed() == wanted)
    }
}

/// Elements that are still to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elements<'a>(pub(super) &'a [u8]);

impl<'a> Elements<'a> {
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next element with all of its octets, if it is of this kind.
    fn peek(self, kind: Kind) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
        let (rest, any) = Any::from_der(self.0).ok()?;
        let whole = self.0.get(..self.0.len().checked_sub(rest.len())?)?;
        kind.is_of(&any).then_some((any.data, whole, rest))
    }

    /// The content of the next element, which must be of this kind.
    pub(super) fn take(&mut self, kind: Kind, what: &str) -> Result<&'a [u8], Refused> {
        Ok(self.take_whole(kind, what)?.0)
    }

    /// The same with all of its octets.
    pub(super) fn take_whole(
        &mut self,
        kind: Kind,
        what: &str,
    ) -> Result<(&'a [u8], &'a [u8]), Refused> {
        let (content, whole, rest) = self.peek(kind).ok_or_else(|| bad(what))?;
        self.0 = rest;
        Ok((content, whole))
    }

    /// The content of the next element, if it is of this kind.
    pub(super) fn optional(&mut self, kind: Kind) -> Option<&'a [u8]> {
        let (content, _, rest) = self.peek(kind)?;
        self.0 = rest;
        Some(content)
    }

    /// The next element is a sequence.
    pub(super) fn sequence(&mut self, what: &str) -> Result<Self, Refused> {
        self.take(Kind::Sequence, what).map(Self)
    }

    /// The next element is a time, in the one form of RFC 5019 section 2.2.4.
    pub(super) fn time(&mut self, what: &str) -> Result<UnixSeconds, Refused> {
        let text = self.take(Kind::Time, what)?;
        if text.len() != 15 || text.last() != Some(&b'Z') {
            return Err(bad(what));
        }
        GeneralizedTime::from_bytes(text)
            .and_then(|time| time.utc_datetime())
            .map(|time| UnixSeconds(time.unix_timestamp()))
            .map_err(|_malformed| bad(what))
    }

    /// Nothing is left.
    pub(super) fn end(self, what: &str) -> Result<(), Refused> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(bad(what))
        }
    }
}

pub(super) fn bad(what: &str) -> Refused {
    Refused::new(Reason::Malformed, format!("its {what} can't be read"))
}

/// An element of this tag around `content`.
pub(super) fn element(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let length: usize = content.iter().map(|part| part.len()).sum();
    let octets = length.to_be_bytes();
    let start = octets.iter().position(|octet| *octet != 0);
    let digits = start.and_then(|at| octets.get(at..)).unwrap_or(&[0]);
    let mut out = vec![tag];
    if length >= 0x80 {
        out.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
    }
    out.extend_from_slice(digits);
    content.iter().for_each(|part| out.extend_from_slice(part));
    out
}
