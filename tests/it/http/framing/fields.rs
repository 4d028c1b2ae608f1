//! Field lines, and those among them that say where a message ends.

use super::{Case, Expected, Readers, SMUGGLED, case, check};

/// `Transfer-Encoding` in all the ways in which one server saw `chunked` and another did not.
const CODINGS: &[&[u8]] = &[
    b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    b"content-length: 4\r\nTRANSFER-ENCODING: CHUNKED\r\n",
    b"Content-Length: 4\r\nTransfer-Encoding: identity\r\n",
    b"Content-Length: 4\r\nX: y\r\nTransfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\ntransfer-encoding: identity\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: chunkedx\r\n",
    b"Transfer-Encoding: chunk\r\n",
    b"Transfer-Encoding: cow\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\r\n",
    b"Transfer-Encoding: \r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding\t: chunked\r\n",
    b" Transfer-Encoding: chunked\r\n",
    b"\tTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\tchunked\r\n",
    b"Transfer-Encoding: \tchunked\r\n",
    b"Transfer-Encoding:  chunked\r\n",
    b"Transfer-Encoding: chunked \r\n",
    b"Transfer-Encoding: chunked\t\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding: \x0cchunked\r\n",
    b"Transfer-Encoding: chunked\x00\r\n",
    b"Transfer-Encoding: chunked\x1f\r\n",
    b"Transfer-Encoding: chunked\xa0\r\n",
    b"Transfer-Encoding: \xffchunked\r\n",
    b"Transfer-Encoding: c\thunked\r\n",
    b"Transfer-Encoding: chunked,\r\n",
    b"Transfer-Encoding: ,chunked\r\n",
    b"Transfer-Encoding: chunked;q=1\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: identity, chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked identity\r\n",
    b"Transfer-Encoding: \"chunked\"\r\n",
    b"Transfer-Encoding: 'chunked'\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Transfer-Encoding\r\n : chunked\r\n",
    b"Transfer-Encoding: chunked\r\n X: y\r\n",
    b"Transfer-Encoding\x00: chunked\r\n",
    b"\x00Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding chunked\r\n",
    b"X: y\nTransfer-Encoding: chunked\r\n",
    b"X: y\rTransfer-Encoding: chunked\r\n",
    b"X: y\r\n\rTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\n",
];

/// `Content-Length` that is no number, or more than one.
const LENGTHS: &[&[u8]] = &[
    b"Content-Length: +4\r\n",
    b"Content-Length: -4\r\n",
    b"Content-Length: -0\r\n",
    b"Content-Length: 04\r\n",
    b"Content-Length: 0x4\r\n",
    b"Content-Length: 4.0\r\n",
    b"Content-Length: 4e0\r\n",
    b"Content-Length: 1_0\r\n",
    b"Content-Length: 4;\r\n",
    b"Content-Length: 4,\r\n",
    b"Content-Length: ,4\r\n",
    b"Content-Length: 4, 4\r\n",
    b"Content-Length: 4, 5\r\n",
    b"Content-Length: 4 4\r\n",
    b"Content-Length: \"4\"\r\n",
    b"Content-Length: four\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: \r\n",
    b"Content-Length: 4 \r\n",
    b"Content-Length:  4\r\n",
    b"Content-Length:\t4\r\n",
    b"Content-Length: 4\x0b\r\n",
    b"Content-Length: 4\x00\r\n",
    b"Content-Length: \xb2\r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"Content-Length: 99999999999999999999999\r\n",
    b"Content-Length: 4\r\nContent-Length: 4\r\n",
    b"Content-Length: 4\r\nContent-Length: 5\r\n",
    b"Content-Length: 4\r\ncontent-length: 0\r\n",
    b"Content-Length: 0\r\nX: y\r\nCONTENT-LENGTH: 4\r\n",
    b"Content-Length : 4\r\n",
    b"Content-Length\t: 4\r\n",
    b" Content-Length: 4\r\n",
    b"Content-Length:\r\n 4\r\n",
    b"Content-Length: 4\r\n 5\r\n",
    b"Content-Length: 4\n",
    b"Content-Length: 4\rX: y\r\n",
    b"X: y\nContent-Length: 4\r\n",
    b"Content Length: 4\r\n",
    b"Content-Length 4\r\n",
    b"Content-Length\r\n",
    b"Content-Length\x00: 4\r\n",
];

/// Lines that are no field, or one only for some.
const LINES: &[&[u8]] = &[
    b"X : y\r\n",
    b"X\t: y\r\n",
    b"X y: z\r\n",
    b": y\r\n",
    b"X\r\n",
    b"X\x00: y\r\n",
    b"X(: y\r\n",
    b"X,: y\r\n",
    b"X/: y\r\n",
    b"X;: y\r\n",
    b"X@: y\r\n",
    b"X[]: y\r\n",
    b"X{: y\r\n",
    b"\"X\": y\r\n",
    b"X\xe9: y\r\n",
    b"X\x80: y\r\n",
    b"X: a\x00b\r\n",
    b"X: a\x01b\r\n",
    b"X: a\x1bb\r\n",
    b"X: a\x7fb\r\n",
    b"X: a\rb\r\n",
    b"X: a\r\r\n",
    b"X: a\n",
    b"X: a\n\n",
    b"X: a\n\r\n",
    b"X: a\r\n b\r\n",
    b"X: a\r\n\tb\r\n",
    b"X: a\r\n \r\n",
    b" X: a\r\n",
    b"GET /smuggled HTTP/1.1\r\n",
];

pub(super) fn refused() -> Vec<Case> {
    [CODINGS, LENGTHS, LINES]
        .concat()
        .iter()
        .map(|fields| {
            let parts = [
                &b"POST /a HTTP/1.1\r\nHost: site.test\r\n"[..],
                fields,
                b"\r\n0\r\n\r\n",
                SMUGGLED,
            ];
            case(parts.concat(), Expected::Refused(400))
        })
        .chain([
            // HTTP/1.0 knows no codings
            case(
                b"POST /a HTTP/1.0\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                Expected::Refused(400),
            ),
            case(
                b"POST /a HTTP/1.0\r\nHost: site.test\r\nContent-Length: 4\r\n\
                  Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                Expected::Refused(400),
            ),
        ])
        .collect()
}

#[rstest::rstest]
#[case(Readers::Gateway)]
#[case(Readers::Both)]
#[case(Readers::Acceptor)]
fn fields_with_two_readings_are_refused(#[case] readers: Readers) {
    check(&refused(), readers);
}
