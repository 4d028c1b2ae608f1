//! What proves to an ACME CA that a name is ours (RFC 8555 section 8, RFC 8737): there only while an
//! order asks for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};

/// Where tokens are asked for.
pub const PATH: &str = "/.well-known/acme-challenge/";
/// What a CA offers that looks for a proof by TLS (RFC 8737 section 6.2).
pub const ACME_ALPN: &[u8] = b"acme-tls/1";

/// The answers of this moment.
#[derive(Debug, Default)]
pub struct Challenges {
    /// By token (RFC 8555 section 8.3).
    tokens: Mutex<HashMap<String, String>>,
    /// By name, lower case (RFC 8737 section 3).
    proofs: Mutex<HashMap<String, Arc<ServerConfig>>>,
}

/// An answer that is given until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Offered {
    of: Arc<Challenges>,
    what: What,
}

#[derive(Debug)]
enum What {
    Token(String),
    Proof(String),
}

fn held<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Challenges {
    /// Answers this token with this key authorization from now on.
    pub fn offer(self: &Arc<Self>, token: &str, authorization: String) -> Offered {
        held(&self.tokens).insert(token.to_owned(), authorization);
        Offered {
            of: Arc::clone(self),
            what: What::Token(token.to_owned()),
        }
    }

    /// Shows CAs that ask for this name a certificate with this key authorization from now on.
    ///
    /// # Errors
    /// The name is none.
    pub fn offer_tls(self: &Arc<Self>, name: &str, authorization: &str) -> Result<Offered, String> {
        let config = proof(name, authorization).map_err(|error| error.to_string())?;
        let name = name.to_ascii_lowercase();
        held(&self.proofs).insert(name.clone(), Arc::new(config));
        Ok(Offered {
            of: Arc::clone(self),
            what: What::Proof(name),
        })
    }

    /// What `/.well-known/acme-challenge/TOKEN` says.
    #[must_use]
    pub fn answer(&self, token: &str) -> Option<String> {
        held(&self.tokens).get(token).cloned()
    }

    /// The handshake for a CA that asks for this name.
    #[must_use]
    pub fn proof(&self, name: &str) -> Option<Arc<ServerConfig>> {
        held(&self.proofs).get(&name.to_ascii_lowercase()).cloned()
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        match &self.what {
            What::Token(token) => drop(held(&self.of.tokens).remove(token)),
            What::Proof(name) => drop(held(&self.of.proofs).remove(name)),
        }
    }
}

/// RFC 8737 section 3: self-signed, for the one name, with the hash of the key authorization.
fn proof(
    name: &str,
    authorization: &str,
) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let hash = crate::identity::Sha256::of(authorization.as_bytes());
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&hash.0)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = provider.key_provider.load_private_key(key)?;
    // nobody but a CA understands the extension: it is not looked at here
    let shown = CertifiedKey::new(vec![certificate.der().clone()], key);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    config.alpn_protocols = vec![ACME_ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_lives_as_long_as_its_order() {
        let challenges = Arc::new(Challenges::default());
        let offered = challenges.offer("t", "t.thumb".to_owned());
        assert_eq!(challenges.answer("t").as_deref(), Some("t.thumb"));
        assert_eq!(challenges.answer("T"), None);
        drop(offered);
        assert_eq!(challenges.answer("t"), None);
        let shown = challenges.offer_tls("A.example", "t.thumb").unwrap();
        let config = challenges.proof("a.EXAMPLE").unwrap();
        assert_eq!(config.alpn_protocols, [ACME_ALPN.to_vec()]);
        assert!(challenges.proof("b.example").is_none());
        drop(shown);
        assert!(challenges.proof("a.example").is_none());
    }
}
