//! What is wrong with the files that a configuration names: collected in one run, each shown at
//! the place that names it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls_pki_types::InvalidDnsNameError;

use crate::{
    admit::{PeerRules, SourceRanges},
    config::{self, NetworkList, Source, networks::NetworksError, secret::SecretError},
    gateway::credentials::CredentialError,
    identity::{PeerName, Sha256},
    pki::PkiError,
    tls::{MaterialError, SetupError, material},
};

/// What is wrong with a file that the configuration names, or with what it adds up to.
pub(super) struct Fault {
    file: Option<PathBuf>,
    message: String,
    help: String,
    half: bool,
}

impl Fault {
    fn whole(message: impl ToString) -> Self {
        Self {
            file: None,
            message: message.to_string(),
            help: String::new(),
            half: false,
        }
    }
}

impl From<MaterialError> for Fault {
    fn from(error: MaterialError) -> Self {
        Self {
            message: error.what(),
            half: error.half,
            file: Some(error.file),
            help: error.advice,
        }
    }
}

impl From<NetworksError> for Fault {
    fn from(error: NetworksError) -> Self {
        Self {
            message: error.to_string(),
            file: Some(error.file().to_owned()),
            help: "one network a line, such as 203.0.113.0/28".to_owned(),
            half: false,
        }
    }
}

impl From<SecretError> for Fault {
    fn from(error: SecretError) -> Self {
        Self {
            message: error.to_string(),
            file: error.file().map(Path::to_owned),
            help: String::new(),
            half: false,
        }
    }
}

impl From<CredentialError> for Fault {
    fn from(error: CredentialError) -> Self {
        match error {
            CredentialError::Secret(error) => error.into(),
            CredentialError::Trust(error) => error.into(),
        }
    }
}

impl From<SetupError> for Fault {
    fn from(error: SetupError) -> Self {
        Self::whole(error)
    }
}

impl From<PkiError> for Fault {
    fn from(error: PkiError) -> Self {
        Self::whole(error)
    }
}

impl From<InvalidDnsNameError> for Fault {
    fn from(error: InvalidDnsNameError) -> Self {
        Self::whole(error)
    }
}

/// Collects every problem of a load.
pub(super) struct Problems {
    list: Vec<Fault>,
    pairs_in_force: bool,
}

impl Problems {
    /// None yet. `pairs_in_force`: where the files of a pair do not fit each other the pair in force
    /// stays, and that is none.
    pub(super) fn new(pairs_in_force: bool) -> Self {
        Self {
            list: Vec::new(),
            pairs_in_force,
        }
    }

    /// The same of what has a certificate and its key; `stays` has the pair in force, if there is one.
    pub(super) fn keep_pair<T>(
        &mut self,
        result: Result<T, Vec<MaterialError>>,
        stays: impl FnOnce() -> Option<Result<T, Vec<MaterialError>>>,
    ) -> Option<T> {
        let half = |errors: &Vec<MaterialError>| errors.iter().all(|error| error.half);
        let held = match &result {
            Err(errors) if self.pairs_in_force && half(errors) => stays(),
            Ok(_) | Err(_) => None,
        };
        self.keep_all(held.unwrap_or(result))
    }

    pub(super) fn keep<T, E: Into<Fault>>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.list.push(error.into())).ok()
    }

    pub(super) fn keep_all<T, E: Into<Fault>>(&mut self, result: Result<T, Vec<E>>) -> Option<T> {
        result
            .map_err(|errors| self.list.extend(errors.into_iter().map(Into::into)))
            .ok()
    }

    pub(super) fn add(&mut self, message: String) {
        self.list.push(Fault::whole(message));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Each at the place in the configuration that names its file.
    pub(super) fn placed(self, source: Arc<Source>) -> config::Problems {
        let half = !self.list.is_empty() && self.list.iter().all(|fault| fault.half);
        let mut list: Vec<_> = self
            .list
            .into_iter()
            .map(|fault| match fault.file {
                Some(file) => source.problem_with(&file, fault.message, fault.help),
                None => source.problem(None, fault.message, fault.help),
            })
            .collect();
        // one file may be named for several uses: it is told once
        list.dedup();
        if list.is_empty() {
            list.push(source.problem(None, "the configuration can't be loaded", ""));
        }
        config::Problems { source, list, half }
    }

    /// Tells `pinned:FILE` rules which certificate they mean.
    pub(super) fn resolve_pins(&mut self, rules: &mut PeerRules) {
        let names = rules
            .rules
            .iter_mut()
            .filter_map(|rule| rule.peers.as_mut())
            .flat_map(|p| &mut p.0);
        for name in names {
            if let PeerName::Pinned { file, fingerprint } = name {
                let chain = self.keep(material::load_chain(Path::new(file)));
                *fingerprint = chain.and_then(|chain| chain.first().map(|der| Sha256::of(der)));
            }
        }
    }

    pub(super) fn ranges(&mut self, list: &NetworkList) -> Option<SourceRanges> {
        self.keep(config::networks::load(list))
            .map(SourceRanges::new)
    }
}
