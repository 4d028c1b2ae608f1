use proptest::prelude::*;

use super::{
    guard::{Guard, Stop},
    *,
};

/// Shows all bytes at once: what passes, and what stops it.
fn whole(bytes: &[u8]) -> (usize, Option<Stop>) {
    let verdict = Guard::new(32 << 10).judge(bytes);
    (verdict.pass, verdict.stop)
}

/// Shows bytes in pieces that end at `cuts`, as a stream would bring them.
fn pieces(bytes: &[u8], cuts: &[usize]) -> (usize, Option<Stop>) {
    let mut guard = Guard::new(32 << 10);
    let (mut passed, mut shown) = (0, 0);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    for end in ends {
        if end <= shown {
            continue;
        }
        shown = end;
        let verdict = guard.judge(&bytes[passed..shown]);
        passed += verdict.pass;
        if let Some(stop) = verdict.stop {
            return (passed, Some(stop));
        }
    }
    (passed, None)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[rstest::rstest]
#[case("GET / HTTP/1.1\r\nHost: a\r\n\r\n")]
#[case("\r\nGET /a?b=c&d HTTP/1.0\r\n\r\n")]
#[case("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")]
#[case("GET HTTP://a/b HTTP/1.1\r\nHost: a\r\n\r\n")]
#[case("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello")]
#[case("POST / HTTP/1.1\r\ncontent-length:0\r\n\r\n")]
#[case("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")]
#[case(
    "POST / HTTP/1.1\r\nTransfer-Encoding:chunked\r\n\r\n0005;a=\"b c\";d\r\nhello\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n"
)]
#[case("GET / HTTP/1.1\r\nX:\r\nY: \t a\tb \r\nZ: caf\u{e9}\r\n\r\n")]
fn what_has_one_reading_passes(#[case] request: &str) {
    let twice = [request, request, GET].concat();
    assert_eq!(whole(twice.as_bytes()), (twice.len(), None));
}

#[rstest::rstest]
#[case("GET / HTTP/1.1\nHost: a\n\n", Fault::LineEnd)]
#[case("GET / HTTP/1.1\r\nHost: a\n\r\n", Fault::LineEnd)]
#[case("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Fault::LineEnd)]
#[case("GET / HTTP/1.1\r\nA: b\rHost: a\r\n\r\n", Fault::LineEnd)]
#[case("\nGET / HTTP/1.1\r\n\r\n", Fault::LineEnd)]
#[case("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Fault::RequestLine)]
#[case("GET /\r\n", Fault::RequestLine)]
#[case("GET  / HTTP/1.1\r\n\r\n", Fault::RequestLine)]
#[case("GET / a HTTP/1.1\r\n\r\n", Fault::RequestLine)]
#[case("GET / HTTP/1.1 \r\n\r\n", Fault::RequestLine)]
#[case(" GET / HTTP/1.1\r\n\r\n", Fault::RequestLine)]
#[case("GET\t/\tHTTP/1.1\r\n\r\n", Fault::RequestLine)]
#[case("G(T / HTTP/1.1\r\n\r\n", Fault::RequestLine)]
#[case("GET / HTTP/2.0\r\n\r\n", Fault::Version)]
#[case("GET / HTTP/1.2\r\n\r\n", Fault::Version)]
#[case("GET / HTTP/1.10\r\n\r\n", Fault::Version)]
#[case("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Fault::Version)]
#[case("GET / http/1.1\r\n\r\n", Fault::RequestLine)]
#[case("GET * HTTP/1.1\r\n\r\n", Fault::Target)]
#[case("GET a HTTP/1.1\r\n\r\n", Fault::Target)]
#[case("GET ftp://a/ HTTP/1.1\r\n\r\n", Fault::Target)]
#[case("GET http:// HTTP/1.1\r\n\r\n", Fault::Target)]
#[case("GET /a#b HTTP/1.1\r\n\r\n", Fault::Target)]
#[case("CONNECT /a HTTP/1.1\r\n\r\n", Fault::Target)]
#[case(
    "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 2\r\n\r\nab",
    Fault::ConnectContent
)]
#[case(
    "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n",
    Fault::ConnectContent
)]
#[case("GET /\u{e9} HTTP/1.1\r\n\r\n", Fault::Target)]
#[case("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", Fault::Folded)]
#[case("GET / HTTP/1.1\r\n A: b\r\n\r\n", Fault::Folded)]
#[case("GET / HTTP/1.1\r\nA : b\r\n\r\n", Fault::SpaceBeforeColon)]
#[case("GET / HTTP/1.1\r\nA\t: b\r\n\r\n", Fault::SpaceBeforeColon)]
#[case("GET / HTTP/1.1\r\n: b\r\n\r\n", Fault::FieldName)]
#[case("GET / HTTP/1.1\r\nA b: c\r\n\r\n", Fault::FieldName)]
#[case("GET / HTTP/1.1\r\nA\r\n\r\n", Fault::FieldName)]
#[case("GET / HTTP/1.1\r\nA\u{0}: c\r\n\r\n", Fault::FieldName)]
#[case("GET / HTTP/1.1\r\nA: b\u{0}c\r\n\r\n", Fault::FieldValue)]
#[case("GET / HTTP/1.1\r\nA: b\u{7f}c\r\n\r\n", Fault::FieldValue)]
#[case("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello", Fault::Length)]
#[case("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", Fault::Length)]
#[case("POST / HTTP/1.1\r\nContent-Length: 05\r\n\r\nhello", Fault::Length)]
#[case("POST / HTTP/1.1\r\nContent-Length: 5 \r\n\r\nhello", Fault::Length)]
#[case("POST / HTTP/1.1\r\nContent-Length:  5\r\n\r\nhello", Fault::Length)]
#[case("POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello", Fault::Length)]
#[case("POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\nhello", Fault::Length)]
#[case("POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", Fault::Length)]
#[case(
    "POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n",
    Fault::Length
)]
#[case(
    "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    Fault::LengthRepeated
)]
#[case(
    "POST / HTTP/1.1\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\nhello",
    Fault::LengthRepeated
)]
#[case(
    "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    Fault::LengthAndCoding
)]
#[case(
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
    Fault::LengthAndCoding
)]
#[case(
    "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    Fault::Coding
)]
#[case(
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    Fault::Coding
)]
#[case(
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    Fault::Coding
)]
#[case(
    "POST / HTTP/1.1\r\nTransfer-Encoding: \tchunked\r\n\r\n",
    Fault::Coding
)]
#[case("POST / HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n", Fault::Coding)]
#[case(
    "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
    Fault::Coding
)]
#[case(
    "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    Fault::Coding
)]
fn a_head_with_two_readings_is_refused_and_nothing_of_it_passes(
    #[case] request: &str,
    #[case] fault: Fault,
) {
    let stop = Some(Stop::Head(fault));
    assert_eq!(whole(request.as_bytes()), (0, stop));
    let behind = [GET, request, GET].concat();
    assert_eq!(whole(behind.as_bytes()), (GET.len(), stop));
}

#[rstest::rstest]
#[case("5\nhello\r\n0\r\n\r\n", 0, Fault::LineEnd)]
#[case("5\r\nhelloX\r\n0\r\n\r\n", 8, Fault::ChunkEnd)]
#[case("5\r\nhello\n0\r\n\r\n", 8, Fault::ChunkEnd)]
#[case("5\r\nhello\r0\r\n\r\n", 8, Fault::ChunkEnd)]
#[case("\r\n", 0, Fault::ChunkSize)]
#[case("0x5\r\nhello\r\n0\r\n\r\n", 0, Fault::ChunkSize)]
#[case("+5\r\nhello\r\n", 0, Fault::ChunkSize)]
#[case(" 5\r\nhello\r\n", 0, Fault::ChunkSize)]
#[case("5 \r\nhello\r\n", 0, Fault::ChunkSize)]
#[case("5 ;a\r\nhello\r\n", 0, Fault::ChunkSize)]
#[case("5,a\r\nhello\r\n", 0, Fault::ChunkSize)]
#[case("10000000000000005\r\nhello\r\n", 0, Fault::ChunkSize)]
#[case("5;a\rb\r\nhello\r\n", 0, Fault::LineEnd)]
#[case("5;a\u{0}b\r\nhello\r\n", 0, Fault::ChunkExtension)]
#[case("0\r\nContent-Length: 5\r\n\r\n", 3, Fault::Trailer)]
#[case("0\r\nTransfer-Encoding: chunked\r\n\r\n", 3, Fault::Trailer)]
#[case("0\r\nHost: b\r\n\r\n", 3, Fault::Trailer)]
#[case("0\r\nA: b\n\r\n", 3, Fault::LineEnd)]
#[case("0\r\nA : b\r\n\r\n", 3, Fault::SpaceBeforeColon)]
#[case("0\r\nGET / HTTP/1.1\r\n\r\n", 3, Fault::FieldName)]
fn a_body_with_two_readings_is_refused_where_it_has_them(
    #[case] body: &str,
    #[case] passed: usize,
    #[case] fault: Fault,
) {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bytes = [head, body].concat();
    assert_eq!(
        whole(bytes.as_bytes()),
        (head.len() + passed, Some(Stop::Body(fault)))
    );
}

#[test]
fn what_never_ends_is_not_waited_for() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (start, filler, fault) in [
        ("", "0", Stop::Body(Fault::ChunkExtension)),
        ("5;", "a", Stop::Body(Fault::ChunkExtension)),
        ("0\r\nA: ", "a", Stop::Body(Fault::TrailersTooLarge)),
        ("0\r\n", "A: b\r\n", Stop::Body(Fault::TrailersTooLarge)),
    ] {
        let endless = [head, start, &filler.repeat(16 << 10)].concat();
        assert_eq!(whole(endless.as_bytes()).1, Some(fault), "{start}");
    }
    let chunks = "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\na\r\n"
        .repeat(300);
    let many = [head, &chunks].concat();
    assert_eq!(
        whole(many.as_bytes()).1,
        Some(Stop::Body(Fault::ChunkExtension))
    );
    let long = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(33 << 10));
    assert_eq!(
        whole(long.as_bytes()),
        (0, Some(Stop::Head(Fault::HeadTooLarge)))
    );
    let done = format!("{long}\r\n\r\n");
    assert_eq!(
        whole(done.as_bytes()),
        (0, Some(Stop::Head(Fault::HeadTooLarge)))
    );
    let target = format!("GET /{}", "a".repeat(MAX_TARGET));
    let verdict = Guard::new(1 << 20).judge(target.as_bytes());
    assert_eq!(verdict.stop, Some(Stop::Head(Fault::TargetTooLong)));
}

#[test]
fn what_is_no_http_is_refused_before_its_first_line_ends() {
    for bytes in [&b"\x16\x03\x01\x02"[..], b"\0", b"G\xffT"] {
        assert_eq!(whole(bytes), (0, Some(Stop::Head(Fault::RequestLine))));
    }
}

#[test]
fn an_upgrade_stops_behind_its_request() {
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    let bytes = [ask, GET].concat();
    let mut guard = Guard::new(32 << 10);
    let verdict = guard.judge(bytes.as_bytes());
    assert_eq!(
        (verdict.pass, verdict.stop),
        (ask.len(), Some(Stop::Upgrade))
    );
    // it was not granted: the rest is the next request
    let verdict = guard.judge(GET.as_bytes());
    assert_eq!((verdict.pass, verdict.stop), (GET.len(), None));
    let tunnel = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
    let bytes = [tunnel, GET].concat();
    assert_eq!(whole(bytes.as_bytes()), (tunnel.len(), Some(Stop::Upgrade)));
    let posted = ask
        .replace("GET", "POST")
        .replace("Host: a", "Content-Length: 2");
    let bytes = [&posted, "ab", GET].concat();
    assert_eq!(
        whole(bytes.as_bytes()),
        (posted.len() + 2, Some(Stop::Upgrade))
    );
}

/// Text that comes near to requests.
fn near_requests() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\n",
        "Host: a\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n",
        "\n",
        "\r",
        " ",
        "A: b\r\n",
        "Upgrade: x\r\n",
        "\0",
        ";",
        "f",
    ]);
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #[test]
    fn the_verdict_does_not_depend_on_how_the_bytes_come(
        bytes in near_requests(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let (passed, stop) = whole(&bytes);
        let (passed_in_pieces, stop_in_pieces) = pieces(&bytes, &cuts);
        // the first fault that shows may be another one
        let kind = |stop: Option<Stop>| stop.map(|stop| std::mem::discriminant(&stop));
        prop_assert_eq!(kind(stop), kind(stop_in_pieces));
        prop_assert_eq!(passed, passed_in_pieces);
    }

    #[test]
    fn no_more_passes_than_came(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(whole(&bytes).0 <= bytes.len());
    }
}
