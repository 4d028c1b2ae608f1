//! An identity that is held in memory alone, as a SPIFFE Workload API hands it out (X509-SVID
//! specification): chain, key, roots, and whom other trust domains believe.

use std::path::PathBuf;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::{
    identity::{PeerName, PeerNames, SpiffeId, TrustDomain},
    wire::svid::{Response, Svid},
};

/// One X509-SVID with all that came beside it. The key is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct HeldSvid {
    /// Where it came from, for messages.
    pub socket: PathBuf,
    /// Whose it is.
    pub id: SpiffeId,
    pub(super) chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) federated: Vec<(TrustDomain, Vec<CertificateDer<'static>>)>,
    pub(super) crls: Vec<Vec<u8>>,
}

impl std::fmt::Debug for HeldSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldSvid")
            .field("socket", &self.socket)
            .field("id", &self.id.to_string())
            .finish_non_exhaustive()
    }
}

impl HeldSvid {
    /// Takes what `response` has for `wanted`, else its first. What is said beside it are the
    /// bundles that were left out: their domains are believed by nobody.
    ///
    /// # Errors
    /// There is none, or it can't be read.
    pub fn choose(
        response: &Response,
        wanted: Option<&SpiffeId>,
        socket: &std::path::Path,
    ) -> Result<(Self, Vec<String>), String> {
        let svid = match wanted {
            None => response.svids.first(),
            Some(id) => {
                let id = id.to_string();
                response.svids.iter().find(|svid| svid.id == id)
            }
        };
        let Some(svid) = svid else {
            let handed: Vec<String> = response
                .svids
                .iter()
                .map(|s| format!("{:?}", s.id))
                .collect();
            return Err(match wanted {
                Some(id) if !handed.is_empty() => format!(
                    "no X509-SVID for {id}; there are {}: see `id`, and the entries of this workload",
                    handed.join(", ")
                ),
                _ => "no X509-SVID for this process: register an entry for it".to_owned(),
            });
        };
        let id = SpiffeId::parse(&svid.id).map_err(|error| error.to_string())?;
        let (federated, left_out) = federated(response, &id);
        let held = Self {
            socket: socket.to_owned(),
            chain: named(certificates(&svid.chain), "x509_svid", svid)?,
            key: svid.key.clone(),
            roots: named(certificates(&svid.bundle), "bundle", svid)?,
            federated,
            crls: response.crls.clone(),
            id,
        };
        Ok((held, left_out))
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_vec()).into()
    }

    /// The names that roots of another trust domain speak for: its own.
    pub(super) fn names_of(domain: &TrustDomain) -> Option<PeerNames> {
        let all = format!("spiffe://{}/*", domain.as_str());
        Some(PeerNames(vec![PeerName::parse(&all).ok()?]))
    }
}

fn named<T>(read: Result<T, &'static str>, what: &str, svid: &Svid) -> Result<T, String> {
    read.map_err(|problem| format!("{what} of {:?}: {problem}", svid.id))
}

/// Roots of other trust domains. Ours is not among them, whatever an agent calls it.
fn federated(
    response: &Response,
    own: &SpiffeId,
) -> (
    Vec<(TrustDomain, Vec<CertificateDer<'static>>)>,
    Vec<String>,
) {
    let mut list = Vec::new();
    let mut left_out = Vec::new();
    for (name, roots) in &response.federated {
        let bare = name.strip_prefix("spiffe://").unwrap_or(name);
        let domain = TrustDomain::parse(bare.strip_suffix('/').unwrap_or(bare));
        let read = match domain {
            Err(error) => Err(error.to_string()),
            Ok(domain) if domain == *own.domain() => {
                Err("it is our own trust domain, whose roots come with the X509-SVID".to_owned())
            }
            Ok(domain) => certificates(roots)
                .map(|roots| (domain, roots))
                .map_err(ToOwned::to_owned),
        };
        match read {
            Ok(read) => list.push(read),
            Err(problem) => left_out.push(format!("federated bundle {name:?}: {problem}")),
        }
    }
    // the order of a map is nobody's
    list.sort_by(|(a, _), (b, _)| a.cmp(b));
    (list, left_out)
}

/// Certificates in DER, one after the other; at least one.
fn certificates(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let mut list = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der)
            .map_err(|_error| "expected certificates in DER, one after the other")?;
        let (one, _) = der
            .split_at_checked(der.len().saturating_sub(rest.len()))
            .ok_or("expected certificates in DER")?;
        list.push(CertificateDer::from(one.to_vec()));
        der = rest;
    }
    match list.is_empty() {
        true => Err("it is empty"),
        false => Ok(list),
    }
}
