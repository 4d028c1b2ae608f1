//! One link connection: resolve, connect, handshake, OPEN, admission.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncWriteExt;

use super::ClientFacts;
use crate::{
    admit::{Denial, Denied},
    config::{DialAddress, ProxyVersion},
    identity::UnixSeconds,
    net::{self, Buffered, Socket},
    serve::{link, mux, proxy_header},
    tls::{
        ClientTls, Connected, Judge, TlsStream,
        alert::{self, Side},
        connect_ahead, leave,
    },
    wire::{link::Open, mux::Welcome},
};

/// A TLS stream to an acceptor.
pub type LinkStream = TlsStream<Socket>;

/// How one acceptor is dialled.
pub(crate) struct Dialler {
    pub(crate) address: DialAddress,
    pub(crate) name: ServerName<'static>,
    /// Offers a connection for one client, or for one http mode.
    pub(crate) tls: ClientTls,
    /// The same for acceptors that know none of our protocols.
    pub(crate) foreign: ClientTls,
    /// Offers one that carries many clients of tcp mode, one after the other or at once; `None`:
    /// `tunnel` says no.
    pub(crate) reused: Option<ClientTls>,
    /// Offers one that carries many requests of http mode at once; `None`: `tunnel` says no.
    pub(crate) shared: Option<ClientTls>,
    /// `tunnel = "reuse"`: nothing else will do.
    pub(crate) must_reuse: bool,
    pub(crate) judge: Judge,
    pub(crate) bind: Option<std::net::IpAddr>,
    pub(crate) proxy_protocol: Option<ProxyVersion>,
    pub(crate) shut: Shut,
}

/// When an acceptor was last found not to listen: it has ended, or drains and waits for what was
/// opened before. Nothing else tells of a drain on connections whose bytes are all the client's.
pub(crate) struct Shut {
    epoch: Instant,
    /// Milliseconds after `epoch`, plus one; zero: never.
    at: AtomicU64,
}

impl Default for Shut {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            at: AtomicU64::new(0),
        }
    }
}

impl Shut {
    fn millis(&self, at: Instant) -> u64 {
        let millis = at.saturating_duration_since(self.epoch).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn note(&self, now: Instant) {
        self.at.store(self.millis(now), Ordering::Relaxed);
    }

    /// Whether that was since this moment.
    pub(super) fn is_since(&self, opened: Instant) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        at != 0 && self.millis(opened) <= at
    }
}

/// What a link connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A client, or requests one after the other.
    One,
    /// Many at once, where the acceptor can.
    Many,
}

/// An admitted link connection.
pub(crate) struct Dialled {
    pub(crate) stream: LinkStream,
    /// The acceptor's chain, to judge it again.
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
    pub(crate) until: Option<UnixSeconds>,
    /// It carries another client after this one.
    pub(crate) reused: bool,
    /// An earlier TLS session went on.
    pub(crate) resumed: bool,
    /// It carries many at once, and none yet; what the acceptor said.
    pub(crate) mux: Option<Welcome>,
}

impl Dialler {
    /// Opens the link for a client.
    ///
    /// # Errors
    /// Where it stopped: no TCP, closed before ServerHello, the alert, the acceptor's word.
    pub(crate) async fn dial(
        &self,
        client: &ClientFacts,
        purpose: Purpose,
    ) -> Result<Dialled, Denied> {
        let wanted = match (client.http, purpose) {
            (true, Purpose::One) => None,
            (true, Purpose::Many) => self.shared.as_ref(),
            // these tell by `tunnel`
            (false, Purpose::One | Purpose::Many) => self.reused.as_ref(),
        };
        let connected = match self.handshake(wanted.unwrap_or(&self.tls)).await {
            // a foreign acceptor with protocols of its own and none in common says so with
            // this alert: it is asked again without ours
            Err(denied) if alert::wants_no_alpn(&denied) => self.handshake(&self.foreign).await,
            other => other,
        };
        let connected = connected.map_err(|denied| self.explained(denied))?;
        if self.must_reuse && !client.http && !connected.reused {
            leave(connected.stream).await;
            return Err(self.explained(Denied::new(
                Denial::NoSharedTls,
                "tunnel = \"reuse\" needs an acceptor of ours in tcp mode at the other end; \"auto\" takes any",
            )));
        }
        let mut stream = connected.stream;
        let mut welcome = None;
        if connected.mux {
            welcome = Some(mux::read_welcome(&mut stream).await?);
        } else if connected.ours {
            link::write_open(&mut stream, open(client)).await?;
            link::read_admission(&mut stream).await?;
        } else if let Some(version) = self.proxy_protocol {
            let header = proxy_header(version, client.addresses());
            let sent = async {
                stream.write_all(&header).await?;
                stream.flush().await
            };
            sent.await
                .map_err(|error| alert::explain(&error, Side::Client))?;
        }
        Ok(Dialled {
            stream,
            chain: connected.chain,
            until: connected.grant.until,
            reused: connected.reused,
            resumed: connected.session.resumed,
            mux: welcome,
        })
    }

    /// Opens a link that carries many clients, for none yet; `None`: the acceptor can't.
    ///
    /// # Errors
    /// Where it stopped.
    pub(super) async fn dial_mux(&self) -> Result<Option<Dialled>, Denied> {
        let connected = self
            .handshake(
                self.shared
                    .as_ref()
                    .or(self.reused.as_ref())
                    .unwrap_or(&self.tls),
            )
            .await
            .map_err(|denied| self.explained(denied))?;
        if !connected.mux {
            leave(connected.stream).await;
            return Ok(None);
        }
        let mut stream = connected.stream;
        let welcome = mux::read_welcome(&mut stream).await?;
        Ok(Some(Dialled {
            stream,
            chain: connected.chain,
            until: connected.grant.until,
            reused: false,
            resumed: connected.session.resumed,
            mux: Some(welcome),
        }))
    }

    /// Drops TLS sessions whose time is over.
    pub(crate) fn forget_old(&self) {
        let offers = [&self.tls, &self.foreign].into_iter();
        for tls in offers.chain(&self.reused).chain(&self.shared) {
            tls.forget_old();
        }
    }

    async fn handshake(&self, tls: &ClientTls) -> Result<Connected<Socket>, Denied> {
        let socket = net::dial(&self.address, self.bind).await.map_err(|error| {
            if error.kind() == io::ErrorKind::ConnectionReset {
                // accepted, and cut before we looked: so ends a source that is not trusted
                alert::explain(&error, Side::Client)
            } else {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.shut.note(Instant::now());
                }
                Denied::new(Denial::UpstreamUnreachable, error.to_string())
            }
        })?;
        connect_ahead(
            Buffered::new(socket),
            tls,
            self.name.clone(),
            Arc::clone(&self.judge),
        )
        .await
    }

    /// Adds which acceptor it was.
    fn explained(&self, denied: Denied) -> Denied {
        Denied {
            detail: format!("acceptor {}: {}", self.address, denied.detail),
            ..denied
        }
    }
}

pub(super) fn open(client: &ClientFacts) -> Open {
    let (source, destination) = client.addresses().unzip();
    Open {
        connection: client.connection_id,
        source,
        destination,
        authority: client.sni.clone(),
        identity: client.identity.clone(),
        http: client.http,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_opened_before_an_acceptor_shut_is_told_from_what_was_opened_after() {
        let shut = Shut::default();
        let moment = |n: u64| shut.epoch + Duration::from_millis(n);
        assert!(!shut.is_since(moment(0)), "never");
        shut.note(moment(10));
        assert!(shut.is_since(moment(0)) && shut.is_since(moment(10)));
        assert!(!shut.is_since(moment(11)));
    }
}
