//! End-to-end tests: they start the real binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    reason = "a test that can't go on fails"
)]

mod acme;
mod admission;
mod backends;
mod bad_bytes;
mod chain;
mod commands;
mod demo;
mod docs;
mod fleet;
mod http;
mod layers;
mod leaving;
mod lifecycle;
mod managed;
mod mux;
mod ocsp;
mod performance;
mod pki;
mod postgres;
mod proxy;
mod readme;
mod redirect;
mod reference;
mod reload;
mod resumption;
mod reuse;
mod revocation;
mod spiffe;
mod stolen_gateway;
mod tcp;
mod units;
mod versions;
mod world;
