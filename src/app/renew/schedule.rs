//! When a certificate is renewed: pure, with time and chance as arguments.

use std::time::Duration;

use crate::identity::UnixSeconds;

/// First pause after a failure, in seconds.
const FIRST_PAUSE: i64 = 10;
/// Longest pause after failures, in seconds.
const LONGEST_PAUSE: i64 = 3_600;

/// A part of one: 0 is none of it, `u16::MAX` nearly all.
pub(super) type Chance = u16;

fn part(of: i64, chance: Chance) -> i64 {
    of.saturating_mul(i64::from(chance)) / i64::from(u16::MAX)
}

/// Two thirds of the life, and up to a twentieth more, so that hosts that were set up together
/// don't ask together.
pub(super) fn due(not_before: UnixSeconds, not_after: UnixSeconds, chance: Chance) -> UnixSeconds {
    let life = not_after.0.saturating_sub(not_before.0).max(0);
    let begun = not_before.0.saturating_add(life / 3 * 2);
    UnixSeconds(begun.saturating_add(part(life / 20, chance)))
}

/// When it is tried again after so many failures: later and later, never later than a tenth of
/// what is left, an hour at most.
pub(super) fn again(
    now: UnixSeconds,
    not_after: UnixSeconds,
    failures: u32,
    chance: Chance,
) -> UnixSeconds {
    let doubled = FIRST_PAUSE.saturating_mul(1_i64 << failures.saturating_sub(1).min(16));
    let left = not_after.0.saturating_sub(now.0);
    let pause = doubled.min(LONGEST_PAUSE).min((left / 10).max(FIRST_PAUSE));
    // three quarters to five quarters of it
    let pause = (pause * 3 / 4).saturating_add(part(pause / 2, chance));
    UnixSeconds(now.0.saturating_add(pause))
}

/// How long a new issuer is left to become known before our certificate is one of its: peers ask
/// for trust and CRLs once in `refresh`, and one of them may have to ask twice.
pub(super) fn known_after(refresh: Duration, chance: Chance) -> i64 {
    let seconds = i64::try_from(refresh.as_secs())
        .unwrap_or(LONGEST_PAUSE)
        .max(1);
    let five = seconds.saturating_mul(5);
    five.saturating_add(part(five, chance))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn it_begins_at_two_thirds_and_a_little() {
        let (from, to) = (UnixSeconds(0), UnixSeconds(90 * DAY));
        assert_eq!(due(from, to, 0).0, 60 * DAY);
        let latest = due(from, to, u16::MAX).0;
        assert!(
            (64 * DAY..=64 * DAY + DAY / 2).contains(&latest),
            "{latest}"
        );
    }

    #[test]
    fn pauses_grow_and_end_at_an_hour() {
        let end = UnixSeconds(90 * DAY);
        let pause = |failures| again(UnixSeconds(0), end, failures, u16::MAX / 2).0;
        assert!((9..=11).contains(&pause(1)), "{}", pause(1));
        assert!((18..=22).contains(&pause(2)), "{}", pause(2));
        assert!((3_500..=3_700).contains(&pause(30)), "{}", pause(30));
        // an hour before the end it is tried every six minutes
        let late = again(UnixSeconds(0), UnixSeconds(3_600), 30, u16::MAX / 2).0;
        assert!((350..=370).contains(&late), "{late}");
    }

    proptest! {
        #[test]
        fn no_life_is_left_without_a_try(
            from in -DAY * 40_000..DAY * 40_000,
            life in 0..DAY * 40_000,
            failures in 0_u32..100,
            chance in any::<u16>(),
        ) {
            let (from, to) = (UnixSeconds(from), UnixSeconds(from + life));
            let begins = due(from, to, chance);
            prop_assert!(begins >= from && begins.0 <= from.0 + life * 3 / 4 + 1);
            let next = again(begins, to, failures, chance);
            prop_assert!(next > begins && next.0 - begins.0 <= 2 * LONGEST_PAUSE);
            // while there is time, the next try is before the end
            prop_assert!(next <= to || to.0 - begins.0 < 2 * FIRST_PAUSE);
        }
    }
}
