//! Certificate files: reading them, and every check that one side can make of its own before a
//! peer would make it.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, TrustAnchor, pem::PemObject,
    },
    sign::CertifiedKey,
};
use webpki::EndEntityCert;

pub use super::key::load_key;
use super::{
    error::{MaterialError, when},
    key_use::{issuer_fault, key_fault, leaf_fault},
    signed::Signed,
    verify::{Root, Usage},
};
use crate::{
    config::SecretRef,
    identity::{CertFacts, PeerNames, UnixSeconds},
};

/// A CRL of a large CA is some MiB; nothing else comes near.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Our own certificate: checked chain, key, and what the leaf says.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) leaf: CertFacts,
    pub(super) not_after: UnixSeconds,
}

/// Reads a public file whole, up to a sane size.
pub(super) fn read_public(path: &Path) -> Result<Vec<u8>, MaterialError> {
    let unreadable = |e: std::io::Error| {
        MaterialError::file(path, e.to_string(), "check the path and its permissions")
    };
    let mut bytes = Vec::new();
    let _read = File::open(path)
        .map_err(unreadable)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(MaterialError::file(
            path,
            "it is larger than 64 MiB",
            "expected certificates or CRLs",
        ));
    }
    Ok(bytes)
}

/// Loads the certificates of a PEM file, in order; at least one.
///
/// # Errors
/// The file can't be read or holds none.
pub fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let pem = read_public(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| {
            MaterialError::file(
                path,
                format!("malformed PEM: {e}"),
                "expected CERTIFICATE sections",
            )
        })?;
    if certificates.is_empty() {
        let problem = if pem.first() == Some(&0x30) {
            "no PEM certificate in it; it looks like DER"
        } else {
            "no certificate in it"
        };
        return Err(MaterialError::file(
            path,
            problem,
            "expected one or more PEM sections CERTIFICATE (openssl x509 -inform der converts)",
        ));
    }
    Ok(certificates)
}

/// Whether a certificate of a file can be read and is over; what else may be wrong with it is told by
/// its load.
#[must_use]
pub fn has_ended(path: &Path, now: UnixSeconds) -> bool {
    load_chain(path).is_ok_and(|chain| {
        let mut facts = chain.iter().filter_map(|der| CertFacts::read(der).ok());
        facts.any(|facts| facts.not_after < now)
    })
}

/// Reads the facts of every certificate of a file.
fn facts_of(
    path: &Path,
    certificates: &[CertificateDer<'static>],
) -> Result<Vec<CertFacts>, Vec<MaterialError>> {
    let (facts, errors): (Vec<_>, Vec<_>) = certificates
        .iter()
        .enumerate()
        .map(|(at, der)| {
            CertFacts::read(der).map_err(|e| MaterialError {
                certificate: Some(format!("certificate {}", at + 1)),
                ..MaterialError::file(path, e.to_string(), "issue it again")
            })
        })
        .partition(Result::is_ok);
    if errors.is_empty() {
        Ok(facts.into_iter().filter_map(Result::ok).collect())
    } else {
        Err(errors.into_iter().filter_map(Result::err).collect())
    }
}

/// Loads our own chain and key, and checks them as far as one side can. That a chain which is in
/// force has ended since is no error: it must not keep what else has changed from coming into
/// force.
pub(super) fn load_own(
    certificate: &Path,
    key: &Path,
    passphrase: Option<&SecretRef>,
    usage: Usage,
    provider: &CryptoProvider,
    now: UnixSeconds,
    in_force: &[Arc<CertifiedKey>],
) -> Result<Own, Vec<MaterialError>> {
    let chain = load_chain(certificate);
    let key_der = load_key(key, passphrase);
    check_own(
        (certificate, chain),
        (key, key_der),
        usage,
        provider,
        now,
        in_force,
    )
}

/// The same of what has been read, each with where it came from.
pub(super) fn check_own(
    (certificate, chain): (&Path, Result<Vec<CertificateDer<'static>>, MaterialError>),
    (key, key_der): (&Path, Result<PrivateKeyDer<'static>, MaterialError>),
    usage: Usage,
    provider: &CryptoProvider,
    now: UnixSeconds,
    in_force: &[Arc<CertifiedKey>],
) -> Result<Own, Vec<MaterialError>> {
    let mut errors = Vec::new();
    let chain = chain.map_err(|e| errors.push(e)).ok().and_then(|chain| {
        facts_of(certificate, &chain)
            .map_err(|more| errors.extend(more))
            .ok()
            .map(|facts| (chain, facts))
    });
    let key_der = key_der.map_err(|e| errors.push(e)).ok();
    if let Some((chain, facts)) = &chain {
        if !in_force.iter().any(|held| held.cert == *chain) {
            errors.extend(check_own_dates(certificate, facts, now));
        }
        errors.extend(check_own_chain(certificate, chain, facts, usage, provider));
    }
    let (Some((chain, facts)), Some(key_der)) = (chain, key_der) else {
        return Err(errors);
    };
    let signing = provider
        .key_provider
        .load_private_key(key_der)
        .map_err(|e| {
            MaterialError::file(
                key,
                format!("the key can't be used: {e}"),
                "expected RSA of 2048 bits or more, ECDSA P-256, P-384 or P-521, or Ed25519",
            )
        });
    let certified = match signing {
        Ok(signing) => {
            let certified = CertifiedKey::new(chain, signing);
            if let Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) =
                certified.keys_match()
            {
                let problem = format!(
                    "it is not the key of the first certificate in {}",
                    certificate.display()
                );
                let advice =
                    "give the key that the certificate was issued for; the leaf stands first";
                errors.push(MaterialError {
                    half: true,
                    ..MaterialError::file(key, problem, advice)
                });
            }
            Some(certified)
        }
        Err(error) => {
            errors.push(error);
            None
        }
    };
    let not_after = facts.iter().map(|f| f.not_after).min();
    match (certified, facts.into_iter().next(), not_after) {
        (Some(certified), Some(leaf), Some(not_after)) if errors.is_empty() => Ok(Own {
            certified: Arc::new(certified),
            leaf,
            not_after,
        }),
        _ => Err(errors),
    }
}

fn check_own_dates<'a>(
    file: &'a Path,
    facts: &'a [CertFacts],
    now: UnixSeconds,
) -> impl Iterator<Item = MaterialError> + 'a {
    facts.iter().filter_map(move |facts| {
        let denied = super::verify::check_dates(facts, now).err()?;
        Some(MaterialError::certificate(
            file,
            facts,
            format!(
                "valid from {} to {}, and now is {} ({})",
                when(facts.not_before),
                when(facts.not_after),
                when(now),
                denied.reason.code()
            ),
            "renew it, or set the clock",
        ))
    })
}

/// Order, signatures, dates, role: what a peer would find fault with.
fn check_own_chain(
    file: &Path,
    chain: &[CertificateDer<'static>],
    facts: &[CertFacts],
    usage: Usage,
    provider: &CryptoProvider,
) -> Vec<MaterialError> {
    let mut errors = Vec::new();
    for ((below, issuer), issuer_der) in facts
        .iter()
        .zip(facts.iter().skip(1))
        .zip(chain.iter().skip(1))
    {
        if below.issuer != issuer.subject {
            errors.push(MaterialError::certificate(
                file,
                below,
                format!("the next certificate in the file is {:?}", issuer.subject),
                "expected the leaf first, then each issuer in order",
            ));
        } else if !issuer.is_ca {
            errors.push(MaterialError::certificate(
                file,
                issuer,
                "it stands as an issuer and is no CA (basicConstraints)",
                "expected the leaf first, then CA certificates",
            ));
        } else if let Some(fault) = issuer_fault(issuer).filter(|_| issuer.subject != issuer.issuer)
        {
            // a root is believed as it is
            errors.push(MaterialError::certificate(
                file,
                issuer,
                format!("it may not sign certificates: {fault}"),
                "no peer will believe what it issued: expected a CA certificate with keyCertSign",
            ));
        } else if let Some(below_der) =
            chain.get(facts.iter().position(|f| f == below).unwrap_or_default())
            && !signed_by(below_der, issuer_der, provider)
        {
            errors.push(MaterialError::certificate(
                file,
                below,
                format!("its signature is not by {}", issuer.describe()),
                "that issuer has another key: put the right certificate of the issuer behind it",
            ));
        }
    }
    if let (Some(leaf), Some(der)) = (facts.first(), chain.first()) {
        errors.extend(check_own_leaf(file, leaf, der, usage));
    }
    errors
}

fn check_own_leaf(
    file: &Path,
    leaf: &CertFacts,
    der: &CertificateDer<'static>,
    usage: Usage,
) -> Vec<MaterialError> {
    let mut errors = Vec::new();
    let (fits, wanted, end) = match usage {
        Usage::ClientAuth => (leaf.usage.client_auth, "clientAuth", "opens connections"),
        Usage::ServerAuth => (leaf.usage.server_auth, "serverAuth", "accepts connections"),
    };
    if leaf.usage.present && !fits {
        errors.push(MaterialError::certificate(
            file,
            leaf,
            format!("this end {end}, and the certificate lacks extended key usage {wanted}"),
            "issue it for this role",
        ));
    }
    if let Some(fault) = leaf_fault(leaf).filter(|_| leaf.issuer != leaf.subject) {
        errors.push(MaterialError::certificate(
            file,
            leaf,
            format!("no peer will take it for a handshake: {fault}"),
            "issue it with key usage digitalSignature",
        ));
    }
    if leaf.is_ca && leaf.issuer != leaf.subject {
        errors.push(MaterialError::certificate(
            file,
            leaf,
            "the first certificate is a CA's",
            "expected the leaf first, then its issuers",
        ));
    }
    if let Some(many) = leaf.ambiguity() {
        errors.push(MaterialError::certificate(
            file,
            leaf,
            format!("it carries {many}"),
            "issue it with its SPIFFE ID as its only URI",
        ));
    }
    if let Err(e) = EndEntityCert::try_from(der) {
        errors.push(MaterialError::certificate(
            file,
            leaf,
            format!("no TLS peer will read it: {e:?}"),
            "expected an X.509 v3 certificate with known critical extensions",
        ));
    }
    errors
}

/// Whether `issuer`'s key made the signature of `certificate`.
pub(super) fn signed_by(
    certificate: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
    provider: &CryptoProvider,
) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (Ok((_, parsed)), Ok((_, issuer))) = (
        X509Certificate::from_der(certificate),
        X509Certificate::from_der(issuer),
    ) else {
        return false;
    };
    let signed = Signed::new(
        parsed.signature_algorithm.algorithm.as_bytes(),
        parsed.tbs_certificate.as_ref(),
        parsed.signature_value.as_ref(),
    );
    let key = SubjectPublicKeyInfoDer::from(issuer.public_key().raw);
    signed.is_some_and(|signed| signed.is_by(&key, provider))
}

/// Loads roots. A certificate that is no CA does not belong there: it would be an anchor.
pub(super) fn load_roots(
    path: &Path,
    bundle: Option<&PeerNames>,
) -> Result<Vec<(Root, TrustAnchor<'static>)>, Vec<MaterialError>> {
    let certificates = load_chain(path).map_err(|e| vec![e])?;
    check_roots(path, certificates, bundle)
}

/// The same of what has been read, and where it came from.
pub(super) fn check_roots(
    path: &Path,
    certificates: Vec<CertificateDer<'static>>,
    bundle: Option<&PeerNames>,
) -> Result<Vec<(Root, TrustAnchor<'static>)>, Vec<MaterialError>> {
    let facts = facts_of(path, &certificates)?;
    let mut roots = Vec::new();
    let mut errors = Vec::new();
    for (der, facts) in certificates.into_iter().zip(facts) {
        if !facts.is_ca {
            errors.push(MaterialError::certificate(
                path,
                &facts,
                "it is no CA certificate (basicConstraints CA:FALSE)",
                "a single certificate to be believed as it is belongs in pinned",
            ));
            continue;
        }
        let anchor = webpki::anchor_from_trusted_cert(&der).map(|anchor| anchor.to_owned());
        match anchor {
            Ok(anchor) => roots.push((
                Root {
                    facts,
                    bundle: bundle.cloned(),
                    der,
                },
                anchor,
            )),
            Err(e) => errors.push(MaterialError::certificate(
                path,
                &facts,
                format!("it can't be used as a root: {e:?}"),
                "expected an X.509 CA certificate",
            )),
        }
    }
    if errors.is_empty() {
        Ok(roots)
    } else {
        Err(errors)
    }
}

/// Loads one pinned certificate: exactly one in the file, whatever its constraints.
pub(super) fn load_pin(
    path: &Path,
) -> Result<(CertificateDer<'static>, CertFacts), Vec<MaterialError>> {
    let mut certificates = load_chain(path).map_err(|e| vec![e])?;
    let mut facts = facts_of(path, &certificates)?;
    match (certificates.len(), certificates.pop(), facts.pop()) {
        (1, Some(der), Some(facts)) => {
            // the key must be readable by the engine, or possession can't be checked later
            EndEntityCert::try_from(&der).map_err(|e| {
                vec![MaterialError::certificate(
                    path,
                    &facts,
                    format!("it can't be used in a handshake: {e:?}"),
                    "expected an X.509 v3 certificate",
                )]
            })?;
            if let Some(fault) = key_fault(&facts) {
                return Err(vec![MaterialError::certificate(
                    path,
                    &facts,
                    fault,
                    "let the other side make another key",
                )]);
            }
            Ok((der, facts))
        }
        (count, ..) => Err(vec![MaterialError::file(
            path,
            format!("{count} certificates in it"),
            "a pinned file holds exactly one certificate; list more files to pin more",
        )]),
    }
}
