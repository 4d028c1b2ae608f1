//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): a request's `traceparent` passes as
//! it came where it is well-formed, and is made where there is none.

use http::{HeaderMap, HeaderName, HeaderValue};

/// `traceparent`.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`, which means nothing without the other.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-` trace id `-` parent id `-` flags.
const LENGTH: usize = 55;
/// Section 3.3.1.5: at least so much of a state is passed on; more is not.
const STATE: usize = 512;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The ids of a new trace: two halves of the trace's and the request's own.
pub type Ids = [u64; 3];

/// Makes a request's trace headers whole: one valid `traceparent`, and `tracestate` only beside
/// the one that came with it (sections 3.2 and 3.3).
pub fn carry(headers: &mut HeaderMap, make: impl FnOnce() -> Ids) {
    let mut lines = headers.get_all(TRACEPARENT).iter();
    let (first, more) = (lines.next(), lines.next());
    let valid = more.is_none() && first.is_some_and(|line| is_traceparent(line.as_bytes()));
    if !valid {
        headers.insert(TRACEPARENT, traceparent(make()));
        headers.remove(TRACESTATE);
        return;
    }
    let size: usize = headers
        .get_all(TRACESTATE)
        .iter()
        .map(|line| line.len().saturating_add(1))
        .sum();
    if size > STATE.saturating_add(1) {
        headers.remove(TRACESTATE);
    }
}

/// Whether this is a `traceparent` of version 00, or of a later one that begins as 00 does.
#[must_use]
pub fn is_traceparent(value: &[u8]) -> bool {
    let Some((known, more)) = value.split_at_checked(LENGTH) else {
        return false;
    };
    let mut left = known;
    // and the hyphen behind it, but for the last
    let mut part = |length: usize| {
        let (part, rest) = left.split_at_checked(length)?;
        left = match rest {
            [] => rest,
            [b'-', rest @ ..] => rest,
            _ => return None,
        };
        // without a way out of the loop many octets are looked at at a time
        let hex = |byte: u8| byte.is_ascii_digit() | matches!(byte, b'a'..=b'f');
        part.iter()
            .fold(true, |all, byte| all & hex(*byte))
            .then_some(part)
    };
    let (Some(version), Some(trace), Some(parent), Some(_flags)) =
        (part(2), part(32), part(16), part(2))
    else {
        return false;
    };
    let zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let ends = match version {
        b"00" => more.is_empty(),
        b"ff" => false,
        _ => more.is_empty() || more.starts_with(b"-"),
    };
    ends && !zero(trace) && !zero(parent)
}

/// A new `traceparent`. It is not sampled: nobody has asked for it yet.
fn traceparent([high, low, parent]: Ids) -> HeaderValue {
    // zero is no id
    let (low, parent) = (low.max(1), parent.max(1));
    let mut text = Vec::with_capacity(LENGTH);
    text.extend_from_slice(b"00-");
    text.extend_from_slice(&hex(high));
    text.extend_from_slice(&hex(low));
    text.push(b'-');
    text.extend_from_slice(&hex(parent));
    text.extend_from_slice(b"-00");
    // hex digits and hyphens
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Written by hand: it is written for each request, and a formatter costs more than the rest of
/// the rewriting.
fn hex(number: u64) -> [u8; 16] {
    let digit = |octet: u8| *HEX.get(usize::from(octet & 0xf)).unwrap_or(&b'0');
    let mut digits = [0; 16];
    for (pair, octet) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair.copy_from_slice(&[digit(octet >> 4), digit(octet)]);
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[rstest::rstest]
    #[case(GOOD, true)]
    #[case(
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes",
        true
    )]
    #[case("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true)]
    #[case("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.x", false)]
    #[case("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", false)]
    #[case("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false)]
    #[case("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false)]
    #[case("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false)]
    #[case("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false)]
    #[case("00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01", false)]
    #[case("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", false)]
    #[case("", false)]
    fn a_parent_is_well_formed_or_not(#[case] value: &str, #[case] expected: bool) {
        assert_eq!(is_traceparent(value.as_bytes()), expected);
    }

    #[test]
    fn what_is_well_formed_passes_as_it_came() {
        let mut headers = map(&[
            ("traceparent", GOOD),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ]);
        carry(&mut headers, || panic!("nothing is to be made"));
        assert_eq!(headers[TRACEPARENT], GOOD);
        assert_eq!(headers.get_all(TRACESTATE).iter().count(), 2);
    }

    #[rstest::rstest]
    #[case(&[])]
    #[case(&[("traceparent", "no"), ("tracestate", "a=1")])]
    #[case(&[("tracestate", "a=1")])]
    #[case(&[("traceparent", GOOD), ("traceparent", GOOD), ("tracestate", "a=1")])]
    fn what_is_not_is_made(#[case] lines: &[(&'static str, &str)]) {
        for ids in [[1, 2, 3], [0, 0, 0], [u64::MAX; 3]] {
            let mut headers = map(lines);
            carry(&mut headers, || ids);
            assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
            assert!(
                is_traceparent(headers[TRACEPARENT].as_bytes()),
                "{headers:?}"
            );
            assert!(!headers.contains_key(TRACESTATE));
        }
    }

    #[test]
    fn a_state_has_a_bound() {
        let long = "a=".to_owned() + &"x".repeat(600);
        let mut headers = map(&[("traceparent", GOOD), ("tracestate", &long)]);
        carry(&mut headers, || panic!("nothing is to be made"));
        assert!(!headers.contains_key(TRACESTATE));
    }

    #[test]
    fn a_number_is_written_in_all_its_digits() {
        for number in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(hex(number), format!("{number:016x}").as_bytes());
        }
    }
}
