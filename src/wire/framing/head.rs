//! One request head: its lines, what they say of the body's end, and the request that they make.

use std::{io::BufRead as _, ops::Range};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, request,
    uri::PathAndQuery,
};

use super::{Fault, Length};
use crate::wire::http1::{Connection, has_token, names};

/// Longest request target: RFC 9110 section 4.1 asks for 8000 octets at least, and `http::Uri`
/// takes no more than this.
pub const MAX_TARGET: usize = (64 << 10) - 2;

/// Most fields of one head, and of one body's trailers.
pub(super) const MAX_FIELDS: usize = 100;

/// A request whose head is whole.
#[derive(Debug)]
pub struct Arrived {
    /// What it asks for.
    pub parts: request::Parts,
    /// How its body ends.
    pub length: Length,
    /// It asks for an upgrade or a tunnel: what follows its body may be no request.
    pub upgrade: bool,
    /// Whether its sender would keep the connection.
    pub keep: bool,
    /// It asks to be told to go on before it sends its body.
    pub expects: bool,
    /// Its sender takes trailers.
    pub trailers: bool,
}

/// A field, and where its value stands.
#[derive(Debug)]
struct Field {
    name: HeaderName,
    value: Range<usize>,
}

/// A head as far as it has come. Used again for the next one, once it is taken.
#[derive(Debug, Default)]
pub struct Head {
    /// Where the line begins that has not ended.
    line: usize,
    /// So far its end was looked for.
    seen: usize,
    begun: Begun,
    method: Method,
    target: Range<usize>,
    fields: Vec<Field>,
    /// Among them ones too many.
    too_many: bool,
    /// HTTP/1.0 knows no codings.
    old: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    connect: bool,
    connection: Connection,
    expects: bool,
    trailers: bool,
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
    /// Whether nothing of it has come.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.seen == 0
    }

    fn length(&self) -> Result<Length, Fault> {
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
    ///
    /// # Errors
    /// The head has no one reading, or is longer than `limit`.
    pub fn read(&mut self, bytes: &[u8], limit: usize) -> Result<Option<usize>, Fault> {
        let end = self.lines(bytes)?;
        if end.unwrap_or(bytes.len()) > limit {
            return Err(Fault::HeadTooLarge);
        }
        Ok(end)
    }

    fn lines(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        loop {
            let unseen = bytes.get(self.seen..).unwrap_or_default();
            let Some(length) = line_length(unseen) else {
                self.seen = bytes.len();
                return self.unfinished(bytes).map(|()| None);
            };
            let end = self.seen.saturating_add(length);
            let line = bytes.get(self.line..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r\n").ok_or(Fault::LineEnd)?;
            let start = std::mem::replace(&mut self.line, end);
            self.seen = end;
            match (self.begun, line.is_empty()) {
                (Begun::Not, true) => self.begun = Begun::EmptyLine,
                (Begun::EmptyLine, true) => return Err(Fault::RequestLine),
                (Begun::Not | Begun::EmptyLine, false) => self
                    .request_line(start, line)
                    .map_err(|fault| or_line_end(fault, line))?,
                (Begun::Fields, true) => return Ok(Some(end)),
                (Begun::Fields, false) => self
                    .field(start, line)
                    .map_err(|fault| or_line_end(fault, line))?,
            }
        }
    }

    fn request_line(&mut self, start: usize, line: &[u8]) -> Result<(), Fault> {
        let (method, target, old) = request_line(line)?;
        let from = start.saturating_add(method.len()).saturating_add(1);
        self.target = from..from.saturating_add(target.len());
        self.method = Method::from_bytes(method).map_err(|_no_token| Fault::RequestLine)?;
        self.old = old;
        self.connect = self.method == Method::CONNECT;
        self.begun = Begun::Fields;
        Ok(())
    }

    /// The request of a whole head, which is all of `bytes`. `spare` is a map to be used again.
    ///
    /// # Errors
    /// The head has no one reading all the same.
    pub fn take(&mut self, bytes: &[u8], spare: HeaderMap) -> Result<Arrived, Fault> {
        let length = self.length()?;
        if self.too_many {
            return Err(Fault::TooManyFields);
        }
        // one copy, of which all values are parts
        let bytes = Bytes::copy_from_slice(bytes);
        let part = |range: &Range<usize>| {
            let whole = range.start <= range.end && range.end <= bytes.len();
            whole.then(|| bytes.slice(range.clone()))
        };
        let target = part(&self.target).ok_or(Fault::Target)?;
        let server = self.method == Method::OPTIONS && names_server(&target);
        let mut uri = Uri::from_maybe_shared(target).map_err(|_not_taken| Fault::Target)?;
        if server {
            uri = of_server(uri)?;
        }
        let mut headers = spare;
        headers.clear();
        headers.reserve(self.fields.len());
        for field in self.fields.drain(..) {
            let value = part(&field.value).ok_or(Fault::FieldValue)?;
            let value =
                HeaderValue::from_maybe_shared(value).map_err(|_control| Fault::FieldValue)?;
            headers.append(field.name, value);
        }
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = std::mem::take(&mut self.method);
        parts.uri = uri;
        parts.headers = headers;
        parts.version = if self.old {
            Version::HTTP_10
        } else {
            Version::HTTP_11
        };
        let arrived = Arrived {
            parts,
            length,
            upgrade: self.upgrade && !self.old || self.connect,
            keep: self.connection.keeps(self.old),
            expects: self.expects && !self.old && length != Length::NONE,
            trailers: self.trailers,
        };
        self.reset();
        Ok(arrived)
    }

    /// Makes room for the next one.
    fn reset(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self {
            fields,
            ..Self::default()
        };
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

    fn field(&mut self, start: usize, line: &[u8]) -> Result<(), Fault> {
        let (name, value) = field(line)?;
        let name = names::name(name).map_err(|_no_token| Fault::FieldName)?;
        match name {
            header::UPGRADE => self.upgrade = true,
            header::CONTENT_LENGTH => {
                let before = self.length.replace(length(value)?);
                if before.is_some() {
                    return Err(Fault::LengthRepeated);
                }
            }
            header::TRANSFER_ENCODING => {
                let only = value.strip_prefix(b" ").unwrap_or(value);
                let again = std::mem::replace(&mut self.chunked, true);
                if again || !only.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Coding);
                }
            }
            header::CONNECTION => self.connection.line(value),
            header::EXPECT => {
                self.expects |= value.trim_ascii().eq_ignore_ascii_case(b"100-continue");
            }
            header::TE => self.trailers |= has_token(value, b"trailers"),
            _ => {}
        }
        if self.fields.len() == MAX_FIELDS {
            self.too_many = true;
            return Ok(());
        }
        let end = start.saturating_add(line.len());
        let value = trimmed(value, end.saturating_sub(value.len()));
        self.fields.push(Field { name, value });
        Ok(())
    }
}

/// Where a value at this place stands without the white space around it.
fn trimmed(value: &[u8], at: usize) -> Range<usize> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(first) = value.iter().position(|byte| !blank(byte)) else {
        return at..at;
    };
    let last = value.iter().rposition(|byte| !blank(byte)).unwrap_or(first);
    at.saturating_add(first)..at.saturating_add(last).saturating_add(1)
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

/// A CR inside a line has no place in a request line, a name or a value: it is not looked for in
/// lines that have no other fault.
fn or_line_end(fault: Fault, line: &[u8]) -> Fault {
    match line.contains(&b'\r') {
        true => Fault::LineEnd,
        false => fault,
    }
}

/// Method and target, and whether it is of HTTP/1.0.
fn request_line(line: &[u8]) -> Result<(&[u8], &[u8], bool), Fault> {
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
    if fits {
        Ok((method, target, old))
    } else {
        Err(Fault::Target)
    }
}

/// Whether a target in absolute form has neither path nor query.
fn names_server(target: &[u8]) -> bool {
    let mut rest = target;
    let absolute = target.first().is_some_and(u8::is_ascii_alphabetic);
    if let Some(at) = target.windows(3).position(|three| three == b"://") {
        rest = target.get(at.saturating_add(3)..).unwrap_or_default();
    }
    absolute && !rest.iter().any(|byte| matches!(byte, b'/' | b'?'))
}

/// The same server with the target that OPTIONS has for all of it (RFC 9112 section 3.2.4), so that it
/// is judged and sent on as that.
fn of_server(uri: Uri) -> Result<Uri, Fault> {
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    Uri::from_parts(parts).map_err(|_not_taken| Fault::Target)
}

/// A field line's name and value.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if line
        .first()
        .is_some_and(|byte| matches!(byte, b' ' | b'\t'))
    {
        return Err(Fault::Folded);
    }
    let end = line.iter().position(|byte| !is_of_token(*byte));
    let parts = end.and_then(|end| line.split_at_checked(end));
    let Some((name @ [_, ..], [b':', value @ ..])) = parts else {
        return Err(name_fault(line));
    };
    let control = |byte: u8| ((byte < 0x20) & (byte != b'\t')) | (byte == 0x7f);
    if value.iter().fold(false, |any, byte| any | control(*byte)) {
        return Err(Fault::FieldValue);
    }
    Ok((name, value))
}

/// Why a field line has no name.
fn name_fault(line: &[u8]) -> Fault {
    let colon = line.iter().position(|byte| *byte == b':');
    let before = colon.and_then(|colon| line.get(..colon)?.last());
    match before {
        Some(b' ' | b'\t') => Fault::SpaceBeforeColon,
        Some(_) | None => Fault::FieldName,
    }
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
    !bytes.is_empty() && bytes.iter().all(|byte| is_of_token(*byte))
}

fn is_of_token(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)) == Some(&true)
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
