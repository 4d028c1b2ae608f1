//! What a server shows of itself, to be looked at: nothing is verified, nothing is sent beyond the
//! handshake, and nothing else in the program can use this connection.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{client::server_name, provider::everything};
use crate::{
    config::{self, DialAddress},
    net,
};

/// To resolve, connect and shake hands.
const LIMIT: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    /// Leaf first, as they came.
    pub chain: Vec<CertificateDer<'static>>,
    /// What was settled on, where the handshake ended well.
    pub version: Option<ProtocolVersion>,
    /// Why it did not end, although certificates had come: a server that wants one of ours.
    pub ended: Option<String>,
}

/// Shakes hands and hangs up.
///
/// # Errors
/// No certificate came, and why.
pub async fn look(address: &DialAddress, name: &config::ServerName) -> Result<Seen, String> {
    let (provider, versions) = everything();
    let eyes = Arc::new(Eyes {
        provider: Arc::clone(&provider),
        chain: Mutex::default(),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&eyes) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let name = server_name(name).ok_or("not a name that TLS can ask for")?;
    let shaking = async {
        let socket = net::dial(address, None)
            .await
            .map_err(|error| format!("can't connect: {error}"))?;
        TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .map_err(|error| format!("no TLS handshake: {error}"))
    };
    let done = timeout(LIMIT, shaking)
        .await
        .unwrap_or_else(|_elapsed| Err(format!("no TLS handshake within {LIMIT:?}")));
    let chain = std::mem::take(&mut *eyes.chain.lock().unwrap_or_else(PoisonError::into_inner));
    match done {
        Ok(stream) => Ok(Seen {
            chain,
            version: stream.get_ref().1.protocol_version(),
            ended: None,
        }),
        Err(why) if chain.is_empty() => Err(why),
        Err(why) => Ok(Seen {
            chain,
            version: None,
            ended: Some(why),
        }),
    }
}

/// Keeps what it is shown and believes all of it.
#[derive(Debug)]
struct Eyes {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Eyes {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let all = std::iter::once(end_entity).chain(intermediates);
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) =
            all.map(|der| der.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_not_waited_for() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let name = config::ServerName::Ip(address.ip());
        let said = look(&DialAddress::Ip(address), &name).await.unwrap_err();
        assert!(said.contains("within 10s"), "{said}");
    }
}
