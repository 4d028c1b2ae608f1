//! HTTP/2 frames as they pass (RFC 9113 section 4.1), counted by what they cost us: those that ask
//! for an answer or mean nothing (PING, SETTINGS, PRIORITY, empty DATA, endless CONTINUATION,
//! unknown ones) must not come without work that would explain them. Frames whose size or setting
//! can't be are told from other faults: the library behind us has one error code for all.

/// What every client says first (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// A frame's length, kind, flags and stream.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;

/// Octets of one setting, and the one that is a window (sections 6.5.1 and 6.5.2).
const SETTING: usize = 6;
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];

/// An answer to PING, the longest that a client can ask for without a request.
const LONGEST_REPLY: usize = HEAD + 8;

/// So many at once are nobody's harm.
const BURST: u32 = 1_000;
/// And so many in a second, for ever.
const EACH_SECOND: u64 = 50;

/// A GOAWAY (RFC 9113 section 6.8) that leaves open what was served, with this error code.
#[must_use]
pub const fn goaway(code: u32) -> [u8; HEAD + 8] {
    let [a, b, c, d] = code.to_be_bytes();
    [
        0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, a, b, c, d,
    ]
}

/// `ENHANCE_YOUR_CALM`.
pub const CALM: u32 = 11;
/// `NO_ERROR`.
pub const NO_ERROR: u32 = 0;

/// Why a client's frames end its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// Too many of no use.
    Useless,
    /// A size that the frame's type can't have (section 4.2).
    Size,
    /// A setting that opens windows too far (section 6.5.2).
    Window,
}

impl FrameFault {
    /// In words, for the log.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Useless => "frames that ask for answers or mean nothing, and no requests",
            Self::Size => "an HTTP/2 frame of a size that its type can't have",
            Self::Window => "an HTTP/2 setting that opens windows of more than 2^31-1 octets",
        }
    }

    /// The error code (section 7).
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Useless => CALM,
            Self::Size => 6,
            Self::Window => 3,
        }
    }
}

/// Where frames begin, however their bytes are cut.
#[derive(Debug, Default)]
struct Heads {
    /// Bytes of the preface or of a payload that are still to come.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
}

impl Heads {
    /// Takes what is left of a payload, and the head behind it; `None`: that is not whole yet.
    fn next<'b>(&mut self, bytes: &mut &'b [u8]) -> (&'b [u8], Option<[u8; HEAD]>) {
        let (payload, rest) = bytes.split_at(self.skip.min(bytes.len()));
        self.skip = self.skip.saturating_sub(payload.len());
        let wanted = HEAD.saturating_sub(self.have).min(rest.len());
        let (part, rest) = rest.split_at(wanted);
        *bytes = rest;
        for (to, from) in self.head.iter_mut().skip(self.have).zip(part) {
            *to = *from;
        }
        self.have = self.have.saturating_add(wanted);
        if self.have < HEAD {
            return (payload, None);
        }
        let [a, b, c, ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        self.have = 0;
        (payload, Some(self.head))
    }
}

/// Counts what of the frames that we write belongs to answers: a client can't have it for nothing,
/// and only in windows that it opens.
#[derive(Debug, Default)]
pub struct Answered {
    heads: Heads,
    /// Whose payload comes; `None`: not that of an answer.
    part: Option<Part>,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Head,
    Body,
}

/// Octets of answers: windows hold back their bodies alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Octets {
    /// Of heads and trailers.
    pub heads: usize,
    /// Of bodies.
    pub bodies: usize,
}

impl Answered {
    /// Adds how much of these bytes, which were written, is payload of answers.
    pub fn wrote(&mut self, mut bytes: &[u8], sum: &mut Octets) {
        loop {
            let (payload, head) = self.heads.next(&mut bytes);
            let of = match self.part {
                Some(Part::Head) => Some(&mut sum.heads),
                Some(Part::Body) => Some(&mut sum.bodies),
                None => None,
            };
            if let Some(of) = of {
                *of = of.saturating_add(payload.len());
            }
            let Some([_, _, _, kind, ..]) = head else {
                return;
            };
            self.part = match kind {
                DATA => Some(Part::Body),
                HEADERS | CONTINUATION => Some(Part::Head),
                _ => None,
            };
        }
    }
}

/// Counts a client's frames.
#[derive(Debug)]
pub struct Meter {
    heads: Heads,
    /// The payload that comes is one of settings; and the setting that is not whole yet.
    settings: bool,
    setting: [u8; SETTING],
    set: usize,
    /// How many more may come.
    left: u32,
    /// Milliseconds of the last refill.
    refilled: u64,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            heads: Heads {
                skip: PREFACE,
                ..Heads::default()
            },
            settings: false,
            setting: [0; SETTING],
            set: 0,
            left: BURST,
            refilled: 0,
        }
    }
}

impl Meter {
    /// Bytes came, at this many milliseconds of the connection's life.
    ///
    /// # Errors
    /// The connection has to end.
    pub fn read(&mut self, mut bytes: &[u8], now: impl FnOnce() -> u64) -> Result<(), FrameFault> {
        let mut cost = 0_u32;
        loop {
            let (payload, head) = self.heads.next(&mut bytes);
            if self.settings {
                self.settle(payload)?;
            }
            let Some(head) = head else { break };
            cost = cost.saturating_add(self.begin(head)?);
        }
        if cost == 0 || self.pay(cost, now) {
            Ok(())
        } else {
            Err(FrameFault::Useless)
        }
    }

    /// More of a payload of settings.
    fn settle(&mut self, bytes: &[u8]) -> Result<(), FrameFault> {
        for byte in bytes {
            if let Some(slot) = self.setting.get_mut(self.set) {
                *slot = *byte;
            }
            self.set = self.set.saturating_add(1);
            if self.set == SETTING {
                self.set = 0;
                let [a, b, high, ..] = self.setting;
                if [a, b] == INITIAL_WINDOW_SIZE && high >= 0x80 {
                    return Err(FrameFault::Window);
                }
            }
        }
        Ok(())
    }

    /// A frame's head is whole; what it costs.
    fn begin(&mut self, head: [u8; HEAD]) -> Result<u32, FrameFault> {
        let [a, b, c, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let fits = match kind {
            PRIORITY => length == 5,
            RST_STREAM | WINDOW_UPDATE => length == 4,
            PING => length == 8,
            SETTINGS if flags & ACK != 0 => length == 0,
            SETTINGS => length.is_multiple_of(6),
            _ => true,
        };
        if !fits {
            return Err(FrameFault::Size);
        }
        self.settings = kind == SETTINGS;
        Ok(u32::from(match kind {
            DATA => length == 0 && flags & END_STREAM == 0,
            // requests, and what goes with them, are counted where they are served
            HEADERS | RST_STREAM | WINDOW_UPDATE => false,
            _ => true,
        }))
    }

    fn pay(&mut self, cost: u32, now: impl FnOnce() -> u64) -> bool {
        if self.left < cost {
            let now = now();
            let earned = now
                .saturating_sub(self.refilled)
                .saturating_mul(EACH_SECOND)
                / 1_000;
            if earned > 0 {
                self.refilled = now;
                self.earn(u32::try_from(earned).unwrap_or(u32::MAX));
            }
        }
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// So much was written at once. Answers and their bodies explain what a client asks meanwhile,
    /// such as the pings by which gRPC measures its path.
    pub fn wrote(&mut self, n: usize) {
        if n > LONGEST_REPLY && self.left < BURST {
            self.earn(u32::try_from(n / 256).unwrap_or(u32::MAX).saturating_add(1));
        }
    }

    fn earn(&mut self, n: u32) {
        self.left = self.left.saturating_add(n).min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.resize(HEAD + length, 7);
        bytes
    }

    fn begun() -> Meter {
        let mut meter = Meter::default();
        meter.read(&[0; PREFACE], || 0).unwrap();
        meter
    }

    #[rstest::rstest]
    #[case::ping(6, 0, 8)]
    #[case::settings(4, 0, 0)]
    #[case::priority(2, 0, 5)]
    #[case::continuation(9, 0, 0)]
    #[case::empty(DATA, 0, 0)]
    #[case::unknown(0xbe, 0, 3)]
    fn what_is_of_no_use_is_bounded(#[case] kind: u8, #[case] flags: u8, #[case] length: usize) {
        let mut meter = begun();
        let one = frame(kind, flags, length);
        for _ in 0..BURST {
            meter.read(&one, || 0).unwrap();
        }
        assert_eq!(meter.read(&one, || 0), Err(FrameFault::Useless));
        // time heals
        meter.read(&one, || 1_000).unwrap();
    }

    #[rstest::rstest]
    #[case::headers(HEADERS, 4, 30)]
    #[case::reset(RST_STREAM, 0, 4)]
    #[case::window(WINDOW_UPDATE, 0, 4)]
    #[case::data(DATA, 0, 1)]
    #[case::end(DATA, END_STREAM, 0)]
    fn what_belongs_to_requests_is_free(
        #[case] kind: u8,
        #[case] flags: u8,
        #[case] length: usize,
    ) {
        let mut meter = begun();
        let many = frame(kind, flags, length).repeat(10_000);
        meter.read(&many, || 0).unwrap();
    }

    #[test]
    fn work_explains_pings_and_replies_do_not() {
        let mut meter = begun();
        let ping = frame(6, 0, 8);
        for _ in 0..BURST * 10 {
            meter.read(&ping, || 0).unwrap();
            meter.wrote(40);
        }
        for _ in 0..BURST {
            let _spent = meter.read(&ping, || 0);
            meter.wrote(LONGEST_REPLY);
        }
        assert_eq!(meter.read(&ping, || 0), Err(FrameFault::Useless));
    }

    #[rstest::rstest]
    #[case::priority(2, 0, 4)]
    #[case::reset(RST_STREAM, 0, 5)]
    #[case::settings(SETTINGS, 0, 7)]
    #[case::ack(SETTINGS, ACK, 6)]
    #[case::ping(PING, 0, 9)]
    #[case::window(WINDOW_UPDATE, 0, 3)]
    fn sizes_that_can_t_be(#[case] kind: u8, #[case] flags: u8, #[case] length: usize) {
        let one = frame(kind, flags, length);
        assert_eq!(begun().read(&one, || 0), Err(FrameFault::Size));
    }

    #[test]
    fn a_window_has_31_bits() {
        for (value, judged) in [
            ([0x7f, 0xff, 0xff, 0xff], Ok(())),
            ([0x80, 0, 0, 0], Err(FrameFault::Window)),
        ] {
            let settings = [&[0, 1, 0xff, 0, 0, 0, 0, 4][..], &value].concat();
            let mut bytes = frame(SETTINGS, 0, settings.len());
            bytes[HEAD..].copy_from_slice(&settings);
            let mut meter = begun();
            let told = bytes.chunks(5).try_for_each(|part| meter.read(part, || 0));
            assert_eq!(told, judged);
        }
    }

    #[test]
    fn goaway_is_a_frame() {
        let bytes = goaway(CALM);
        assert_eq!(bytes[..9], [0, 0, 8, 7, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[13..], [0, 0, 0, 11]);
    }

    #[test]
    fn what_belongs_to_answers_is_counted_however_it_is_cut() {
        let frames = [
            frame(SETTINGS, 0, 12),
            frame(HEADERS, 4, 30),
            frame(PING, ACK, 8),
            frame(DATA, 0, 1),
            frame(WINDOW_UPDATE, 0, 4),
            frame(DATA, 0, 0),
            frame(CONTINUATION, 4, 5),
            frame(DATA, END_STREAM, 55),
            frame(RST_STREAM, 0, 4),
        ];
        let bytes = frames.concat();
        for cut in 1..=bytes.len() {
            let (mut answered, mut sum) = (Answered::default(), Octets::default());
            for part in bytes.chunks(cut) {
                answered.wrote(part, &mut sum);
            }
            let (heads, bodies) = (30 + 5, 1 + 55);
            assert_eq!(sum, Octets { heads, bodies }, "{cut}");
        }
    }

    proptest! {
        /// However the bytes are cut, they are counted alike.
        #[test]
        fn cuts_change_nothing(
            frames in prop::collection::vec((0_u8..12, 0_u8..2, 0_usize..40), 0..60),
            cuts in prop::collection::vec(1_usize..50, 1..40),
        ) {
            let bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, flags, length)| frame(*kind, *flags, *length))
                .collect();
            let mut whole = begun();
            let judged = whole.read(&bytes, || 0);
            let mut cut = begun();
            let mut rest = bytes.as_slice();
            let mut judged_in_parts = Ok(());
            for n in cuts.iter().cycle() {
                let (part, more) = rest.split_at((*n).min(rest.len()));
                judged_in_parts = cut.read(part, || 0);
                rest = more;
                if rest.is_empty() || judged_in_parts.is_err() {
                    break;
                }
            }
            prop_assert_eq!(judged, judged_in_parts);
            if judged.is_ok() {
                prop_assert_eq!(whole.left, cut.left);
                prop_assert_eq!(whole.heads.skip, cut.heads.skip);
            }
        }
    }
}
