//! How TLS is spoken, and what is allowed to take how long.

use std::time::Duration;

/// TLS protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2.
    V1_2,
    /// 1.3.
    V1_3,
}

/// A key exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyExchange {
    /// x25519mlkem768.
    X25519MlKem768,
    /// x25519.
    X25519,
    /// secp256r1.
    Secp256r1,
    /// secp384r1.
    Secp384r1,
}

/// An AEAD; names the TLS 1.3 suite and the 1.2 ECDHE suites with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

/// Who keeps the records of TLS 1.3 after the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// own: `tls/records`.
    Own,
    /// rustls: its buffered connection, as for TLS 1.2.
    Rustls,
}

/// `[tls]` after the tables nearer to an endpoint have won; lists are never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// `None`: the endpoint's default (link 1.3, client-facing 1.2).
    pub min_version: Option<TlsVersion>,
    /// In order of preference.
    pub key_exchange: Vec<KeyExchange>,
    /// In order of preference.
    pub ciphers: Vec<Cipher>,
    /// After the handshake.
    pub records: Records,
}

/// `[limits]` of a listener. `Duration::ZERO` and 0 mean no limit only where config.md says so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the keys of [limits], described once in the reference"
)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_ip: usize,
    pub handshakes: usize,
    pub handshake_timeout: Duration,
    pub header_timeout: Duration,
    pub keepalive_timeout: Duration,
    pub body_min_rate: u64,
    pub response_timeout: Duration,
    pub write_timeout: Duration,
    pub idle_timeout: Duration,
    pub drain_timeout: Duration,
    pub header_bytes: usize,
    pub body_bytes: u64,
    pub streams: u32,
}

#[cfg(test)]
impl Limits {
    /// Of everything the least, for tests.
    pub(crate) fn least() -> Self {
        let second = Duration::from_secs(1);
        Self {
            connections: 1,
            connections_per_ip: 1,
            handshakes: 1,
            handshake_timeout: second,
            header_timeout: second,
            keepalive_timeout: second,
            body_min_rate: 0,
            response_timeout: second,
            write_timeout: second,
            idle_timeout: second,
            drain_timeout: second,
            header_bytes: 1,
            body_bytes: 0,
            streams: 1,
        }
    }
}
