//! Base64 with padding (RFC 4648 section 4), as header fields carry octets. One text for one
//! value: decoding takes nothing that [`encode`] would not write.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text of these octets.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let sextet = |word: u32, shift: u32| {
        let index = usize::try_from(word >> shift & 0x3f).unwrap_or_default();
        ALPHABET
            .get(index)
            .map_or('=', |letter| char::from(*letter))
    };
    // with room for all, so that growing leaves no copy of a secret behind
    let mut text = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for chunk in bytes.chunks(3) {
        let mut octets = chunk.iter().copied();
        let [a, b, c] = std::array::from_fn(|_| octets.next().unwrap_or(0));
        let word = u32::from_be_bytes([0, a, b, c]);
        text.push(sextet(word, 18));
        text.push(sextet(word, 12));
        text.push(if chunk.len() > 1 {
            sextet(word, 6)
        } else {
            '='
        });
        text.push(if chunk.len() > 2 {
            sextet(word, 0)
        } else {
            '='
        });
    }
    text
}

/// The octets of a text; `None`: it is none, or not the one way to write them.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let (groups, rest) = text.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(groups.len().saturating_mul(3));
    let last = groups.len().saturating_sub(1);
    for (at, group) in groups.iter().enumerate() {
        let padding = match group {
            [_, _, b'=', b'='] if at == last => 2,
            [_, _, _, b'='] if at == last => 1,
            _ => 0,
        };
        let mut word = 0_u32;
        for (place, letter) in group.iter().enumerate() {
            let value = if place >= 4 - padding {
                0
            } else {
                sextet_of(*letter)?
            };
            word = word << 6 | u32::from(value);
        }
        let [_, a, b, c] = word.to_be_bytes();
        // bits that nobody reads are zero, or one value would have several texts
        match padding {
            0 => bytes.extend([a, b, c]),
            1 if c == 0 => bytes.extend([a, b]),
            2 if b == 0 && c == 0 => bytes.push(a),
            _ => return None,
        }
    }
    Some(bytes)
}

/// The text of these octets in the alphabet for URLs, without padding (RFC 4648 section 5).
#[must_use]
pub fn encode_url(bytes: &[u8]) -> String {
    let text = encode(bytes);
    let letters = text.trim_end_matches('=').chars();
    letters
        .map(|letter| match letter {
            '+' => '-',
            '/' => '_',
            other => other,
        })
        .collect()
}

/// The octets of such a text; `None`: it is none.
#[must_use]
pub fn decode_url(text: &str) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len().saturating_add(3));
    for letter in text.bytes() {
        plain.push(match letter {
            b'-' => b'+',
            b'_' => b'/',
            b'+' | b'/' | b'=' => return None,
            other => other,
        });
    }
    while !plain.len().is_multiple_of(4) {
        plain.push(b'=');
    }
    decode(&plain)
}

const fn sextet_of(letter: u8) -> Option<u8> {
    Some(match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_4648_section_10() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(decode(text.as_bytes()).unwrap(), plain.as_bytes());
        }
    }

    #[test]
    fn other_ways_to_write_it_are_refused() {
        for text in [
            "Zg", "Zg=", "Zh==", "Zm9=", "Zg==Zg==", "Z===", "====", "Zm9v\n", "Zm-_",
        ] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn urls_have_letters_of_their_own_and_no_padding() {
        assert_eq!(encode_url(&[0xfb, 0xff]), "-_8");
        assert_eq!(decode_url("-_8").unwrap(), [0xfb, 0xff]);
        for text in ["-_8=", "+/8", "A", "AAAAA"] {
            assert_eq!(decode_url(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_for_a_url_is_read(bytes: Vec<u8>) {
            prop_assert_eq!(decode_url(&encode_url(&bytes)), Some(bytes));
        }

        #[test]
        fn what_is_written_is_read(bytes: Vec<u8>) {
            prop_assert_eq!(decode(encode(&bytes).as_bytes()), Some(bytes));
        }

        #[test]
        fn what_is_read_is_written_alike(text in "[A-Za-z0-9+/=]{0,16}") {
            if let Some(bytes) = decode(text.as_bytes()) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
