//! A corpus of requests that servers are known to read in more than one way, and of their harmless
//! kin, sent as they stand. What comes to the backend is compared with what should, byte for byte
//! but for the order of fields and the sizes of chunks: nothing, or exactly these requests, and
//! nothing of one on the connection that the next one takes.

mod bodies;
mod fields;
mod heads;
mod passing;

use std::{
    io::{self, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
};

use super::{
    Chain,
    raw::{self, Message, Raw, Seen, ok},
};
use crate::world::{Backend, World};

/// A request that an attacker would have served behind the first.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n";

/// What must come of the bytes that a client sends.
enum Expected {
    /// Nothing comes to the backend; the client hears this, and the connection ends.
    Refused(u16),
    /// Nothing comes to the backend, and the client hears this. How the message ends is not in
    /// doubt, so the connection may go on.
    Declined(u16),
    /// The end of the body is in doubt: no whole request comes, the client hears 400 and the end.
    Broken,
    /// The client ends too soon: no whole request comes.
    Unfinished,
    /// These come in this order, each is answered, and the connection serves another.
    Passes(Vec<String>),
    /// The same, and then the connection ends.
    PassesLast(Vec<String>),
    /// These come and are answered, what follows is refused with this status, and the connection
    /// ends.
    PassesAndRefuses(Vec<String>, u16),
}

struct Case {
    bytes: Vec<u8>,
    expected: Expected,
}

fn case(bytes: impl AsRef<[u8]>, expected: Expected) -> Case {
    Case {
        bytes: bytes.as_ref().to_vec(),
        expected,
    }
}

/// A request as it should come: its line, its fields in the order of their names (`host:
/// site.test` is added, what the gateway says of itself is left out), body and trailers.
fn arrives(line: &str, fields: &[&str], body: &[u8]) -> String {
    let mut fields: Vec<String> = fields.iter().map(|f| (*f).to_owned()).collect();
    if !fields.iter().any(|field| field.starts_with("host:")) {
        fields.push("host: site.test".to_owned());
    }
    fields.sort();
    format!(
        "{line} HTTP/1.1\n{}\n\n{}",
        fields.join("\n"),
        body.escape_ascii()
    )
}

/// What the readers add to every request, each once or, `via`, once for each of them.
const OWN: [&str; 7] = [
    "forwarded",
    "traceparent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// What an acceptor adds where it reads.
const STAMP: &str = "x-forwarded-client-cert";

/// A request that came, in the form of [`arrives`].
fn came(message: &Message) -> String {
    for own in OWN {
        let most = if own == "via" { 2 } else { 1 };
        assert!(
            (1..=most).contains(&message.all(own).len()),
            "{own}: {message:?}"
        );
    }
    let mut fields: Vec<String> = message
        .headers
        .iter()
        .filter(|(name, _)| !OWN.contains(&name.as_str()) && name != STAMP)
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    fields.sort();
    let mut text = format!(
        "{}\n{}\n\n{}",
        message.start,
        fields.join("\n"),
        message.body.escape_ascii()
    );
    for (name, value) in &message.trailers {
        text += &format!("\n{name}: {value}");
    }
    text
}

/// Keeps what is read.
struct Kept {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl io::Read for Kept {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(into)?;
        self.bytes.extend(&into[..count]);
        Ok(count)
    }
}

/// Whether these bytes are this request in its plainest form and nothing else: CR LF at each line's
/// end, one space behind a colon, chunks without extensions.
fn is_written_plainly(bytes: &[u8], request: &Message) -> bool {
    let lines = |fields: &[(String, String)]| -> String {
        let line = |(name, value): &(String, String)| format!("{name}: {value}\r\n");
        fields.iter().map(line).collect::<String>() + "\r\n"
    };
    let head = format!("{}\r\n{}", request.start, lines(&request.headers));
    let Some(mut rest) = bytes.strip_prefix(head.as_bytes()) else {
        return false;
    };
    if request.one("transfer-encoding").is_none() {
        return rest == request.body;
    }
    loop {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let (size, behind) = rest.split_at(digits.count());
        let Ok(size) = usize::from_str_radix(&String::from_utf8_lossy(size), 16) else {
            return false;
        };
        if size == 0 {
            return behind == format!("\r\n{}", lines(&request.trailers)).as_bytes();
        }
        let ends = behind.starts_with(b"\r\n") && behind.get(size + 2..size + 4) == Some(b"\r\n");
        if !ends {
            return false;
        }
        rest = &behind[size + 4..];
    }
}

/// Notes all that comes, whole or not, and answers each whole request with its target.
fn noting(address: SocketAddr) -> (Backend, Seen) {
    let seen = Seen::default();
    let notes = seen.clone();
    let backend = Backend::serve(address, move |stream| {
        let mut writer = stream.try_clone().unwrap();
        let bytes = Vec::new();
        let mut reader = BufReader::new(Kept { stream, bytes });
        loop {
            let mut request = match raw::head(&mut reader) {
                Ok(Some(request)) => request,
                Ok(None) => return,
                // the gateway gave up what it had opened
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
                Err(error) => {
                    return notes.push(Message {
                        start: format!("no head: {error} (cut)"),
                        ..Message::default()
                    });
                }
            };
            if raw::body(&mut reader, &mut request, false).is_err() {
                request.start += " (cut)";
                return notes.push(request);
            }
            let mut answer = ok(request.target());
            if request.start.starts_with("HEAD ") {
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec();
            }
            let bytes = std::mem::take(&mut reader.get_mut().bytes);
            if !is_written_plainly(&bytes, &request) {
                request.start += &format!(" (written as \"{}\")", bytes.escape_ascii());
            }
            notes.push(request);
            if writer.write_all(&answer).is_err() {
                return;
            }
        }
    });
    (backend, seen)
}

struct Corpus {
    chain: Chain,
    _backend: Backend,
    seen: Seen,
    /// Requests noted so far that were looked at.
    looked_at: usize,
    probes: usize,
}

/// Who reads the requests.
#[derive(Clone, Copy, Debug)]
enum Readers {
    /// The gateway; the acceptor passes bytes on.
    Gateway,
    /// Both ends.
    Both,
    /// The acceptor; the gateway passes bytes on.
    Acceptor,
}

impl Corpus {
    fn new(readers: Readers) -> Self {
        let world = World::new();
        let (backend, seen) = noting(world.address());
        let at = backend.address.to_string();
        let chain = match readers {
            Readers::Gateway => Chain::new(world, backend.address, "", ""),
            Readers::Both => Chain::both(world, &at, "", "", ""),
            Readers::Acceptor => {
                let (acceptor, link) = world.http_acceptor(&at, "");
                let (gateway, edge) = world.plain_gateway("tcp", link, "", "");
                Chain {
                    world,
                    acceptor,
                    gateway,
                    edge,
                }
            }
        };
        Self {
            chain,
            _backend: backend,
            seen,
            looked_at: 0,
            probes: 0,
        }
    }

    /// What came since the last look. A probe on the kept connection to the backend comes behind
    /// it, and finds what was left there.
    fn noted(&mut self) -> Vec<Message> {
        self.probes += 1;
        let target = format!("/probe-{}", self.probes);
        let answer = self.chain.raw().ask(&[&format!("GET {target}")]);
        assert_eq!(answer.text(), target, "another's answer");
        let mut all = self.seen.all().split_off(self.looked_at);
        self.looked_at += all.len();
        let at = all
            .iter()
            .position(|message| message.start.contains(&target));
        all.remove(at.expect("the probe came"));
        all
    }

    fn check(&mut self, case: &Case) {
        let mut raw = self.chain.raw();
        // the gateway may close before it has read all
        let _sent = raw.try_send(&case.bytes);
        let whole = |message: &&Message| !message.start.ends_with(" (cut)");
        match &case.expected {
            Expected::Refused(status) => {
                assert_eq!(raw.answer().status(), *status);
                raw.ends();
                assert!(
                    self.noted().is_empty(),
                    "something came: {:?}",
                    self.seen.last()
                );
            }
            Expected::Declined(status) => {
                assert_eq!(raw.answer().status(), *status);
                let noted = self.noted();
                assert!(noted.is_empty(), "something came: {noted:?}");
            }
            Expected::Broken => {
                assert_eq!(raw.answer().status(), 400);
                raw.ends();
                let noted = self.noted();
                assert_eq!(noted.iter().filter(whole).count(), 0, "{noted:?}");
            }
            Expected::Unfinished => {
                raw.tls().conn.send_close_notify();
                drop(raw.tls().flush());
                drop(raw.tls().sock.shutdown(Shutdown::Write));
                drop(raw.reader().read_to_end(&mut Vec::new()));
                let noted = self.noted();
                assert_eq!(noted.iter().filter(whole).count(), 0, "{noted:?}");
            }
            Expected::Passes(requests) => {
                answered(&mut raw, requests);
                raw.request(&["GET /another", "Connection: close"]);
                assert_eq!(raw.answer().text(), "/another");
                raw.ends();
                let mut all = requests.clone();
                all.push(arrives("GET /another", &[], b""));
                self.compare(&all);
            }
            Expected::PassesLast(requests) => {
                answered(&mut raw, requests);
                raw.ends();
                self.compare(requests);
            }
            Expected::PassesAndRefuses(requests, status) => {
                answered(&mut raw, requests);
                assert_eq!(raw.answer().status(), *status);
                raw.ends();
                self.compare(requests);
            }
        }
    }

    fn compare(&mut self, expected: &[String]) {
        let noted: Vec<String> = self.noted().iter().map(came).collect();
        assert_eq!(noted, expected);
    }
}

/// Reads an answer to each, in order.
fn answered(raw: &mut Raw, requests: &[String]) {
    for request in requests {
        let to_head = request.starts_with("HEAD ");
        let answer = raw.try_answer(to_head).unwrap();
        assert_eq!(answer.status(), 200, "to {request}: {answer:?}");
        if !to_head {
            let target = request.split(' ').nth(1).unwrap();
            assert_eq!(answer.text(), target);
        }
    }
}

/// Checks all, and says of each that fails what was sent.
fn check(cases: &[Case], readers: Readers) {
    let mut corpus = Corpus::new(readers);
    let mut failed = Vec::new();
    for case in cases {
        let mut once = std::panic::AssertUnwindSafe(&mut corpus);
        let checked = std::panic::catch_unwind(move || once.check(case));
        if checked.is_err() {
            let shown = case.bytes.get(..300).unwrap_or(&case.bytes);
            failed.push(format!("\"{}\"", shown.escape_ascii()));
            corpus.looked_at = corpus.seen.all().len();
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} cases failed:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}

/// The corpus is as large as it was meant to be.
#[test]
fn the_corpus_is_large() {
    let all = [
        heads::refused(),
        heads::declined(),
        fields::refused(),
        bodies::broken(),
        bodies::unfinished(),
        passing::alone(),
        passing::pipelined(),
    ];
    let count: usize = all.iter().map(Vec::len).sum();
    assert!(count >= 150, "{count} cases");
}
