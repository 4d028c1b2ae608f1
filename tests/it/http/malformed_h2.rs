//! Requests in HTTP/2 that RFC 9113 sections 8.1 to 8.3 call malformed, and their well-formed kin,
//! frame by frame. Nothing of the former comes whole to the backend, which hears HTTP/1.1 and
//! would read some of them as something else.

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use super::{
    Chain,
    bad_h2::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame},
    raw::{Message, Seen, answering, ok},
};
use crate::world::{Backend, World};

type Field<'a> = (&'a [u8], &'a [u8]);

const METHOD: Field<'_> = (b":method", b"GET");
const POST: Field<'_> = (b":method", b"POST");
const SCHEME: Field<'_> = (b":scheme", b"https");
const PATH: Field<'_> = (b":path", b"/a");
const AUTHORITY: Field<'_> = (b":authority", b"site.test");
const GET: [Field<'_>; 4] = [METHOD, SCHEME, PATH, AUTHORITY];

/// Literal fields without index or Huffman coding (RFC 7541 section 6.2.2).
fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(*text);
        }
    }
    block
}

/// What a client sends behind its preface.
struct Sent {
    what: String,
    frames: Vec<u8>,
}

fn sent(fields: &[Field<'_>], body: &[&[u8]], trailers: Option<&[Field<'_>]>) -> Sent {
    let mut what = String::new();
    for (name, value) in fields.iter().chain(trailers.unwrap_or_default()) {
        what += &format!("{}: {}, ", name.escape_ascii(), value.escape_ascii());
    }
    what += &format!("{} octets", body.concat().len());
    let end = |last: bool| if last { END_STREAM } else { 0 };
    let bare = body.is_empty() && trailers.is_none();
    let mut frames = frame(HEADERS, END_HEADERS | end(bare), 1, &block(fields));
    for (at, data) in body.iter().enumerate() {
        let last = at + 1 == body.len() && trailers.is_none();
        frames.extend(frame(DATA, end(last), 1, data));
    }
    if let Some(trailers) = trailers {
        frames.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &block(trailers),
        ));
    }
    Sent { what, frames }
}

/// A GET with more.
fn get(more: &[Field<'_>]) -> Sent {
    sent(&[&GET, more].concat(), &[], None)
}

fn post(more: &[Field<'_>], body: &[&[u8]]) -> Sent {
    let head = [&[POST, SCHEME, PATH, AUTHORITY], more].concat();
    sent(&head, body, None)
}

/// What the client heard first of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// The stream's end, with this error code.
    Reset(u32),
    /// The connection's.
    Goaway(u32),
    /// An answer that begins with this octet: 0x88 is 200, 0x8c is 400.
    Answer(u8),
    Nothing,
}

const PROTOCOL_ERROR: u32 = 1;
const OK: Heard = Heard::Answer(0x88);

struct Wire {
    chain: Chain,
    _backend: Backend,
    seen: Seen,
    looked_at: usize,
}

impl Wire {
    fn new() -> Self {
        let world = World::new();
        let (backend, seen) = answering(world.address(), |request| ok(request.target()));
        let chain = Chain::new(world, backend.address, "", "");
        Self {
            chain,
            _backend: backend,
            seen,
            looked_at: 0,
        }
    }

    fn hear(&self, sent: &Sent) -> Heard {
        let client = self.chain.world.client().alpn("h2");
        let mut stream = client.connect(self.chain.edge, "site.test").unwrap();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        bytes.extend(&sent.frames);
        stream.write_all(&bytes).unwrap();
        stream.flush().unwrap();
        let quick = Some(Duration::from_millis(20));
        stream.sock.set_read_timeout(quick).unwrap();
        let began = Instant::now();
        let mut came = Vec::new();
        while began.elapsed() < Duration::from_secs(3) {
            let mut some = [0; 4096];
            let ended = match stream.read(&mut some) {
                Ok(n) => {
                    came.extend(&some[..n]);
                    n == 0
                }
                Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
            };
            if let Some(heard) = first(&came) {
                return heard;
            }
            if ended {
                break;
            }
        }
        Heard::Nothing
    }

    /// What came to the backend since the last look.
    fn noted(&mut self) -> Vec<Message> {
        let answer = self.chain.raw().ask(&["GET /probe"]);
        assert_eq!(answer.text(), "/probe", "another's answer");
        let mut all = self.seen.all().split_off(self.looked_at);
        self.looked_at += all.len();
        let at = all.iter().position(|message| message.target() == "/probe");
        all.remove(at.expect("the probe came"));
        all.retain(|message| !message.start.ends_with("(cut)"));
        all
    }
}

fn first(mut frames: &[u8]) -> Option<Heard> {
    while let [a, b, c, kind, ..] = *frames {
        let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        let whole = frames.get(..end)?;
        let code = |at: usize| u32::from_be_bytes(whole[at..at + 4].try_into().unwrap());
        match kind {
            HEADERS => return Some(Heard::Answer(whole[9])),
            RST_STREAM => return Some(Heard::Reset(code(9))),
            GOAWAY => return Some(Heard::Goaway(code(13))),
            _ => frames = &frames[end..],
        }
    }
    None
}

/// Checks that none of these comes whole to the backend, and that each is told so.
fn refused(cases: &[Sent]) {
    let mut wire = Wire::new();
    let mut failed = Vec::new();
    for sent in cases {
        let heard = wire.hear(sent);
        let noted = wire.noted();
        let told = matches!(
            heard,
            Heard::Reset(PROTOCOL_ERROR) | Heard::Goaway(PROTOCOL_ERROR) | Heard::Answer(0x8c)
        );
        if !told || !noted.is_empty() {
            failed.push(format!("{}\n  {heard:x?} {noted:?}", sent.what));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn pseudo_fields_are_all_there_once_and_first() {
    let without = |name: &[u8]| {
        let left: Vec<Field<'_>> = GET.iter().copied().filter(|(n, _)| *n != name).collect();
        sent(&left, &[], None)
    };
    let with = |name: &'static [u8], value: &'static [u8]| {
        let changed = |(n, v): &Field<'static>| (*n, if *n == name { value } else { *v });
        let all: Vec<Field<'_>> = GET.iter().map(changed).collect();
        sent(&all, &[], None)
    };
    let mut cases = vec![
        without(b":method"),
        without(b":scheme"),
        without(b":path"),
        without(b":authority"),
        get(&[(b":evil", b"a")]),
        get(&[(b":status", b"200")]),
        get(&[(b":protocol", b"websocket")]),
        get(&[(b":", b"a")]),
        // late
        sent(&[METHOD, SCHEME, PATH, (b"x", b"y"), AUTHORITY], &[], None),
        sent(&[(b"x", b"y"), METHOD, SCHEME, PATH, AUTHORITY], &[], None),
        // a tunnel that names a path
        with(b":method", b"CONNECT"),
        with(b":method", b""),
        with(b":method", b"GET /smuggled HTTP/1.1\r\nX: "),
        with(b":method", b"G T"),
        with(b":scheme", b""),
        with(b":scheme", b"ht tp"),
        with(b":scheme", b"ftp"),
        with(b":scheme", b"wss"),
        with(b":path", b""),
        with(b":path", b"a"),
        with(b":path", b"?x"),
        // without its fragment it is empty
        with(b":path", b"#"),
        with(b":path", b"#/a"),
        with(b":path", b"#?/a"),
        with(b":path", b"*"),
        with(b":path", b"https://evil.test/"),
        with(b":path", b"/a HTTP/1.1\r\nX: y"),
        with(b":path", b"/a b"),
        with(b":path", b"/a\0"),
        with(b":path", b"/a\tb"),
        with(b":path", b"/a\\b"),
        // HTTP/1.1 has no such targets, and backends read them in more than one way
        with(b":path", b"/caf\xc3\xa9"),
        with(b":path", b"/a?b=\xc3\xa9"),
        with(b":path", b"/a\xc2\x85"),
        with(b":path", b"/a/../b"),
        with(b":authority", b""),
        with(b":authority", b"user@site.test"),
        with(b":authority", b"site.test/a"),
        with(b":authority", b"site.test\r\nX: y"),
        with(b":authority", b"site.test, evil.test"),
        with(b":authority", b"site.test:x"),
        get(&[(b"host", b"evil.test")]),
        get(&[(b"host", b"")]),
        get(&[(b"host", b"site.test"), (b"host", b"site.test")]),
        get(&[(b"host", b"site.test:8443")]),
    ];
    for field in GET {
        cases.push(get(&[field]));
        cases.push(sent(&[&[field][..], &GET].concat(), &[], None));
    }
    refused(&cases);
}

#[test]
fn fields_are_what_http_1_could_carry() {
    let names: [&[u8]; 12] = [
        b"X-Upper",
        b"x:y",
        b"x y",
        b"x\0",
        b"x\r",
        b"x\n",
        b"x\r\nevil: y\r\nz",
        b"x\x7f",
        b"x\xe9",
        b"",
        b"x(",
        b"content-lengtH",
    ];
    let values: [&[u8]; 11] = [
        b" a",
        b"a ",
        b"\ta",
        b" ",
        b"a\rb",
        b"a\nb",
        b"a\0b",
        b"a\r\nevil: b",
        b"a\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        b"\r\n",
        b"\0",
    ];
    let hops: [Field<'_>; 12] = [
        (b"connection", b"close"),
        (b"connection", b"keep-alive"),
        (b"connection", b"x-other"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"transfer-encoding", b""),
        (b"upgrade", b"websocket"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"te", b"trailers, deflate"),
    ];
    let cases: Vec<Sent> = names
        .iter()
        .map(|name| get(&[(name, b"y")]))
        .chain(values.iter().map(|value| get(&[(b"x", value)])))
        .chain(hops.iter().map(|hop| get(&[*hop])))
        .collect();
    refused(&cases);
}

#[test]
fn bodies_are_as_long_as_they_say() {
    let length = |value: &'static [u8]| -> Field<'static> { (b"content-length", value) };
    let mut cases = vec![
        get(&[length(b"5")]),
        post(&[length(b"2")], &[b"hello"]),
        post(&[length(b"4")], &[b"he", b"llo"]),
        post(&[length(b"0")], &[b"hello"]),
        post(&[length(b"9")], &[b"hello"]),
        post(&[length(b"6")], &[b"he", b"llo"]),
        post(&[length(b"9")], &[b""]),
        post(&[length(b"5"), length(b"6")], &[b"hello"]),
        post(&[length(b"2"), length(b"5")], &[b"hello"]),
        // what HTTP/1 is refused for is not written by us either
        post(&[length(b"5"), length(b"5")], &[b"hello"]),
        post(&[length(b"05")], &[b"hello"]),
        get(&[length(b"00")]),
        get(&[length(b"")]),
        post(&[length(b"")], &[]),
        // shorter than said, and the rest would be another's request
        post(
            &[length(b"3")],
            &[b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"],
        ),
    ];
    for value in [
        &b"+5"[..],
        b"-5",
        b"5, 5",
        b"five",
        b"",
        b"0x5",
        b"5 5",
        b"18446744073709551616",
    ] {
        let head = [POST, SCHEME, PATH, AUTHORITY, (b"content-length", value)];
        cases.push(sent(&head, &[b"hello"], None));
    }
    refused(&cases);
}

#[test]
fn trailers_are_fields_and_no_more() {
    let head = [POST, SCHEME, PATH, AUTHORITY];
    let trailers: [Field<'_>; 7] = [
        (b"x", b" a"),
        (b"x", b"a\t"),
        (b":evil", b"a"),
        (b"X-Upper", b"a"),
        (b"x", b"a\r\nevil: b"),
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
    ];
    let mut cases: Vec<Sent> = trailers
        .iter()
        .map(|field| sent(&head, &[b"hello"], Some(&[*field])))
        .collect();
    // a length that the trailers' end belies
    let length = [&head[..], &[(b"content-length", b"9")]].concat();
    cases.push(sent(&length, &[b"hello"], Some(&[(b"x", b"y")])));
    refused(&cases);
}

/// Pseudo-fields that a head may have are dropped from trailers before anybody sees them.
#[test]
fn a_target_in_trailers_is_nobodys() {
    let mut wire = Wire::new();
    let head = [POST, SCHEME, PATH, AUTHORITY, (b"trailer", b"x")];
    for field in [
        PATH,
        AUTHORITY,
        (b":method", b"DELETE"),
        (b":status", b"200"),
    ] {
        let sent = sent(&head, &[b"hello"], Some(&[field, (b"x", b"y")]));
        let heard = wire.hear(&sent);
        for request in wire.noted() {
            assert_eq!(heard, OK, "{}", sent.what);
            assert_eq!(request.start, "POST /a HTTP/1.1");
            assert_eq!(request.one("host"), Some("site.test"));
            assert_eq!(request.trailers, [("x".to_owned(), "y".to_owned())]);
        }
    }
}

/// The parser drops it before anybody could judge it: what comes has none.
#[test]
fn a_fragment_is_nobodys() {
    let mut wire = Wire::new();
    let sent = sent(&[METHOD, SCHEME, (b":path", b"/a#b"), AUTHORITY], &[], None);
    wire.hear(&sent);
    for request in wire.noted() {
        assert_eq!(request.start, "GET /a HTTP/1.1");
    }
}

#[test]
fn what_is_well_formed_comes_as_it_is() {
    let mut wire = Wire::new();
    let padded = {
        let mut frames = frame(
            HEADERS,
            END_HEADERS,
            1,
            &block(&[POST, SCHEME, PATH, AUTHORITY]),
        );
        frames.extend(frame(DATA, END_STREAM | 8, 1, b"\x03hello\0\0\0"));
        Sent {
            what: "padding".to_owned(),
            frames,
        }
    };
    for (sent, fields, body) in [
        (get(&[]), vec![], &b""[..]),
        (get(&[(b"te", b"trailers")]), vec![("te", "trailers")], b""),
        (
            get(&[(b"host", b"site.test")]),
            vec![("host", "site.test")],
            b"",
        ),
        (get(&[(b"host", b"SITE.test:443")]), vec![], b""),
        (get(&[(b"x", b"")]), vec![("x", "")], b""),
        (
            get(&[(b"cookie", b"a=b"), (b"cookie", b"c=d")]),
            vec![("cookie", "a=b; c=d")],
            b"",
        ),
        (
            post(&[(b"content-length", b"5")], &[b"he", b"", b"llo"]),
            vec![("content-length", "5")],
            b"hello",
        ),
        (
            post(&[], &[b"he", b"llo"]),
            vec![("transfer-encoding", "chunked")],
            b"hello",
        ),
        (padded, vec![("transfer-encoding", "chunked")], b"hello"),
    ] {
        assert_eq!(wire.hear(&sent), OK, "{}", sent.what);
        let noted = wire.noted();
        let [request] = noted.as_slice() else {
            panic!("{}: {noted:?}", sent.what);
        };
        for (name, value) in fields {
            assert_eq!(request.one(name), Some(value), "{request:?}");
        }
        assert_eq!((request.target(), request.body.as_slice()), ("/a", body));
    }
}
