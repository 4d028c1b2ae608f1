//! Messages of a SPIFFE Workload API: what is cut out lies in what arrived, and what is read is no
//! longer than what was there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::wire::svid::{LARGEST, message, parse};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some((body, length))) = message(bytes) {
        assert!(length <= bytes.len() && body.len() < length && body.len() <= LARGEST);
    }
    if let Ok(response) = parse(bytes) {
        let svids = response.svids.iter();
        let read: usize = svids
            .map(|s| s.id.len() + s.chain.len() + s.key.len() + s.bundle.len())
            .chain(response.crls.iter().map(Vec::len))
            .chain(response.federated.iter().map(|(d, r)| d.len() + r.len()))
            .sum();
        assert!(read <= bytes.len());
    }
});
