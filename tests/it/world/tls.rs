//! A TLS client of the tests: blocking, with or without a certificate, from any source address.

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use super::{Leaf, PATIENCE};

pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// How to connect.
#[derive(Clone)]
pub(crate) struct Client {
    trust: PathBuf,
    leaf: Option<Leaf>,
    alpn: Vec<Vec<u8>>,
    source: Option<IpAddr>,
    old: bool,
}

impl Client {
    pub(crate) fn new(trust: &Path) -> Self {
        Self {
            trust: trust.to_owned(),
            leaf: None,
            alpn: Vec::new(),
            source: None,
            old: false,
        }
    }

    pub(crate) fn certificate(mut self, leaf: &Leaf) -> Self {
        self.leaf = Some(leaf.clone());
        self
    }

    pub(crate) fn alpn(mut self, protocol: &str) -> Self {
        self.alpn.push(protocol.as_bytes().to_vec());
        self
    }

    pub(crate) fn source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// TLS 1.2 and nothing newer.
    pub(crate) fn tls12(mut self) -> Self {
        self.old = true;
        self
    }

    pub(crate) fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(&self.trust).unwrap() {
            roots.add(root.unwrap()).unwrap();
        }
        let old: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
        let versions = if self.old {
            old
        } else {
            rustls::DEFAULT_VERSIONS
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
        let mut config = match &self.leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let chain = CertificateDer::pem_file_iter(&leaf.certificate)
                    .unwrap()
                    .map(Result::unwrap)
                    .collect();
                let key = PrivateKeyDer::from_pem_file(&leaf.key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config
    }

    /// A TCP connection from the chosen source.
    pub(crate) fn tcp(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(to),
            socket2::Type::STREAM,
            None,
        )?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&to.into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Connects and ends the handshake. In TLS 1.3 a refusal of our certificate comes with the
    /// first read after it.
    pub(crate) fn connect(&self, to: SocketAddr, name: &str) -> io::Result<TlsStream> {
        let stream = self.tcp(to)?;
        self.over(stream, name)
    }

    /// Connects, and says `first` in the same flight as the end of the handshake.
    pub(crate) fn ask(&self, to: SocketAddr, name: &str, first: &[u8]) -> io::Result<TlsStream> {
        let mut stream = self.tcp(to)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::new(self.config()), name).unwrap();
        tls.set_buffer_limit(None);
        tls.writer().write_all(first)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(tls, stream))
    }

    /// The same over a connection that is there already.
    pub(crate) fn over(&self, mut stream: TcpStream, name: &str) -> io::Result<TlsStream> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::new(self.config()), name).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(tls, stream))
    }
}
