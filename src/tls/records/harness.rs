//! For tests and fuzzing: the reader under keys that everybody knows, fed by a script.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use rustls::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    key::Key,
    secrets::{Cipher, Secret},
    session::{Keys, Session},
    stream::RecordStream,
};
use crate::net::{Buffered, WriteLast};

/// The first key.
fn known() -> Result<Key, Error> {
    let secret = Secret::new(Cipher::Aes128Gcm, &[7; 32]);
    Key::new(secret.ok_or(Error::EncryptError)?, 0)
}

/// What the socket gives, at most `step` octets at a time, with a pause between; it takes anything.
struct Script {
    bytes: Vec<u8>,
    at: usize,
    step: usize,
    paused: bool,
}

impl AsyncRead for Script {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.paused = !this.paused;
        if this.paused {
            return Poll::Pending;
        }
        let rest = this.bytes.get(this.at..).unwrap_or_default();
        let n = rest.len().min(this.step).min(buf.remaining());
        buf.put_slice(rest.get(..n).unwrap_or_default());
        this.at = this.at.saturating_add(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl WriteLast for Script {}

/// What a reader got.
#[derive(Debug)]
pub struct Got {
    /// Data, in order.
    pub data: Vec<u8>,
    /// Data that the script's records held, in order.
    pub sent: Vec<u8>,
    /// How it ended; an error is always the same from then on.
    pub end: io::Result<()>,
}

/// Reads a script to its end. Its octets: which end we are, how much comes at a time, how much is
/// asked for at a time; then records, each a type (0: what follows stands on the wire as it is;
/// 1: a key update of the peer), a length of one octet and the content.
#[must_use]
pub fn read(script: &[u8]) -> Option<Got> {
    let (&[flags, step, ask], records) = script.split_first_chunk::<3>()?;
    let mut sent = Vec::new();
    let bytes = wire(records, &mut sent).ok()?;
    let keys = Keys {
        read: known().ok()?,
        write: known().ok()?,
    };
    let io = Script {
        bytes,
        at: 0,
        step: usize::from(step)
            .saturating_mul(usize::from(flags >> 1))
            .max(1),
        paused: false,
    };
    let session = Session::new(keys, flags & 1 == 1, None);
    let mut stream = RecordStream::new(Buffered::new(io), Vec::new(), session);
    let mut cx = Context::from_waker(Waker::noop());
    let mut data = Vec::new();
    let mut room = vec![0; usize::from(ask).saturating_mul(97).max(1)];
    let end = loop {
        let mut buf = ReadBuf::new(&mut room);
        match Pin::new(&mut stream).poll_read(&mut cx, &mut buf) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) if buf.filled().is_empty() => break Ok(()),
            Poll::Ready(Ok(())) => data.extend_from_slice(buf.filled()),
            Poll::Ready(Err(error)) => break Err(error),
        }
    };
    Some(Got { data, sent, end })
}

/// The script's records as they stand on the wire.
fn wire(mut records: &[u8], sent: &mut Vec<u8>) -> Result<Vec<u8>, Error> {
    let mut key = known()?;
    let mut bytes = Vec::new();
    while let Some((&[kind, len], rest)) = records.split_first_chunk::<2>() {
        let (content, rest) = rest
            .split_at_checked(usize::from(len))
            .unwrap_or((rest, &[]));
        records = rest;
        match kind {
            0 => bytes.extend_from_slice(content),
            1 => {
                let request = content.first().map_or(0, |octet| octet & 1);
                bytes.extend(key.seal_inner(&[24, 0, 0, 1, request, 22])?);
                key = key.successor()?;
            }
            _ => {
                let mut inner = content.to_vec();
                inner.push(kind);
                bytes.extend(key.seal_inner(&inner)?);
                if kind == 23 {
                    sent.extend_from_slice(content);
                }
            }
        }
    }
    Ok(bytes)
}
