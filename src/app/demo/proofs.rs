//! The proofs: what is tried, what must come of it, and the reason that the log must give.

use std::{net::Ipv4Addr, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::{Demo, Observer, backend::GREETING};
use crate::{admit::Denial, pki::Role};

/// No step takes longer on loopback.
const STEP: Duration = Duration::from_secs(10);

/// Whom a proof plays, and what must come of it.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// What it is about.
    pub title: &'static str,
    guest: Guest,
    /// Where it connects from; another loopback address than the gateway's for a wrong source.
    source: Ipv4Addr,
    /// `None`: it must be let in.
    expected: Option<Denial>,
}

#[derive(Clone, Copy, Debug)]
enum Guest {
    /// A client of the gateway.
    Client,
    /// A peer of the acceptor, without a certificate.
    Nobody,
    /// A peer of the acceptor with the certificate `NAME` for `ROLE` of an authority.
    Peer(&'static str, Role, &'static str),
}

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// All of them: the one that is let in first.
pub const PROOFS: [Proof; 7] = [
    Proof {
        title: "a request through the gateway",
        guest: Guest::Client,
        source: HERE,
        expected: None,
    },
    Proof {
        title: "straight to the acceptor, without a certificate",
        guest: Guest::Nobody,
        source: HERE,
        expected: Some(Denial::CertificateMissing),
    },
    Proof {
        title: "a certificate of a stranger's CA, with the gateway's very name",
        guest: Guest::Peer("stranger", Role::Gateway, "edge-1"),
        source: HERE,
        expected: Some(Denial::CertificateUnknownIssuer),
    },
    Proof {
        title: "a valid certificate of our CA, in another role",
        guest: Guest::Peer("pki", Role::Client, "edge-1"),
        source: HERE,
        expected: Some(Denial::CertificateWrongRole),
    },
    Proof {
        title: "a gateway's certificate that was revoked",
        guest: Guest::Peer("pki", Role::Gateway, "stolen"),
        source: HERE,
        expected: Some(Denial::CertificateRevoked),
    },
    Proof {
        title: "a gateway's certificate that has expired",
        guest: Guest::Peer("pki", Role::Gateway, "expired"),
        source: HERE,
        expected: Some(Denial::CertificateExpired),
    },
    Proof {
        title: "the gateway's own certificate and key, from another address",
        guest: Guest::Peer("pki", Role::Gateway, "edge-1"),
        source: ELSEWHERE,
        expected: Some(Denial::SourceUntrusted),
    },
];

/// What came of a proof.
#[derive(Debug)]
pub struct Outcome {
    /// What was tried.
    pub tried: String,
    /// What the one who tried saw.
    pub happened: String,
    /// What the log says.
    pub why: String,
    /// As it must be.
    pub good: bool,
}

impl Proof {
    /// Tries it.
    pub async fn run(&self, demo: &Demo, observer: &Observer) -> Outcome {
        observer.clear();
        let before = demo.backend.reached();
        let (target, name, listener) = match self.guest {
            Guest::Client => (demo.gateway, demo.gateway.ip().to_string(), "public"),
            Guest::Nobody | Guest::Peer(..) => {
                (demo.acceptor, "legacy.internal".to_owned(), "legacy")
            }
        };
        let attempt = tokio::time::timeout(STEP, self.attempt(demo, target, name)).await;
        let (seen, reached) = match attempt {
            Ok(Ok(answer)) => (first_line(&answer), answer.contains(GREETING)),
            Ok(Err(error)) => (refusal(&error), false),
            Err(_) => ("nothing came for ten seconds".to_owned(), false),
        };
        let line = observer.line(listener).await.unwrap_or_default();
        let field = |name: &str| line.get(name).map_or("", String::as_str);
        let reason = Denial::from_code(field("reason"));
        let untouched = demo.backend.reached() == before;
        let good = reason == self.expected
            && reached == self.expected.is_none()
            && reached != untouched
            && !line.is_empty();
        let mut why = match reason {
            Some(denial) => format!("{}: {}", denial.code(), denial.meaning()),
            None if line.is_empty() => "the log says nothing".to_owned(),
            None => format!(
                "{} by {}, to backend {} by way of {}",
                field("decision"),
                field("route"),
                field("backend"),
                field("acceptor")
            ),
        };
        if !field("detail").is_empty() {
            why = format!("{why}\n{}", field("detail"));
        }
        Outcome {
            tried: self.tried(demo, target),
            happened: if untouched {
                format!("{seen}; the backend saw no connection")
            } else {
                seen
            },
            why,
            good,
        }
    }

    fn tried(&self, demo: &Demo, target: SocketAddr) -> String {
        match self.guest {
            Guest::Client => format!("GET https://{target}/"),
            Guest::Nobody => format!("TLS to {target} from {}, no certificate", self.source),
            Guest::Peer(authority, role, name) => {
                let [certificate, _] = demo.leaf(authority, role, name);
                let shown = certificate
                    .strip_prefix(demo.folder())
                    .unwrap_or(&certificate);
                format!(
                    "TLS to {target} from {}, certificate {}",
                    self.source,
                    shown.display()
                )
            }
        }
    }

    /// One request over TLS; what was answered.
    async fn attempt(
        &self,
        demo: &Demo,
        target: SocketAddr,
        name: String,
    ) -> std::io::Result<String> {
        let leaf = match self.guest {
            Guest::Client | Guest::Nobody => None,
            Guest::Peer(authority, role, name) => Some(demo.leaf(authority, role, name)),
        };
        let config = client(&demo.trust(), leaf.as_ref()).map_err(std::io::Error::other)?;
        let tcp = self.connect(target).await?;
        let server = ServerName::try_from(name).map_err(std::io::Error::other)?;
        let mut tls = TlsConnector::from(Arc::new(config))
            .connect(server, tcp)
            .await?;
        let request = format!("GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        tls.take(65_536).read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn connect(&self, target: SocketAddr) -> std::io::Result<TcpStream> {
        if !target.is_ipv4() {
            return TcpStream::connect(target).await;
        }
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((self.source, 0)))?;
        socket.connect(target).await
    }
}

fn client(
    trust: &PathBuf,
    leaf: Option<&[PathBuf; 2]>,
) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(trust)? {
        roots.add(root?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match leaf {
        None => builder.with_no_client_auth(),
        Some([certificate, key]) => {
            let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
        }
    })
}

/// Status and the backend's first line.
fn first_line(answer: &str) -> String {
    if answer.is_empty() {
        return "the connection was closed without an answer".to_owned();
    }
    let status = answer.lines().next().unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    format!("{status}: {:?}", body.lines().next().unwrap_or_default())
}

fn refusal(error: &std::io::Error) -> String {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("the acceptor answered with the TLS alert {alert:?}")
        }
        _ => format!("the connection ended: {error}"),
    }
}
