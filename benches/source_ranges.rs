//! What a source check costs with a million prefixes: `cargo bench --bench source_ranges`.

use std::{hint::black_box, net::IpAddr, time::Instant};

use ipnet::IpNet;
use portcullis::admit::SourceRanges;

const PREFIXES: u32 = 1_000_000;
const CHECKS: u32 = 5_000_000;

#[expect(clippy::print_stdout, reason = "its result")]
fn main() {
    // /28 and /64 networks with gaps between them, so that nothing merges
    let v4 = (0..PREFIXES / 2).map(|n| IpNet::new(IpAddr::from((n << 12).to_be_bytes()), 28));
    let v6 = (0..PREFIXES / 2).map(|n| {
        let high = 0x2001_0db8_0000_0000_u64 | u64::from(n) << 1;
        IpNet::new(IpAddr::from((u128::from(high) << 64).to_be_bytes()), 64)
    });
    let ranges = SourceRanges::new(v4.chain(v6).filter_map(Result::ok));
    let began = Instant::now();
    let mut hits = 0_u32;
    for n in 0..CHECKS {
        // steps over the whole space, in and out of the prefixes
        let address = IpAddr::from(n.wrapping_mul(2_654_435_761).to_be_bytes());
        hits += u32::from(ranges.contains(black_box(address)));
    }
    let each = began.elapsed() / CHECKS;
    println!("{PREFIXES} prefixes: {each:?} a check, {hits} of {CHECKS} inside");
}
