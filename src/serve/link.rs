//! The link between our own ends: OPEN, ADMITTED and REFUSED on a stream, and the bytes after.
//! The frames themselves are in `wire/link.rs`.

use std::{future::Future, io, pin::pin};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Aside, Closed};
use crate::{
    admit::{Denial, Denied},
    net::{self, Hold, RelayCause, RelayOptions, relay},
    tls::alert::{self, Side},
    wire::link::{self, Frame, FrameError, HEADER_LEN, MAX_PAYLOAD, Open},
};

/// Reads the gateway's OPEN; not a byte behind it.
///
/// # Errors
/// `OpenInvalid`, or `PeerReset` when the stream ends first.
pub async fn read_open(stream: &mut (impl AsyncRead + Unpin)) -> Result<Open, Denied> {
    match read_frame(stream).await? {
        Frame::Open(open) => Ok(*open),
        Frame::Admitted | Frame::Refused(_) => Err(Denied::new(
            Denial::OpenInvalid,
            "the first frame is not OPEN",
        )),
    }
}

/// Reads the acceptor's answer to OPEN.
///
/// # Errors
/// `UpstreamRefused` or `BackendUnreachable` with the acceptor's word, or what broke.
pub async fn read_admission(stream: &mut (impl AsyncRead + Unpin)) -> Result<(), Denied> {
    read_answer(stream).await?
}

/// Reads the acceptor's answer to OPEN: admitted, or refused in its own words.
///
/// # Errors
/// What broke before there was an answer.
pub async fn read_answer(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Result<(), Denied>, Denied> {
    match read_frame(stream).await? {
        Frame::Admitted => Ok(Ok(())),
        Frame::Refused(code) => Ok(Err(refusal(&code))),
        Frame::Open(_) => Err(Denied::new(
            Denial::OpenInvalid,
            "the acceptor answered OPEN",
        )),
    }
}

/// An acceptor's refusal in our words.
#[must_use]
pub fn refusal(code: &str) -> Denied {
    let reason = match Denial::from_code(code) {
        Some(Denial::BackendUnreachable) => Denial::BackendUnreachable,
        _ => Denial::UpstreamRefused,
    };
    Denied::new(reason, format!("the acceptor answered {code:?}"))
}

/// Says OPEN, at once: a backend that speaks first must not wait for the client.
///
/// # Errors
/// The stream is broken.
pub async fn write_open(stream: &mut (impl AsyncWrite + Unpin), open: Open) -> Result<(), Denied> {
    write(stream, &Frame::Open(Box::new(open))).await
}

/// Says ADMITTED: the backend is open, what follows is its own.
///
/// # Errors
/// The stream is broken.
pub async fn write_admitted(stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), Denied> {
    write(stream, &Frame::Admitted).await
}

/// Says REFUSED and closes.
///
/// # Errors
/// The stream is broken.
pub async fn write_refused(
    stream: &mut (impl AsyncWrite + Unpin),
    reason: Denial,
) -> Result<(), Denied> {
    write(stream, &Frame::Refused(reason.code().to_owned())).await?;
    stream.shutdown().await.map_err(|error| broken(&error))
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> Result<(), Denied> {
    stream
        .write_all(&link::encode(frame))
        .await
        .map_err(|error| broken(&error))?;
    stream.flush().await.map_err(|error| broken(&error))
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Frame, Denied> {
    let mut header = [0; HEADER_LEN];
    stream
        .read_exact(&mut header)
        .await
        .map_err(|error| broken(&error))?;
    let (_kind, len) = link::header_of(header);
    // checked before anything is allocated for it
    if len > MAX_PAYLOAD {
        return Err(invalid(&FrameError::TooLong(len)));
    }
    let mut bytes = header.to_vec();
    bytes.resize(HEADER_LEN.saturating_add(len), 0);
    if let Some(payload) = bytes.get_mut(HEADER_LEN..) {
        stream
            .read_exact(payload)
            .await
            .map_err(|error| broken(&error))?;
    }
    match link::decode(&bytes).map_err(|error| invalid(&error))? {
        Some((frame, _len)) => Ok(frame),
        None => Err(Denied::new(
            Denial::OpenInvalid,
            "the frame is shorter than it says",
        )),
    }
}

fn invalid(error: &FrameError) -> Denied {
    Denied::new(Denial::OpenInvalid, error.to_string())
}

fn broken(error: &io::Error) -> Denied {
    // both ends read frames; only the dialling one can still learn here why it was refused
    alert::explain(error, Side::Client)
}

/// Carries bytes both ways until both sides are done, or the connection has to end.
pub async fn carry<A, B>(
    peer: &mut A,
    upstream: &mut B,
    options: &RelayOptions,
    ended: impl Future<Output = Denied>,
) -> Closed
where
    A: AsyncRead + AsyncWrite + Hold + Unpin,
    B: AsyncRead + AsyncWrite + Hold + Unpin,
{
    let ended = pin!(ended);
    let (bytes, cause) = tokio::select! {
        biased;
        end = relay(peer, upstream, options) => ((end.a_to_b, end.b_to_a), denied_by(end.cause)),
        why = Aside::new(ended) => (options.progress.bytes(), Some(why)),
    };
    Closed {
        cause,
        bytes_in: bytes.0,
        bytes_out: bytes.1,
    }
}

/// Why a relay ended, where that is not as it should.
pub(crate) fn denied_by(cause: RelayCause) -> Option<Denied> {
    match cause {
        RelayCause::Finished => None,
        RelayCause::Idle => Some(Denied::new(Denial::IdleTimeout, "")),
        RelayCause::WriteStalled { side } => Some(Denied::new(
            Denial::WriteTimeout,
            format!("{side} takes no bytes"),
        )),
        RelayCause::Failed {
            side,
            error,
            truncated,
        } => {
            let reason = match side {
                net::Side::B => Denial::UpstreamBroken,
                net::Side::A if truncated => Denial::Truncated,
                net::Side::A => Denial::PeerReset,
            };
            Some(Denied::new(reason, format!("{side}: {error}")))
        }
    }
}
