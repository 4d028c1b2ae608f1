//! A chunked body (RFC 9112 section 7.1): sizes, data and trailers.

use http::{HeaderMap, HeaderValue};

use super::{
    Fault,
    head::{MAX_FIELDS, field, without_line_end},
};
use crate::wire::http1::names;

/// Longest chunk extension of one chunk. Nobody uses them but to hide something.
pub(super) const MAX_EXTENSION: usize = 256;
/// Extensions of one body together.
const MAX_EXTENSIONS: usize = 16 << 10;
/// Digits of a size.
const MAX_DIGITS: usize = 16;
/// Trailers of one body together.
pub(super) const MAX_TRAILERS: usize = 8 << 10;

/// A body as far as it has come.
#[derive(Debug, Default)]
pub struct Chunks {
    at: At,
    /// Of an answer, which we alone read.
    answer: bool,
    extensions: usize,
    trailers: usize,
    /// Those that have come.
    fields: Option<Box<HeaderMap>>,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Size,
    Data(u64),
    /// The CR LF behind data.
    End,
    Trailers,
}

/// How far a body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A line has to come to its end first.
    More,
    /// So many bytes pass, which are no data.
    Passed(usize),
    /// So many bytes of data pass.
    Data(usize),
    /// So many bytes pass, and they were the last.
    Ended(usize),
}

impl Chunks {
    /// The chunks of an answer: what of it passes is written anew, so that old servers may pad their
    /// sizes, and trailers that mislead are removed where they are handed on.
    pub(in crate::wire) fn of_answer() -> Self {
        Self {
            answer: true,
            ..Self::default()
        }
    }

    /// The trailers that came, once it has ended.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.fields.take().map(|fields| *fields)
    }

    /// So many bytes of data come next, if that is what comes.
    #[must_use]
    pub fn data_left(&self) -> Option<u64> {
        match self.at {
            At::Data(left) => Some(left),
            At::Size | At::End | At::Trailers => None,
        }
    }

    /// So many of those bytes came.
    pub fn took(&mut self, n: usize) {
        if let At::Data(left) = self.at {
            let left = left.saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
            self.at = if left == 0 { At::End } else { At::Data(left) };
        }
    }

    /// Reads on at the first byte.
    ///
    /// # Errors
    /// The body has no one reading.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Progress, Fault> {
        match self.at {
            At::Size => {
                let Some(line) = line(bytes) else {
                    return if bytes.len() > MAX_DIGITS.saturating_add(MAX_EXTENSION) {
                        Err(Fault::ChunkExtension)
                    } else {
                        Ok(Progress::More)
                    };
                };
                let size = self.size(without_line_end(line)?)?;
                self.at = if size == 0 {
                    At::Trailers
                } else {
                    At::Data(size)
                };
                Ok(Progress::Passed(line.len()))
            }
            At::Data(left) => {
                let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(left);
                // no more than there are bytes
                let here = usize::try_from(here).unwrap_or(0);
                self.took(here);
                Ok(Progress::Data(here))
            }
            At::End => match bytes {
                [b'\r', b'\n', ..] => {
                    self.at = At::Size;
                    Ok(Progress::Passed(2))
                }
                [b'\r'] => Ok(Progress::More),
                _ => Err(Fault::ChunkEnd),
            },
            At::Trailers => {
                let line = line(bytes);
                let length = line.map_or(bytes.len(), <[u8]>::len);
                if self.trailers.saturating_add(length) > MAX_TRAILERS {
                    return Err(Fault::TrailersTooLarge);
                }
                let Some(line) = line else {
                    return Ok(Progress::More);
                };
                self.trailers = self.trailers.saturating_add(length);
                let content = without_line_end(line)?;
                if content.is_empty() {
                    return Ok(Progress::Ended(length));
                }
                let (name, value) = field(content)?;
                if !self.answer && FORBIDDEN.iter().any(|one| name.eq_ignore_ascii_case(one)) {
                    return Err(Fault::Trailer);
                }
                self.keep(name, value)?;
                Ok(Progress::Passed(length))
            }
        }
    }

    fn keep(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        let fields = self.fields.get_or_insert_default();
        if !self.answer && fields.len() == MAX_FIELDS {
            return Err(Fault::TrailersTooLarge);
        }
        let name = names::name(name).map_err(|_no_token| Fault::FieldName)?;
        let value =
            HeaderValue::from_bytes(value.trim_ascii()).map_err(|_control| Fault::FieldValue)?;
        fields.append(name, value);
        Ok(())
    }

    fn size(&mut self, line: &[u8]) -> Result<u64, Fault> {
        let end = line.iter().position(|byte| !byte.is_ascii_hexdigit());
        let (digits, extension) = line
            .split_at_checked(end.unwrap_or(line.len()))
            .ok_or(Fault::ChunkSize)?;
        if digits.is_empty() || digits.len() > MAX_DIGITS {
            return Err(Fault::ChunkSize);
        }
        let extension = if self.answer {
            extension.trim_ascii_start()
        } else {
            extension
        };
        match extension {
            [] | [b';', ..] => {}
            _ => return Err(Fault::ChunkSize),
        }
        self.extensions = self.extensions.saturating_add(extension.len());
        let printable = extension
            .iter()
            .all(|byte| (0x20..0x7f).contains(byte) || *byte == b'\t');
        if !printable || extension.len() > MAX_EXTENSION || self.extensions > MAX_EXTENSIONS {
            return Err(Fault::ChunkExtension);
        }
        let text = str::from_utf8(digits).map_err(|_not_digits| Fault::ChunkSize)?;
        u64::from_str_radix(text, 16).map_err(|_too_large| Fault::ChunkSize)
    }
}

/// What may stand in no trailer: whoever merged it into the head would read another message.
const FORBIDDEN: [&[u8]; 6] = [
    b"content-length",
    b"transfer-encoding",
    b"host",
    b"connection",
    b"upgrade",
    b"te",
];

/// The first line with its end.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    bytes.get(..=end)
}
