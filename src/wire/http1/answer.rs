//! An answer's head (RFC 9112 sections 4 and 5), and what it says of the answer's end (section 6.3).

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use super::{Connection, names};

/// The longest head of an answer.
pub const MAX_HEAD: usize = 64 << 10;
/// The most fields of one.
pub const MAX_FIELDS: usize = 100;
/// The most empty lines before one (RFC 9112 section 2.2 has servers skip one).
const MAX_EMPTY: u8 = 8;

/// Why bytes are no answer that has one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not `HTTP/1.1 NNN reason`.
    #[error("the status line is not \"HTTP/1.1 NNN reason\"")]
    StatusLine,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    #[error("the answer's version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    /// Folded, or without a colon, or with octets that have no place there.
    #[error("a field line of the answer is not \"name: value\"")]
    Field,
    /// More than [`MAX_FIELDS`].
    #[error("the answer's head has more than {MAX_FIELDS} fields")]
    TooMany,
    /// More than [`MAX_HEAD`].
    #[error("the answer's head is longer than {MAX_HEAD} bytes")]
    TooLong,
    /// Anything but one `chunked`, or that in HTTP/1.0.
    #[error("a transfer coding other than chunked")]
    Coding,
    /// Repeated, signed, a list or no number at all.
    #[error("a Content-Length that is not one number")]
    Length,
    /// RFC 9112 section 6.1.
    #[error("Content-Length beside Transfer-Encoding")]
    LengthAndCoding,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// With its head.
    Absent,
    /// After so many octets.
    Sized(u64),
    /// With its last chunk.
    Chunked,
    /// With the connection.
    Close,
    /// Never: what follows is no longer HTTP.
    Tunnel,
}

/// What an answer's end depends on of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// HEAD: no answer has a body.
    Head,
    /// CONNECT: a success is a tunnel.
    Connect,
    /// Any other method.
    Other,
}

impl Asked {
    /// By its method.
    #[must_use]
    pub fn of(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Head,
            Method::CONNECT => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// An answer's head.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// HTTP/1.1 or HTTP/1.0.
    pub version: Version,
    /// Its fields.
    pub headers: HeaderMap,
    /// Where it ends.
    pub length: Length,
    /// The connection may carry another exchange.
    pub keep_alive: bool,
}

impl Head {
    /// Whether another answer follows (RFC 9110 section 15.2).
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// A head as far as it has come.
#[derive(Debug, Default)]
pub struct Heads {
    /// So far its end was looked for.
    seen: usize,
    /// Empty lines that came before it.
    empty: u8,
}

/// Where a field lies in its head.
#[derive(Clone, Copy, Default)]
struct Place {
    name: (u32, u32),
    value: (u32, u32),
}

impl Heads {
    /// Takes a head off the front of `buf`, if all of it is there. `table` is used for the fields of
    /// one that is not interim; until such a head is there, it is left as it is.
    ///
    /// # Errors
    /// It is none, or one with two readings.
    pub fn read(
        &mut self,
        buf: &mut BytesMut,
        asked: Asked,
        table: &mut HeaderMap,
    ) -> Result<Option<Head>, Fault> {
        self.skip_empty(buf)?;
        if buf.is_empty() || (self.seen > 0 && !self.may_end(buf)) {
            return self.more(buf.len());
        }
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut places = [Place::default(); MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let length = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut parsed, buf, &mut fields)
            .map_err(fault)?;
        let httparse::Status::Complete(length) = length else {
            return self.more(buf.len());
        };
        if length > MAX_HEAD {
            return Err(Fault::TooLong);
        }
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(Fault::StatusLine)?;
        let version = match parsed.version {
            Some(1) => Version::HTTP_11,
            _ => Version::HTTP_10,
        };
        let mut facts = Facts::default();
        let start = buf.as_ptr() as usize;
        let place = |bytes: &[u8]| {
            let from = (bytes.as_ptr() as usize).saturating_sub(start);
            let place = (from, from.saturating_add(bytes.len()));
            // a head is not longer than that
            (
                u32::try_from(place.0).unwrap_or(0),
                u32::try_from(place.1).unwrap_or(0),
            )
        };
        let count = parsed.headers.len();
        for (at, field) in places.iter_mut().zip(parsed.headers.iter()) {
            *at = Place {
                name: place(field.name.as_bytes()),
                value: place(field.value),
            };
            facts.field(field.name.as_bytes(), field.value);
        }
        *self = Self::default();
        let bytes = buf.split_to(length).freeze();
        let interim = status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS;
        let length = if interim {
            Length::Absent
        } else {
            facts.length(status, version, asked)?
        };
        let mut headers = match interim {
            true => HeaderMap::new(),
            false => std::mem::take(table),
        };
        headers.clear();
        let places = places.get(..count).unwrap_or_default();
        collect(&bytes, places, &mut headers)?;
        Ok(Some(Head {
            status,
            version,
            headers,
            keep_alive: facts.connection.keeps(version == Version::HTTP_10)
                && !matches!(length, Length::Close | Length::Tunnel),
            length,
        }))
    }

    /// Takes empty lines off the front: each of them would look like the end of a head.
    fn skip_empty(&mut self, buf: &mut BytesMut) -> Result<(), Fault> {
        loop {
            let line = match **buf {
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                _ => return Ok(()),
            };
            self.empty = self.empty.saturating_add(1);
            if self.empty > MAX_EMPTY {
                return Err(Fault::StatusLine);
            }
            buf.advance(line);
            self.seen = 0;
        }
    }

    /// Whether an empty line is among what was not seen before.
    fn may_end(&self, buf: &[u8]) -> bool {
        let unseen = buf.get(self.seen.saturating_sub(3)..).unwrap_or_default();
        unseen.windows(2).any(|two| two == b"\n\n")
            || unseen.windows(3).any(|three| three == b"\n\r\n")
    }

    fn more(&mut self, seen: usize) -> Result<Option<Head>, Fault> {
        self.seen = seen;
        if seen > MAX_HEAD {
            return Err(Fault::TooLong);
        }
        Ok(None)
    }
}

fn fault(error: httparse::Error) -> Fault {
    match error {
        httparse::Error::Version => Fault::Version,
        httparse::Error::Status => Fault::StatusLine,
        httparse::Error::TooManyHeaders => Fault::TooMany,
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Token => Fault::Field,
    }
}

/// What the fields say of the answer's end.
#[derive(Default)]
struct Facts {
    lengths: usize,
    length: Option<u64>,
    codings: usize,
    chunked: bool,
    connection: Connection,
}

fn collect(bytes: &Bytes, places: &[Place], headers: &mut HeaderMap) -> Result<(), Fault> {
    let range = |(from, to): (u32, u32)| {
        let index = |at| usize::try_from(at).unwrap_or(0);
        index(from)..index(to)
    };
    headers.reserve(places.len());
    for place in places {
        let name = bytes.get(range(place.name)).unwrap_or_default();
        let name = names::name(name).map_err(|_no_token| Fault::Field)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice(range(place.value)))
            .map_err(|_control| Fault::Field)?;
        headers
            .try_append(name, value)
            .map_err(|_too_many| Fault::TooMany)?;
    }
    Ok(())
}

fn number(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

impl Facts {
    /// One of the fields.
    fn field(&mut self, name: &[u8], value: &[u8]) {
        // by its length first: few fields are one of these
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.lengths = self.lengths.saturating_add(1);
                self.length = number(value);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.codings = self.codings.saturating_add(1);
                self.chunked = value.eq_ignore_ascii_case(b"chunked");
            }
            10 if name.eq_ignore_ascii_case(b"connection") => self.connection.line(value),
            _ => {}
        }
    }

    /// RFC 9112 section 6.3. What says two things of the end is refused whatever it is an answer
    /// to: somebody behind us may read it otherwise.
    fn length(&self, status: StatusCode, version: Version, asked: Asked) -> Result<Length, Fault> {
        let old = version == Version::HTTP_10;
        if self.codings > 0 && (self.codings > 1 || !self.chunked || old) {
            return Err(Fault::Coding);
        }
        if self.lengths > 0 && (self.lengths > 1 || self.length.is_none()) {
            return Err(Fault::Length);
        }
        if self.lengths > 0 && self.codings > 0 {
            return Err(Fault::LengthAndCoding);
        }
        Ok(match (status, asked) {
            (StatusCode::SWITCHING_PROTOCOLS, _) => Length::Tunnel,
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) | (_, Asked::Head) => {
                Length::Absent
            }
            (_, Asked::Connect) if status.is_success() => Length::Tunnel,
            _ => match self.length {
                _ if self.chunked => Length::Chunked,
                Some(length) => Length::Sized(length),
                None => Length::Close,
            },
        })
    }
}
