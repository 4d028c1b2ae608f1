//! Frames that come: whether each may, and what it means.

use super::{
    AHEAD, Break, Header, Kind, MAX_STREAMS, MAX_WINDOW, MIN_GRANT, Mux, Payload, Side, Violation,
    ends::LATE_BYTES,
    stream::{Phase, Stream},
};
use crate::{
    admit::Denial,
    wire::link::{Open, codec},
};

/// What the holder of the link has to do about a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    None,
    /// A client to carry.
    Opened(u32, Box<Open>),
    /// The other end has ended the link, for this reason.
    Over(String),
}

/// So many at once, and so many a second.
#[derive(Debug)]
pub(super) struct Bucket {
    left: u64,
    most: u64,
    every_second: u64,
    /// Milliseconds, on the link's own clock.
    filled: u64,
}

impl Bucket {
    pub(super) const fn new(most: u64, every_second: u64) -> Self {
        Self {
            left: most,
            most,
            every_second,
            filled: 0,
        }
    }

    fn take(&mut self, now: u64) -> bool {
        let more = now
            .saturating_sub(self.filled)
            .saturating_mul(self.every_second)
            / 1000;
        if more > 0 {
            self.left = self.left.saturating_add(more).min(self.most);
            self.filled = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

impl<B: Payload> Mux<B> {
    /// Judges DATA by its header; false: its octets are to be thrown away.
    ///
    /// # Errors
    /// What the other end may not do.
    pub fn expect(&mut self, header: Header) -> Result<bool, Violation> {
        let (id, kind) = (header.stream, Kind::Data);
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.on_wire) else {
            self.late(kind, id, 0)?;
            self.late_bytes = self
                .late_bytes
                .checked_sub(header.len)
                .ok_or(Violation::Credit(id))?;
            return Ok(false);
        };
        let ahead = self.side == Side::Acceptor && stream.phase == Phase::Opening;
        if !(ahead || stream.phase == Phase::Admitted) || stream.fin_came {
            return Err(Violation::Order(kind, id));
        }
        if !stream.admit(header.len) || (ahead && stream.came() > AHEAD) {
            return Err(Violation::Credit(id));
        }
        Ok(true)
    }

    /// Takes the octets of a DATA that was expected.
    pub fn data(&mut self, id: u32, bytes: B) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.on_wire
        {
            stream.receive(bytes);
            self.woken.extend(stream.reader.take());
        }
    }

    /// Takes any other frame; `now` is in milliseconds, from any beginning.
    ///
    /// # Errors
    /// What the other end may not do.
    pub fn frame(&mut self, header: Header, payload: &[u8], now: u64) -> Result<Event, Violation> {
        let (kind, id) = (header.kind, header.stream);
        let wrong_end = match kind {
            Kind::Open => self.side == Side::Gateway,
            Kind::Admitted | Kind::GoAway => self.side == Side::Acceptor,
            Kind::Refused => self.side == Side::Acceptor && id != 0,
            Kind::Data | Kind::Fin | Kind::Reset | Kind::Ping | Kind::Pong | Kind::Window => false,
        };
        if wrong_end {
            return Err(Violation::Direction(kind));
        }
        match kind {
            Kind::Open => return self.opened(id, payload, now),
            Kind::Refused if id == 0 => return Ok(Event::Over(codec::refused_code(payload)?)),
            // that of the link came before there was a state
            Kind::Admitted if id == 0 => return Err(Violation::Order(kind, id)),
            Kind::Ping => {
                if !self.pings.take(now) {
                    return Err(Violation::Flood(kind));
                }
                self.say(Kind::Pong, 0, payload);
            }
            Kind::Pong => match self.asked.checked_sub(1) {
                Some(left) => self.asked = left,
                None => return Err(Violation::Order(kind, id)),
            },
            Kind::GoAway => {
                if std::mem::replace(&mut self.heard_goaway, true) {
                    return Err(Violation::Order(kind, id));
                }
                self.leaving = true;
            }
            Kind::Admitted
            | Kind::Refused
            | Kind::Data
            | Kind::Fin
            | Kind::Reset
            | Kind::Window => self.of_stream(kind, id, payload, now)?,
        }
        Ok(Event::None)
    }

    fn opened(&mut self, id: u32, payload: &[u8], now: u64) -> Result<Event, Violation> {
        if id <= self.last {
            return Err(Violation::Used(id, self.last));
        }
        if self.live >= MAX_STREAMS {
            return Err(Violation::Streams(id));
        }
        let open = codec::open(payload)?;
        self.last = id;
        // those that are over and still held cost as much
        let full = self.streams.len() >= MAX_STREAMS.saturating_mul(2);
        if full && !self.resets.take(now) {
            return Err(Violation::Flood(Kind::Open));
        }
        let refused = match (self.leaving, full) {
            (true, _) => Denial::Draining,
            (false, true) => Denial::TooManyConnections,
            (false, false) => {
                self.begin(id, Stream::new(Phase::Opening));
                return Ok(Event::Opened(id, Box::new(open)));
            }
        };
        self.say(Kind::Refused, id, refused.code().as_bytes());
        // its RESET, and what went ahead of this answer
        self.late_frames = self.late_frames.saturating_add(1);
        self.late_bytes = self.late_bytes.saturating_add(AHEAD).min(LATE_BYTES);
        Ok(Event::None)
    }

    fn of_stream(
        &mut self,
        kind: Kind,
        id: u32,
        payload: &[u8],
        now: u64,
    ) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.on_wire) else {
            return self.late(kind, id, 1);
        };
        let out_of_turn = Err(Violation::Order(kind, id));
        match (kind, stream.phase) {
            // to what was not asked
            (_, Phase::Queued) => return out_of_turn,
            (Kind::Admitted, Phase::Opening) => {
                codec::admitted(payload)?;
                stream.phase = Phase::Admitted;
                self.woken.extend(stream.reader.take());
            }
            (Kind::Admitted, Phase::Unwanted) => {
                codec::admitted(payload)?;
                self.cut(id);
            }
            (Kind::Refused, Phase::Opening | Phase::Unwanted) => {
                stream.broken = Some(Break::Refused(codec::refused_code(payload)?));
                stream.unsay();
                self.close(id);
            }
            (Kind::Reset, phase) => {
                stream.broken = Some(Break::Reset);
                // what came before is still to be read
                stream.unsay();
                if self.side == Side::Acceptor && phase == Phase::Opening && !self.resets.take(now)
                {
                    return Err(Violation::Flood(kind));
                }
                self.close(id);
            }
            (Kind::Fin, Phase::Admitted) => {
                if std::mem::replace(&mut stream.fin_came, true) {
                    return out_of_turn;
                }
                self.woken.extend(stream.reader.take());
                self.settle(id);
            }
            (Kind::Window, Phase::Admitted) => {
                let bytes = payload.try_into().map_or(0, u32::from_be_bytes);
                let more = usize::try_from(bytes).unwrap_or(usize::MAX);
                let may_go = stream.may_go.saturating_add(more);
                if more < MIN_GRANT || may_go > MAX_WINDOW {
                    return Err(Violation::Window(id, bytes));
                }
                stream.may_go = may_go;
                self.woken.extend(stream.writer.take());
            }
            _ => return out_of_turn,
        }
        Ok(())
    }

    /// A frame of a stream that is closed here, which the other end need not know yet.
    fn late(&mut self, kind: Kind, id: u32, cost: usize) -> Result<(), Violation> {
        if id > self.last {
            return Err(Violation::Unopened(kind, id));
        }
        self.late_frames = self
            .late_frames
            .checked_sub(cost)
            .ok_or(Violation::Flood(kind))?;
        Ok(())
    }
}
