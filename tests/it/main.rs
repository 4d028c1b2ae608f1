//! End-to-end tests: they start the real binary.

mod pki;
