//! An answer's head as it is written, and how its body is (RFC 9112 sections 4 and 6).

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::{
    Connection, has_token,
    write::{self, content_length, field},
};
use crate::wire::forwarded::may_trail;

/// What an answer has to know of its request.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a word of the request's head"
)]
pub struct Asked {
    /// Its method is HEAD.
    pub head: bool,
    /// Its method is CONNECT.
    pub connect: bool,
    /// It came as HTTP/1.0.
    pub old: bool,
    /// Trailers are taken.
    pub trailers: bool,
}

impl Asked {
    /// Of a request of this method.
    #[must_use]
    pub fn new(method: &Method, old: bool, trailers: bool) -> Self {
        Self {
            head: *method == Method::HEAD,
            connect: *method == Method::CONNECT,
            old,
            trailers,
        }
    }

    /// Whether the bytes are another protocol's behind an answer of this status.
    #[must_use]
    pub fn switches(self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || self.connect && status.is_success()
    }

    fn has_body(self, status: StatusCode) -> bool {
        let never = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        !(self.head || never || status.is_informational() || self.switches(status))
    }
}

/// How a body ends that is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// After so many octets.
    Sized(u64),
    /// With its last chunk, and trailers of these names.
    Chunked(Vec<HeaderName>),
    /// With the connection.
    Close,
}

/// Writes a head behind what is in `out`: how its body is to end, and whether the connection stays.
/// `length` is the body's, where that is known. `keep`: the connection may stay. `date` is said
/// where the answer says none.
pub fn head(
    out: &mut Vec<u8>,
    asked: Asked,
    (status, headers): (StatusCode, &HeaderMap),
    length: Option<u64>,
    keep: bool,
    date: &[u8],
) -> (Ending, bool) {
    status_line(out, status);
    let has_body = asked.has_body(status);
    let ending = match length {
        _ if !has_body => Ending::Sized(0),
        Some(length) => Ending::Sized(length),
        None if asked.old => Ending::Close,
        None => Ending::Chunked(Vec::new()),
    };
    let mut connection = Connection::default();
    let mut announced = Vec::new();
    let mut dated = false;
    for (name, value) in headers {
        match *name {
            // ours say it
            header::TRANSFER_ENCODING => continue,
            // what a body would have had is said where none is asked for
            header::CONTENT_LENGTH if !(asked.head && length.is_none_or(|length| length == 0)) => {
                continue;
            }
            header::CONTENT_LENGTH if status == StatusCode::NO_CONTENT => continue,
            header::TRAILER => {
                if !matches!(ending, Ending::Chunked(_)) {
                    continue;
                }
                announced.extend(write::announced(value.as_bytes()));
            }
            header::CONNECTION => connection.line(value.as_bytes()),
            header::DATE => dated = true,
            _ => {}
        }
        field(out, name.as_str(), value.as_bytes());
    }
    match (&ending, length) {
        (Ending::Chunked(_), _) => field(out, "transfer-encoding", b"chunked"),
        (Ending::Close, _) => {}
        (Ending::Sized(length), _) if has_body => content_length(out, *length),
        // what HEAD would have got
        (Ending::Sized(_), Some(length)) if asked.head && length > 0 => {
            content_length(out, length);
        }
        (Ending::Sized(_), _) => {}
    }
    let stays = keep && ending != Ending::Close && connection.keeps(false);
    let said = |word: &[u8]| {
        let mut lines = headers.get_all(header::CONNECTION).iter();
        lines.any(|line| has_token(line.as_bytes(), word))
    };
    if !asked.switches(status) {
        match stays {
            // HTTP/1.0 closes unless it is told
            true if asked.old && !said(b"keep-alive") => field(out, "connection", b"keep-alive"),
            // the version is ours, which would stay
            false if !said(b"close") => field(out, "connection", b"close"),
            true | false => {}
        }
    }
    if !dated {
        field(out, "date", date);
    }
    out.extend_from_slice(b"\r\n");
    let ending = match ending {
        Ending::Chunked(_) => Ending::Chunked(announced),
        Ending::Sized(_) | Ending::Close => ending,
    };
    (ending, stays)
}

/// The version is ours, whatever the request's was (RFC 9110 section 2.5).
fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    // RFC 9112 section 4: it may be empty, and the space before it stays
    let reason = status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk, with those of the trailers that were announced (RFC 9110 section 6.6.2)
/// and may stand there (section 6.5.1).
pub fn last_chunk(out: &mut Vec<u8>, announced: &[HeaderName], trailers: Option<&HeaderMap>) {
    write::last_chunk(out, announced, trailers, may_trail);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const GET: Asked = Asked {
        head: false,
        connect: false,
        old: false,
        trailers: true,
    };

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        lines.iter().map(pair).collect()
    }

    /// What is written, without the date that is added.
    fn written(
        asked: Asked,
        status: u16,
        lines: &[(&'static str, &'static str)],
        length: Option<u64>,
        keep: bool,
    ) -> (String, Ending, bool) {
        let mut out = Vec::new();
        let status = StatusCode::from_u16(status).unwrap();
        let message = (status, &fields(lines));
        let (ending, stays) = head(&mut out, asked, message, length, keep, b"now");
        let text = String::from_utf8(out).unwrap().replace("\r\n", "|");
        let text = text.strip_suffix("date: now||").unwrap();
        (text.to_owned(), ending, stays)
    }

    #[test]
    fn lengths_are_said_as_they_are_known() {
        let (text, ending, stays) = written(GET, 200, &[("x", "y")], Some(3), true);
        assert_eq!(text, "HTTP/1.1 200 OK|x: y|content-length: 3|");
        assert_eq!((ending, stays), (Ending::Sized(3), true));

        let wrong = [("content-length", "9"), ("transfer-encoding", "gzip")];
        let (text, ending, _) = written(GET, 404, &wrong, Some(0), true);
        assert_eq!(text, "HTTP/1.1 404 Not Found|content-length: 0|");
        assert_eq!(ending, Ending::Sized(0));

        let (text, ending, stays) = written(GET, 200, &[("trailer", "a, B")], None, true);
        assert_eq!(
            text,
            "HTTP/1.1 200 OK|trailer: a, B|transfer-encoding: chunked|"
        );
        let named = ["a", "b"].map(HeaderName::from_static).to_vec();
        assert_eq!((ending, stays), (Ending::Chunked(named), true));
    }

    #[test]
    fn what_has_no_body_says_none() {
        let head = Asked { head: true, ..GET };
        let (text, ending, _) = written(head, 200, &[("content-length", "7")], Some(0), true);
        assert_eq!(text, "HTTP/1.1 200 OK|content-length: 7|");
        assert_eq!(ending, Ending::Sized(0));
        let (text, ending, _) = written(head, 403, &[], Some(5), true);
        assert_eq!(text, "HTTP/1.1 403 Forbidden|content-length: 5|");
        assert_eq!(ending, Ending::Sized(0));
        for status in [204, 304] {
            let (text, ending, stays) =
                written(GET, status, &[("content-length", "7")], None, true);
            assert!(!text.contains("content-length"), "{text}");
            assert!(!text.contains("chunked"), "{text}");
            assert_eq!((ending, stays), (Ending::Sized(0), true));
        }
    }

    #[test]
    fn old_clients_get_no_chunks_and_are_told_that_they_may_stay() {
        let old = Asked { old: true, ..GET };
        let (text, ending, stays) = written(old, 200, &[("trailer", "a")], None, true);
        assert_eq!(text, "HTTP/1.1 200 OK|connection: close|");
        assert_eq!((ending, stays), (Ending::Close, false));
        let (text, _, stays) = written(old, 200, &[], Some(1), true);
        assert_eq!(
            text,
            "HTTP/1.1 200 OK|content-length: 1|connection: keep-alive|"
        );
        assert!(stays);
        let (text, _, stays) = written(old, 200, &[], Some(1), false);
        assert_eq!(text, "HTTP/1.1 200 OK|content-length: 1|connection: close|");
        assert!(!stays);
    }

    #[test]
    fn a_status_without_a_name_has_no_reason() {
        let (text, _, _) = written(GET, 299, &[], Some(0), true);
        assert_eq!(text, "HTTP/1.1 299 |content-length: 0|");
    }

    #[test]
    fn a_connection_that_ends_says_so_once() {
        let (text, _, stays) = written(GET, 200, &[], Some(0), false);
        assert_eq!(text, "HTTP/1.1 200 OK|content-length: 0|connection: close|");
        assert!(!stays);
        let (text, _, stays) = written(GET, 503, &[("connection", "close")], Some(0), true);
        assert_eq!(
            text,
            "HTTP/1.1 503 Service Unavailable|connection: close|content-length: 0|"
        );
        assert!(!stays);
    }

    #[test]
    fn what_switches_says_nothing_of_a_length() {
        let upgrade = [("connection", "upgrade"), ("upgrade", "x")];
        let (text, ..) = written(GET, 101, &upgrade, Some(0), true);
        assert_eq!(
            text,
            "HTTP/1.1 101 Switching Protocols|connection: upgrade|upgrade: x|"
        );
        let connect = Asked {
            connect: true,
            ..GET
        };
        let (text, ..) = written(connect, 200, &[], Some(0), true);
        assert_eq!(text, "HTTP/1.1 200 OK|");
    }

    #[test]
    fn chunks_are_said_in_hexadecimal() {
        for length in [0, 1, 9, 10, 15, 16, 255, 4096, 65_535, usize::MAX] {
            let mut out = Vec::new();
            write::chunk_size(&mut out, length);
            assert_eq!(out, format!("{length:x}\r\n").into_bytes());
        }
    }

    #[test]
    fn trailers_pass_that_were_announced_and_may() {
        let trailers = fields(&[("a", "1"), ("b", "2"), ("host", "x")]);
        let announced = ["a", "host"].map(HeaderName::from_static);
        let mut out = Vec::new();
        last_chunk(&mut out, &announced, Some(&trailers));
        assert_eq!(out, b"0\r\na: 1\r\n\r\n");
        out.clear();
        last_chunk(&mut out, &[], None);
        assert_eq!(out, b"0\r\n\r\n");
    }
}
