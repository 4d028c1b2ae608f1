//! Request lines, and hosts.

use super::{Case, Expected, Readers, case, check};

/// Lines that are no request line, or of no version that is spoken here.
const LINES: &[&[u8]] = &[
    // HTTP/0.9
    b"GET /\r\n",
    b"GET / \r\n",
    b"GET\r\n",
    // spaces
    b"GET  / HTTP/1.1\r\n",
    b"GET /  HTTP/1.1\r\n",
    b"GET / HTTP/1.1 \r\n",
    b" GET / HTTP/1.1\r\n",
    b"GET\t/ HTTP/1.1\r\n",
    b"GET /\tHTTP/1.1\r\n",
    b"GET\x0b/ HTTP/1.1\r\n",
    b"GET /\x0cHTTP/1.1\r\n",
    b"GET /a b HTTP/1.1\r\n",
    b"GET /a HTTP/1.1 HTTP/1.1\r\n",
    // ends of lines
    b"GET / HTTP/1.1\n",
    b"GET / HTTP/1.1\r\r\n",
    b"GET /\rHTTP/1.1\r\n",
    b"GET / HTTP/1.1\r",
    b"\nGET / HTTP/1.1\r\n",
    b"\rGET / HTTP/1.1\r\n",
    b"\r\n\r\nGET / HTTP/1.1\r\n",
    // versions
    b"GET / HTTP/1.2\r\n",
    b"GET / HTTP/2.0\r\n",
    b"GET / HTTP/0.9\r\n",
    b"GET / HTTP/1.10\r\n",
    b"GET / HTTP/1\r\n",
    b"GET / HTTP/1.\r\n",
    b"GET / HTTP/01.1\r\n",
    b"GET / http/1.1\r\n",
    b"GET / HTTP /1.1\r\n",
    b"GET / HTTP/1.1x\r\n",
    b"GET / HTTP/+1.1\r\n",
    b"GET / HTTPS/1.1\r\n",
    b"GET / ICY/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
    // methods
    b"G(T / HTTP/1.1\r\n",
    b"GET\x00 / HTTP/1.1\r\n",
    b"\x00GET / HTTP/1.1\r\n",
    b"GE\xc9 / HTTP/1.1\r\n",
    b"GET: / HTTP/1.1\r\n",
    b"\"GET\" / HTTP/1.1\r\n",
    // targets
    b"GET a HTTP/1.1\r\n",
    b"GET * HTTP/1.1\r\n",
    b"GET ? HTTP/1.1\r\n",
    b"GET site.test:443 HTTP/1.1\r\n",
    b"GET ftp://site.test/ HTTP/1.1\r\n",
    b"GET http:// HTTP/1.1\r\n",
    b"GET http:/site.test/ HTTP/1.1\r\n",
    b"GET /a#b HTTP/1.1\r\n",
    b"GET /\x00 HTTP/1.1\r\n",
    b"GET /\x01 HTTP/1.1\r\n",
    b"GET /\x7f HTTP/1.1\r\n",
    b"GET /\xe9 HTTP/1.1\r\n",
    b"CONNECT /a HTTP/1.1\r\n",
];

/// The same with a host and the end of the head behind it.
pub(super) fn refused() -> Vec<Case> {
    let whole = |line: &&[u8]| {
        let head = [line, &b"Host: site.test\r\n\r\n"[..]].concat();
        case(head, Expected::Refused(400))
    };
    let mut cases: Vec<Case> = LINES.iter().map(whole).collect();
    let long = [b"GET /", &[b'a'; 70_000][..], b" HTTP/1.1\r\n"].concat();
    cases.push(case(long, Expected::Refused(431)));
    let many = [
        &b"GET / HTTP/1.1\r\nHost: site.test\r\n"[..],
        &b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(2_000),
    ];
    cases.push(case(many.concat(), Expected::Refused(431)));
    cases
}

/// Hosts, and targets that name one.
const HOSTS: &[(&[u8], u16)] = &[
    (b"GET /a HTTP/1.1\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost:\r\n", 400),
    (
        b"GET /a HTTP/1.1\r\nHost: site.test\r\nHost: site.test\r\n",
        400,
    ),
    (
        b"GET /a HTTP/1.1\r\nHost: site.test\r\nHost: evil.test\r\n",
        400,
    ),
    (b"GET /a HTTP/1.1\r\nHost: site.test, evil.test\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: site.test evil.test\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: user@site.test\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: site.test@evil.test\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: site.test:x\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: site.test:0\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: site.test:99999\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: site.test:443:443\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: site.test/a\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: site.test?a\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: site.test#a\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: site.test\\evil.test\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: site..test\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: http://site.test\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: [::1\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: 127.1\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: s\xefte.test\r\n", 400),
    (
        b"GET http://evil.test/a HTTP/1.1\r\nHost: site.test\r\n",
        400,
    ),
    (
        b"GET http://site.test/a HTTP/1.1\r\nHost: evil.test\r\n",
        400,
    ),
    (
        b"GET http://site.test:8080/a HTTP/1.1\r\nHost: site.test\r\n",
        400,
    ),
    (
        b"GET http://user@site.test/a HTTP/1.1\r\nHost: site.test\r\n",
        400,
    ),
    (b"GET http://site.test/a HTTP/1.1\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: evil.test\r\n", 421),
    (
        b"GET http://evil.test/a HTTP/1.1\r\nHost: evil.test\r\n",
        421,
    ),
    // paths that two servers resolve to two places
    (b"GET /a/../b HTTP/1.1\r\nHost: site.test\r\n", 400),
    (b"GET /a/..;/b HTTP/1.1\r\nHost: site.test\r\n", 400),
    (b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: site.test\r\n", 400),
    (b"GET /a%2fb HTTP/1.1\r\nHost: site.test\r\n", 400),
    (b"GET /a\\b HTTP/1.1\r\nHost: site.test\r\n", 400),
    (b"GET /a%00 HTTP/1.1\r\nHost: site.test\r\n", 400),
    (b"GET /a%0d%0aX:%20y HTTP/1.1\r\nHost: site.test\r\n", 400),
    (b"GET /%c0%ae HTTP/1.1\r\nHost: site.test\r\n", 400),
    (b"GET /%zz HTTP/1.1\r\nHost: site.test\r\n", 400),
    // methods
    (b"TRACE /a HTTP/1.1\r\nHost: site.test\r\n", 405),
    (
        b"CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443\r\n",
        405,
    ),
];

pub(super) fn declined() -> Vec<Case> {
    let whole = |(head, status): &(&[u8], u16)| {
        let head = [head, &b"\r\n"[..]].concat();
        case(head, Expected::Declined(*status))
    };
    HOSTS.iter().map(whole).collect()
}

#[rstest::rstest]
#[case(Readers::Gateway)]
#[case(Readers::Both)]
#[case(Readers::Acceptor)]
fn what_is_no_request_line_is_refused(#[case] readers: Readers) {
    check(&refused(), readers);
}

#[rstest::rstest]
#[case(Readers::Gateway)]
#[case(Readers::Both)]
fn what_names_no_one_resource_is_declined(#[case] readers: Readers) {
    check(&declined(), readers);
}
