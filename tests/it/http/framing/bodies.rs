//! Bodies whose end is in doubt once their head has passed.

use super::{Case, Expected, Readers, SMUGGLED, case, check};

const HEAD: &[u8] = b"POST /a HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Chunks in all the ways in which their sizes, ends and trailers were read differently.
const CHUNKS: &[&[u8]] = &[
    b"\r\n5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\rhello\r\n0\r\n\r\n",
    b"5\r\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello\r0\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"4\r\nhello\r\n0\r\n\r\n",
    b"6\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5h\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"\t5\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5 ;a\r\nhello\r\n0\r\n\r\n",
    b"5,a\r\nhello\r\n0\r\n\r\n",
    b"5_0\r\nhello\r\n0\r\n\r\n",
    b"5\x00\r\nhello\r\n0\r\n\r\n",
    b"\xb2\r\nhello\r\n0\r\n\r\n",
    b";a\r\nhello\r\n0\r\n\r\n",
    b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    b"5;a\x00\r\nhello\r\n0\r\n\r\n",
    b"5;a\x7f\r\nhello\r\n0\r\n\r\n",
    b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"0\n\r\n",
    b"0\r\n\n",
    b"0\r\n\rX\r\n",
    b"0 \r\n\r\n",
    b"-0\r\n\r\n",
    b"0\r\nX : y\r\n\r\n",
    b"0\r\n X: y\r\n\r\n",
    b"0\r\nX: y\r\n z\r\n\r\n",
    b"0\r\nX: y\n\r\n",
    b"0\r\nX: y\rZ: a\r\n\r\n",
    b"0\r\nX: y\x00\r\n\r\n",
    b"0\r\nX\r\n\r\n",
    b"0\r\n: y\r\n\r\n",
    b"0\r\nContent-Length: 5\r\n\r\n",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"0\r\nHost: evil.test\r\n\r\n",
    b"0\r\nConnection: close\r\n\r\n",
    b"0\r\nUpgrade: websocket\r\n\r\n",
    b"0\r\nTE: trailers\r\n\r\n",
    b"0\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n",
];

pub(super) fn broken() -> Vec<Case> {
    let long = [b"5;", &[b'a'; 400][..], b"\r\nhello\r\n0\r\n\r\n"].concat();
    let many = [
        &b"0\r\n"[..],
        &b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(400),
    ]
    .concat();
    CHUNKS
        .iter()
        .copied()
        .chain([long.as_slice(), many.as_slice()])
        .map(|chunks| case([HEAD, chunks, SMUGGLED].concat(), Expected::Broken))
        .collect()
}

/// Heads and bodies without their ends.
pub(super) fn unfinished() -> Vec<Case> {
    let bodies: [&[u8]; 9] = [
        b"",
        b"5",
        b"5\r\n",
        b"5\r\nhel",
        b"5\r\nhello",
        b"5\r\nhello\r\n",
        b"5\r\nhello\r\n0\r\n",
        b"5\r\nhello\r\n0\r\nX: y\r\n",
        b"5\r\nhello\r\n0\r\n\r",
    ];
    let heads: [&[u8]; 5] = [
        b"GET /a HTTP/1.1\r\nHost: site.test\r\n",
        b"GET /a HTTP/1.1\r\nHost: site.test",
        b"GET /a HTTP/1.1",
        b"POST /a HTTP/1.1\r\nHost: site.test\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /a HTTP/1.1\r\nHost: site.test\r\nContent-Length: 18446744073709551615\r\n\r\nhello",
    ];
    let chunked = bodies.iter().map(|chunks| [HEAD, chunks].concat());
    chunked
        .chain(heads.iter().map(|head| head.to_vec()))
        .map(|bytes| case(bytes, Expected::Unfinished))
        .collect()
}

#[rstest::rstest]
#[case(Readers::Gateway)]
#[case(Readers::Both)]
#[case(Readers::Acceptor)]
fn bodies_with_two_ends_are_broken_off(#[case] readers: Readers) {
    check(&broken(), readers);
}

#[rstest::rstest]
#[case(Readers::Gateway)]
#[case(Readers::Both)]
#[case(Readers::Acceptor)]
fn what_does_not_end_never_comes_whole(#[case] readers: Readers) {
    check(&unfinished(), readers);
}
