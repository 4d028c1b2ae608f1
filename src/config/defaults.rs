//! Every default, its unit, and its reason. The reference shows the same values.

use std::time::Duration;

use super::{
    Cipher, Health, KeyExchange, Limits, PathNormalisation, Pool, Records, TlsOptions,
    UnderscoreHeaders,
};

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

/// `[tls]`. Without `min_version` every endpoint takes its own: the link 1.3, where both ends are
/// new, client-facing listeners 1.2, where they are not.
pub(super) fn tls() -> TlsOptions {
    TlsOptions {
        min_version: None,
        key_exchange: KEY_EXCHANGE.to_vec(),
        ciphers: CIPHERS.to_vec(),
        // a fifth of the memory of an idle connection (docs/decisions/0016)
        records: Records::Own,
    }
}

/// `[limits]` of a role.
pub(super) fn limits(connections_per_ip: usize) -> Limits {
    Limits {
        // about 1 GiB at the size of an idle connection, with room to spare
        connections: 20_000,
        connections_per_ip,
        // 0: by cores, because a handshake costs CPU and nothing else
        handshakes: 0,
        // a round trip or three and a signature; HAProxy leaves it to `timeout client`, nginx
        // takes 60 s, Envoy 15 s
        handshake_timeout: Duration::from_secs(5),
        // a head is one packet or a few; nginx 60 s, HAProxy's documented example 10 s
        header_timeout: Duration::from_secs(10),
        // browsers come back within a minute or not at all; nginx 75 s, Envoy 1 h
        keepalive_timeout: Duration::from_secs(60),
        // bytes a second; Apache's mod_reqtimeout asks 500, a phone on a bad day needs less
        body_min_rate: 256,
        // nginx 60 s
        response_timeout: Duration::from_secs(60),
        // nginx 60 s; a peer that takes no byte for half a minute is gone
        write_timeout: Duration::from_secs(30),
        // pools of database connections rest for long; TCP keepalive finds the dead ones
        idle_timeout: Duration::from_secs(3_600),
        // below the 90 s after which systemd kills
        drain_timeout: Duration::from_secs(30),
        // nginx 4 x 8 KiB, HAProxy 16 KiB
        header_bytes: 32 << 10,
        // no limit: uploads are the backend's business
        body_bytes: 0,
        // RFC 9113 section 6.5.2 advises no fewer; nginx 128, Envoy's edge advice 100
        streams: 100,
    }
}

/// For public edges: one address may be many people behind a carrier's translation.
pub(super) const GATEWAY_CONNECTIONS_PER_IP: usize = 1_000;

/// For acceptors: few gateways, with many connections each, all of them proven; 0: no limit.
pub(super) const ACCEPTOR_CONNECTIONS_PER_IP: usize = 0;

/// For `pki serve`: a host asks now and then, on one connection.
pub(super) const AUTHORITY_CONNECTIONS_PER_IP: usize = 32;

/// How often an identity that renews itself asks for trust and CRLs: a revocation is known
/// everywhere within so long.
pub(super) const REFRESH: Duration = Duration::from_secs(60);

/// Resolve, connect, handshake and admission, so that another acceptor is tried while the caller
/// still waits.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// `pool` of a backend.
pub(super) fn pool() -> Pool {
    Pool {
        idle: 64,
        // a burst finds them open; more would be idle weight at the acceptor
        ready: 4,
        // below the keepalive of usual backends
        idle_timeout: Duration::from_secs(60),
        // balancers and names change: no connection is for ever
        max_age: Duration::from_secs(600),
    }
}

/// `health` of a backend, where the table is there.
pub(super) fn health() -> Health {
    Health {
        path: None,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        // one lost packet is no failure
        unhealthy_after: 3,
        // one lucky answer is no recovery
        healthy_after: 2,
    }
}

/// `alpn` of an http listener: HTTP/2 where both can.
pub(super) const ALPN: [&str; 2] = ["h2", "http/1.1"];

/// `path_normalisation`: a path that two servers read as two passes by one's rules.
pub(super) const PATH_NORMALISATION: PathNormalisation = PathNormalisation::Refuse;

/// `underscore_headers`: as nginx does, for the same reason.
pub(super) const UNDERSCORE_HEADERS: UnderscoreHeaders = UnderscoreHeaders::Drop;

/// `ocsp_stapling`: whose authority offers the status of a certificate wants clients to see it.
/// nginx and HAProxy leave it off, Caddy has it on.
pub(super) const OCSP_STAPLING: bool = true;

/// `signature.body_bytes`: a body that is signed is kept whole for so long as it takes.
pub(super) const SIGNED_BODY: usize = 1 << 20;

/// `max_age` of a signature that is required: a request takes seconds, and clocks differ by as much.
pub(super) const SIGNATURE_AGE: Duration = Duration::from_secs(300);

/// `digest.body_bytes`: forms and messages, not files; those are sent once, after a nonce was
/// asked for.
pub(super) const REPEATED_BODY: usize = 64 << 10;

/// `[log] level`.
pub(super) const LOG_LEVEL: &str = "info";

/// `https_port` of a redirect listener.
pub(super) const HTTPS_PORT: u16 = 443;
