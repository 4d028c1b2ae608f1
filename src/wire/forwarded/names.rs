//! The names that `wire::forwarded` judges, folded: lower case, hyphens for underscores.

use std::borrow::Cow;

/// Names in which a peer claims an address, a scheme, a host, a certificate or a user.
pub(super) const CLAIMS: &[&str] = &[
    "forwarded",
    "forwarded-for",
    "ali-cdn-real-ip",
    "true-client-ip",
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "cf-visitor",
    "cloudfront-viewer-address",
    "fastly-client-ip",
    "fly-client-ip",
    "front-end-https",
    "remote-user",
    "wl-proxy-client-ip",
    "wl-proxy-client-cert",
    "wl-proxy-ssl",
];

/// Beginnings of such names. `x-forwarded` covers `X-Forwarded-For`, `-Host`, `-Proto`, `-Port`,
/// `-Server`, `-Prefix`, `-Client-Cert` and whatever else a backend believes under that name.
pub(super) const CLAIM_PREFIXES: &[&str] = &[
    "x-forwarded",
    "x-real-ip",
    "x-amzn-mtls-clientcert",
    "x-appengine-user-ip",
    "x-arr-clientcert",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-client-cert",
    "x-client-dn",
    "x-client-verify",
    "x-cluster-client-ip",
    "x-nf-client-connection-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-remote-ip",
    "x-remote-addr",
    // with `-Group` and `-Extra-…` as Kubernetes reads them
    "x-remote-user",
    "x-remote-group",
    "x-remote-extra",
    "x-ssl-client",
    "x-subject-dn",
    "x-tls-client",
    "x-url-scheme",
    "x-vercel-forwarded-for",
    "ssl-cert",
    "ssl-client",
    "x-envoy-external-address",
    "x-envoy-internal",
];

/// Names by which a client would replace path, host or method of a request behind our rules, or
/// tell a backend what only a server before it may: removed, whoever sends them, unless a route
/// keeps them. In alphabetical order.
pub(super) const OVERRIDES: &[&str] = &[
    "x-accel-mapping",         // Rack::Sendfile, of nginx
    "x-backend-host",          // PHP frameworks
    "x-envoy-original-path",   // Envoy
    "x-host",                  // several frameworks
    "x-http-host-override",    // several frameworks
    "x-http-method",           // Microsoft's OData
    "x-http-method-override",  // Google, Rails, Symfony, Express
    "x-http-path-override",    // several frameworks
    "x-method-override",       // IBM, Express
    "x-middleware-subrequest", // Next.js (CVE-2025-29927)
    "x-original-method",       // authorisation by nginx and Traefik
    "x-original-uri",          // authorisation by nginx
    "x-original-url",          // IIS, Symfony, authorisation by nginx
    "x-override-url",          // several frameworks
    "x-rewrite-url",           // IIS, Zend, Symfony
    "x-sendfile-type",         // Rack::Sendfile
    "x-waws-unencoded-url",    // Azure's web servers
];

/// Whether a folded name is one of [`OVERRIDES`].
pub(super) fn is_override(folded: &str) -> bool {
    folded.starts_with("x-") && OVERRIDES.binary_search(&folded).is_ok()
}

/// Sections of RFC 9110 (7.6.1), RFC 9112 and custom that end at this hop. `Trailer` stays: the
/// trailers go on.
pub(super) const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// What we set on each request, besides `Host` and the forwarding headers.
pub(super) const SET: &[&str] = &["via", "x-request-id", "traceparent", "tracestate"];

/// Further names whose value is decided for each request, so that nothing else may write them.
pub(super) const WRITTEN: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "content-digest",
    "date",
    "expect",
    "max-forwards",
    "range",
    "trailer",
    "signature",
    "signature-input",
];

/// End-to-end fields that a `Connection` list does not remove: a client could otherwise take away
/// what a check in front of us or behind us relies on.
pub(super) const NEVER_HOP_BY_HOP: &[&str] = &[
    "host",
    "authorization",
    "content-length",
    "content-type",
    "content-encoding",
    "content-digest",
    "cookie",
    "set-cookie",
    "cache-control",
    "expect",
    "origin",
    "trailer",
    "signature",
    "signature-input",
];

/// Further names that mean nothing good behind a body (RFC 9110 section 6.5.1).
pub(super) const NEVER_IN_TRAILERS: &[&str] = &[
    "host",
    "authorization",
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "cookie",
    "set-cookie",
    "cache-control",
    "expect",
    "max-forwards",
    "origin",
    "pragma",
    "range",
    "trailer",
    "www-authenticate",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "location",
    "retry-after",
    "vary",
    "age",
    "date",
    "expires",
];

/// Whether a folded name carries a claim about the client.
pub(super) fn is_claim(folded: &str) -> bool {
    // most names are told apart by their first letters
    match folded.as_bytes() {
        [b'a' | b'c' | b'f' | b'r' | b't' | b'w', ..] => CLAIMS.contains(&folded),
        // one octet is compared sooner than a name
        [b'x', b'-', third, ..] | [b's', b's', third @ b'l', b'-', ..] => CLAIM_PREFIXES
            .iter()
            .any(|prefix| prefix.as_bytes().get(2) == Some(third) && folded.starts_with(prefix)),
        _ => false,
    }
}

/// Whether a folded name is one that a request has for proxies alone: `Proxy` (httpoxy) and `Proxy-*`.
/// An answer's are not judged by this: `Proxy-Status` (RFC 9209) goes on.
pub(super) fn is_for_proxies(folded: &str) -> bool {
    folded
        .strip_prefix("proxy")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Whether a name has a byte that is neither a letter, a digit nor a hyphen.
pub(super) fn is_respelt(name: &str) -> bool {
    name.bytes()
        .any(|byte| PLAIN.get(usize::from(byte)) != Some(&true))
}

/// Looked up for every octet of every name.
static PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        #[expect(
            clippy::indexing_slicing,
            reason = "a u8 is within 256 entries, at compile time"
        )]
        {
            table[byte as usize] = byte == b'-' || byte.is_ascii_alphanumeric();
        }
        byte += 1;
    }
    table
};

/// Backends that turn headers into variables (CGI, WSGI, Rack, PHP) see `X_Real_IP` and
/// `X-Real-IP` as one name, and some of them (CGI of lighttpd) `X.Real.IP` too; so do we. A
/// [`http::HeaderName`] is in lower case already.
pub(super) fn fold(name: &str) -> Cow<'_, str> {
    if !is_respelt(name) {
        return Cow::Borrowed(name);
    }
    let folded = name.chars().map(|c| match c {
        c if c.is_ascii_alphanumeric() => c,
        _ => '-',
    });
    Cow::Owned(folded.collect())
}
