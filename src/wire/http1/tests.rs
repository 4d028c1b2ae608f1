use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use proptest::prelude::*;

use super::{
    answer::{Asked, Fault, Head, Heads, Length, MAX_FIELDS, MAX_HEAD},
    body::{Decoder, Piece},
    request::{self, Coding},
    write,
};
use crate::wire::framing::{self, guard::Guard};

/// Reads one head of all bytes at once, and what stands behind it.
fn read(bytes: &[u8], asked: Asked) -> Result<Option<(Head, Vec<u8>)>, Fault> {
    let mut buf = BytesMut::from(bytes);
    let head = Heads::default().read(&mut buf, asked, &mut HeaderMap::new())?;
    Ok(head.map(|head| (head, buf.to_vec())))
}

fn length(bytes: &str, asked: Asked) -> Result<Length, Fault> {
    read(bytes.as_bytes(), asked).map(|read| read.expect("a whole head").0.length)
}

#[rstest::rstest]
#[case("200 OK\r\nContent-Length: 5\r\n\r\n", Length::Sized(5))]
#[case("200\r\ncontent-length:0\r\n\r\n", Length::Sized(0))]
#[case("200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Length::Chunked)]
#[case("200 OK\r\nServer: x\r\n\r\n", Length::Close)]
#[case("204 No Content\r\nContent-Length: 5\r\n\r\n", Length::Absent)]
#[case("304 Not Modified\r\nContent-Length: 5\r\n\r\n", Length::Absent)]
#[case("103 Early Hints\r\nContent-Length: 5\r\n\r\n", Length::Absent)]
#[case("101 Switching Protocols\r\nUpgrade: x\r\n\r\n", Length::Tunnel)]
fn an_answer_ends_where_its_head_says(#[case] rest: &str, #[case] expected: Length) {
    let head = format!("HTTP/1.1 {rest}");
    assert_eq!(length(&head, Asked::Other), Ok(expected));
    let to_head = match expected {
        Length::Tunnel => Length::Tunnel,
        Length::Absent | Length::Sized(_) | Length::Chunked | Length::Close => Length::Absent,
    };
    assert_eq!(length(&head, Asked::Head), Ok(to_head));
    if head.starts_with("HTTP/1.1 200") {
        assert_eq!(length(&head, Asked::Connect), Ok(Length::Tunnel));
    }
}

#[rstest::rstest]
#[case("Content-Length: 2\r\nContent-Length: 2\r\n", Fault::Length)]
#[case("Content-Length: 2, 2\r\n", Fault::Length)]
#[case("Content-Length: +2\r\n", Fault::Length)]
#[case("Content-Length: two\r\n", Fault::Length)]
#[case("Content-Length:\r\n", Fault::Length)]
#[case("Content-Length: 18446744073709551616\r\n", Fault::Length)]
#[case(
    "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    Fault::LengthAndCoding
)]
#[case("Transfer-Encoding: gzip, chunked\r\n", Fault::Coding)]
#[case("Transfer-Encoding: chunked, gzip\r\n", Fault::Coding)]
#[case(
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    Fault::Coding
)]
#[case("A: b\r\n c\r\n", Fault::Field)]
#[case(" A: b\r\n", Fault::Field)]
#[case("A : b\r\n", Fault::Field)]
#[case("A: b\rC: d\r\n", Fault::Field)]
#[case("A: b\0c\r\n", Fault::Field)]
#[case("A\r\n", Fault::Field)]
#[case(": b\r\n", Fault::Field)]
fn a_head_with_two_readings_is_refused(#[case] fields: &str, #[case] fault: Fault) {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    for asked in [Asked::Other, Asked::Head, Asked::Connect] {
        assert_eq!(length(&head, asked), Err(fault), "{asked:?}");
    }
}

#[rstest::rstest]
#[case("HTTP/2.0 200 OK\r\n\r\n", Fault::Version)]
#[case("HTTP/1.1 2000 OK\r\n\r\n", Fault::StatusLine)]
#[case("HTTP/1.1 099 OK\r\n\r\n", Fault::StatusLine)]
#[case("hello\r\n\r\n", Fault::Version)]
#[case("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::Coding)]
fn what_is_no_answer_is_refused(#[case] bytes: &str, #[case] fault: Fault) {
    assert_eq!(length(bytes, Asked::Other), Err(fault));
}

#[rstest::rstest]
#[case("1.1 200\r\nContent-Length: 0\r\n", true)]
#[case("1.1 200\r\nContent-Length: 0\r\nConnection: x, Close\r\n", false)]
#[case(
    "1.1 200\r\nContent-Length: 0\r\nConnection: close\r\nConnection: keep-alive\r\n",
    false
)]
#[case("1.0 200\r\nContent-Length: 0\r\n", false)]
#[case("1.0 200\r\nContent-Length: 0\r\nConnection: keep-alive\r\n", true)]
#[case("1.1 200\r\n", false)]
#[case("1.1 204\r\n", true)]
fn a_connection_goes_on_where_both_say_so(#[case] start: &str, #[case] goes_on: bool) {
    let (head, _) = read(format!("HTTP/{start}\r\n").as_bytes(), Asked::Other)
        .unwrap()
        .unwrap();
    assert_eq!(head.keep_alive, goes_on);
}

#[test]
fn a_head_has_bounds_and_is_not_looked_through_again_for_every_byte() {
    let start = "HTTP/1.1 200 OK\r\n";
    let many = format!("{start}{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1));
    assert_eq!(length(&many, Asked::Other), Err(Fault::TooMany));
    let most = format!("{start}{}\r\n", "A: b\r\n".repeat(MAX_FIELDS));
    assert_eq!(length(&most, Asked::Other), Ok(Length::Close));
    let long = format!("{start}A: {}\r\n\r\n", "b".repeat(MAX_HEAD));
    assert_eq!(length(&long, Asked::Other), Err(Fault::TooLong));
    let mut buf = BytesMut::new();
    let mut heads = Heads::default();
    let came = (0..=MAX_HEAD).find(|_| {
        buf.extend_from_slice(if buf.is_empty() {
            start.as_bytes()
        } else {
            b"a"
        });
        heads
            .read(&mut buf, Asked::Other, &mut HeaderMap::new())
            .is_err()
    });
    assert!(came.is_some(), "an endless head is waited for");
}

#[rstest::rstest]
#[case("\r\n", 8)]
#[case("\n", 8)]
#[case("\r\n", 9)]
#[case("\n", 9)]
fn empty_lines_before_a_head_are_few_and_not_kept(#[case] line: &str, #[case] lines: usize) {
    let head = "HTTP/1.1 204 No\r\n\r\n";
    let bytes = line.repeat(lines) + head;
    let whole = length(&bytes, Asked::Other);
    let mut buf = BytesMut::new();
    let mut heads = Heads::default();
    let mut read = |buf: &mut BytesMut| heads.read(buf, Asked::Other, &mut HeaderMap::new());
    let mut last = Ok(None);
    for byte in bytes.as_bytes() {
        buf.extend_from_slice(&[*byte]);
        last = read(&mut buf);
        assert!(buf.len() < head.len(), "{buf:?}");
        if last.is_err() {
            break;
        }
    }
    if lines > 8 {
        assert_eq!(whole, Err(Fault::StatusLine));
        assert_eq!(last.unwrap_err(), Fault::StatusLine);
        return;
    }
    assert_eq!(whole, Ok(Length::Absent));
    assert_eq!(last.unwrap().expect("a whole head").length, Length::Absent);
    // those before the next are counted anew
    buf.extend_from_slice(bytes.as_bytes());
    assert!(read(&mut buf).unwrap().is_some());
}

#[test]
fn a_request_s_head_is_written_as_it_is() {
    let mut headers = HeaderMap::new();
    headers.append("b", HeaderValue::from_static("2"));
    headers.append("content-length", HeaderValue::from_static("77"));
    headers.append("transfer-encoding", HeaderValue::from_static("gzip"));
    headers.append("host", HeaderValue::from_static("a"));
    headers.append("b", HeaderValue::from_static("3"));
    let cases = [
        (
            "GET",
            "/a?b=c",
            Coding::Absent,
            "GET /a?b=c HTTP/1.1\r\nhost: a\r\nb: 2\r\nb: 3\r\n\r\n",
        ),
        (
            "OPTIONS",
            "*",
            Coding::Sized(5),
            "OPTIONS * HTTP/1.1\r\nhost: a\r\nb: 2\r\nb: 3\r\ncontent-length: 5\r\n\r\n",
        ),
        (
            "CONNECT",
            "a:1",
            Coding::Absent,
            "CONNECT a:1 HTTP/1.1\r\nhost: a\r\nb: 2\r\nb: 3\r\n\r\n",
        ),
        (
            "POST",
            "http://a?b",
            Coding::Chunked,
            "POST http://a/?b HTTP/1.1\r\nhost: a\r\nb: 2\r\nb: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
    ];
    for (method, target, coding, expected) in cases {
        let mut out = Vec::new();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let target = target.parse::<Uri>().unwrap();
        request::write_head(&mut out, &method, &target, &headers, coding);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

/// Reads a body that comes in pieces which end at `cuts`: its octets and trailers, and what stands
/// behind it. `None`: more has to come.
type Whole = Option<(Vec<u8>, Option<HeaderMap>, Vec<u8>)>;

fn decoded(bytes: &[u8], length: Length, cuts: &[usize]) -> Result<Whole, framing::Fault> {
    let mut decoder = Decoder::new(length);
    let mut buf = BytesMut::new();
    let mut data = Vec::new();
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut come = 0;
    for end in ends {
        buf.extend_from_slice(bytes.get(come..end).unwrap_or_default());
        come = come.max(end);
        while let Some(piece) = decoder.read(&mut buf)? {
            let trailers = match piece {
                Piece::Data(more) => {
                    assert!(!more.is_empty(), "no progress");
                    data.extend_from_slice(&more);
                    continue;
                }
                Piece::Trailers(trailers) => Some(trailers),
                Piece::End => None,
            };
            buf.extend_from_slice(&bytes[come..]);
            return Ok(Some((data, trailers, buf.to_vec())));
        }
    }
    Ok(None)
}

#[test]
fn old_servers_pad_their_sizes_and_what_is_no_chunk_is_refused() {
    let padded = b"5  \r\nhello\r\n0 \r\n\r\nrest";
    let whole = decoded(padded, Length::Chunked, &[]).unwrap().unwrap();
    assert_eq!(whole, (b"hello".to_vec(), None, b"rest".to_vec()));
    for bytes in [
        "5\nhello\r\n",
        "x\r\n",
        "5\r\nhello!\r\n",
        "-1\r\n",
        "5 5\r\n",
    ] {
        assert!(
            decoded(bytes.as_bytes(), Length::Chunked, &[]).is_err(),
            "{bytes:?}"
        );
    }
    let endless = ["0\r\n", &"A: b\r\n".repeat(4 << 10)].concat();
    assert_eq!(
        decoded(endless.as_bytes(), Length::Chunked, &[]),
        Err(framing::Fault::TrailersTooLarge)
    );
}

fn chunked(parts: &[Vec<u8>], trailers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        write::chunk_size(&mut out, part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(write::CHUNK_END);
    }
    let announced: Vec<HeaderName> = trailers.keys().cloned().collect();
    write::last_chunk(&mut out, &announced, Some(trailers), |_| true);
    out
}

/// Text that comes near to answers.
fn near_answers() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 103 Early\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        "A: b\r\n",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n",
        "\0",
        ";",
    ]);
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat().into_bytes())
}

fn fields() -> impl Strategy<Value = HeaderMap> {
    let names = prop::sample::select(vec![
        "host",
        "x-own",
        "trailer",
        "cookie",
        "x-forwarded-for",
    ]);
    prop::collection::vec((names, "[!-~]([ -~]{0,20}[!-~])?"), 0..12).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(&value).unwrap());
        }
        headers
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_and_has_one_reading(
        headers in fields(),
        coding in prop::sample::select(vec![Coding::Absent, Coding::Sized(0), Coding::Sized(9), Coding::Chunked]),
        path in "/[a-z]{0,9}([?][a-z=&]{0,9})?",
    ) {
        let mut out = Vec::new();
        let target: Uri = path.parse().unwrap();
        request::write_head(&mut out, &Method::POST, &target, &headers, coding);
        let mut guard = Guard::new(64 << 10);
        prop_assert_eq!(guard.judge(&out).pass, out.len());
        prop_assert_eq!(guard.heads(), 1);
        let mut table = [httparse::EMPTY_HEADER; 32];
        let mut parsed = httparse::Request::new(&mut table);
        prop_assert_eq!(parsed.parse(&out), Ok(httparse::Status::Complete(out.len())));
        prop_assert_eq!(parsed.path, Some(path.as_str()));
        let mut read = HeaderMap::new();
        for field in parsed.headers.iter() {
            let name = super::names::name(field.name.as_bytes()).unwrap();
            read.append(name, HeaderValue::from_bytes(field.value).unwrap());
        }
        let length = read.remove("content-length");
        let chunked = read.remove("transfer-encoding");
        prop_assert_eq!(length.is_some(), matches!(coding, Coding::Sized(_)));
        prop_assert_eq!(chunked.is_some(), coding == Coding::Chunked);
        prop_assert_eq!(read, headers);
    }

    #[test]
    fn chunks_are_read_as_they_were_written_however_they_come(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        trailers in fields(),
        cuts in prop::collection::vec(any::<usize>(), 0..24),
        behind in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut bytes = chunked(&parts, &trailers);
        bytes.extend_from_slice(&behind);
        let whole = decoded(&bytes, Length::Chunked, &cuts).unwrap().unwrap();
        let trailers = (!trailers.is_empty()).then_some(trailers);
        prop_assert_eq!(whole, (parts.concat(), trailers, behind));
    }

    #[test]
    fn a_body_of_known_length_ends_with_it(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        length in 0_u64..64,
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let here = usize::try_from(length).unwrap().min(bytes.len());
        match decoded(&bytes, Length::Sized(length), &cuts).unwrap() {
            Some((data, None, rest)) => {
                prop_assert_eq!(data, bytes[..here].to_vec());
                prop_assert_eq!(rest, bytes[here..].to_vec());
            }
            whole => prop_assert!(whole.is_none() && here == bytes.len()),
        }
    }

    #[test]
    fn a_head_is_the_same_however_it_comes(
        bytes in near_answers(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let whole = read(&bytes, Asked::Other);
        let mut heads = Heads::default();
        let mut buf = BytesMut::new();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut come = 0;
        let mut in_pieces = Ok(None);
        for end in ends {
            buf.extend_from_slice(&bytes[come..end]);
            come = end;
            in_pieces = heads.read(&mut buf, Asked::Other, &mut HeaderMap::new());
            if !matches!(in_pieces, Ok(None)) {
                break;
            }
        }
        buf.extend_from_slice(&bytes[come..]);
        match (whole, in_pieces) {
            (Ok(Some((head, rest))), Ok(Some(other))) => {
                prop_assert_eq!(head.headers, other.headers);
                prop_assert_eq!((head.status, head.length), (other.status, other.length));
                prop_assert_eq!(rest, buf.to_vec());
            }
            (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
            // what is no head is found at its end, or at once
            (Err(_), Ok(None)) => {}
            (whole, in_pieces) => prop_assert!(false, "{whole:?} {in_pieces:?}"),
        }
    }

    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        for asked in [Asked::Other, Asked::Head, Asked::Connect] {
            if let Ok(Some((head, rest))) = read(&bytes, asked) {
                prop_assert!(matches!(head.version, Version::HTTP_10 | Version::HTTP_11));
                prop_assert!(rest.len() < bytes.len());
            }
        }
        drop(decoded(&bytes, Length::Chunked, &[]));
        drop(Bytes::from(bytes));
    }
}
