//! A request's body as it comes from the client.

use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;

use super::super::{body::BodyError, io::ClientIo};
use crate::{
    net::PIECE,
    wire::framing::{Chunks, Length, Progress},
};

/// Where so much has come at once, more is read in one piece.
const MUCH: usize = 8 << 10;

/// How far a body has come.
pub(super) enum Coming {
    Sized(u64),
    /// Boxed: at rest it takes no room.
    Chunked(Box<Chunks>),
    /// All of it has come, and what stands behind it was not asked for yet.
    Trailers(Box<HeaderMap>),
    Whole,
    /// There is no end that could be found.
    Broken,
}

/// What comes.
pub(super) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Coming {
    pub(super) fn new(length: Length) -> Self {
        match length {
            Length::Sized(0) => Self::Whole,
            Length::Sized(length) => Self::Sized(length),
            Length::Chunked => Self::Chunked(Box::default()),
        }
    }

    /// Whether something of it has still to come.
    pub(super) fn is_coming(&self) -> bool {
        matches!(self, Self::Sized(_) | Self::Chunked(_))
    }

    /// Whether nothing is left to hand on.
    pub(super) fn is_delivered(&self) -> bool {
        matches!(self, Self::Whole)
    }

    /// What comes next; `None`: nothing more. `held` is the beginning of a line.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut ClientIo,
        held: &mut Vec<u8>,
    ) -> Poll<Result<Option<Part>, BodyError>> {
        match self {
            Self::Whole => Poll::Ready(Ok(None)),
            Self::Broken => Poll::Ready(Err(BodyError::Unfinished)),
            Self::Trailers(trailers) => {
                let trailers = std::mem::take(trailers.as_mut());
                *self = Self::Whole;
                Poll::Ready(Ok(Some(Part::Trailers(trailers))))
            }
            Self::Sized(left) => {
                let data = ready!(poll_data(cx, io, *left))?;
                let n = u64::try_from(data.len()).unwrap_or(u64::MAX);
                *left = left.saturating_sub(n);
                if *left == 0 {
                    *self = Self::Whole;
                }
                Poll::Ready(Ok(Some(Part::Data(data))))
            }
            Self::Chunked(chunks) => {
                let mut data = None;
                let ended = loop {
                    match poll_chunked(cx, io, held, chunks, data.is_none()) {
                        Poll::Ready(Ok(Step::Data(came))) => data = Some(came),
                        Poll::Ready(Ok(Step::Line)) => {}
                        Poll::Ready(Ok(Step::Ended)) => break true,
                        // what came before it is handed on first
                        Poll::Ready(Ok(Step::Later) | Err(_)) | Poll::Pending if data.is_some() => {
                            break false;
                        }
                        Poll::Ready(Ok(Step::Later)) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => return Poll::Pending,
                    }
                };
                if ended {
                    *self = match chunks.take_trailers() {
                        Some(trailers) => Self::Trailers(Box::new(trailers)),
                        None => Self::Whole,
                    };
                }
                match (data, ended) {
                    (Some(data), _) => Poll::Ready(Ok(Some(Part::Data(data)))),
                    (None, _) => self.poll(cx, io, held),
                }
            }
        }
    }
}

/// One step in a chunked body.
enum Step {
    Data(Bytes),
    Line,
    Ended,
    /// Data, which was not wanted.
    Later,
}

fn poll_chunked(
    cx: &mut Context<'_>,
    io: &mut ClientIo,
    held: &mut Vec<u8>,
    chunks: &mut Chunks,
    wants_data: bool,
) -> Poll<Result<Step, BodyError>> {
    if let Some(left) = chunks.data_left() {
        if !wants_data {
            return Poll::Ready(Ok(Step::Later));
        }
        let data = ready!(poll_data(cx, io, left))?;
        chunks.took(data.len());
        return Poll::Ready(Ok(Step::Data(data)));
    }
    let came = ready!(io.poll_fill(cx)).map_err(BodyError::Read)?;
    if came.is_empty() {
        return Poll::Ready(Err(BodyError::Unfinished));
    }
    // to the end of a line that has begun
    let taken = match held.is_empty() {
        true => came.len(),
        false => came
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(came.len(), |end| end.saturating_add(1)),
    };
    let came = came.get(..taken).unwrap_or_default();
    let before = held.len();
    if before > 0 {
        held.extend_from_slice(came);
    }
    let bytes = if before > 0 { held.as_slice() } else { came };
    let (passed, step) = match chunks.read(bytes) {
        Err(fault) => {
            held.truncate(before);
            return Poll::Ready(Err(BodyError::Framing(fault)));
        }
        Ok(Progress::More) => {
            if before == 0 {
                held.extend_from_slice(came);
            }
            io.consume(taken);
            return Poll::Ready(Ok(Step::Line));
        }
        Ok(Progress::Passed(n) | Progress::Data(n)) => (n, Step::Line),
        Ok(Progress::Ended(n)) => (n, Step::Ended),
    };
    io.consume(passed.saturating_sub(before));
    held.clear();
    Poll::Ready(Ok(step))
}

/// Data that has come, of which `left` octets belong to the body.
fn poll_data(cx: &mut Context<'_>, io: &mut ClientIo, left: u64) -> Poll<Result<Bytes, BodyError>> {
    let came = ready!(io.poll_fill(cx)).map_err(BodyError::Read)?;
    if came.is_empty() {
        return Poll::Ready(Err(BodyError::Unfinished));
    }
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    if left >= PIECE || came.len() >= MUCH && left > came.len() {
        let room = left.min(PIECE);
        let mut piece = BytesMut::with_capacity(room).limit(room);
        // what the piece before left of a record is no piece of its own where more is there
        while piece.has_remaining_mut()
            && let Poll::Ready(read) = io.poll_piece(cx, &mut piece)
        {
            if read.map_err(BodyError::Read)? == 0 {
                break;
            }
        }
        let piece = piece.into_inner();
        return Poll::Ready(Ok(match piece.len() {
            // few octets hold no room of many
            0..MUCH => Bytes::copy_from_slice(&piece),
            _ => piece.freeze(),
        }));
    }
    let data = came.get(..left).unwrap_or(came);
    let data = Bytes::copy_from_slice(data);
    io.consume(data.len());
    Poll::Ready(Ok(data))
}
