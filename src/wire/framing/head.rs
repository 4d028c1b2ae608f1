//! One request head: its lines, and what they say of the body's end.

use std::io::BufRead as _;

use super::{Fault, Length};

/// Longest request target: RFC 9110 section 4.1 asks for 8000 octets at least, and `http::Uri`
/// takes no more than this.
pub const MAX_TARGET: usize = (64 << 10) - 2;

/// A head as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the line begins that has not ended.
    line: usize,
    /// So far its end was looked for.
    seen: usize,
    begun: Begun,
    /// HTTP/1.0 knows no codings.
    old: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    connect: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Begun {
    /// Nothing has come.
    #[default]
    Not,
    /// One empty line, which RFC 9112 section 2.2 lets pass before a request line.
    EmptyLine,
    /// The request line.
    Fields,
}

impl Head {
    pub(super) fn is_untouched(&self) -> bool {
        self.seen == 0
    }

    pub(super) fn asks_for_upgrade(&self) -> bool {
        self.upgrade || self.connect
    }

    pub(super) fn length(&self) -> Result<Length, Fault> {
        // RFC 9110 section 9.3.6: it has none, and parsers that know that read on in another place
        if self.connect && (self.length.is_some() || self.chunked) {
            return Err(Fault::ConnectContent);
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Fault::LengthAndCoding),
            (None, true) if self.old => Err(Fault::Coding),
            (None, true) => Ok(Length::Chunked),
            (length, false) => Ok(Length::Sized(length.unwrap_or(0))),
        }
    }

    /// Reads on in a head that begins at the first byte: where it ends; `None`: not yet.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        loop {
            let unseen = bytes.get(self.seen..).unwrap_or_default();
            let Some(length) = line_length(unseen) else {
                self.seen = bytes.len();
                return self.unfinished(bytes).map(|()| None);
            };
            let end = self.seen.saturating_add(length);
            let line = without_line_end(bytes.get(self.line..end).unwrap_or_default())?;
            (self.line, self.seen) = (end, end);
            match (self.begun, line.is_empty()) {
                (Begun::Not, true) => self.begun = Begun::EmptyLine,
                (Begun::EmptyLine, true) => return Err(Fault::RequestLine),
                (Begun::Not | Begun::EmptyLine, false) => {
                    self.old = request_line(line)?;
                    self.connect = line.starts_with(b"CONNECT ");
                    self.begun = Begun::Fields;
                }
                (Begun::Fields, true) => return Ok(Some(end)),
                (Begun::Fields, false) => self.field(line)?,
            }
        }
    }

    /// What is no request line is not waited for to its end.
    fn unfinished(&self, bytes: &[u8]) -> Result<(), Fault> {
        if self.begun == Begun::Fields {
            return Ok(());
        }
        let line = bytes.get(self.line..).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().any(|byte| !(0x20..0x7f).contains(byte)) {
            return Err(Fault::RequestLine);
        }
        // a version may still come behind it
        let target = line.split(|byte| *byte == b' ').nth(1);
        if target.is_some_and(|target| target.len() > MAX_TARGET) {
            return Err(Fault::TargetTooLong);
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (name, value) = field(line)?;
        match name.len() {
            7 => self.upgrade |= name.eq_ignore_ascii_case(b"upgrade"),
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let before = self.length.replace(length(value)?);
                if before.is_some() {
                    return Err(Fault::LengthRepeated);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let only = value.strip_prefix(b" ").unwrap_or(value);
                let again = std::mem::replace(&mut self.chunked, true);
                if again || !only.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Coding);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// How long the first line is, with its LF; a search for one octet is many octets at a time.
fn line_length(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let length = rest.skip_until(b'\n').ok()?;
    let ends = bytes.get(..length)?.last() == Some(&b'\n');
    ends.then_some(length)
}

/// A line's content: it ends with CR LF and has no other CR.
pub(super) fn without_line_end(line: &[u8]) -> Result<&[u8], Fault> {
    let content = line.strip_suffix(b"\r\n").ok_or(Fault::LineEnd)?;
    if content.contains(&b'\r') {
        return Err(Fault::LineEnd);
    }
    Ok(content)
}

/// Whether it is of HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, Fault> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::RequestLine);
    };
    if !is_token(method) || target.is_empty() {
        return Err(Fault::RequestLine);
    }
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ if version.starts_with(b"HTTP/") => return Err(Fault::Version),
        _ => return Err(Fault::RequestLine),
    };
    if target.len() > MAX_TARGET {
        return Err(Fault::TargetTooLong);
    }
    // a fragment is never sent (RFC 9112 section 3.2), and parsers drop it without a word
    // without a way out of the loop many octets are looked at at a time
    let wrong = |byte: u8| !(0x21..0x7f).contains(&byte) | (byte == b'#');
    if target.iter().fold(false, |any, byte| any | wrong(*byte)) {
        return Err(Fault::Target);
    }
    let absolute = |scheme: &[u8]| {
        target
            .split_at_checked(scheme.len())
            .is_some_and(|(start, rest)| start.eq_ignore_ascii_case(scheme) && !rest.is_empty())
    };
    let fits = match (target, method) {
        ([b'/', ..], b"CONNECT") => false,
        ([b'/', ..], _) | (b"*", b"OPTIONS") => true,
        (_, b"CONNECT") => !target.contains(&b'/'),
        _ => absolute(b"http://") || absolute(b"https://"),
    };
    if fits { Ok(old) } else { Err(Fault::Target) }
}

/// A field line's name and value.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if line
        .first()
        .is_some_and(|byte| matches!(byte, b' ' | b'\t'))
    {
        return Err(Fault::Folded);
    }
    let colon = line
        .iter()
        .position(|byte| *byte == b':')
        .ok_or(Fault::FieldName)?;
    let (name, value) = line.split_at_checked(colon).ok_or(Fault::FieldName)?;
    if name.last().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
        return Err(Fault::SpaceBeforeColon);
    }
    if !is_token(name) {
        return Err(Fault::FieldName);
    }
    let value = value.get(1..).unwrap_or_default();
    let control = |byte: u8| ((byte < 0x20) & (byte != b'\t')) | (byte == 0x7f);
    if value.iter().fold(false, |any, byte| any | control(*byte)) {
        return Err(Fault::FieldValue);
    }
    Ok((name, value))
}

/// One plain number behind at most one space.
fn length(value: &[u8]) -> Result<u64, Fault> {
    let digits = value.strip_prefix(b" ").unwrap_or(value);
    let plain = digits.iter().all(u8::is_ascii_digit);
    let padded = digits.len() > 1 && digits.first() == Some(&b'0');
    if !plain || padded {
        return Err(Fault::Length);
    }
    let text = str::from_utf8(digits).map_err(|_not_digits| Fault::Length)?;
    text.parse().map_err(|_empty_or_too_large| Fault::Length)
}

/// RFC 9110 section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| TOKEN.get(usize::from(*byte)) == Some(&true))
}

/// Looked up for every octet of every name.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        let others = matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        #[expect(
            clippy::indexing_slicing,
            reason = "a u8 is within 256 entries, at compile time"
        )]
        {
            table[byte as usize] = others || byte.is_ascii_alphanumeric();
        }
        byte += 1;
    }
    table
};
