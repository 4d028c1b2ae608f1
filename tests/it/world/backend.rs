//! Small backends: a thread for each connection.

use std::{
    io::{self, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{Leaf, PATIENCE, until};

/// What a backend with TLS of its own speaks over.
pub(crate) type TlsConnection = StreamOwned<ServerConnection, TcpStream>;

/// A listening backend; its threads end with the test process.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Backend {
    /// Handles each connection by `serve`.
    pub(crate) fn serve(
        address: SocketAddr,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = until("a free port", || TcpListener::bind(address).ok());
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, serve) = (Arc::clone(&connections), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// Gives back what comes, and the end of it as an end.
    pub(crate) fn echo(address: SocketAddr) -> Self {
        Self::serve(address, |mut stream| {
            echo(&mut stream);
            drop(stream.shutdown(Shutdown::Write));
        })
    }

    /// Says this at once, and then gives back what comes.
    pub(crate) fn greeting(address: SocketAddr, word: &'static str) -> Self {
        Self::serve(address, move |mut stream| {
            drop(stream.write_all(word.as_bytes()));
            echo(&mut stream);
        })
    }

    /// Handles each connection by `serve` once TLS stands; nobody is asked for a certificate.
    pub(crate) fn tls(
        address: SocketAddr,
        leaf: &Leaf,
        serve: impl Fn(&mut TlsConnection) + Send + Sync + 'static,
    ) -> Self {
        Self::tls_with(address, leaf, &[], serve)
    }

    /// The same, which closes on whoever offers other protocols than these.
    pub(crate) fn tls_with(
        address: SocketAddr,
        leaf: &Leaf,
        protocols: &[&str],
        serve: impl Fn(&mut TlsConnection) + Send + Sync + 'static,
    ) -> Self {
        let chain = CertificateDer::pem_file_iter(&leaf.certificate)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let key = PrivateKeyDer::from_pem_file(&leaf.key).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        let config = Arc::new(config);
        Self::serve(address, move |mut stream| {
            let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            while tls.is_handshaking() {
                if tls.complete_io(&mut stream).is_err() {
                    return;
                }
            }
            let mut stream = StreamOwned::new(tls, stream);
            serve(&mut stream);
            stream.conn.send_close_notify();
            drop(stream.flush());
        })
    }

    /// How many connections came so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Gives back what comes until it ends.
pub(crate) fn echo(stream: &mut (impl io::Read + io::Write)) {
    let mut buffer = vec![0; 65536];
    while let Ok(n) = stream.read(&mut buffer) {
        let Some(part) = buffer.get(..n).filter(|p| !p.is_empty()) else {
            break;
        };
        if stream
            .write_all(part)
            .and_then(|()| stream.flush())
            .is_err()
        {
            return;
        }
    }
}
