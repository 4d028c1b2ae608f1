//! HTTP/1.1 by hand, at both ends: what hyper or curl would not send, and what they would hide.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

use crate::world::{Backend, TlsStream};

/// A request or an answer as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    pub(super) start: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, String)>,
}

impl Message {
    /// The values of a header, in order.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The one value of a header.
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} more than once: {self:?}");
        all.first().copied()
    }

    /// An answer's status.
    pub(super) fn status(&self) -> u16 {
        let word = self.start.split(' ').nth(1);
        word.and_then(|w| w.parse().ok())
            .unwrap_or_else(|| panic!("no status in {:?}", self.start))
    }

    /// A request's target.
    pub(super) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn is_chunked(&self) -> bool {
        self.one("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }
}

/// One line without its end; `None` at the end of the stream.
fn line(stream: &mut BufReader<impl Read>) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    if stream.read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn fields(stream: &mut BufReader<impl Read>) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(headers);
        }
        let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// A head; `None` where the stream ends before one.
pub(super) fn head(stream: &mut BufReader<impl Read>) -> io::Result<Option<Message>> {
    let Some(start) = line(stream)? else {
        return Ok(None);
    };
    Ok(Some(Message {
        start,
        headers: fields(stream)?,
        ..Message::default()
    }))
}

/// One chunk; empty for the last, whose trailers are read by [`body`].
pub(super) fn chunk(stream: &mut BufReader<impl Read>) -> io::Result<Vec<u8>> {
    let size = line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let size = usize::from_str_radix(size.split(';').next().unwrap(), 16)
        .map_err(|_not_hex| io::ErrorKind::InvalidData)?;
    let mut data = vec![0; size];
    stream.read_exact(&mut data)?;
    if size > 0 {
        let end = line(stream)?;
        assert_eq!(end.as_deref(), Some(""), "what ends a chunk");
    }
    Ok(data)
}

/// The body that the head announces; an error where it is cut.
pub(super) fn body(
    stream: &mut BufReader<impl Read>,
    message: &mut Message,
    until_close: bool,
) -> io::Result<()> {
    if message.is_chunked() {
        loop {
            let data = chunk(stream)?;
            if data.is_empty() {
                message.trailers = fields(stream)?;
                return Ok(());
            }
            message.body.extend(data);
        }
    }
    if let Some(length) = message.one("content-length") {
        message.body = vec![0; length.parse().unwrap()];
        return stream.read_exact(&mut message.body);
    }
    if until_close {
        stream.read_to_end(&mut message.body)?;
    }
    Ok(())
}

/// A client's connection.
pub(super) struct Raw {
    stream: BufReader<TlsStream>,
}

impl Raw {
    pub(super) fn new(stream: TlsStream) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    pub(super) fn tls(&mut self) -> &mut TlsStream {
        self.stream.get_mut()
    }

    pub(super) fn reader(&mut self) -> &mut BufReader<TlsStream> {
        &mut self.stream
    }

    pub(super) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes.as_ref())?;
        stream.flush()
    }

    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    /// Sends a head of these lines for `site.test` and an empty line.
    pub(super) fn request(&mut self, lines: &[&str]) {
        let (start, headers) = lines.split_first().unwrap();
        let mut text = format!("{start} HTTP/1.1\r\nHost: site.test\r\n");
        for header in headers {
            text += &format!("{header}\r\n");
        }
        self.send(text + "\r\n");
    }

    /// The next head, an interim one too.
    pub(super) fn head(&mut self) -> io::Result<Message> {
        head(&mut self.stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The next whole answer; interim ones are passed over. An error where it is cut.
    pub(super) fn try_answer(&mut self, to_head: bool) -> io::Result<Message> {
        loop {
            let mut message = self.head()?;
            let status = message.status();
            if status < 200 && status != 101 {
                continue;
            }
            if !(to_head || matches!(status, 101 | 204 | 304)) {
                body(&mut self.stream, &mut message, true)?;
            }
            return Ok(message);
        }
    }

    pub(super) fn answer(&mut self) -> Message {
        self.try_answer(false).unwrap()
    }

    /// Sends such a head and reads the answer.
    pub(super) fn ask(&mut self, lines: &[&str]) -> Message {
        self.request(lines);
        self.answer()
    }

    /// Asserts that nothing more comes but the end.
    pub(super) fn ends(&mut self) {
        let mut rest = Vec::new();
        drop(self.stream.read_to_end(&mut rest));
        assert_eq!(String::from_utf8_lossy(&rest), "", "expected the end");
    }
}

/// A backend's connection.
pub(super) struct Peer {
    pub(super) stream: BufReader<TcpStream>,
}

impl Peer {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// The next head; `None` at the end.
    pub(super) fn head(&mut self) -> Option<Message> {
        head(&mut self.stream).ok().flatten()
    }

    /// The body of a request.
    pub(super) fn body(&mut self, message: &mut Message) -> io::Result<()> {
        body(&mut self.stream, message, false)
    }

    /// Writes; a client that went away is the test's business.
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.get_mut().write_all(bytes.as_ref()).is_ok()
    }

    /// A reset in place of an end.
    pub(super) fn reset(self) {
        let socket = socket2::Socket::from(self.stream.into_inner());
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    pub(super) fn close(self) {
        drop(self.stream.into_inner().shutdown(Shutdown::Both));
    }
}

/// What came to a backend.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Vec<Message>>>);

impl Seen {
    pub(super) fn push(&self, message: Message) {
        self.0.lock().unwrap().push(message);
    }

    pub(super) fn all(&self) -> Vec<Message> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn last(&self) -> Message {
        self.all().pop().expect("nothing came to the backend")
    }

    pub(super) fn targets(&self) -> Vec<String> {
        let all = self.all();
        all.iter().map(|m| m.target().to_owned()).collect()
    }
}

/// A backend that reads whole requests, notes them and answers each with some bytes; it closes
/// after an answer that says so.
pub(super) fn answering(
    address: SocketAddr,
    answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
) -> (Backend, Seen) {
    let seen = Seen::default();
    let notes = seen.clone();
    let backend = Backend::serve(address, move |stream| {
        let mut peer = Peer::new(stream);
        while let Some(mut request) = peer.head() {
            if peer.body(&mut request).is_err() {
                request.start += " (cut)";
                notes.push(request);
                return;
            }
            let bytes = answer(&request);
            notes.push(request);
            if !peer.send(&bytes) {
                return;
            }
            let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
            if head.contains("connection: close\r\n") || head.starts_with("http/1.0") {
                return peer.close();
            }
        }
    });
    (backend, seen)
}

/// An answer with a body of known length.
pub(super) fn ok(text: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

/// A backend that answers each request with its own target.
pub(super) fn mirror(address: SocketAddr) -> (Backend, Seen) {
    answering(address, |request| {
        let target = request.target().to_owned();
        if request.start.starts_with("HEAD ") {
            return b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec();
        }
        ok(&target)
    })
}
