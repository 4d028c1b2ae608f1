//! The store on this host: certificates from it, and its own lists.

use super::{
    blocking,
    files::{self, Own},
};
use crate::{
    config::{Identity, Store, secret},
    identity::CertFacts,
    pki::{Authority, Passphrase},
};

pub(super) fn passphrase(identity: &Identity) -> Result<Option<Passphrase>, String> {
    let loaded = identity
        .key_passphrase
        .as_ref()
        .map(|secret| secret::load(secret, true));
    loaded
        .transpose()
        .map(|value| value.map(Passphrase::from))
        .map_err(|error| error.to_string())
}

/// Opens a store on this host, with the passphrase of its keys.
fn open(store: &Store) -> Result<Authority, String> {
    let loaded = store.passphrase.as_ref().map(|p| secret::load(p, true));
    let passphrase = loaded.transpose().map_err(|error| error.to_string())?;
    let authority = Authority::open(&store.folder).map_err(|error| error.to_string())?;
    Ok(authority.with_passphrase(passphrase.map(Passphrase::from)))
}

pub(super) fn from_store(own: &Own, store: &Store, leaf: &CertFacts) -> Result<CertFacts, String> {
    let passphrase = passphrase(&own.identity)?;
    let (key, renewed) = open(store)?
        .renew_here(leaf, passphrase.as_ref())
        .map_err(|error| error.to_string())?;
    files::install(own, leaf, &key, &renewed.pem)
}

/// The lists of the store that we serve: nobody else is there to renew them.
pub(super) async fn keep_crls(store: Store, warn: bool) {
    let kept = blocking(move || {
        let authority = open(&store)?;
        let written = authority.keep_crls().map_err(|error| error.to_string())?;
        let warnings = match warn {
            true => authority.warnings().map_err(|error| error.to_string())?,
            false => Vec::new(),
        };
        Ok((written, warnings))
    });
    match kept.await {
        Ok((written, warnings)) => {
            if let Some(written) = written {
                tracing::info!(number = written.number, next_update = %written.next_update, "CRLs written anew");
            }
            for warning in warnings {
                tracing::warn!(%warning, "the store");
            }
        }
        Err(error) => tracing::error!(%error, "the CRLs can't be renewed"),
    }
}
