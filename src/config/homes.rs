//! Where a key belongs that stands in the wrong table: in TOML, whatever is written behind a
//! `[table]` header falls into that table, which is the commonest slip of all.

const ACCEPTOR: &str = "an acceptor's [[listener]]";
const GATEWAY: &str = "a gateway's [[listener]]";
const LISTENER: &str = "[[listener]], before its own tables";
const ROUTE: &str = "[[route]]";
const BACKEND: &str = "[backend.NAME]";
const IDENTITY: &str = "[identity]";
const TLS: &str = "[tls], [listener.tls] or [backend.NAME.tls]";
const LIMITS: &str = "[limits] or [listener.limits]";

const HOMES: [(&str, &[&str]); 8] = [
    (
        ACCEPTOR,
        &[
            "trusted_ips",
            "untrusted_ips",
            "gateways",
            "danger_any_source",
            "danger_plaintext_backend",
            "backend_tls",
            "source_address",
            "expect_proxy",
            "send_proxy",
            "require",
        ],
    ),
    (
        GATEWAY,
        &[
            "alpn",
            "allow",
            "deny",
            "client_ca",
            "client_cert",
            "client_pinned",
            "client_crl",
            "client_crl_policy",
            "danger_any_client",
            "trusted_proxies",
            "path_normalisation",
            "underscore_headers",
            "starttls",
            "tls_certificate",
        ],
    ),
    (LISTENER, &["address", "mode"]),
    (
        ROUTE,
        &[
            "host",
            "methods",
            "policies",
            "rewrite_prefix",
            "keep_headers",
        ],
    ),
    (
        BACKEND,
        &[
            "acceptors",
            "acceptor_ids",
            "balance",
            "connect_timeout",
            "bind",
            "pool",
            "tunnel",
            "health",
            "host_header",
            "credentials",
        ],
    ),
    (
        IDENTITY,
        &[
            "trust",
            "trust_bundle",
            "pinned",
            "crl",
            "crl_policy",
            "crl_scope",
            "denied",
            "domains",
            "contact",
            "acme_trust",
            "acme_http",
            "external_account",
        ],
    ),
    (TLS, &["min_version", "key_exchange", "ciphers", "records"]),
    (
        LIMITS,
        &[
            "connections",
            "connections_per_ip",
            "handshakes",
            "handshake_timeout",
            "header_timeout",
            "keepalive_timeout",
            "body_min_rate",
            "response_timeout",
            "write_timeout",
            "drain_timeout",
            "header_bytes",
            "body_bytes",
            "streams",
        ],
    ),
];

/// The table that a key belongs to; `None`: nowhere, or in several.
pub(super) fn of(key: &str) -> Option<&'static str> {
    HOMES
        .iter()
        .find(|(_, keys)| keys.contains(&key))
        .map(|(home, _)| *home)
}
