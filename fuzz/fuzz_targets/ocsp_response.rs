//! Answers of OCSP responders: the reader never panics, and what it reads begins as DER does. The
//! same octets as a certificate name responders that can be asked, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::tls::ocsp::{LARGEST, Named, parse_only};

fuzz_target!(|bytes: &[u8]| {
    if parse_only(bytes) {
        assert!(bytes.len() <= LARGEST);
        assert_eq!(bytes.first(), Some(&0x30));
        // DER has one form: nothing can be added or taken away
        assert!(!parse_only(&bytes[..bytes.len() - 1]));
        assert!(!parse_only(&[bytes, &[0]].concat()));
    }
    let named = Named::by(bytes);
    assert!(named.responders.iter().all(|url| url.len() <= bytes.len()));
});
