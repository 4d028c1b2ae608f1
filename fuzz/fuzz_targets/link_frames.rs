//! Link frames: bounded, and stable once read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::wire::link::{HEADER_LEN, MAX_PAYLOAD, decode, encode};

fuzz_target!(|bytes: &[u8]| match decode(bytes) {
    Ok(Some((frame, len))) => {
        assert!(len <= bytes.len() && len <= HEADER_LEN + MAX_PAYLOAD);
        let again = encode(&frame);
        assert_eq!(decode(&again), Ok(Some((frame, again.len()))));
    }
    Ok(None) => assert!(bytes.len() < HEADER_LEN + MAX_PAYLOAD),
    Err(error) => assert!(!error.to_string().is_empty()),
});
