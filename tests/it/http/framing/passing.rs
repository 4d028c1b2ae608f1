//! What has one reading, and comes as just that: what is judged strictly must not be more.

use super::{Case, Expected, Readers, SMUGGLED, arrives, case, check};

/// A head for `site.test` with these fields, and what stands behind it.
fn request(line: &str, fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!("{line} HTTP/1.1\r\nHost: site.test\r\n{fields}\r\n");
    [head.as_bytes(), body.as_ref()].concat()
}

fn passes(bytes: Vec<u8>, line: &str, fields: &[&str], body: &[u8]) -> Case {
    case(bytes, Expected::Passes(vec![arrives(line, fields, body)]))
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

pub(super) fn alone() -> Vec<Case> {
    let mut cases = lines();
    cases.extend(fields());
    cases.extend(bodies());
    cases.extend(old());
    cases
}

fn lines() -> Vec<Case> {
    let mut cases = vec![
        passes(
            [b"\r\n", &request("GET /a", "", "")[..]].concat(),
            "GET /a",
            &[],
            b"",
        ),
        // absolute form
        passes(
            request("GET https://site.test/a?b", "", ""),
            "GET /a?b",
            &[],
            b"",
        ),
        passes(
            request("GET HTTP://SITE.TEST/a", "", ""),
            "GET /a",
            &[],
            b"",
        ),
        passes(
            request("GET https://site.test:443", "", ""),
            "GET /",
            &[],
            b"",
        ),
        // an upgrade to HTTP/2 in clear text is not handed on
        passes(
            request(
                "GET /a",
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
                "",
            ),
            "GET /a",
            &[],
            b"",
        ),
        passes(request("OPTIONS *", "", ""), "OPTIONS *", &[], b""),
        // an expectation of nothing
        passes(
            request("GET /a", "Expect: 100-continue\r\n", ""),
            "GET /a",
            &[],
            b"",
        ),
    ];
    for line in [
        "GET /a",
        "get /a",
        "PURGE /a",
        "M-SEARCH /a",
        "GET /a?b=c&d=%2e%2e",
        "GET //a",
        "GET /a;b=c",
        "GET /%20",
        "GET /a:b@c",
        "GET /?",
        "DELETE /a",
    ] {
        cases.push(passes(request(line, "", ""), line, &[], b""));
    }
    cases
}

fn fields() -> Vec<Case> {
    let mut cases = Vec::new();
    // as they are
    for (sent, come) in [
        ("TE: trailers\r\n", "te: trailers"),
        ("X:\r\n", "x: "),
        ("X: y\r\n", "x: y"),
        ("X:y\r\n", "x: y"),
        ("X:  \t y \t\r\n", "x: y"),
        ("X: a\tb\r\n", "x: a\tb"),
        ("x!#$%&'*+-.^`|~: y\r\n", "x!#$%&'*+-.^`|~: y"),
        ("X: \"a, b\"; c=d: e\r\n", "x: \"a, b\"; c=d: e"),
    ] {
        cases.push(passes(request("GET /a", sent, ""), "GET /a", &[come], b""));
    }
    // fields that end here, or that nobody may send
    for sent in [
        "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n",
        "Connection: X-Gone\r\nX-Gone: y\r\n",
        "Connection: host\r\n",
        "Proxy-Connection: keep-alive\r\n",
        "Expect: 200-ok\r\n",
        "Upgrade: websocket\r\n",
        "Content_Length: 5\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Proxy: http://evil.test\r\n",
        "X-Original-URL: /admin\r\n",
        "X-HTTP-Method-Override: DELETE\r\n",
    ] {
        cases.push(passes(request("GET /a", sent, ""), "GET /a", &[], b""));
    }
    cases
}

fn bodies() -> Vec<Case> {
    let mut cases = Vec::new();
    // of a length
    for (line, fields, body) in [
        ("POST /a", "Content-Length: 0\r\n", &b""[..]),
        ("POST /a", "Content-Length:5\r\n", b"hello"),
        (
            "POST /a",
            "content-length: 5\r\nConnection: content-length\r\n",
            b"hello",
        ),
        ("GET /a", "Content-Length: 5\r\n", b"hello"),
        ("DELETE /a", "Content-Length: 5\r\n", b"hello"),
        ("POST /a", "Content-Length: 5\r\n", b"0\r\n\r\n"),
        ("POST /a", "Content-Length: 43\r\n", SMUGGLED),
        ("GET /a", "Content-Length: 43\r\n", SMUGGLED),
    ] {
        let length = format!("content-length: {}", body.len());
        cases.push(passes(request(line, fields, body), line, &[&length], body));
    }
    // and in chunks
    for (chunks, body) in [
        ("0\r\n\r\n", &b""[..]),
        ("5\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("1\r\nh\r\n4\r\nello\r\n0\r\n\r\n", b"hello"),
        ("0005\r\nhello\r\n0000\r\n\r\n", b"hello"),
        (
            "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
            b"01234567890123456789",
        ),
        ("5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello"),
        ("5;a=\"b c\"\r\nhello\r\n0\r\n\r\n", b"hello"),
        ("7\r\n0\r\n\r\nGE\r\n0\r\n\r\n", b"0\r\n\r\nGE"),
    ] {
        cases.push(passes(
            request("POST /a", CHUNKED, chunks),
            "POST /a",
            &["transfer-encoding: chunked"],
            body,
        ));
    }
    cases.push(passes(
        request(
            "POST /a",
            "TRANSFER-ENCODING:Chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        "POST /a",
        &["transfer-encoding: chunked"],
        b"hello",
    ));
    cases
}

/// HTTP/1.0.
fn old() -> Vec<Case> {
    let get = case(
        "GET /a HTTP/1.0\r\nHost: site.test\r\n\r\n",
        Expected::PassesLast(vec![arrives("GET /a", &[], b"")]),
    );
    let post = case(
        "POST /a HTTP/1.0\r\nHost: site.test\r\nContent-Length: 5\r\n\r\nhello",
        Expected::PassesLast(vec![arrives("POST /a", &["content-length: 5"], b"hello")]),
    );
    vec![get, post]
}

pub(super) fn pipelined() -> Vec<Case> {
    let get = |path: &str| request(&format!("GET {path}"), "", "");
    let got = |path: &str| arrives(&format!("GET {path}"), &[], b"");
    let sized = request("POST /s", "Content-Length: 5\r\n", "hello");
    let sized_came = arrives("POST /s", &["content-length: 5"], b"hello");
    let chunked = request("POST /c", CHUNKED, "5\r\nhello\r\n0\r\n\r\n");
    let chunked_came = arrives("POST /c", &["transfer-encoding: chunked"], b"hello");
    let many: Vec<String> = (0..30).map(|n| format!("/{n}")).collect();
    let all = |parts: &[&[u8]]| parts.concat();
    vec![
        case(
            all(&[&get("/1"), &get("/2"), &get("/3")]),
            Expected::Passes(vec![got("/1"), got("/2"), got("/3")]),
        ),
        case(
            all(&[&sized, &get("/2")]),
            Expected::Passes(vec![sized_came.clone(), got("/2")]),
        ),
        case(
            all(&[&chunked, &get("/2")]),
            Expected::Passes(vec![chunked_came.clone(), got("/2")]),
        ),
        case(
            all(&[&chunked, b"\r\n", &sized, b"\r\n", &chunked]),
            Expected::Passes(vec![chunked_came.clone(), sized_came.clone(), chunked_came]),
        ),
        case(
            all(&[&request("HEAD /h", "", ""), &get("/2")]),
            Expected::Passes(vec![arrives("HEAD /h", &[], b""), got("/2")]),
        ),
        case(
            many.iter().flat_map(|path| get(path)).collect::<Vec<u8>>(),
            Expected::Passes(many.iter().map(|path| got(path)).collect()),
        ),
        // nothing is served behind the last
        case(
            all(&[&request("GET /1", "Connection: close\r\n", ""), SMUGGLED]),
            Expected::PassesLast(vec![got("/1")]),
        ),
        case(
            all(&[b"GET /1 HTTP/1.0\r\nHost: site.test\r\n\r\n", SMUGGLED]),
            Expected::PassesLast(vec![got("/1")]),
        ),
        // what is good is answered, what follows is refused
        case(
            all(&[&get("/1"), &get("/2"), b"GARBAGE\r\n\r\n", SMUGGLED]),
            Expected::PassesAndRefuses(vec![got("/1"), got("/2")], 400),
        ),
        case(
            all(&[&sized, b"X", b"\r\n", SMUGGLED]),
            Expected::PassesAndRefuses(vec![sized_came], 400),
        ),
        case(
            // no length, so no body
            request("POST /1", "", [b"hello ", SMUGGLED].concat()),
            Expected::PassesAndRefuses(vec![arrives("POST /1", &[], b"")], 400),
        ),
        case(
            request(
                "GET /1",
                "Transfer_Encoding: chunked\r\n",
                [b"0\r\n\r\n", SMUGGLED].concat(),
            ),
            Expected::PassesAndRefuses(vec![got("/1")], 400),
        ),
        case(
            all(&[
                &get("/1"),
                b"POST /2 HTTP/1.1\r\nHost: site.test\r\nContent-Length: 4\r\n\
                  Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                SMUGGLED,
            ]),
            Expected::PassesAndRefuses(vec![got("/1")], 400),
        ),
    ]
}

#[rstest::rstest]
#[case(Readers::Gateway)]
#[case(Readers::Both)]
fn what_has_one_reading_comes_as_it_is(#[case] readers: Readers) {
    check(&alone(), readers);
}

#[rstest::rstest]
#[case(Readers::Gateway)]
#[case(Readers::Both)]
fn what_comes_together_is_answered_in_its_order(#[case] readers: Readers) {
    check(&pipelined(), readers);
}
