//! Handshakes that end with a judged peer, at the end that accepts; the other is in `open.rs`. The
//! caller sets the deadline: every wait here is over when its future is dropped.

use std::{io, sync::Arc, time::Duration};

use rustls::{CommonState, HandshakeKind, ServerConfig, server::Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;

use super::{
    LINK_ALPN, MUX_LINK_ALPN, REUSED_LINK_ALPN, ServerTls, TlsStream, Usage,
    alert::{Side, explain},
    chains::{self, Chain},
    first_bytes::FirstBytes,
    pace::{self, Turns},
    pending::{PENDING, Pending},
    records,
};
use crate::{
    admit::{Denial, Denied, Grant, PeerFacts},
    net::{Buffered, WriteLast},
    wire::hello::offers_tls_1_3,
};

/// Decides whether a proven peer (or one without certificate) may enter; called in the handshake,
/// so it must not block.
pub type Judge = Arc<dyn Fn(Option<&PeerFacts>) -> Result<Grant, Denied> + Send + Sync>;

/// How long a refused peer may take to read its alert: closing at once on unread bytes would
/// reset the connection and lose it.
const LINGER: Duration = Duration::from_millis(300);

/// What a refused peer may still send meanwhile.
const LINGER_BYTES: usize = 64 * 1024;

/// Told to a browser that forgot the s. Nothing of ours is in it.
const HTTP_HINT: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 35\r\n\r\nThis port speaks TLS: use https://\n";

/// What was agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// "TLSv1.3" or "TLSv1.2".
    pub version: &'static str,
    /// The suite's registered name.
    pub cipher: String,
    /// The group's name; empty if none was used.
    pub group: String,
    /// An earlier session went on: no certificate was shown again, and what was shown then was
    /// judged anew.
    pub resumed: bool,
}

impl std::fmt::Display for SessionFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.version, self.cipher, self.group)
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// Bytes of the peer.
    pub stream: TlsStream<IO>,
    /// The certificates that the peer showed, leaf first: what
    /// [`Verification::prove_again`](super::Verification::prove_again) asks for.
    pub chain: Chain,
    /// The proven peer; `None`: it showed no certificate.
    pub peer: Option<Arc<PeerFacts>>,
    /// Why it was let in.
    pub grant: Grant,
    /// The agreed application protocol.
    pub alpn: Option<Vec<u8>>,
    /// The name that the client asked for, lower case.
    pub sni: Option<String>,
    /// What was agreed.
    pub session: SessionFacts,
}

impl<IO> Accepted<IO> {
    /// The other end is our gateway.
    #[must_use]
    pub fn ours(&self) -> bool {
        self.alpn.as_deref().is_some_and(is_ours)
    }
}

pub(super) fn is_ours(protocol: &[u8]) -> bool {
    [LINK_ALPN, REUSED_LINK_ALPN, MUX_LINK_ALPN].contains(&protocol)
}

pub(super) fn chain_of(session: &CommonState) -> Chain {
    chains::shared(session.peer_certificates().unwrap_or_default())
}

/// A ClientHello that has come in full. Nothing was computed for it.
pub struct Greeted<IO> {
    read: Hello,
    io: Buffered<IO>,
    /// It, and what was read with it.
    hello: Vec<u8>,
}

/// Who read a ClientHello.
enum Hello {
    /// Nobody yet: it came at once, and is answered with this. What rustls says to it, it says in
    /// the handshake.
    Seen(Arc<ServerConfig>),
    /// rustls.
    Read(Box<rustls::server::Accepted>),
}

/// Accepts TLS. A peer that is refused gets the fitting alert.
///
/// # Errors
/// Why there is no connection.
pub async fn accept<IO>(
    io: Buffered<IO>,
    server: &ServerTls,
    judge: Judge,
) -> Result<Accepted<IO>, Denied>
where
    IO: AsyncRead + WriteLast + Unpin,
{
    let greeted = greet(io, server).await?;
    greeted.accept(server, judge, pace::shared()).await
}

/// Waits for the ClientHello: the part of a handshake that costs us nothing and a stranger may
/// stretch.
///
/// # Errors
/// What came is none.
pub async fn greet<IO>(mut io: Buffered<IO>, server: &ServerTls) -> Result<Greeted<IO>, Denied>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    if io.buffered().is_empty() {
        // an end is looked at below
        let first = io.fill().await;
        first.map_err(|error| nothing_came(&error))?;
    }
    if let Some(config) = server.config_at_sight(io.buffered()) {
        let hello = io.buffered().to_vec();
        io.consume(hello.len());
        return Ok(Greeted {
            read: Hello::Seen(config),
            io,
            hello,
        });
    }
    let mut hello = LazyConfigAcceptor::new(Acceptor::default(), FirstBytes::new(io));
    let start = match (&mut hello).await {
        Ok(start) => start,
        Err(error) => return Err(no_hello(&error, hello.take_io()).await),
    };
    let tokio_rustls::StartHandshake { accepted, io, .. } = start;
    Ok(Greeted {
        read: Hello::Read(Box::new(accepted)),
        io: io.inner,
        hello: io.seen,
    })
}

impl<IO> Greeted<IO>
where
    IO: AsyncRead + WriteLast + Unpin,
{
    /// Answers it, in turns with others. A peer that is refused gets the fitting alert.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn accept(
        self,
        server: &ServerTls,
        judge: Judge,
        turns: &Turns,
    ) -> Result<Accepted<IO>, Denied> {
        let Self {
            read,
            mut io,
            hello,
        } = self;
        let Answer {
            config,
            ends,
            accepted,
        } = Answer::to(read, &hello, server);
        let pending = Pending::new(judge.clone());
        let agreed = |common: &CommonState| Agreed::of(common, &pending, server, &judge);
        // all of it in the scope: sessions are looked for before the first wait
        let answered = if let Some(accepted) = accepted {
            drop(hello);
            let handshake = async move {
                let start = tokio_rustls::StartHandshake::from_parts(*accepted, io);
                start.into_stream(config).into_fallible().await
            };
            let handshake = PENDING.scope(pending.clone(), handshake);
            pace::paced(handshake, turns).await.map(|stream| {
                let agreed = agreed(stream.get_ref().1);
                (TlsStream::Rustls(Box::new(stream.into())), agreed)
            })
        } else {
            let handshake = records::server(&mut io, config, hello);
            let handshake = PENDING.scope(pending.clone(), handshake);
            match pace::paced(handshake, turns).await {
                Ok(done) => {
                    let agreed = agreed(done.common());
                    let stream = done.into_stream(io).map_err(|error| broken(&error))?;
                    Ok((TlsStream::Own(Box::new(stream)), agreed))
                }
                Err(error) => Err((error, io)),
            }
        };
        let (mut stream, agreed) = match answered {
            Ok(done) => done,
            Err((error, io)) => {
                let verdict = pending.take();
                linger(io).await;
                return Err(match (ends, verdict) {
                    (Some(pending), _) if pending.reason == Denial::CertificatePending => pending,
                    (_, Some(Err(denied))) => denied,
                    _ => explain(&error, Side::Server),
                });
            }
        };
        if let Some(end) = ends {
            let _closed = tokio::time::timeout(LINGER, stream.shutdown()).await;
            return Err(end);
        }
        let Agreed {
            session,
            alpn,
            chain,
            settled,
        } = agreed;
        match settled {
            Ok((peer, grant)) => Ok(Accepted {
                stream,
                chain,
                peer,
                grant,
                alpn,
                sni: pending.sni(),
                session,
            }),
            Err(denied) => {
                let _closed = tokio::time::timeout(LINGER, stream.shutdown()).await;
                Err(denied)
            }
        }
    }
}

/// How a ClientHello is answered.
struct Answer {
    config: Arc<ServerConfig>,
    /// Nobody gets further by it.
    ends: Option<Denied>,
    /// What rustls read, where it keeps the records too.
    accepted: Option<Box<rustls::server::Accepted>>,
}

impl Answer {
    fn to(read: Hello, hello: &[u8], server: &ServerTls) -> Self {
        let accepted = match read {
            Hello::Seen(config) => {
                return Self {
                    config,
                    ends: None,
                    accepted: None,
                };
            }
            Hello::Read(accepted) => accepted,
        };
        let offered = accepted.client_hello();
        let sni = offered.server_name();
        let (config, ends) = if let Some(proof) = server.proof_for(&offered) {
            // it resumes nothing, and rustls keeps its records
            (proof, Some(Denial::AcmeChallenge))
        } else {
            let awaited = server.awaits(sni);
            let ends = awaited.then_some(Denial::CertificatePending);
            (server.config_for(&offered), ends)
        };
        let named = || sni.map(str::to_ascii_lowercase).unwrap_or_default();
        let ends = ends.map(|why| Denied::new(why, named()));
        let own = config.enable_secret_extraction && offers_tls_1_3(hello);
        Self {
            config,
            ends,
            accepted: (!own).then_some(accepted),
        }
    }
}

/// What a handshake came to, at the end that accepted it.
struct Agreed {
    session: SessionFacts,
    alpn: Option<Vec<u8>>,
    chain: Chain,
    settled: Result<(Option<Arc<PeerFacts>>, Grant), Denied>,
}

impl Agreed {
    fn of(common: &CommonState, pending: &Pending, server: &ServerTls, judge: &Judge) -> Self {
        let session = session_facts(common);
        let settled = match pending.take() {
            Some(outcome) if !session.resumed => outcome.map(|(peer, grant)| (Some(peer), grant)),
            _ => unverified(common, server, judge),
        };
        Self {
            session,
            alpn: common.alpn_protocol().map(<[u8]>::to_vec),
            chain: chain_of(common),
            settled,
        }
    }
}

/// Our own configuration is at fault, not the peer.
pub(super) fn broken(error: &rustls::Error) -> Denied {
    Denied::new(Denial::HandshakeFailed, error.to_string())
}

/// The verifier did not run: no certificate was asked for or sent, or a session was resumed. Its
/// certificate is proven and judged now, though it was before the session was found: what decides
/// is what the connection really has.
fn unverified(
    session: &CommonState,
    server: &ServerTls,
    judge: &Judge,
) -> Result<(Option<Arc<PeerFacts>>, Grant), Denied> {
    match (session.peer_certificates(), &server.verification) {
        (None | Some([]), _) if server.required => Err(Denied::new(
            Denial::CertificateMissing,
            "a certificate was asked for, and none was sent",
        )),
        (None | Some([]), _) => judge(None).map(|grant| (None, grant)),
        (Some([leaf, rest @ ..]), Some(verification)) => {
            let peer = verification.prove(leaf, rest, Usage::ClientAuth, crate::clock::now())?;
            judge(Some(&peer)).map(|grant| (Some(peer), grant))
        }
        (Some(_), None) => Err(Denied::new(
            Denial::CertificateUnknownIssuer,
            "a certificate that was not asked for",
        )),
    }
}

pub(super) fn session_facts(session: &CommonState) -> SessionFacts {
    SessionFacts {
        version: session
            .protocol_version()
            .and_then(|version| version.as_str())
            .map_or("TLS", |name| match name {
                "TLSv1_3" => "TLSv1.3",
                "TLSv1_2" => "TLSv1.2",
                other => other,
            }),
        cipher: session
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str())
            .unwrap_or_default()
            .to_owned(),
        group: session
            .negotiated_key_exchange_group()
            .map(|group| format!("{:?}", group.name()))
            .unwrap_or_default(),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

fn nothing_came(error: &io::Error) -> Denied {
    let mut denied = explain(error, Side::Server);
    denied.detail = "closed before the first byte".to_owned();
    denied
}

/// No ClientHello came. A plain HTTP request is told what this port speaks.
async fn no_hello<IO>(error: &io::Error, io: Option<FirstBytes<Buffered<IO>>>) -> Denied
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let Some(io) = io else {
        return explain(error, Side::Server);
    };
    let mut denied = explain(error, Side::Server);
    if io.is_http() {
        denied = Denied::new(Denial::NotTls, "it is a plain HTTP request");
        let mut inner = io.inner;
        let answer = async {
            inner.write_all(HTTP_HINT).await?;
            io::Result::Ok(inner)
        };
        if let Ok(Ok(inner)) = tokio::time::timeout(LINGER, answer).await {
            linger(inner).await;
        }
    } else if io.is_foreign() {
        denied = Denied::new(
            Denial::NotTls,
            format!("the first byte is 0x{:02x}", io.seen.first().unwrap_or(&0)),
        );
    } else if io.seen.is_empty() {
        denied = nothing_came(error);
    } else {
        linger(io.inner).await;
    }
    denied
}

/// Half-closes and lets the peer read what was sent, for a short while and few bytes.
async fn linger<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO) {
    let drain = async {
        io.shutdown().await?;
        let mut sink = [0; 2048];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match io.read(&mut sink).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        io::Result::Ok(())
    };
    // a peer that does not go is closed on
    let _over = tokio::time::timeout(LINGER, drain).await;
}
