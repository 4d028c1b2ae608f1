//! The time of day as HTTP says it, made once a second.

use std::cell::Cell;

use time::{OffsetDateTime, macros::format_description};

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(super) const LENGTH: usize = 29;

thread_local! {
    /// A second since 1970, and how it is said.
    static LAST: Cell<(i64, [u8; LENGTH])> = const { Cell::new((i64::MIN, [b' '; LENGTH])) };
}

/// The present second (RFC 9110 section 5.6.7).
pub(super) fn date() -> [u8; LENGTH] {
    at(OffsetDateTime::now_utc())
}

fn at(now: OffsetDateTime) -> [u8; LENGTH] {
    let second = now.unix_timestamp();
    let (last, said) = LAST.get();
    if last == second {
        return said;
    }
    let form = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let mut text = [b' '; LENGTH];
    // a year of five digits does not fit
    if now.format_into(&mut text.as_mut_slice(), &form).is_ok() {
        LAST.set((second, text));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_said_as_http_says_it() {
        let moment = OffsetDateTime::from_unix_timestamp(784_111_777).unwrap();
        assert_eq!(&at(moment), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&at(moment), b"Sun, 06 Nov 1994 08:49:37 GMT");
        let next = OffsetDateTime::from_unix_timestamp(784_111_778).unwrap();
        assert_eq!(&at(next), b"Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
