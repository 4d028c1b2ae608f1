//! What a ClientHello offers, as far as it decides who reads it (RFC 8446 section 4.1.2): versions
//! (section 4.2.1), protocols (RFC 7301 section 3.1) and early data (section 4.2.10).

use std::borrow::Cow;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const ALPN: u16 = 16;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
const TLS_1_3: [u8; 2] = [3, 4];

/// Whether the ClientHello in these records offers TLS 1.3. What is not a whole ClientHello offers
/// nothing.
#[must_use]
pub fn offers_tls_1_3(records: &[u8]) -> bool {
    let message = message(records);
    let versions = extension(&message, SUPPORTED_VERSIONS).and_then(list8);
    versions.is_some_and(|(list, _)| list.chunks_exact(2).any(|offered| offered == TLS_1_3))
}

/// Whether the ClientHello in these records announces early data. What is not a whole ClientHello
/// announces nothing.
#[must_use]
pub fn offers_early_data(records: &[u8]) -> bool {
    extension(&message(records), EARLY_DATA).is_some()
}

/// Whether the ClientHello in these records offers a protocol that is `wanted`. What is not a whole
/// ClientHello offers nothing.
#[must_use]
pub fn offers_protocol(records: &[u8], wanted: impl Fn(&[u8]) -> bool) -> bool {
    let message = message(records);
    let list = extension(&message, ALPN).and_then(list16);
    let mut names = list.map(|(names, _)| names).unwrap_or_default();
    while let Some((name, rest)) = list8(names) {
        if wanted(name) {
            return true;
        }
        names = rest;
    }
    false
}

/// What the handshake records at the front carry.
fn message(mut records: &[u8]) -> Cow<'_, [u8]> {
    let mut message = Cow::Borrowed(&[][..]);
    while let Some((&[HANDSHAKE, _, _, high, low], rest)) = records.split_first_chunk::<5>() {
        let len = usize::from(u16::from_be_bytes([high, low]));
        let Some((fragment, rest)) = rest.split_at_checked(len) else {
            break;
        };
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
        records = rest;
    }
    message
}

/// The body of an extension.
fn extension(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let (&[CLIENT_HELLO, high, mid, low], rest) = message.split_first_chunk::<4>()? else {
        return None;
    };
    let len = usize::try_from(u32::from_be_bytes([0, high, mid, low])).ok()?;
    let hello = rest.get(..len)?;
    // legacy_version and random
    let rest = hello.get(34..)?;
    let (_session_id, rest) = list8(rest)?;
    let (_cipher_suites, rest) = list16(rest)?;
    let (_compression, rest) = list8(rest)?;
    let (mut extensions, _) = list16(rest)?;
    while let Some((&kind, rest)) = extensions.split_first_chunk::<2>() {
        let (body, rest) = list16(rest)?;
        if u16::from_be_bytes(kind) == wanted {
            return Some(body);
        }
        extensions = rest;
    }
    None
}

/// What an octet says the length of, and what follows.
fn list8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

/// The same with two octets.
fn list16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(len)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello with this extension, in records of at most `fragment` octets.
    fn hello(kind: u16, body: &[u8], fragment: usize) -> Vec<u8> {
        let mut extensions = vec![0, 0, 0, 2, 9, 9];
        extensions.extend(kind.to_be_bytes());
        extensions.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        extensions.extend(body);
        let mut hello = vec![3, 3];
        hello.extend([7; 32]);
        hello.extend([2, 1, 1]);
        hello.extend([0, 2, 0x13, 1]);
        hello.extend([1, 0]);
        hello.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        hello.extend(extensions);
        let mut message = vec![CLIENT_HELLO, 0];
        message.extend(u16::try_from(hello.len()).unwrap().to_be_bytes());
        message.extend(hello);
        let mut records = Vec::new();
        for part in message.chunks(fragment) {
            records.extend([HANDSHAKE, 3, 1]);
            records.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            records.extend(part);
        }
        records
    }

    #[test]
    fn what_is_offered_is_found() {
        for fragment in [1, 7, 4000] {
            assert!(offers_tls_1_3(&hello(43, &[4, 3, 4, 3, 3], fragment)));
            assert!(offers_tls_1_3(&hello(
                43,
                &[6, 0x7f, 0x1a, 3, 3, 3, 4],
                fragment
            )));
            assert!(!offers_tls_1_3(&hello(43, &[2, 3, 3], fragment)));
            assert!(!offers_tls_1_3(&hello(44, &[2, 3, 4], fragment)));
            assert!(!offers_tls_1_3(&hello(43, &[4, 3, 4], fragment)));
            assert!(!offers_tls_1_3(&hello(43, &[], fragment)));
            assert!(offers_early_data(&hello(42, &[], fragment)));
            assert!(!offers_early_data(&hello(43, &[2, 3, 4], fragment)));
        }
        let whole = hello(43, &[2, 3, 4], 4000);
        for len in 0..whole.len() {
            assert!(!offers_tls_1_3(&whole[..len]));
        }
        let protocols = hello(16, b"\0\x0c\x02h2\x08http/1.1", 4000);
        for offered in [&b"h2"[..], b"http/1.1"] {
            assert!(offers_protocol(&protocols, |name| name == offered));
        }
        assert!(!offers_protocol(&protocols, |name| name == b"http/1.0" || name.is_empty()));
        for len in 0..protocols.len() {
            assert!(!offers_protocol(&protocols[..len], |_any| true));
        }
        let whole = hello(42, &[], 4000);
        for len in 0..whole.len() {
            assert!(!offers_early_data(&whole[..len]));
        }
    }

    proptest! {
        #[test]
        fn hostile_octets_offer_nothing_and_break_nothing(bytes in any::<Vec<u8>>()) {
            let mut records = vec![HANDSHAKE, 3, 1];
            records.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
            records.extend(&bytes);
            let offered = offers_tls_1_3(&records);
            prop_assert!(!offered || bytes.windows(2).any(|two| two == TLS_1_3));
            let offered = offers_protocol(&records, |name| name == b"h2");
            prop_assert!(!offered || bytes.windows(2).any(|two| two == b"h2"));
        }
    }
}
