//! One request and one answer by hand.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use super::{Backend, TlsStream, World};

/// One request on a kept connection; status and body.
pub(crate) fn get(stream: &mut TlsStream, path: &str) -> (u16, String) {
    get_from(stream, "site.test", path)
}

/// The same from another host.
pub(crate) fn get_from(stream: &mut TlsStream, host: &str, path: &str) -> (u16, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    let head = String::from_utf8(seen).unwrap();
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, String::from_utf8(body).unwrap())
}

/// Answers every request with its name.
pub(crate) fn named_backend(world: &World, name: &'static str) -> Backend {
    answering(world.address(), name)
}

/// The same at any address.
pub(crate) fn answering(address: SocketAddr, name: &'static str) -> Backend {
    Backend::serve(address, move |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
                    name.len()
                );
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    })
}
