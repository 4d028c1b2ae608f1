//! The plain-text start of a PostgreSQL client: always an answer, never a wait without end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::wire::starttls::{PostgresStart, classify};

fuzz_target!(|bytes: &[u8]| match classify(bytes) {
    PostgresStart::Incomplete { need } => assert!(need > bytes.len() && need <= 268),
    PostgresStart::SslRequest | PostgresStart::GssEncRequest => assert_eq!(bytes.len(), 8),
    PostgresStart::Injection => assert!(bytes.len() > 8),
    PostgresStart::CancelRequest { len } => assert_eq!(bytes.len(), len),
    PostgresStart::DirectTls => assert_eq!(bytes.first(), Some(&0x16)),
    PostgresStart::Startup | PostgresStart::Garbage => assert!(!bytes.is_empty()),
});
