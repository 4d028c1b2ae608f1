//! The record layer against rustls, against records that no peer of ours would send, and cut at
//! every place.

mod early;
mod held;
mod hostile;
mod limits;
mod openssl;
mod peers;

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::io::DuplexStream;

use super::{Cipher, RecordStream, client, noter, server, session::Keys, suite};
use crate::net::{Buffered, WriteLast};

/// Two ends of one configuration.
struct Ends {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// The server's certificate and key.
    pem: String,
}

fn ends() -> Ends {
    ends_with(suite(Cipher::Aes128Gcm))
}

fn ends_with(suite: SupportedCipherSuite) -> Ends {
    let own = rcgen::generate_simple_self_signed(vec!["legacy.internal".to_owned()]).unwrap();
    let der: CertificateDer<'static> = own.cert.der().clone();
    let pem = own.cert.pem() + &own.signing_key.serialize_pem();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        ..aws_lc_rs::default_provider()
    });
    let mut roots = RootCertStore::empty();
    roots.add(der.clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    client.key_log = noter();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der], key)
        .unwrap();
    server.enable_secret_extraction = true;
    server.key_log = noter();
    // nobody reads them while a handshake waits for a narrow pipe
    server.send_tls13_tickets = 0;
    Ends {
        client: Arc::new(client),
        server: Arc::new(server),
        pem,
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("legacy.internal").unwrap()
}

/// Our client and our server on a pipe that lets `room` octets through at a time.
async fn pair(
    ends: &Ends,
    room: usize,
) -> (RecordStream<DuplexStream>, RecordStream<DuplexStream>) {
    let (near, far) = tokio::io::duplex(room);
    let (mut near, mut far) = (Buffered::new(near), Buffered::new(far));
    let (opened, accepted) = tokio::join!(
        client(&mut near, ends.client.clone(), name(), false),
        server(&mut far, ends.server.clone(), Vec::new())
    );
    (
        opened.unwrap().into_stream(near).unwrap(),
        accepted.unwrap().into_stream(far).unwrap(),
    )
}

/// Which end is ours; the other one sends what it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ours {
    Client,
    Server,
}

/// A peer that holds the right keys, and no rules.
struct Hostile {
    keys: Keys,
    io: DuplexStream,
}

/// Our end, and a peer without rules.
async fn against(ours: Ours) -> (RecordStream<DuplexStream>, Hostile) {
    let ends = ends();
    let (near, far) = tokio::io::duplex(1 << 20);
    let (mut near, mut far) = (Buffered::new(near), Buffered::new(far));
    let (opened, accepted) = tokio::join!(
        client(&mut near, ends.client.clone(), name(), false),
        server(&mut far, ends.server.clone(), Vec::new())
    );
    let (opened, accepted) = (opened.unwrap(), accepted.unwrap());
    match ours {
        Ours::Client => {
            let keys = accepted.keys().unwrap();
            let io = far.into_inner(&mut Vec::new());
            (opened.into_stream(near).unwrap(), Hostile { keys, io })
        }
        Ours::Server => {
            let (keys, _tickets) = opened.keys().unwrap();
            let io = near.into_inner(&mut Vec::new());
            (accepted.into_stream(far).unwrap(), Hostile { keys, io })
        }
    }
}

fn kind_of<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.unwrap_err().kind()
}
