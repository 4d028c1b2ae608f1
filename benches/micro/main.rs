//! What the parts cost, each alone and in memory: `cargo bench`, or `cargo bench -- handshake`.
//! Nothing here opens a socket; the chain as a whole is measured by `scripts/bench`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a benchmark that can't go on ends"
)]

mod handshake;
mod material;
mod messages;
mod relay;
mod rules;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .nresamples(2_000)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    handshake::all(&mut criterion);
    relay::all(&mut criterion);
    rules::all(&mut criterion);
    messages::all(&mut criterion);
    criterion.final_summary();
}
