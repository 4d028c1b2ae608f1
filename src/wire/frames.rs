//! HTTP/2 frames as they pass (RFC 9113 section 4.1), counted by what they cost us: those that ask
//! for an answer or mean nothing (PING, SETTINGS, PRIORITY, empty DATA, endless CONTINUATION,
//! unknown ones) must not come without work that would explain them.

/// What every client says first (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// A frame's length, kind, flags and stream.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;

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

/// Counts a client's frames.
#[derive(Debug)]
pub struct Meter {
    /// Bytes of the preface or of a payload that are still to come.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
    /// How many more may come.
    left: u32,
    /// Milliseconds of the last refill.
    refilled: u64,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            skip: PREFACE,
            head: [0; HEAD],
            have: 0,
            left: BURST,
            refilled: 0,
        }
    }
}

impl Meter {
    /// Bytes came, at this many milliseconds of the connection's life. `false`: too many frames of
    /// no use.
    #[must_use]
    pub fn read(&mut self, mut bytes: &[u8], now: impl FnOnce() -> u64) -> bool {
        let mut cost = 0_u32;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip = self.skip.saturating_sub(skipped);
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = HEAD.saturating_sub(self.have).min(bytes.len());
            if wanted == 0 {
                break;
            }
            let (part, rest) = bytes.split_at(wanted);
            for (to, from) in self.head.iter_mut().skip(self.have).zip(part) {
                *to = *from;
            }
            bytes = rest;
            self.have = self.have.saturating_add(wanted);
            if self.have == HEAD {
                cost = cost.saturating_add(self.begin());
            }
        }
        cost == 0 || self.pay(cost, now)
    }

    /// A frame's head is whole; what it costs.
    fn begin(&mut self) -> u32 {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        self.have = 0;
        u32::from(match kind {
            DATA => length == 0 && flags & END_STREAM == 0,
            // requests, and what goes with them, are counted where they are served
            HEADERS | RST_STREAM | WINDOW_UPDATE => false,
            _ => true,
        })
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
        assert!(meter.read(&[0; PREFACE], || 0));
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
            assert!(meter.read(&one, || 0));
        }
        assert!(!meter.read(&one, || 0));
        // time heals
        assert!(meter.read(&one, || 1_000));
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
        assert!(meter.read(&many, || 0));
    }

    #[test]
    fn work_explains_pings_and_replies_do_not() {
        let mut meter = begun();
        let ping = frame(6, 0, 8);
        for _ in 0..BURST * 10 {
            assert!(meter.read(&ping, || 0));
            meter.wrote(40);
        }
        for _ in 0..BURST {
            let _spent = meter.read(&ping, || 0);
            meter.wrote(LONGEST_REPLY);
        }
        assert!(!meter.read(&ping, || 0));
    }

    #[test]
    fn goaway_is_a_frame() {
        let bytes = goaway(CALM);
        assert_eq!(bytes[..9], [0, 0, 8, 7, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[13..], [0, 0, 0, 11]);
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
            prop_assert!(whole.read(&bytes, || 0));
            let mut cut = begun();
            let mut rest = bytes.as_slice();
            for n in cuts.iter().cycle() {
                let (part, more) = rest.split_at((*n).min(rest.len()));
                prop_assert!(cut.read(part, || 0));
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(whole.left, cut.left);
            prop_assert_eq!(whole.skip, cut.skip);
        }
    }
}
