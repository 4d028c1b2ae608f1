//! The one table of reasons for which a connection or a request is refused or ended.

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The other end of the connection, or the sender of the request.
    Peer,
    /// The next hop: acceptor or backend.
    Upstream,
    /// This process or its configuration.
    Local,
}

/// How loud the log line is: by what the operator must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Nothing: a stranger's fault.
    Info,
    /// Look soon.
    Warn,
    /// Act now.
    Error,
}

macro_rules! denials {
    ($($variant:ident, $code:literal, $status:literal, $blame:ident, $level:ident, $meaning:literal, $hint:literal;)*) => {
        /// Why somebody was refused or cut. Closed: codes are stable, in log, metrics, `explain` and docs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Denial { $(#[doc = $meaning] $variant,)* }

        impl Denial {
            /// Every reason, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The stable code: log field `reason`, metric label, `explain CODE`.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Self::$variant => $code,)* } }
            /// The HTTP status for a refused request; 0 where the connection just closes.
            #[must_use]
            pub const fn http_status(self) -> u16 { match self { $(Self::$variant => $status,)* } }
            /// Who has to act.
            #[must_use]
            pub const fn blame(self) -> Blame { match self { $(Self::$variant => Blame::$blame,)* } }
            /// Log level.
            #[must_use]
            pub const fn level(self) -> Level { match self { $(Self::$variant => Level::$level,)* } }
            /// One sentence: what happened.
            #[must_use]
            pub const fn meaning(self) -> &'static str { match self { $(Self::$variant => $meaning,)* } }
            /// One sentence: what the operator does next.
            #[must_use]
            pub const fn hint(self) -> &'static str { match self { $(Self::$variant => $hint,)* } }
        }
    };
}

denials! {
    SourceUntrusted, "source_untrusted", 403, Peer, Info, "the source address is in none of the trusted ranges", "add the gateway's egress address to trusted_ips, if it is yours";
    SourceDenied, "source_denied", 403, Peer, Info, "the source address is in a range that is shut out", "see untrusted_ips (acceptor) or deny (gateway)";
    TooManyConnections, "too_many_connections", 503, Local, Warn, "the listener holds its limit of connections", "raise limits.connections, or find who holds them";
    TooManyFromAddress, "too_many_from_address", 429, Peer, Info, "this address holds its limit of connections", "raise limits.connections_per_ip if the address is a proxy of yours";
    ProxyHeaderMissing, "proxy_header_missing", 400, Peer, Warn, "a source that must send a PROXY header sent none", "turn the PROXY protocol on at the balancer, or take its address out of proxy_protocol.from";
    ProxyHeaderInvalid, "proxy_header_invalid", 400, Peer, Warn, "the PROXY header is malformed", "check which PROXY version the balancer sends";
    ProxyHeaderUnexpected, "proxy_header_unexpected", 400, Peer, Info, "a source that is no configured balancer sent a PROXY header", "add the balancer's address to proxy_protocol.from";
    BalancerProbe, "balancer_probe", 0, Peer, Info, "a configured balancer looked whether the port answers", "nothing to do";
    NotTls, "not_tls", 400, Peer, Info, "the first bytes are no TLS handshake", "use https:// or a TLS client";
    HandshakeTimeout, "handshake_timeout", 0, Peer, Info, "the handshake took longer than limits.handshake_timeout", "look at the network path and at the peer";
    HandshakeFailed, "handshake_failed", 0, Peer, Info, "the TLS handshake failed", "the detail names the alert or the protocol error";
    NoSharedTls, "no_shared_tls", 0, Peer, Info, "no TLS version, cipher suite or key exchange in common", "see [tls] min_version, ciphers and key_exchange";
    CertificatePending, "certificate_pending", 0, Local, Warn, "the certificate for this name has not come from its CA yet", "/readyz?verbose says what the CA answered";
    AcmeChallenge, "acme_challenge", 0, Peer, Info, "a CA looked for the proof of a name, and was shown it", "nothing to do";
    CertificateMissing, "certificate_missing", 401, Peer, Info, "the peer sent no certificate", "configure a client certificate at the peer";
    CertificateMalformed, "certificate_malformed", 403, Peer, Info, "the peer's certificate can't be read", "issue it again";
    CertificateUnknownIssuer, "certificate_unknown_issuer", 403, Peer, Info, "the peer's certificate chains to no trusted root", "issue it from a trusted CA, or add the CA to trust";
    CertificateInvalid, "certificate_invalid", 403, Peer, Info, "the peer's chain breaks a rule of X.509", "the detail names the rule";
    CertificateExpired, "certificate_expired", 403, Peer, Info, "a certificate of the peer's chain has expired", "renew it: portcullis pki renew";
    CertificateNotYetValid, "certificate_not_yet_valid", 403, Peer, Info, "a certificate of the peer's chain is not valid yet", "check the clocks of both hosts";
    CertificateRevoked, "certificate_revoked", 403, Peer, Warn, "a certificate of the peer's chain is revoked", "if the peer is still yours, issue another: portcullis pki issue";
    CertificateDenied, "certificate_denied", 403, Peer, Warn, "the peer's certificate is in the denied list", "see identity.denied";
    RevocationUnknown, "revocation_unknown", 403, Local, Error, "no CRL covers an issuer of the peer's chain", "add that issuer's CRL to crl, or set crl_scope = \"leaf\"";
    CrlExpired, "crl_expired", 403, Local, Error, "the CRL of an issuer has expired", "publish a fresh CRL: portcullis pki crl";
    CertificateWrongUsage, "certificate_wrong_usage", 403, Peer, Info, "the peer's certificate is not made for this end of a connection (key usage, extended key usage)", "a gateway needs clientAuth, an acceptor serverAuth, and both digitalSignature where there is a key usage";
    CertificateWrongRole, "certificate_wrong_role", 403, Peer, Info, "the SPIFFE ID of our trust domain names another role", "issue a certificate for the right role: portcullis pki issue";
    CertificateAmbiguous, "certificate_ambiguous", 403, Peer, Info, "the peer's certificate carries a SPIFFE ID and another URI", "a leaf with a SPIFFE ID has no other URI; DNS names may stand beside it";
    NameNotAllowed, "name_not_allowed", 403, Peer, Info, "no rule names this peer", "add its name to gateways, clients or acceptor_ids";
    IssuerNotForName, "issuer_not_for_name", 403, Peer, Warn, "the root of the peer's chain may not speak for its names", "see names of the trust_bundle";
    ServerNameMismatch, "server_name_mismatch", 502, Upstream, Error, "the acceptor's certificate does not carry the expected name", "set server_name, or issue the acceptor's certificate with that name";
    OpenInvalid, "open_invalid", 400, Peer, Warn, "the link's OPEN frame is malformed or of an unknown version", "bring both ends to releases that speak the same link version";
    LinkViolation, "link_violation", 400, Peer, Warn, "the other end of a link broke the rules of its frames", "the detail names the rule; bring both ends to releases that speak the same link version";
    LinkSilent, "link_silent", 0, Peer, Warn, "the other end of a link did not answer", "look at the network path and at the other end";
    StarttlsPlaintext, "starttls_plaintext", 0, Peer, Info, "a client of a starttls listener did not ask for TLS", "set sslmode=require or better at the client";
    StarttlsInjection, "starttls_injection", 0, Peer, Warn, "bytes were buffered behind the plain-text TLS request", "somebody may be injecting plain text: look at the path";
    Misdirected, "misdirected", 421, Peer, Info, "the connection is not for the host that the request names", "the certificate shown on it must have that name, or a route must name it in host";
    NoRoute, "no_route", 404, Peer, Info, "no route matches", "see the routes of this listener";
    ClientNotAllowed, "client_not_allowed", 403, Peer, Info, "the route admits other clients", "see clients of the route";
    SecretMissing, "secret_missing", 401, Peer, Warn, "the request has no proof of whom it comes from", "let the gateway's backend send it: credentials, for the require rule of this listener";
    SecretRepeated, "secret_repeated", 403, Peer, Warn, "the request has a secret more than once", "two senders write it: one hop before the acceptor is enough";
    SecretWrong, "secret_wrong", 403, Peer, Warn, "the request has another secret than the ones that are asked for", "compare the gateway's secret with the files in secrets of the require rule";
    SignatureMissing, "signature_missing", 401, Peer, Warn, "the request is not signed", "let the gateway's backend sign it: credentials.signature";
    SignatureWrong, "signature_wrong", 403, Peer, Warn, "the request is not signed as it has to be", "the detail says what is missing or wrong; see keys and components of the require rule";
    SignatureStale, "signature_stale", 403, Peer, Warn, "the request's signature is not of now", "check the clocks of both hosts, and max_age of the require rule";
    RequestInvalid, "request_invalid", 400, Peer, Info, "the request is malformed or ambiguous", "the detail names the rule";
    RequestTimeout, "request_timeout", 408, Peer, Info, "the request head did not arrive in time", "see limits.header_timeout";
    RequestTooSlow, "request_too_slow", 408, Peer, Info, "the request body arrived slower than limits.body_min_rate", "see limits.body_min_rate";
    HeaderTooLarge, "header_too_large", 431, Peer, Info, "the request head is larger than limits.header_bytes", "see limits.header_bytes";
    TargetTooLarge, "target_too_large", 414, Peer, Info, "the request target is longer than 65534 bytes", "no server has to take a longer one";
    BodyTooLarge, "body_too_large", 413, Peer, Info, "the request body is larger than limits.body_bytes", "see limits.body_bytes";
    MethodNotAllowed, "method_not_allowed", 405, Peer, Info, "this method is not forwarded here", "TRACE never is; CONNECT where a route has it in methods";
    UpstreamUnreachable, "upstream_unreachable", 502, Upstream, Error, "no acceptor could be reached", "run portcullis doctor at the gateway";
    UpstreamTimeout, "upstream_timeout", 504, Upstream, Error, "the next hop did not answer in time", "see connect_timeout, limits.response_timeout and limits.write_timeout";
    UpstreamRefused, "upstream_refused", 502, Upstream, Error, "the acceptor refused this gateway", "the acceptor's log has the reason; the detail has its alert";
    UpstreamUntrusted, "upstream_untrusted", 502, Upstream, Error, "the acceptor's certificate was not accepted", "the detail has the reason; see trust, crl, server_name and acceptor_ids";
    UpstreamBroken, "upstream_broken", 502, Upstream, Warn, "the next hop broke the connection", "look at the backend";
    BackendUnreachable, "backend_unreachable", 502, Upstream, Error, "the acceptor can't reach its backend", "start the backend, or mend backend in the acceptor's configuration";
    CredentialUnavailable, "credential_unavailable", 502, Upstream, Error, "what the backend expects of us can't be had", "the detail says what the token endpoint answered";
    IdleTimeout, "idle_timeout", 0, Peer, Info, "no byte in either direction for limits.idle_timeout", "see limits.idle_timeout";
    WriteTimeout, "write_timeout", 0, Peer, Info, "a peer took no byte, or over HTTP/2 next to none, for limits.write_timeout", "look at the slow reader";
    PeerReset, "peer_reset", 0, Peer, Info, "the peer broke the connection", "nothing, unless it is often";
    Truncated, "truncated", 0, Peer, Info, "the peer closed without close_notify: the stream may be cut", "nothing, unless it is often";
    RulesChanged, "rules_changed", 0, Local, Warn, "the rules changed and no longer admit this connection", "the detail has the reason of the new decision";
    CertificateEnded, "certificate_ended", 0, Peer, Info, "the peer's certificate ended during the connection", "renew before that";
    Draining, "draining", 503, Local, Info, "the process is stopping", "nothing: clients come back to the next process";
}

impl Denial {
    /// The reason with this code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|denial| denial.code() == code)
    }
}

/// A denial with what was special this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The reason.
    pub reason: Denial,
    /// Facts for the log: which certificate, which rule, what was expected. Never for a stranger's eyes.
    pub detail: String,
}

impl Denied {
    /// A denial with its detail.
    pub fn new(reason: Denial, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.detail.is_empty() {
            f.write_str(self.reason.meaning())
        } else {
            write!(f, "{}: {}", self.reason.meaning(), self.detail)
        }
    }
}

impl std::error::Error for Denied {}
