//! Network lists: one bad line refuses the file, and the table holds what the list says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::{admit::SourceRanges, config::networks::parse_text};

fuzz_target!(|text: &str| {
    if let Ok(networks) = parse_text(text) {
        assert!(!networks.is_empty());
        let ranges = SourceRanges::new(networks.iter().copied());
        assert!(!ranges.is_empty());
        for network in networks {
            let first = network.network().to_canonical();
            assert!(ranges.contains(first), "{network}");
            // A mapped address counts as IPv4: an IPv6 prefix that ends among them does not hold it.
            let last = network.broadcast().to_canonical();
            assert!(
                first.is_ipv4() != last.is_ipv4() || ranges.contains(last),
                "{network}"
            );
        }
    }
});
