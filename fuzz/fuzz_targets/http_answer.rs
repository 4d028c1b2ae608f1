//! An HTTP/1 answer of a backend: the same reading however its bytes come, bounded, and no head that
//! another parser refuses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::wire::http1::{
    answer::{Asked, Heads, Length, MAX_HEAD},
    body::{Decoder, Piece},
};

/// The length that the head says, the body, whether it has ended, and what stands behind it.
type Read = Option<(Length, Vec<u8>, bool, Vec<u8>)>;

/// Reads an answer that comes in pieces of these sizes by turns; an error as `Err`.
fn read(bytes: &[u8], asked: Asked, sizes: &[u8]) -> Result<Read, ()> {
    let mut sizes = sizes.iter().cycle().map(|size| usize::from(*size) + 1);
    let (mut heads, mut decoder) = (Heads::default(), None);
    let (mut buf, mut come, mut data) = (bytes::BytesMut::new(), 0, Vec::new());
    let mut length = Length::Absent;
    while come < bytes.len() {
        let end = bytes.len().min(come + sizes.next().unwrap_or(bytes.len()));
        buf.extend_from_slice(&bytes[come..end]);
        come = end;
        while decoder.is_none() {
            let head = heads.read(&mut buf, asked, &mut http::HeaderMap::new());
            let Some(head) = head.map_err(|_fault| ())? else {
                assert!(buf.len() <= MAX_HEAD, "held without bound");
                break;
            };
            if !head.is_interim() {
                length = head.length;
                decoder = Some(Decoder::new(length));
            }
        }
        let Some(decoder) = &mut decoder else {
            continue;
        };
        while let Some(piece) = decoder.read(&mut buf).map_err(|_fault| ())? {
            if let Piece::Data(more) = piece {
                assert!(!more.is_empty(), "no progress");
                data.extend_from_slice(&more);
                continue;
            }
            buf.extend_from_slice(&bytes[come..]);
            return Ok(Some((length, data, true, buf.to_vec())));
        }
    }
    Ok(decoder.map(|_| (length, data, false, buf.to_vec())))
}

fuzz_target!(|input: (&[u8], [u8; 4], u8)| {
    let (bytes, sizes, asked) = input;
    let asked = match asked % 3 {
        0 => Asked::Head,
        1 => Asked::Connect,
        _ => Asked::Other,
    };
    let whole = read(bytes, asked, &[255]);
    let pieces = read(bytes, asked, &sizes);
    if let (Ok(whole), Ok(pieces)) = (&whole, &pieces) {
        // a head that is wrong is found at once, or at its end
        if whole.is_some() && pieces.is_some() {
            assert_eq!(whole, pieces);
        }
    }
});
