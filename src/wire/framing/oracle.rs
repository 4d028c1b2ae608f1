//! What is read of a request is what another parser reads of it, however its bytes come.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 32 << 10;

/// Reads a head that is shown in pieces which end at `cuts`: it, and where it ends.
fn read(bytes: &[u8], cuts: &[usize]) -> Result<Option<(usize, Arrived)>, Fault> {
    let mut head = Head::default();
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    for end in ends {
        if let Some(end) = head.read(&bytes[..end], LIMIT)? {
            let arrived = head.take(&bytes[..end], HeaderMap::new())?;
            assert!(head.is_untouched(), "ready for the next");
            return Ok(Some((end, arrived)));
        }
    }
    Ok(None)
}

/// What httparse and `http` make of a head, as hyper puts them together; `None`: they refuse it, or
/// there is no end.
fn expected(bytes: &[u8]) -> Option<(usize, Method, Uri, Version, HeaderMap)> {
    let mut table = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut table);
    let Ok(httparse::Status::Complete(end)) = request.parse(bytes) else {
        return None;
    };
    let mut headers = HeaderMap::new();
    for header in request.headers.iter() {
        headers.append(
            HeaderName::from_bytes(header.name.as_bytes()).ok()?,
            HeaderValue::from_bytes(header.value).ok()?,
        );
    }
    Some((
        end,
        Method::from_bytes(request.method?.as_bytes()).ok()?,
        Uri::try_from(request.path?).ok()?,
        match request.version? {
            0 => Version::HTTP_10,
            _ => Version::HTTP_11,
        },
        headers,
    ))
}

fn assert_agreed(bytes: &[u8], cuts: &[usize]) -> bool {
    let Ok(Some((end, arrived))) = read(bytes, cuts) else {
        return false;
    };
    let read = (
        end,
        arrived.parts.method,
        arrived.parts.uri,
        arrived.parts.version,
        arrived.parts.headers,
    );
    assert_eq!(Some(read), expected(bytes), "{:?}", bytes.escape_ascii());
    true
}

#[rstest::rstest]
#[case("GET /a?b=c&d HTTP/1.1\r\nHost: a\r\n\r\n")]
#[case("\r\nGET / HTTP/1.0\r\n\r\n")]
#[case("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")]
#[case("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")]
#[case("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n")]
#[case("M-SEARCH /x HTTP/1.1\r\nX-A: b\r\nx-a:c\r\nX-A:\r\nB: \t d \te\t \r\nz:caf\u{e9}\r\n\r\n")]
#[case("GET /a\"b{c}|d%zz HTTP/1.1\r\nA: b\r\n\r\n")]
fn what_is_read_is_what_another_parser_reads(#[case] head: &str) {
    let bytes = [head, "rest"].concat().into_bytes();
    assert!(assert_agreed(&bytes, &[]), "it is read");
    for cut in 0..bytes.len() {
        assert!(assert_agreed(&bytes, &[cut]), "cut at {cut}");
    }
    let all: Vec<usize> = (0..bytes.len()).collect();
    assert!(assert_agreed(&bytes, &all));
}

#[test]
fn what_http_takes_for_no_target_is_none() {
    for target in ["/<a>", "/a\\^b", "http://a b", "http://[::1", "/`"] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let known = Uri::try_from(target).is_ok();
        assert_eq!(read(head.as_bytes(), &[]).is_ok(), known, "{target}");
    }
}

#[test]
fn more_fields_than_a_hundred_are_too_many() {
    let head = |fields: usize| {
        let fields: String = (0..fields).map(|n| format!("X-{n}: y\r\n")).collect();
        format!("GET / HTTP/1.1\r\n{fields}\r\n")
    };
    let (_, arrived) = read(head(100).as_bytes(), &[]).unwrap().unwrap();
    assert_eq!(arrived.parts.headers.len(), 100);
    let fault = read(head(101).as_bytes(), &[]).unwrap_err();
    assert_eq!(fault, Fault::TooManyFields);
    // what else is wrong is still seen
    let both = head(101).replace("X-100: y", "X-100 : y");
    let fault = read(both.as_bytes(), &[]).unwrap_err();
    assert_eq!(fault, Fault::SpaceBeforeColon);
}

#[rstest::rstest]
#[case("GET / HTTP/1.1", "", true)]
#[case("GET / HTTP/1.0", "", false)]
#[case("GET / HTTP/1.0", "Connection: Keep-Alive\r\n", true)]
#[case("GET / HTTP/1.1", "Connection: close\r\n", false)]
#[case("GET / HTTP/1.1", "Connection: a, Close ,b\r\n", false)]
#[case(
    "GET / HTTP/1.0",
    "Connection: keep-alive\r\nConnection: close\r\n",
    false
)]
#[case(
    "GET / HTTP/1.0",
    "Connection: close\r\nConnection: keep-alive\r\n",
    false
)]
#[case("GET / HTTP/1.1", "Connection: closed\r\n", true)]
fn who_keeps_a_connection_says_so(#[case] line: &str, #[case] fields: &str, #[case] keep: bool) {
    let head = format!("{line}\r\n{fields}\r\n");
    let (_, arrived) = read(head.as_bytes(), &[]).unwrap().unwrap();
    assert_eq!(arrived.keep, keep);
}

#[test]
fn what_a_head_says_of_its_sender_is_noted() {
    let words = |head: &str| {
        let (_, arrived) = read(head.as_bytes(), &[]).unwrap().unwrap();
        (arrived.expects, arrived.upgrade, arrived.trailers)
    };
    let body = "Content-Length: 1\r\n";
    let expect = "Expect: 100-Continue\r\n";
    let all = format!("POST / HTTP/1.1\r\n{body}{expect}Upgrade: x\r\nTE: a, trailers\r\n\r\n");
    assert_eq!(words(&all), (true, true, true));
    // there is no body, HTTP/1.0 knows neither, and other words mean nothing
    let none = format!("POST / HTTP/1.1\r\n{expect}\r\n");
    assert_eq!(words(&none), (false, false, false));
    let old = format!("POST / HTTP/1.0\r\n{body}{expect}Upgrade: x\r\n\r\n");
    assert_eq!(words(&old), (false, false, false));
    let other = format!("POST / HTTP/1.1\r\n{body}Expect: more\r\nTE: gzip\r\n\r\n");
    assert_eq!(words(&other), (false, false, false));
}

#[test]
fn values_are_parts_of_one_copy() {
    let head = "GET / HTTP/1.1\r\nA: first\r\nB: second\r\n\r\n";
    let (_, arrived) = read(head.as_bytes(), &[]).unwrap().unwrap();
    let at = |name: &str| arrived.parts.headers[name].as_bytes().as_ptr() as usize;
    let apart = head.find("second").unwrap() - head.find("first").unwrap();
    assert_eq!(at("b") - at("a"), apart);
}

/// Reads a chunked body that comes in pieces of these sizes by turns: its data, its trailers, and
/// how many bytes it has.
fn decoded(bytes: &[u8], sizes: &[usize]) -> Result<Option<(Vec<u8>, HeaderMap, usize)>, Fault> {
    let mut chunks = Chunks::default();
    let (mut data, mut passed, mut come) = (Vec::new(), 0, 0);
    let mut sizes = sizes.iter().cycle();
    while come < bytes.len() {
        come = bytes.len().min(come + sizes.next().unwrap());
        loop {
            let rest = &bytes[passed..come];
            let n = match chunks.read(rest)? {
                Progress::More => break,
                Progress::Passed(n) => n,
                Progress::Data(n) => {
                    data.extend_from_slice(&rest[..n]);
                    n
                }
                Progress::Ended(n) => {
                    let trailers = chunks.take_trailers().unwrap_or_default();
                    return Ok(Some((data, trailers, passed + n)));
                }
            };
            passed += n;
            if passed == come {
                break;
            }
        }
    }
    Ok(None)
}

/// Text that comes near to heads.
fn near_heads() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "GET /a?b#c HTTP/1.1\r\n",
        "POST http://a:1/b HTTP/1.0\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "G",
        "X_-a:",
        ": ",
        " ",
        "\t",
        "value",
        "\u{e9}",
        "\r\n",
        "\n",
        "Host: a\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "\r\n\r\n",
        "\0",
        "\"<>\\^`{|}",
    ]);
    let start = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "PUT /x HTTP/1.0\r\nA: b\r\n",
        "",
    ]);
    (start, prop::collection::vec(line, 0..16))
        .prop_map(|(start, parts)| [start, &parts.concat(), "\r\n\r\n"].concat().into_bytes())
}

proptest! {
    #[test]
    fn nothing_is_read_that_another_parser_does_not_read(
        bytes in near_heads(),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let whole = assert_agreed(&bytes, &[]);
        let pieces = assert_agreed(&bytes, &cuts);
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn no_target_is_read_that_another_parser_does_not_read(target in "[ -~]{1,24}") {
        let head = format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_agreed(head.as_bytes(), &[]);
        let head = format!("GET http://{target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_agreed(head.as_bytes(), &[]);
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_agreed(head.as_bytes(), &[]);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        assert_agreed(&bytes, &[]);
        let _read_or_refused = decoded(&bytes, &[256]).is_ok();
    }

    #[test]
    fn data_comes_out_as_it_went_in(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        trailer in any::<bool>(),
        sizes in prop::collection::vec(1_usize..9, 1..4),
    ) {
        let mut bytes = Vec::new();
        for part in &parts {
            bytes.extend(format!("{:x};e=f\r\n", part.len()).into_bytes());
            bytes.extend(part);
            bytes.extend(b"\r\n");
        }
        bytes.extend(if trailer { &b"0\r\nX-End: yes \r\n\r\n"[..] } else { b"0\r\n\r\n" });
        let length = bytes.len();
        bytes.extend(b"GET / HTTP/1.1\r\n\r\n");
        let (data, trailers, end) = decoded(&bytes, &sizes).unwrap().unwrap();
        prop_assert_eq!(data, parts.concat());
        prop_assert_eq!(end, length);
        prop_assert_eq!(trailers.len(), usize::from(trailer));
        if trailer {
            prop_assert_eq!(trailers["x-end"].as_bytes(), b"yes");
        }
    }
}

#[test]
fn more_trailers_than_a_hundred_are_too_many() {
    let body = format!("0\r\n{}\r\n", "a: b\r\n".repeat(101));
    let refused = decoded(body.as_bytes(), &[64]).unwrap_err();
    assert_eq!(refused, Fault::TrailersTooLarge);
    let body = format!("0\r\n{}\r\n", "a: b\r\n".repeat(100));
    let (_, trailers, _) = decoded(body.as_bytes(), &[64]).unwrap().unwrap();
    assert_eq!(trailers.len(), 100);
}
