//! What is to be written, and whose turn it is.

use std::collections::VecDeque;

use super::{
    Header, Kind, Mux, Payload,
    state::list,
    stream::{End, Phase},
};

/// Bodies up to so many octets are copied behind their header: one piece to write.
const SMALL: usize = 2048;

/// What is to be written, in order.
#[derive(Debug)]
pub enum Piece<B> {
    /// Headers, and what is small.
    Bytes(Vec<u8>),
    /// Octets of a stream, behind their header.
    Body(B),
}

impl<B: Payload> Mux<B> {
    /// Hands over what is to be written next: answers first, then a frame of each stream in turn,
    /// until there are `most` octets.
    pub fn transmit(&mut self, most: usize, into: &mut VecDeque<Piece<B>>) {
        self.join_later();
        let mut bytes = std::mem::take(&mut self.control);
        for (id, frame) in self.openings.drain(..) {
            bytes.extend(frame);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.phase = Phase::Opening;
            }
        }
        let mut spent = 0_usize;
        while spent < most {
            let Some(id) = self.turns.pop_front() else {
                break;
            };
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.listed = false;
            if !stream.on_wire {
                continue;
            }
            if std::mem::take(&mut stream.unsaid) {
                let header = Header {
                    kind: Kind::Admitted,
                    len: 0,
                    stream: id,
                };
                bytes.extend(header.bytes());
            }
            if let Some(body) = stream.pop() {
                let len = body.bytes().len();
                let header = Header {
                    kind: Kind::Data,
                    len,
                    stream: id,
                };
                bytes.extend(header.bytes());
                if len <= SMALL {
                    bytes.extend(body.bytes());
                } else {
                    into.push_back(Piece::Bytes(std::mem::take(&mut bytes)));
                    into.push_back(Piece::Body(body));
                }
                spent = spent.saturating_add(len);
                self.woken.extend(stream.writer.take());
            } else if stream.end == End::Ending {
                let header = Header {
                    kind: Kind::Fin,
                    len: 0,
                    stream: id,
                };
                bytes.extend(header.bytes());
                stream.end = End::Ended;
                self.woken.extend(stream.writer.take());
            }
            if stream.has_more() {
                list(&mut self.turns, stream, id);
            } else {
                self.settle(id);
            }
        }
        if !bytes.is_empty() {
            into.push_back(Piece::Bytes(bytes));
        }
    }
}
