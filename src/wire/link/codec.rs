//! Frames to bytes and back.

use std::net::{IpAddr, SocketAddr};

use super::{
    ConnectionId, Frame, FrameError, HEADER_LEN, MAX_AUTHORITY, MAX_CODE, MAX_IDENTITY,
    MAX_PAYLOAD, Open,
};
use crate::wire::cursor::Cursor;

const OPEN: u8 = 1;
const ADMITTED: u8 = 2;
const REFUSED: u8 = 3;

const VERSION: u8 = 1;
const MODE_DIRECT: u8 = 0;

const CONNECTION: u8 = 1;
const SOURCE: u8 = 2;
const DESTINATION: u8 = 3;
const AUTHORITY: u8 = 4;
const IDENTITY: u8 = 5;
const HTTP: u8 = 6;

/// Reads a frame from the front of `bytes`: the frame and how many bytes it took, or `None` while
/// it isn't whole. What follows an ADMITTED belongs to the backend's stream.
///
/// # Errors
/// The bytes can't become a frame whatever follows. An unknown type or a length that is too long
/// is told by the header alone, so that nobody waits for such a payload.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    let mut cursor = Cursor::new(bytes);
    let Some(kind) = cursor.u8() else {
        return Ok(None);
    };
    if !matches!(kind, OPEN | ADMITTED | REFUSED) {
        return Err(FrameError::Type(kind));
    }
    let Some([high, middle, low]) = cursor.array() else {
        return Ok(None);
    };
    let announced = usize::try_from(u32::from_be_bytes([0, high, middle, low]))
        .map_or(usize::MAX, |length| length);
    if announced > MAX_PAYLOAD {
        return Err(FrameError::TooLong(announced));
    }
    let Some(payload) = cursor.take(announced) else {
        return Ok(None);
    };
    let frame = match kind {
        OPEN => Frame::Open(Box::new(open(payload)?)),
        ADMITTED => admitted(payload)?,
        _ => Frame::Refused(refused_code(payload)?),
    };
    Ok(Some((frame, HEADER_LEN.saturating_add(announced))))
}

/// What OPEN says.
pub(in crate::wire) fn open(payload: &[u8]) -> Result<Open, FrameError> {
    let mut cursor = Cursor::new(payload);
    match cursor.u8().ok_or(FrameError::Short("version"))? {
        VERSION => {}
        other => return Err(FrameError::Version(other)),
    }
    match cursor.u8().ok_or(FrameError::Short("mode"))? {
        MODE_DIRECT => {}
        other => return Err(FrameError::Mode(other)),
    }
    let mut connection = None;
    let (mut source, mut destination) = (None, None);
    let (mut authority, mut identity) = (None, None);
    let mut http = None;
    while !cursor.is_empty() {
        let (kind, value) = cursor.tlv().ok_or(FrameError::Overrun)?;
        match kind {
            CONNECTION => {
                let id = value.try_into().ok().map(ConnectionId);
                once(&mut connection, kind, id, "16 bytes")?;
            }
            SOURCE => once(
                &mut source,
                kind,
                address(value),
                "family, address and port",
            )?,
            DESTINATION => {
                once(
                    &mut destination,
                    kind,
                    address(value),
                    "family, address and port",
                )?;
            }
            AUTHORITY => {
                once(
                    &mut authority,
                    kind,
                    server_name(value),
                    "1 to 255 visible ASCII bytes",
                )?;
            }
            IDENTITY => once(
                &mut identity,
                kind,
                label(value),
                "1 to 512 bytes of plain text",
            )?,
            HTTP => once(&mut http, kind, value.is_empty().then_some(()), "nothing")?,
            // A later release may say more; what we don't know grants nothing.
            _ => {}
        }
    }
    Ok(Open {
        connection: connection.ok_or(FrameError::NoConnection)?,
        source,
        destination,
        authority,
        identity,
        http: http.is_some(),
    })
}

fn once<T>(
    slot: &mut Option<T>,
    kind: u8,
    value: Option<T>,
    expected: &'static str,
) -> Result<(), FrameError> {
    let value = value.ok_or(FrameError::Field { kind, expected })?;
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(FrameError::Repeated(kind)),
    }
}

fn address(value: &[u8]) -> Option<SocketAddr> {
    let mut cursor = Cursor::new(value);
    let ip = match cursor.u8()? {
        4 => cursor.ipv4()?,
        6 => cursor.ipv6()?,
        _ => return None,
    };
    let port = cursor.u16()?;
    cursor.is_empty().then(|| SocketAddr::new(ip, port))
}

fn server_name(value: &[u8]) -> Option<String> {
    let fits = (1..=MAX_AUTHORITY).contains(&value.len());
    let visible = value.iter().all(u8::is_ascii_graphic);
    (fits && visible)
        .then(|| str::from_utf8(value).ok().map(str::to_owned))
        .flatten()
}

fn label(value: &[u8]) -> Option<String> {
    let text = str::from_utf8(value).ok()?;
    let fits = (1..=MAX_IDENTITY).contains(&value.len());
    (fits && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// What ADMITTED says: nothing that we know of.
pub(in crate::wire) fn admitted(payload: &[u8]) -> Result<Frame, FrameError> {
    let mut cursor = Cursor::new(payload);
    while !cursor.is_empty() {
        cursor.tlv().ok_or(FrameError::Overrun)?;
    }
    Ok(Frame::Admitted)
}

/// What REFUSED says.
pub(in crate::wire) fn refused_code(payload: &[u8]) -> Result<String, FrameError> {
    let code = str::from_utf8(payload).map_err(|_not_text| FrameError::Code)?;
    is_code(code)
        .then(|| code.to_owned())
        .ok_or(FrameError::Code)
}

/// The code as REFUSED says it.
pub(in crate::wire) fn code_bytes(code: &str) -> &[u8] {
    if is_code(code) {
        code.as_bytes()
    } else {
        b"refused"
    }
}

fn is_code(code: &str) -> bool {
    (1..=MAX_CODE).contains(&code.len())
        && code
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// Writes a frame. Facts that the frame can't carry (a name or identity that is empty, too long or
/// not plain text) are left out; a REFUSED with such a code says `refused`.
#[must_use]
pub fn encode(frame: &Frame) -> Vec<u8> {
    match frame {
        Frame::Open(open) => framed(OPEN, &open_payload(open)),
        Frame::Admitted => framed(ADMITTED, &[]),
        Frame::Refused(code) => framed(REFUSED, code_bytes(code)),
    }
}

/// OPEN's octets behind its header.
pub(in crate::wire) fn open_payload(open: &Open) -> Vec<u8> {
    let mut payload = vec![VERSION, MODE_DIRECT];
    put(&mut payload, CONNECTION, &open.connection.0);
    for (kind, address) in [(SOURCE, open.source), (DESTINATION, open.destination)] {
        if let Some(address) = address {
            put(&mut payload, kind, &address_bytes(address));
        }
    }
    let authority = open
        .authority
        .as_ref()
        .filter(|name| server_name(name.as_bytes()).is_some());
    let identity = open
        .identity
        .as_ref()
        .filter(|name| label(name.as_bytes()).is_some());
    for (kind, text) in [(AUTHORITY, authority), (IDENTITY, identity)] {
        if let Some(text) = text {
            put(&mut payload, kind, text.as_bytes());
        }
    }
    if open.http {
        put(&mut payload, HTTP, &[]);
    }
    payload
}

fn address_bytes(address: SocketAddr) -> Vec<u8> {
    let mut value = match address.ip().to_canonical() {
        IpAddr::V4(ip) => [&[4_u8][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[6_u8][..], &ip.octets()].concat(),
    };
    value.extend(address.port().to_be_bytes());
    value
}

/// Values here are at most [`MAX_IDENTITY`] long.
fn put(payload: &mut Vec<u8>, kind: u8, value: &[u8]) {
    payload.push(kind);
    payload.extend(u16::try_from(value.len()).unwrap_or_default().to_be_bytes());
    payload.extend(value);
}

/// Payloads here are at most 2 + 19 + 2 * 22 + 258 + 515 + 3 bytes.
fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(kind, payload.len()).to_vec();
    frame.extend(payload);
    frame
}

/// The header of a frame of at most [`MAX_DATA`](super::MAX_DATA) octets.
#[must_use]
pub fn header(kind: u8, len: usize) -> [u8; HEADER_LEN] {
    let [_, a, b, c] = u32::try_from(len).unwrap_or_default().to_be_bytes();
    [kind, a, b, c]
}

/// Type and length.
#[must_use]
pub fn header_of([kind, a, b, c]: [u8; HEADER_LEN]) -> (u8, usize) {
    let len = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
    (kind, len)
}
