//! Every default, its unit, and its reason.

use std::time::Duration;

use super::{Cipher, Health, KeyExchange, Limits, Pool, TlsOptions};

/// Post-quantum first: what is recorded today must not be read tomorrow.
const KEY_EXCHANGE: [KeyExchange; 3] = [
    KeyExchange::X25519MlKem768,
    KeyExchange::X25519,
    KeyExchange::Secp256r1,
];
/// AES-128 first: as strong as the rest of the handshake, and the cheapest.
const CIPHERS: [Cipher; 3] = [
    Cipher::Aes128Gcm,
    Cipher::Aes256Gcm,
    Cipher::ChaCha20Poly1305,
];

pub(super) fn tls() -> TlsOptions {
    TlsOptions {
        min_version: None,
        key_exchange: KEY_EXCHANGE.to_vec(),
        ciphers: CIPHERS.to_vec(),
    }
}

pub(super) fn limits(connections_per_ip: usize) -> Limits {
    Limits {
        // about 1 GiB at the size of an idle connection with room to spare
        connections: 20_000,
        // acceptors see few gateways with many connections each: 0 there
        connections_per_ip,
        handshakes: 0,
        // HAProxy leaves it to `timeout client`, nginx takes 60 s, Envoy 15 s
        handshake_timeout: Duration::from_secs(5),
        // nginx 60 s, HAProxy's documented example 10 s
        header_timeout: Duration::from_secs(10),
        // nginx 75 s, Envoy 1 h
        keepalive_timeout: Duration::from_secs(60),
        // Apache's mod_reqtimeout asks 500 B/s; a phone on a bad day needs less
        body_min_rate: 256,
        // nginx 60 s
        response_timeout: Duration::from_secs(60),
        write_timeout: Duration::from_secs(30),
        // idle database pools live long
        idle_timeout: Duration::from_secs(3_600),
        drain_timeout: Duration::from_secs(30),
        // nginx 4 x 8 KiB, HAProxy 16 KiB
        header_bytes: 32 << 10,
        body_bytes: 0,
    }
}

/// For public edges: one address may be many people behind a carrier's translation.
pub(super) const CONNECTIONS_PER_IP: usize = 1_000;

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn pool() -> Pool {
    Pool {
        idle: 64,
        ready: 4,
        idle_timeout: Duration::from_secs(60),
        // balancers and names change: no connection is for ever
        max_age: Duration::from_secs(600),
    }
}

pub(super) fn health() -> Health {
    Health {
        path: None,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        unhealthy_after: 3,
        healthy_after: 2,
    }
}
