//! The plain-text start of a `PostgreSQL` connection (frontend/backend protocol, "SSL Session
//! Encryption" and "Start-up"): told apart from its first bytes, so that nothing but a request
//! for TLS gets further.

use super::cursor::Cursor;

/// The answer to a request for GSS encryption, so that the client goes on to ask for TLS.
pub const REFUSE_GSS: &[u8] = b"N";
/// The answer to a request for TLS; the handshake follows.
pub const ACCEPT_TLS: &[u8] = b"S";
/// The longest start-up packet that a server takes.
const MAX_STARTUP: u32 = 10_000;
/// 16 bytes with a key of 4 (protocol 3.0), at most 256 of key since 3.2.
const CANCEL: std::ops::RangeInclusive<u32> = 16..=268;
const REQUEST_LEN: u32 = 8;

const CODE_CANCEL: u32 = 80_877_102;
const CODE_SSL: u32 = 80_877_103;
const CODE_GSS: u32 = 80_877_104;

/// What a client's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostgresStart {
    /// Not enough to tell.
    Incomplete {
        /// Call again with this many bytes in all; never more than the first message has.
        need: usize,
    },
    /// Answer [`REFUSE_GSS`] and read again. Exactly 8 bytes.
    GssEncRequest,
    /// Answer [`ACCEPT_TLS`] and begin the handshake. Exactly 8 bytes.
    SslRequest,
    /// A request for TLS or GSS with bytes behind it, which a client never sends before the
    /// answer: somebody put them there, to be taken for what the handshake protects
    /// (CVE-2021-23214). Close.
    Injection,
    /// A TLS record: the client speaks TLS at once (ALPN `postgresql`). Leave the bytes in place.
    DirectTls,
    /// A cancel request without TLS, whole in the buffer.
    CancelRequest {
        /// Its length; nothing may follow.
        len: usize,
    },
    /// A start-up without TLS: answer [`plaintext_refusal`] and close.
    Startup,
    /// Nothing that a `PostgreSQL` client says: close.
    Garbage,
}

/// Classifies what a client sent so far, from its first byte on.
#[must_use]
pub fn classify(bytes: &[u8]) -> PostgresStart {
    match bytes.first() {
        // A length that begins with 0x16 would be 369 million bytes.
        Some(0x16) => return PostgresStart::DirectTls,
        // Every length that we take is below 65536.
        Some(1..) => return PostgresStart::Garbage,
        Some(0) if bytes.get(1).is_some_and(|byte| *byte != 0) => return PostgresStart::Garbage,
        Some(0) | None => {}
    }
    let mut cursor = Cursor::new(bytes);
    let (Some(length), Some(code)) = (cursor.u32(), cursor.u32()) else {
        // A length alone can be judged already.
        let judged = Cursor::new(bytes).u32();
        return match judged {
            Some(length) if !(REQUEST_LEN..=MAX_STARTUP).contains(&length) => {
                PostgresStart::Garbage
            }
            Some(_) => PostgresStart::Incomplete { need: 8 },
            // Not to read past a first TLS record's head.
            None => PostgresStart::Incomplete { need: 4 },
        };
    };
    match code {
        CODE_SSL | CODE_GSS if length != REQUEST_LEN => PostgresStart::Garbage,
        CODE_SSL | CODE_GSS if !cursor.is_empty() => PostgresStart::Injection,
        CODE_SSL => PostgresStart::SslRequest,
        CODE_GSS => PostgresStart::GssEncRequest,
        CODE_CANCEL if !CANCEL.contains(&length) => PostgresStart::Garbage,
        CODE_CANCEL => {
            let len = usize::try_from(length).unwrap_or(usize::MAX);
            match bytes.len().cmp(&len) {
                std::cmp::Ordering::Less => PostgresStart::Incomplete { need: len },
                std::cmp::Ordering::Equal => PostgresStart::CancelRequest { len },
                std::cmp::Ordering::Greater => PostgresStart::Garbage,
            }
        }
        // Major version 2 or 3; the minor does not matter to a refusal.
        version if matches!(version >> 16, 2 | 3) && (9..=MAX_STARTUP).contains(&length) => {
            PostgresStart::Startup
        }
        _ => PostgresStart::Garbage,
    }
}

/// The `ErrorResponse` for a client that does not ask for TLS: every client shows it to its user.
#[must_use]
pub fn plaintext_refusal() -> Vec<u8> {
    let fields: [(u8, &str); 5] = [
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        // invalid_authorization_specification: what a server says to a connection without TLS.
        (b'C', "28000"),
        (b'M', "this server takes TLS connections only"),
        (b'H', "set sslmode=require or stronger at the client"),
    ];
    let mut body = Vec::new();
    for (kind, text) in fields {
        body.push(kind);
        body.extend(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len())
        .unwrap_or_default()
        .saturating_add(4);
    let mut message = vec![b'E'];
    message.extend(length.to_be_bytes());
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(length: u32, code: u32, tail: &[u8]) -> Vec<u8> {
        [&length.to_be_bytes()[..], &code.to_be_bytes(), tail].concat()
    }

    #[rstest::rstest]
    #[case::nothing(vec![], PostgresStart::Incomplete { need: 4 })]
    #[case::half_a_length(vec![0, 0], PostgresStart::Incomplete { need: 4 })]
    #[case::length_only(vec![0, 0, 0, 8], PostgresStart::Incomplete { need: 8 })]
    #[case::length_zero(vec![0, 0, 0, 0], PostgresStart::Garbage)]
    #[case::length_huge(vec![0, 0, 0xff, 0xff], PostgresStart::Garbage)]
    #[case::length_wild(vec![0, 1], PostgresStart::Garbage)]
    #[case::ssl(message(8, CODE_SSL, b""), PostgresStart::SslRequest)]
    #[case::gss(message(8, CODE_GSS, b""), PostgresStart::GssEncRequest)]
    #[case::ssl_long(message(9, CODE_SSL, b"x"), PostgresStart::Garbage)]
    #[case::injected(message(8, CODE_SSL, b"\x16"), PostgresStart::Injection)]
    #[case::injected_gss(message(8, CODE_GSS, b"Q"), PostgresStart::Injection)]
    #[case::tls(vec![0x16], PostgresStart::DirectTls)]
    #[case::http(b"GET / HTTP/1.1".to_vec(), PostgresStart::Garbage)]
    #[case::cancel(message(16, CODE_CANCEL, &[0; 8]), PostgresStart::CancelRequest { len: 16 })]
    #[case::cancel_half(message(16, CODE_CANCEL, &[0; 7]), PostgresStart::Incomplete { need: 16 })]
    #[case::cancel_more(message(16, CODE_CANCEL, &[0; 9]), PostgresStart::Garbage)]
    #[case::cancel_long_key(message(268, CODE_CANCEL, &[0; 260]), PostgresStart::CancelRequest { len: 268 })]
    #[case::cancel_too_long(message(269, CODE_CANCEL, &[0; 261]), PostgresStart::Garbage)]
    #[case::startup(message(40, 196_608, b"user\0"), PostgresStart::Startup)]
    #[case::startup_3_2(message(40, 196_610, b""), PostgresStart::Startup)]
    #[case::version_4(message(40, 4 << 16, b""), PostgresStart::Garbage)]
    fn a_start_is_told_by_its_first_bytes(#[case] bytes: Vec<u8>, #[case] start: PostgresStart) {
        assert_eq!(classify(&bytes), start);
    }

    #[test]
    fn the_refusal_is_one_error_response() {
        let message = plaintext_refusal();
        assert_eq!(message[0], b'E');
        let length = u32::from_be_bytes(message[1..5].try_into().unwrap());
        assert_eq!(usize::try_from(length).unwrap() + 1, message.len());
        assert!(message.ends_with(b"\0\0"));
        let text = String::from_utf8(message[5..].to_vec()).unwrap();
        assert!(text.starts_with("SFATAL\0VFATAL\0C28000\0M"), "{text:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_need_grows(bytes in any::<Vec<u8>>(), zeros in 0usize..4) {
            let mut all = vec![0; zeros];
            all.extend(bytes);
            if let PostgresStart::Incomplete { need } = classify(&all) {
                prop_assert!(need > all.len() && need <= 268);
            }
        }
    }
}
