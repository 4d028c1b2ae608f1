//! The accepting end: server configurations, built once per generation and shared by all
//! connections. What belongs to one connection reaches the verifier through `Pending`.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    LINK_ALPN, MUX_LINK_ALPN, REUSED_LINK_ALPN, Usage, Verification,
    challenge::{ACME_ALPN, Challenges},
    edge::{EdgeCertificate, EdgeMaterial},
    error::SetupError,
    generation::Generation,
    pending::Pending,
    provider::versions,
    records::noter,
    sessions::Sessions,
    shown::{BySni, Shown},
    staple::{Staple, Staples},
    tickets::Tickets,
};
use crate::{
    config::{GatewayListener, Mode, Records, TlsOptions, TlsVersion},
    wire::hello::{offers_protocol, offers_tls_1_3},
};

/// ALPN of PostgreSQL's direct TLS.
const POSTGRES_ALPN: &[u8] = b"postgresql";

/// A server's side of TLS, ready for any number of handshakes.
#[derive(Clone)]
pub struct ServerTls {
    /// For clients that offered a protocol that this server may agree on.
    with_alpn: Arc<ServerConfig>,
    /// For all others, answered as if we had no ALPN; `None`: a mismatch is refused.
    without_alpn: Option<Arc<ServerConfig>>,
    /// Names whose certificate has not come yet, and whether any has.
    awaited: (Arc<[String]>, bool),
    /// What CAs are shown.
    challenges: Option<Arc<Challenges>>,
    pub(super) verification: Option<Arc<Verification>>,
    /// Nobody enters without a certificate, whatever a judge says.
    pub(super) required: bool,
    /// Where nobody is asked for a certificate.
    tickets: Option<Arc<Tickets>>,
    /// Where somebody is.
    sessions: Option<Arc<Sessions>>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls")
            .field("alpn", &self.with_alpn.alpn_protocols)
            .finish_non_exhaustive()
    }
}

impl ServerTls {
    /// The acceptor's end of the link: a client certificate is required, in resumed sessions too,
    /// and `portcullis/3`, `/2` or `/1` is agreed with those who offer it.
    ///
    /// # Errors
    /// The options leave no usable version or suite.
    pub fn link(generation: &Generation, options: &TlsOptions) -> Result<Self, SetupError> {
        let verifier = Arc::new(ClientVerifier {
            verification: generation.verification.clone(),
            required: true,
            // no hints: a pinned peer's own certificate is issued by none of our roots, and
            // strangers need not learn whom we trust
            hints: Vec::new(),
        });
        let plain = ServerConfig::builder_with_provider(generation.provider.clone())
            .with_protocol_versions(versions(options, TlsVersion::V1_3))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(BySni::only(Shown {
                plain: generation.certified.clone(),
                staple: None,
            })));
        let (mut plain, sessions) = with_sessions(plain, &generation.verification, true);
        if options.records == Records::Own {
            hand_records_over(&mut plain);
        }
        let mut ours = plain.clone();
        ours.alpn_protocols = [MUX_LINK_ALPN, REUSED_LINK_ALPN, LINK_ALPN]
            .map(<[u8]>::to_vec)
            .to_vec();
        Ok(Self {
            with_alpn: Arc::new(ours),
            without_alpn: Some(Arc::new(plain)),
            awaited: (Arc::default(), true),
            challenges: None,
            verification: Some(generation.verification.clone()),
            required: true,
            tickets: None,
            sessions: Some(sessions),
        })
    }

    /// The same where http is spoken: gateways of other makes may agree on its version, and one
    /// that offers nothing we know is answered without.
    #[must_use]
    pub fn with_http(self) -> Self {
        let mut config = ServerConfig::clone(&self.with_alpn);
        let spoken = [LINK_ALPN, b"h2", b"http/1.1"];
        config.alpn_protocols = spoken.map(<[u8]>::to_vec).to_vec();
        Self {
            with_alpn: Arc::new(config),
            ..self
        }
    }

    /// The same where requests of HTTP/1.1 alone are answered, once in a while: nothing is
    /// resumed.
    #[must_use]
    pub fn with_http1(self) -> Self {
        let mut config = without_sessions(ServerConfig::clone(&self.with_alpn));
        let plain = self.without_alpn.as_deref().cloned().map(without_sessions);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            with_alpn: Arc::new(config),
            without_alpn: plain.map(Arc::new),
            ..self
        }
    }

    /// A gateway's client-facing listener. `tickets` are the keys of the same listener before a
    /// reload: they stay in use while it shows the same certificates and asks for none.
    ///
    /// # Errors
    /// The options leave no usable version or suite.
    pub fn edge(
        material: &EdgeMaterial,
        listener: &GatewayListener,
        staples: &Staples,
        tickets: Option<Arc<Tickets>>,
    ) -> Result<Self, SetupError> {
        let offered: Vec<Vec<u8>> = match (listener.mode, listener.starttls_postgres) {
            (Mode::Http, _) => listener
                .alpn
                .iter()
                .map(|p| p.clone().into_bytes())
                .collect(),
            (Mode::Tcp, true) => vec![POSTGRES_ALPN.to_vec()],
            (Mode::Tcp, false) => Vec::new(),
        };
        let strict = listener.mode == Mode::Http;
        let staple = |certificate: &EdgeCertificate| {
            let wanted = listener.ocsp_stapling;
            wanted.then(|| staples.of(certificate)).flatten()
        };
        Self::showing(material, &listener.tls, (offered, strict), tickets, staple)
    }

    /// Any other server, such as the admin listener. A client that offers ALPN and none of
    /// `protocols` is refused if `strict` (RFC 7301 section 3.2), else answered without.
    ///
    /// # Errors
    /// The options leave no usable version or suite.
    pub fn server(
        material: &EdgeMaterial,
        options: &TlsOptions,
        protocols: Vec<Vec<u8>>,
        strict: bool,
    ) -> Result<Self, SetupError> {
        Self::showing(material, options, (protocols, strict), None, |_| None)
    }

    fn showing(
        material: &EdgeMaterial,
        options: &TlsOptions,
        (protocols, strict): (Vec<Vec<u8>>, bool),
        tickets: Option<Arc<Tickets>>,
        staple: impl Fn(&EdgeCertificate) -> Option<Arc<Staple>>,
    ) -> Result<Self, SetupError> {
        let (mut own_tickets, mut own_sessions) = (None, None);
        let builder = ServerConfig::builder_with_provider(material.provider.clone())
            .with_protocol_versions(versions(options, TlsVersion::V1_2))?;
        let resolver = Arc::new(BySni::new(material, |certificate| Shown {
            plain: certificate.certified.clone(),
            staple: staple(certificate),
        }));
        let mut plain = if let Some(verification) = &material.verification {
            let hints = if verification.pins().next().is_some() {
                Vec::new()
            } else {
                // browsers choose the certificate to show by these
                verification
                    .root_names()
                    .map(DistinguishedName::in_sequence)
                    .collect()
            };
            let verifier = Arc::new(ClientVerifier {
                verification: verification.clone(),
                required: material.client_required,
                hints,
            });
            let config = builder
                .with_client_cert_verifier(verifier)
                .with_cert_resolver(resolver);
            let (config, sessions) = with_sessions(config, verification, material.client_required);
            own_sessions = Some(sessions);
            config
        } else {
            let config = builder.with_no_client_auth().with_cert_resolver(resolver);
            let mut config = without_sessions(config);
            // nobody was identified, so a resumed session escapes no rule
            let kept = tickets.filter(|tickets| tickets.belong_to(&material.id));
            let tickets = kept.unwrap_or_else(|| Tickets::new(material.id));
            config.ticketer = tickets.clone();
            config.send_tls13_tickets = 1;
            own_tickets = Some(tickets);
            config
        };
        if options.records == Records::Own {
            hand_records_over(&mut plain);
        }
        let mut with = plain.clone();
        with.alpn_protocols = protocols;
        let lenient = !strict || with.alpn_protocols.is_empty();
        Ok(Self {
            with_alpn: Arc::new(with),
            without_alpn: lenient.then(|| Arc::new(plain)),
            awaited: (
                Arc::clone(&material.awaited),
                !material.certificates.is_empty(),
            ),
            challenges: None,
            verification: material.verification.clone(),
            required: material.client_required,
            tickets: own_tickets,
            sessions: own_sessions,
        })
    }

    /// The keys of the tickets that it gives out: where callers show no certificates.
    #[must_use]
    pub fn tickets(&self) -> Option<Arc<Tickets>> {
        self.tickets.clone()
    }

    /// Drops sessions and keys of tickets whose time is over.
    pub fn forget_old(&self) {
        if let Some(tickets) = &self.tickets {
            tickets.drop_old();
        }
        if let Some(sessions) = &self.sessions {
            sessions.drop_old();
        }
    }

    /// The same where CAs are shown the proofs of names (RFC 8737).
    #[must_use]
    pub fn with_challenges(self, challenges: Arc<Challenges>) -> Self {
        Self {
            challenges: Some(challenges),
            ..self
        }
    }

    /// For a CA that looks for a proof which is there at this moment: its handshake ends with it.
    pub(super) fn proof_for(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let mut offered = hello.alpn()?;
        let alone = offered.next() == Some(ACME_ALPN) && offered.next().is_none();
        let name = hello.server_name().filter(|_| alone)?;
        self.challenges.as_ref()?.proof(name)
    }

    /// Whether there is nothing to show yet to who asks for this name.
    pub(super) fn awaits(&self, sni: Option<&str>) -> bool {
        let (awaited, any) = &self.awaited;
        !any || sni.is_some_and(|name| awaited.iter().any(|a| a.eq_ignore_ascii_case(name)))
    }

    /// The configuration for this client.
    pub(super) fn config_for(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        self.config_if_offered(|ours| {
            hello
                .alpn()
                .is_some_and(|mut offered| offered.any(|protocol| protocol == ours))
        })
    }

    /// The same for a hello of which only octets are there; `None`: it is not whole, or rustls has
    /// to read it before it is known how it is answered.
    pub(super) fn config_at_sight(&self, hello: &[u8]) -> Option<Arc<ServerConfig>> {
        let (awaited, any) = &self.awaited;
        let proves = self.challenges.is_some() && offers_protocol(hello, |name| name == ACME_ALPN);
        if !any || !awaited.is_empty() || proves || !offers_tls_1_3(hello) {
            return None;
        }
        let config = self.config_if_offered(|ours| offers_protocol(hello, |name| name == ours));
        config.enable_secret_extraction.then_some(config)
    }

    fn config_if_offered(&self, offered: impl Fn(&[u8]) -> bool) -> Arc<ServerConfig> {
        match &self.without_alpn {
            Some(without)
                if !self
                    .with_alpn
                    .alpn_protocols
                    .iter()
                    .any(|ours| offered(ours)) =>
            {
                without.clone()
            }
            _ => self.with_alpn.clone(),
        }
    }
}

/// Where a certificate is asked for: the sessions know whom they admit. Shared by the two forms of
/// one server, which believe and ask the same, and by nobody else.
fn with_sessions(
    config: ServerConfig,
    verification: &Arc<Verification>,
    required: bool,
) -> (ServerConfig, Arc<Sessions>) {
    let mut config = without_sessions(config);
    let sessions = Sessions::new(verification.clone(), required);
    config.session_storage = sessions.clone();
    config.send_tls13_tickets = 1;
    (config, sessions)
}

/// TLS 1.3's records are kept by `tls/records` after the handshake.
fn hand_records_over(config: &mut ServerConfig) {
    config.enable_secret_extraction = true;
    config.key_log = noter();
}

/// Resumes nothing, and takes no early data.
fn without_sessions(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    config
}

/// Proves and judges callers inside the handshake.
#[derive(Debug)]
struct ClientVerifier {
    verification: Arc<Verification>,
    required: bool,
    hints: Vec<DistinguishedName>,
}

impl ClientVerifier {
    fn provider(&self) -> &CryptoProvider {
        self.verification.provider()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Pending::judge_current(|| {
            self.verification.prove(
                end_entity,
                intermediates,
                Usage::ClientAuth,
                crate::clock::now(),
            )
        })?;
        let _kept = Pending::current(|pending| pending.shown(end_entity, intermediates));
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
