//! portcullis: every byte that reaches the backend came through the gateway.
//!
//! One idea: a connection is a value that earns a [`admit::Permit`], and nothing can be opened
//! towards a backend without one. The folders are levels; a lower one never imports a higher one
//! (`tests/it/layers.rs` reads the `use` lines).
//!
//! # Where is the rule?
//!
//! | question | home |
//! |---|---|
//! | which source addresses | `admit/source.rs` |
//! | which peers | `identity/rule.rs` |
//! | what a certificate says | `identity/cert.rs` |
//! | what a certificate's key may do | `tls/key_use.rs` |
//! | who is let in, in which order of checks | `admit/decide/` |
//! | why somebody was refused | `admit/denial.rs` |
//! | revoked or stale | `tls/revocation.rs` |
//! | which OCSP answers are stapled | `tls/ocsp/` |
//! | which TLS sessions go on | `tls/sessions.rs`, `tls/eras.rs` |
//! | how handshakes take turns | `tls/pace.rs` |
//! | TLS versions, groups and suites | `tls/provider.rs` |
//! | what a TLS 1.3 record may be, after the handshake | `tls/records/` |
//! | any default or timeout | `config/defaults.rs` |
//! | where a request ends, and what it says | `wire/framing/` |
//! | how an answer is written | `wire/http1/reply.rs` |
//! | where an answer ends | `wire/http1/answer.rs` |
//! | when a next hop's connection is used again | `serve/http/hop/` |
//! | which headers are removed and set | `wire/forwarded/` |
//! | how many hops a request may still take | `serve/http/hops.rs` |
//! | what may come on a link with many clients | `wire/mux/` |
//! | what a request proves to an acceptor | `acceptor/http/require/` |
//! | what proves us to a backend | `gateway/credentials/` |
//! | what a request's signature covers | `wire/signature/` |
//! | how a challenge is answered | `wire/digest/` |
//! | which tunnel has ended, and which was cut | `serve/http/upgrade.rs` |
//! | which thread carries a connection | `workers.rs` |
//! | order of checks on a socket | `serve/accept.rs` |
//! | bytes from one side to the other | `net/relay/` |
//! | what a reload keeps on failure | `app/reload.rs` |
//! | what holds for connections of a listener that moved or was taken out | `app/leaving.rs` |
//! | shutdown steps | `drain.rs` |
//! | exit codes | `cli/report.rs` |
//! | metric names | `telemetry/metrics/registry.rs` |
//! | which acceptor is tried next | `gateway/backend.rs` |
//! | how often requests are sent again | `gateway/retries.rs` |
//! | what an ACME CA says, and what it is told | `wire/acme/`, `app/renew/acme/` |
//! | what a SPIFFE Workload API says | `wire/svid.rs`, `tls/svid.rs` |
//! | what a certificate of ours may hold | `pki/profile.rs`, `pki/profiles/` |

// L0: pure rules. No tokio, files, sockets or clock; time is an argument.
pub mod admit;
pub mod identity;
pub mod wire;
// L1: words.
pub mod config;
pub mod telemetry;
// L2: mechanism.
pub mod clock;
pub mod drain;
pub mod net;
pub mod tls;
pub mod workers;
// L3: the one accept loop.
pub mod serve;
// L4: the roles and the authority.
pub mod acceptor;
pub mod gateway;
pub mod pki;
// L5: composition.
pub mod app;
// L6: the command line.
pub mod cli;
