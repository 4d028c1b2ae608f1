//! What a SPIFFE Workload API sends: messages of gRPC (length-prefixed, of protocol buffers), and in
//! them `X509SVIDResponse` (SPIFFE Workload API section 5.2.1). Fields that are not known are
//! skipped; every count and length is bounded.

use super::cursor::Cursor;

/// No message is larger; a thousand certificates fit.
pub const LARGEST: usize = 4 << 20;
/// No list in it is longer.
const LONGEST: usize = 1024;
/// What stands before each message: compressed or not, and the length.
const PREFIX: usize = 5;

/// `X509SVIDResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Identities, the default first.
    pub svids: Vec<Svid>,
    /// CRLs in DER.
    pub crls: Vec<Vec<u8>>,
    /// Trust domain, and its roots as DER one after the other.
    pub federated: Vec<(String, Vec<u8>)>,
}

/// `X509SVID`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Svid {
    /// Its SPIFFE ID.
    pub id: String,
    /// Certificates in DER one after the other, leaf first.
    pub chain: Vec<u8>,
    /// PKCS#8 in DER; wiped when dropped.
    pub key: zeroize::Zeroizing<Vec<u8>>,
    /// Roots of its own trust domain, as DER one after the other.
    pub bundle: Vec<u8>,
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Octets that are no such message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Workload API's answer can't be read: {0}")]
pub struct SvidError(&'static str);

/// The first message of what has arrived, and how long it was with its prefix; `None`: it is not
/// whole yet.
///
/// # Errors
/// It is compressed, which nobody offered, or larger than [`LARGEST`].
pub fn message(arrived: &[u8]) -> Result<Option<(&[u8], usize)>, SvidError> {
    let mut cursor = Cursor::new(arrived);
    let (Some(compressed), Some(length)) = (cursor.u8(), cursor.u32()) else {
        return Ok(None);
    };
    if compressed != 0 {
        return Err(SvidError("it is compressed"));
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > LARGEST {
        return Err(SvidError("it is larger than 4 MiB"));
    }
    Ok(cursor.take(length).map(|body| (body, PREFIX + length)))
}

/// Reads one message.
///
/// # Errors
/// It is malformed, or a list in it is too long.
pub fn parse(message: &[u8]) -> Result<Response, SvidError> {
    let mut response = Response::default();
    let mut cursor = Cursor::new(message);
    while let Some((number, value)) = field(&mut cursor)? {
        match (number, value) {
            (1, Value::Bytes(value)) => add(&mut response.svids, svid(value)?)?,
            (2, Value::Bytes(value)) => add(&mut response.crls, value.to_vec())?,
            (3, Value::Bytes(value)) => add(&mut response.federated, entry(value)?)?,
            (1..=3, Value::Other) => return Err(WRONG_TYPE),
            _ => {}
        }
    }
    Ok(response)
}

const WRONG_TYPE: SvidError = SvidError("a field has another type");
const TRUNCATED: SvidError = SvidError("it ends too early");

fn add<T>(list: &mut Vec<T>, item: T) -> Result<(), SvidError> {
    if list.len() >= LONGEST {
        return Err(SvidError("a list has more than 1024 entries"));
    }
    list.push(item);
    Ok(())
}

fn svid(message: &[u8]) -> Result<Svid, SvidError> {
    let mut svid = Svid::default();
    let mut cursor = Cursor::new(message);
    while let Some((number, value)) = field(&mut cursor)? {
        match (number, value) {
            (1, Value::Bytes(value)) => svid.id = text(value)?,
            (2, Value::Bytes(value)) => svid.chain = value.to_vec(),
            (3, Value::Bytes(value)) => svid.key = value.to_vec().into(),
            (4, Value::Bytes(value)) => svid.bundle = value.to_vec(),
            (1..=4, Value::Other) => return Err(WRONG_TYPE),
            _ => {}
        }
    }
    Ok(svid)
}

/// An entry of a map.
fn entry(message: &[u8]) -> Result<(String, Vec<u8>), SvidError> {
    let mut entry = (String::new(), Vec::new());
    let mut cursor = Cursor::new(message);
    while let Some((number, value)) = field(&mut cursor)? {
        match (number, value) {
            (1, Value::Bytes(value)) => entry.0 = text(value)?,
            (2, Value::Bytes(value)) => entry.1 = value.to_vec(),
            (1 | 2, Value::Other) => return Err(WRONG_TYPE),
            _ => {}
        }
    }
    Ok(entry)
}

fn text(bytes: &[u8]) -> Result<String, SvidError> {
    std::str::from_utf8(bytes)
        .map(ToOwned::to_owned)
        .map_err(|_invalid| SvidError("a name is no UTF-8"))
}

/// What a field holds, as far as it is looked at.
enum Value<'a> {
    Bytes(&'a [u8]),
    Other,
}

/// The next field; `None` at the end.
fn field<'a>(cursor: &mut Cursor<'a>) -> Result<Option<(u64, Value<'a>)>, SvidError> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let tag = varint(cursor)?;
    let value = match tag & 7 {
        0 => {
            let _skipped = varint(cursor)?;
            Value::Other
        }
        1 => {
            let _skipped = cursor.take(8).ok_or(TRUNCATED)?;
            Value::Other
        }
        2 => {
            let length = usize::try_from(varint(cursor)?).unwrap_or(usize::MAX);
            Value::Bytes(cursor.take(length).ok_or(TRUNCATED)?)
        }
        5 => {
            let _skipped = cursor.take(4).ok_or(TRUNCATED)?;
            Value::Other
        }
        _ => return Err(SvidError("a field of an unknown kind")),
    };
    match tag >> 3 {
        0 => Err(SvidError("a field has the number 0")),
        number => Ok(Some((number, value))),
    }
}

fn varint(cursor: &mut Cursor<'_>) -> Result<u64, SvidError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = cursor.u8().ok_or(TRUNCATED)?;
        let bits = u64::from(byte & 0x7f);
        // the tenth byte holds one bit
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(SvidError("a number is too long"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
    fn put(number: u8, value: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = value.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend(value);
        out
    }

    fn encoded(response: &Response) -> Vec<u8> {
        let svids = response.svids.iter().map(|s| {
            let parts = [
                put(1, s.id.as_bytes()),
                put(2, &s.chain),
                put(3, &s.key),
                put(4, &s.bundle),
                put(5, b"a hint"),
            ];
            put(1, &parts.concat())
        });
        let crls = response.crls.iter().map(|crl| put(2, crl));
        let federated = response
            .federated
            .iter()
            .map(|(domain, roots)| put(3, &[put(1, domain.as_bytes()), put(2, roots)].concat()));
        svids.chain(crls).chain(federated).flatten().collect()
    }

    #[test]
    fn messages_are_cut_out_and_bounded() {
        assert_eq!(message(&[0, 0, 0, 0]), Ok(None));
        assert_eq!(message(&[0, 0, 0, 0, 2, 7]), Ok(None));
        assert_eq!(message(&[0, 0, 0, 0, 1, 7, 8]), Ok(Some((&[7][..], 6))));
        assert!(message(&[1, 0, 0, 0, 0]).is_err());
        assert!(message(&[0, 0, 0x40, 0, 1]).is_err());
        assert!(message(&[0, 255, 255, 255, 255]).is_err());
    }

    #[test]
    fn unknown_fields_are_skipped_and_wrong_ones_refused() {
        let unknown = [
            &[7 << 3, 0x96, 1][..],
            &[8 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0],
            &[9 << 3 | 5, 0, 0, 0, 0],
            &put(10, b"x"),
        ]
        .concat();
        assert_eq!(parse(&unknown), Ok(Response::default()));
        for wrong in [
            &[1 << 3, 1][..],          // a number where a message belongs
            &[1 << 3 | 3],             // a group
            &[2, 0],                   // field 0
            &[1 << 3 | 2, 5, 1],       // truncated
            &[0xff; 11],               // endless
            &put(1, &put(1, &[0xff])), // no UTF-8
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse(&put(2, b"").repeat(LONGEST)).is_ok());
        assert!(parse(&put(2, b"").repeat(LONGEST + 1)).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            svids in prop::collection::vec((".{0,20}", any::<Vec<u8>>(), any::<Vec<u8>>(), any::<Vec<u8>>()), 0..4),
            crls in prop::collection::vec(any::<Vec<u8>>(), 0..4),
            federated in prop::collection::vec((".{0,20}", any::<Vec<u8>>()), 0..4),
        ) {
            let svids = svids.into_iter()
                .map(|(id, chain, key, bundle)| Svid { id, chain, key: key.into(), bundle })
                .collect();
            let response = Response { svids, crls, federated };
            prop_assert_eq!(parse(&encoded(&response)), Ok(response));
        }

        #[test]
        fn nothing_panics(bytes in any::<Vec<u8>>()) {
            let _read = parse(&bytes);
            if let Ok(Some((body, length))) = message(&bytes) {
                prop_assert!(body.len() + PREFIX == length && length <= bytes.len());
            }
        }
    }
}
