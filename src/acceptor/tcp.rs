//! tcp mode: an admitted gateway's bytes pass to the backend as they are.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use tokio::io::AsyncReadExt;

use super::backend::{BackendStream, SharedDial};
use crate::{
    admit::{Denial, Denied},
    config::Limits,
    net::RelayOptions,
    serve::{Admitted, BoxFuture, Closed, Role, ServerStream, link},
    telemetry::access::Access,
    wire::{ConnectionId, proxy},
};

/// What an acceptor's listener in tcp mode does.
pub struct TcpAcceptor {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The way to the backend.
    pub backend: SharedDial,
    /// A foreign gateway's first bytes are a PROXY header.
    pub expect_proxy: bool,
    /// Limits.
    pub limits: Limits,
    /// Access lines are written.
    pub access: bool,
}

/// What the gateway said of its client.
#[derive(Default)]
struct Client {
    addresses: Option<(SocketAddr, SocketAddr)>,
    /// The gateway's name for the connection; ours is replaced by it in the log.
    id: Option<ConnectionId>,
    identity: String,
}

impl Role for TcpAcceptor {
    fn serve(self: Arc<Self>, admitted: Admitted) -> BoxFuture<Closed> {
        Box::pin(async move {
            let opened = Instant::now();
            // boxed: it lives as long as the connection
            let mut record = Box::new(admitted.record(&self.listener));
            record.backend = self.backend.address.to_string();
            let closed = self.carry(admitted, &mut record).await;
            if self.access {
                closed.settle(&mut record, opened);
                record.emit();
            }
            closed
        })
    }
}

impl TcpAcceptor {
    async fn carry(&self, mut admitted: Admitted, record: &mut Access) -> Closed {
        let ours = admitted.alpn.as_deref() == Some(crate::tls::LINK_ALPN);
        let began = Instant::now();
        // boxed: the opening's state is not kept while bytes are relayed
        let opening = Box::pin(self.open(&mut admitted, ours, record));
        let mut backend = match opening.await {
            Ok(backend) => backend,
            Err(denied) => {
                if ours {
                    super::refuse(&mut admitted.stream, denied.reason).await;
                }
                return Closed::refused(denied);
            }
        };
        record.connect = Some(began.elapsed());
        let options = RelayOptions {
            idle_timeout: self.limits.idle_timeout,
            write_timeout: self.limits.write_timeout,
            ..RelayOptions::default()
        };
        let Admitted {
            mut stream,
            mut supervision,
            ..
        } = admitted;
        let end = link::carry(&mut stream, &mut backend, options, supervision.ended()).await;
        if end.cause.is_some() {
            stream.get_ref().0.get_ref().abort();
            backend.abort();
        }
        end
    }

    async fn open(
        &self,
        admitted: &mut Admitted,
        ours: bool,
        record: &mut Access,
    ) -> Result<BackendStream, Denied> {
        let limit = self.limits.handshake_timeout;
        let reading = self.client(&mut admitted.stream, ours);
        let client = tokio::time::timeout(limit, reading)
            .await
            .unwrap_or_else(|_elapsed| {
                Err(Denied::new(
                    Denial::HandshakeTimeout,
                    "the gateway named no client in time",
                ))
            })?;
        if let Some(id) = client.id {
            record.connection = id.to_string();
        }
        if let Some((source, _)) = client.addresses {
            record.client = Some(source);
        }
        record.client_identity = client.identity;
        let addresses = client.addresses.or(Some((admitted.source, admitted.local)));
        let backend = self.backend.connect(&admitted.permit, addresses).await?;
        if ours {
            link::write_admitted(&mut admitted.stream).await?;
        }
        Ok(backend)
    }

    /// Reads what comes before the client's own bytes.
    async fn client(&self, stream: &mut ServerStream, ours: bool) -> Result<Client, Denied> {
        if ours {
            let open = link::read_open(stream).await?;
            return Ok(Client {
                addresses: open.source.zip(open.destination),
                id: Some(open.connection),
                identity: open.identity.unwrap_or_default(),
            });
        }
        if self.expect_proxy {
            return Ok(Client {
                addresses: read_header(stream).await?,
                ..Client::default()
            });
        }
        Ok(Client::default())
    }
}

/// No PROXY header has fewer octets: `PROXY UNKNOWN` and CR LF; version 2 has 16.
const SHORTEST_HEADER: usize = 15;

/// A PROXY header inside TLS, from a foreign gateway; exactly one, and not a byte more is read.
async fn read_header(
    stream: &mut ServerStream,
) -> Result<Option<(SocketAddr, SocketAddr)>, Denied> {
    let mut bytes = Vec::with_capacity(proxy::V1_MAX_LEN);
    let mut need = SHORTEST_HEADER;
    loop {
        let have = bytes.len();
        bytes.resize(need, 0);
        let Some(missing) = bytes.get_mut(have..) else {
            break;
        };
        stream.read_exact(missing).await.map_err(|error| {
            Denied::new(
                Denial::ProxyHeaderMissing,
                format!("the gateway closed first: {error}"),
            )
        })?;
        match proxy::parse(&bytes) {
            Ok(proxy::Parsed::Complete { header, len }) if len == bytes.len() => {
                return Ok(header.source().zip(header.destination()));
            }
            Ok(proxy::Parsed::Complete { .. }) => break,
            Ok(proxy::Parsed::Incomplete { need: next }) => need = next.max(need.saturating_add(1)),
            Err(error) => {
                let reason = if proxy::looks_like_proxy(&bytes) {
                    Denial::ProxyHeaderInvalid
                } else {
                    Denial::ProxyHeaderMissing
                };
                return Err(Denied::new(reason, error.to_string()));
            }
        }
    }
    Err(Denied::new(
        Denial::ProxyHeaderInvalid,
        "the header's length is not its own",
    ))
}
