//! What may stand before the ClientHello: a PROXY header, PostgreSQL's request for TLS; and what
//! must not: plain text.

use std::{io, net::SocketAddr};

use tokio::io::AsyncWriteExt;

use super::ListenerRules;
use crate::{
    admit::{Denial, Denied},
    net::{Buffered, Socket},
    wire::{
        proxy,
        starttls::{self, PostgresStart},
    },
};

/// What a PROXY header said.
pub(super) enum Claimed {
    /// The client's address, and the address it dialled.
    Addresses {
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// LOCAL, UNSPEC or UNKNOWN: the balancer looks whether we live.
    Probe,
}

/// What stands at the front of the stream.
pub(super) enum Start {
    /// A TLS record.
    Tls,
    /// PostgreSQL's request to cancel a query, whole: every libpq before 17 sends it without TLS,
    /// on a connection of its own.
    PostgresCancel(Vec<u8>),
}

/// Reads the header that a configured balancer must send.
pub(super) async fn read_proxy_header(io: &mut Buffered<Socket>) -> Result<Claimed, Denied> {
    loop {
        if !io.buffered().is_empty() {
            if !proxy::looks_like_proxy(io.buffered()) {
                return Err(Denied::new(
                    Denial::ProxyHeaderMissing,
                    "the first bytes are no PROXY header",
                ));
            }
            match proxy::parse(io.buffered()) {
                Ok(proxy::Parsed::Complete { header, len }) => {
                    io.consume(len);
                    if header.is_probe() {
                        return Ok(Claimed::Probe);
                    }
                    // a client behind a Unix socket is no probe, and nothing could judge it
                    return match header.source().zip(header.destination()) {
                        Some((source, destination)) => Ok(Claimed::Addresses {
                            source,
                            destination,
                        }),
                        None => Err(Denied::new(
                            Denial::ProxyHeaderInvalid,
                            "the header names Unix sockets, expected IP addresses",
                        )),
                    };
                }
                Ok(proxy::Parsed::Incomplete { .. }) => {}
                Err(error) => {
                    return Err(Denied::new(Denial::ProxyHeaderInvalid, error.to_string()));
                }
            }
        }
        if more(io).await? == 0 {
            return if io.buffered().is_empty() {
                // balancers connect and close to see whether we live
                Ok(Claimed::Probe)
            } else {
                Err(Denied::new(
                    Denial::ProxyHeaderInvalid,
                    "the balancer closed before the end of its header",
                ))
            };
        }
    }
}

/// Looks at the first bytes and answers what comes before TLS.
pub(super) async fn before_tls(
    io: &mut Buffered<Socket>,
    rules: &ListenerRules,
) -> Result<Start, Denied> {
    if io.buffered().is_empty() && more(io).await? == 0 {
        return Err(Denied::new(
            Denial::HandshakeFailed,
            "the peer closed before it sent a byte",
        ));
    }
    // where a request in plain text is awaited it may begin like a header
    while proxy::may_become_proxy(io.buffered()) && more(io).await? > 0 {}
    let first = io.buffered();
    if proxy::looks_like_proxy(first) && !proxy::may_become_proxy(first) {
        return Err(Denied::new(
            Denial::ProxyHeaderUnexpected,
            "only the sources in proxy_protocol.from may send one",
        ));
    }
    if rules.starttls_postgres {
        return postgres(io).await;
    }
    Ok(Start::Tls)
}

/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>
async fn postgres(io: &mut Buffered<Socket>) -> Result<Start, Denied> {
    // GSSENCRequest may come first, and once; then SSLRequest
    let mut asked_for_gss = false;
    loop {
        match starttls::classify(io.buffered()) {
            PostgresStart::DirectTls => return Ok(Start::Tls),
            PostgresStart::SslRequest => {
                io.consume(io.buffered().len());
                write_all(io, starttls::ACCEPT_TLS).await?;
                return if more(io).await? == 0 {
                    Err(closed_early())
                } else {
                    Ok(Start::Tls)
                };
            }
            PostgresStart::GssEncRequest if !asked_for_gss => {
                asked_for_gss = true;
                io.consume(io.buffered().len());
                write_all(io, starttls::REFUSE_GSS).await?;
                if more(io).await? == 0 {
                    return Err(closed_early());
                }
            }
            PostgresStart::Incomplete { .. } => {
                if more(io).await? == 0 {
                    return Err(closed_early());
                }
            }
            PostgresStart::Injection => {
                return Err(Denied::new(
                    Denial::StarttlsInjection,
                    format!("{} bytes where 8 were expected", io.buffered().len()),
                ));
            }
            PostgresStart::CancelRequest { .. } => {
                let request = io.buffered().to_vec();
                io.consume(request.len());
                return Ok(Start::PostgresCancel(request));
            }
            PostgresStart::Startup => {
                say_goodbye(io, &starttls::plaintext_refusal()).await;
                return Err(Denied::new(
                    Denial::StarttlsPlaintext,
                    "the client went on in plain text",
                ));
            }
            PostgresStart::GssEncRequest | PostgresStart::Garbage => {
                return Err(Denied::new(
                    Denial::NotTls,
                    "neither PostgreSQL's start nor TLS",
                ));
            }
        }
    }
}

fn closed_early() -> Denied {
    Denied::new(
        Denial::HandshakeFailed,
        "the peer closed before the handshake",
    )
}

async fn more(io: &mut Buffered<Socket>) -> Result<usize, Denied> {
    io.fill().await.map_err(|error| broke(&error))
}

async fn write_all(io: &mut Buffered<Socket>, bytes: &[u8]) -> Result<(), Denied> {
    io.write_all(bytes).await.map_err(|error| broke(&error))
}

fn broke(error: &io::Error) -> Denied {
    Denied::new(Denial::PeerReset, error.to_string())
}

/// Writes a last answer and closes so that it arrives: a close with unread bytes in the socket
/// is a reset, which would take the answer along. Bounded by the handshake's deadline.
async fn say_goodbye(io: &mut Buffered<Socket>, bytes: &[u8]) {
    if io.write_all(bytes).await.is_ok() && io.shutdown().await.is_ok() {
        super::accept::linger(io).await;
    }
}
