//! The opening end: client configurations for the link and for backends that speak TLS themselves.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
};

use super::{
    LINK_ALPN, MUX_LINK_ALPN, REUSED_LINK_ALPN, Usage, Verification,
    eras::Eras,
    error::{MaterialError, SetupError},
    generation::{Generation, Trust, load_verification},
    material::check_roots,
    pending::Pending,
    provider::{provider, versions},
    records::noter,
};
use crate::{
    admit::{Denial, Denied, PeerFacts, Proof},
    config::{self, BackendTls, Records, TlsOptions, TlsVersion, Tunnel},
    identity::{CertFacts, DnsPattern},
};

/// Whether the server's certificate must carry the name that was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameCheck {
    /// Yes, among its DNS or IP SANs.
    ServerName,
    /// No: rules on its identity stand instead (`acceptor_ids` without `server_name`).
    None,
}

impl NameCheck {
    /// Whether a proven server may answer to the name.
    fn check(self, peer: &PeerFacts, name: &ServerName<'_>) -> Result<(), Denied> {
        // a pin names the one certificate there is: its names say nothing more
        if self == Self::None || peer.proof == Proof::Pinned {
            return Ok(());
        }
        check_server_name(&peer.leaf, name)?;
        match (&peer.proof, name) {
            // the names of a bundle are DNS names and SPIFFE IDs: no address is among them
            (
                Proof::Chain {
                    bundle: Some(_),
                    root,
                },
                ServerName::IpAddress(_),
            ) => Err(Denied::new(
                Denial::IssuerNotForName,
                format!(
                    "{root} may speak for the names of its trust_bundle, and for no address: {}; set server_name to a DNS name of its certificate, or acceptor_ids",
                    peer.leaf.describe()
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// A client's side of TLS, ready for any number of handshakes.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    verifier: Arc<ServerVerifier>,
    /// Where sessions are resumed.
    eras: Option<Arc<Eras>>,
}

impl ClientTls {
    /// Records are kept by `tls/records`: only where TLS 1.3 alone is spoken, for a client learns
    /// the version too late to choose.
    pub(super) fn own_records(&self) -> bool {
        self.config.enable_secret_extraction
    }
}

/// Whether a client with these options keeps its records itself.
fn own_records(options: &TlsOptions, default: TlsVersion) -> bool {
    options.records == Records::Own && options.min_version.unwrap_or(default) == TlsVersion::V1_3
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls")
            .field("alpn", &self.config.alpn_protocols)
            .finish_non_exhaustive()
    }
}

impl ClientTls {
    /// The gateway's end of the link: shows our certificate, offers `portcullis/1`, resumes
    /// sessions.
    ///
    /// # Errors
    /// The options leave no usable version or suite.
    pub fn link(
        generation: &Generation,
        options: &TlsOptions,
        check_name: NameCheck,
    ) -> Result<Self, SetupError> {
        let verifier = ServerVerifier {
            verification: generation.verification.clone(),
            check_name,
            stale_lists_pass: false,
        };
        let verifier = Arc::new(verifier);
        let mut config = Self::shown(generation, options, verifier.clone())?;
        config.alpn_protocols = vec![LINK_ALPN.to_vec()];
        Ok(Self::of(config, verifier).with_sessions())
    }

    /// Towards `pki serve`: shows our certificate, whatever end of the link it is for. A CRL that
    /// is overdue must not stand in the way of the next; what it revokes stays revoked.
    ///
    /// # Errors
    /// The options leave no usable version or suite.
    pub fn authority(generation: &Generation, options: &TlsOptions) -> Result<Self, SetupError> {
        let verifier = ServerVerifier {
            verification: generation.verification.clone(),
            check_name: NameCheck::ServerName,
            stale_lists_pass: true,
        };
        let verifier = Arc::new(verifier);
        let mut config = Self::shown(generation, options, verifier.clone())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self::of(config, verifier))
    }

    fn of(config: ClientConfig, verifier: Arc<ServerVerifier>) -> Self {
        Self {
            config: Arc::new(config),
            verifier,
            eras: None,
        }
    }

    fn with_sessions(mut self) -> Self {
        self.eras = Some(Eras::new(self.config.clone()));
        self
    }

    /// The same with other protocols. Its sessions are its own.
    fn offering(&self, protocols: Vec<Vec<u8>>) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = protocols;
        let other = Self::of(config, self.verifier.clone());
        match self.eras {
            Some(_) => other.with_sessions(),
            None => other,
        }
    }

    /// The configuration of a connection that begins now.
    pub(super) fn current(&self) -> Arc<ClientConfig> {
        let now = crate::clock::now();
        match &self.eras {
            Some(eras) => eras.config(now, || self.verifier.verification.fresh_until(now)),
            None => self.config.clone(),
        }
    }

    /// Drops sessions whose time is over.
    pub fn forget_old(&self) {
        if let Some(eras) = &self.eras {
            eras.forget_old(crate::clock::now());
        }
    }

    /// Proves a server whose session was resumed, as its full handshake would.
    pub(super) fn prove(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Result<Arc<PeerFacts>, Denied> {
        let [end_entity, intermediates @ ..] = chain else {
            return Err(Denied::new(
                Denial::CertificateMissing,
                "the server's certificate was not judged",
            ));
        };
        self.verifier.prove(end_entity, intermediates, name)
    }

    /// Proves a server at the other end of a live connection again, as its handshake did.
    ///
    /// # Errors
    /// As [`Verification::prove_again`], or it does not carry the name.
    pub(crate) fn prove_again(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Result<Arc<PeerFacts>, Denied> {
        let verification = &self.verifier.verification;
        let peer = verification.prove_again(chain, Usage::ServerAuth, crate::clock::now())?;
        self.verifier.check_name.check(&peer, name)?;
        Ok(peer)
    }

    /// What became of a server: sessions with one that is refused are not resumed.
    pub(super) fn settled<T>(&self, outcome: &Result<(Arc<PeerFacts>, T), Denied>) {
        match (&self.eras, outcome) {
            (Some(eras), Ok((peer, _))) => eras.proven(peer.chain_not_after),
            (Some(eras), Err(_)) => eras.end(),
            (None, _) => {}
        }
    }

    /// A client that shows our certificate and resumes nothing.
    fn shown(
        generation: &Generation,
        options: &TlsOptions,
        verifier: Arc<ServerVerifier>,
    ) -> Result<ClientConfig, SetupError> {
        let mut config = ClientConfig::builder_with_provider(generation.provider.clone())
            .with_protocol_versions(versions(options, TlsVersion::V1_3))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
                generation.certified.clone(),
            )));
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        if own_records(options, TlsVersion::V1_3) {
            config.enable_secret_extraction = true;
            config.key_log = noter();
        }
        Ok(config)
    }

    /// The same without ALPN, for a foreign server that refuses ours
    /// ([`wants_no_alpn`](super::alert::wants_no_alpn)).
    #[must_use]
    pub fn without_alpn(&self) -> Self {
        self.offering(Vec::new())
    }

    /// The same offering `protocols` instead.
    #[must_use]
    pub fn with_alpn(&self, protocols: Vec<Vec<u8>>) -> Self {
        self.offering(protocols)
    }

    /// The same offering a link that carries many clients, one after the other or at once, as
    /// `tunnel` wants it.
    #[must_use]
    pub fn reused(&self, tunnel: Tunnel) -> Option<Self> {
        let (reused, once) = (REUSED_LINK_ALPN.to_vec(), LINK_ALPN.to_vec());
        match tunnel {
            Tunnel::Auto | Tunnel::Mux => {
                Some(self.with_alpn(vec![MUX_LINK_ALPN.to_vec(), reused, once]))
            }
            Tunnel::Reuse => Some(self.with_alpn(vec![reused])),
            Tunnel::Direct => None,
        }
    }

    /// The same offering a link that carries many requests' streams at once, as `tunnel` wants it.
    #[must_use]
    pub fn shared(&self, tunnel: Tunnel) -> Option<Self> {
        match tunnel {
            Tunnel::Auto | Tunnel::Mux => {
                Some(self.with_alpn(vec![MUX_LINK_ALPN.to_vec(), LINK_ALPN.to_vec()]))
            }
            Tunnel::Reuse | Tunnel::Direct => None,
        }
    }

    /// Towards a backend that speaks TLS: its certificate must lead to `backend_tls.trust` and
    /// carry the name; we show none. Extended key usage may be absent there.
    ///
    /// # Errors
    /// All problems of the roots' file, or options that leave no usable version or suite.
    pub fn backend(options: &BackendTls) -> Result<Self, Vec<MaterialError>> {
        Self::plain(&options.trust, &options.tls)
    }

    /// [`ClientTls::backend`] from its parts.
    ///
    /// # Errors
    /// All problems of the roots' file, or options that leave no usable version or suite.
    pub fn plain(roots: &Path, options: &TlsOptions) -> Result<Self, Vec<MaterialError>> {
        let provider = provider(options);
        let verification = load_verification(
            &Trust {
                roots: Some(roots),
                bundles: &[],
                pinned: &[],
                revocation: None,
                svid: None,
            },
            &provider,
            None,
        )?;
        Self::nobody(roots, verification, provider, options)
    }

    /// The same with the roots that the system trusts, for servers that anybody may ask.
    ///
    /// # Errors
    /// The system has none, or options that leave no usable version or suite.
    pub fn public(options: &TlsOptions) -> Result<Self, Vec<MaterialError>> {
        let provider = provider(options);
        let found = rustls_native_certs::load_native_certs();
        let place = Path::new("the system's roots");
        // one that can't be used must not take the others with it
        let roots: Vec<_> = found
            .certs
            .into_iter()
            .filter_map(|der| check_roots(place, vec![der], None).ok())
            .flatten()
            .collect();
        if roots.is_empty() {
            let why = found.errors.first().map(ToString::to_string);
            return Err(vec![MaterialError::file(
                place,
                why.unwrap_or_else(|| "there are none".to_owned()),
                "install ca-certificates, or name the roots",
            )]);
        }
        let verification = Verification::new(Arc::clone(&provider), roots, Vec::new(), None);
        Self::nobody(place, verification, provider, options)
    }

    /// A client that shows no certificate.
    fn nobody(
        roots: &Path,
        verification: Verification,
        provider: Arc<CryptoProvider>,
        options: &TlsOptions,
    ) -> Result<Self, Vec<MaterialError>> {
        let verification = verification.with_missing_usage_allowed();
        let verifier = Arc::new(ServerVerifier {
            verification: Arc::new(verification),
            check_name: NameCheck::ServerName,
            stale_lists_pass: false,
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions(options, TlsVersion::V1_2))
            .map_err(|e| {
                let setup = SetupError::from(e);
                vec![MaterialError::file(
                    roots,
                    setup.to_string(),
                    "change the TLS options of backend_tls",
                )]
            })?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        if own_records(options, TlsVersion::V1_2) {
            config.enable_secret_extraction = true;
            config.key_log = noter();
        }
        Ok(Self::of(config, verifier))
    }
}

/// The name as the handshake wants it.
#[must_use]
pub fn server_name(name: &config::ServerName) -> Option<ServerName<'static>> {
    match name {
        config::ServerName::Dns(name) => ServerName::try_from(name.as_str().to_owned()).ok(),
        config::ServerName::Ip(ip) => Some(ServerName::IpAddress((*ip).into())),
    }
}

/// Proves and judges servers inside the handshake.
#[derive(Debug)]
struct ServerVerifier {
    verification: Arc<Verification>,
    check_name: NameCheck,
    stale_lists_pass: bool,
}

impl ServerVerifier {
    fn prove(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Result<Arc<PeerFacts>, Denied> {
        let now = crate::clock::now();
        let peer = if self.stale_lists_pass {
            let chain = [std::slice::from_ref(end_entity), intermediates].concat();
            self.verification
                .prove_again(&chain, Usage::ServerAuth, now)?
        } else {
            self.verification
                .prove(end_entity, intermediates, Usage::ServerAuth, now)?
        };
        self.check_name.check(&peer, name)?;
        Ok(peer)
    }
}

/// RFC 9525: among DNS or IP SANs, never the common name.
pub(super) fn check_server_name(leaf: &CertFacts, name: &ServerName<'_>) -> Result<(), Denied> {
    let (matches, wanted) = match name {
        ServerName::DnsName(dns) => (
            leaf.dns
                .iter()
                .filter_map(|san| DnsPattern::parse(san))
                .any(|san| san.matches(dns.as_ref().trim_end_matches('.'))),
            dns.as_ref().to_owned(),
        ),
        ServerName::IpAddress(ip) => {
            let ip = std::net::IpAddr::from(*ip).to_canonical();
            (
                leaf.ips.iter().any(|san| san.to_canonical() == ip),
                ip.to_string(),
            )
        }
        _ => (false, format!("{name:?}")),
    };
    if matches {
        return Ok(());
    }
    let names: Vec<String> = leaf
        .dns
        .iter()
        .cloned()
        .chain(leaf.ips.iter().map(ToString::to_string))
        .collect();
    let has = if names.is_empty() {
        "it carries no DNS name or IP address (the common name does not count)".to_owned()
    } else {
        format!("it carries {}", names.join(", "))
    };
    Err(Denied::new(
        Denial::ServerNameMismatch,
        format!(
            "expected {wanted} in certificate {}; {has}",
            leaf.describe()
        ),
    ))
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Pending::judge_current(|| self.prove(end_entity, intermediates, server_name))
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self
            .verification
            .provider()
            .signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self
            .verification
            .provider()
            .signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verification
            .provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
