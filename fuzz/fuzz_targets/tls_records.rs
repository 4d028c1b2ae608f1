//! The reader of TLS records under known keys, and without: data arrives in order, nothing else
//! does, and every script has an end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::tls::records::harness::read;

fuzz_target!(|script: &[u8]| {
    if let Some(got) = read(script) {
        assert!(got.sent.starts_with(&got.data));
    }
});
