//! Configuration: what the user typed becomes validated types or a list of problems. Types hold
//! paths and rules, never loaded keys.

mod acceptor;
mod common;
mod defaults;
mod gateway;
pub mod networks;
mod problem;
mod reader;
pub mod secret;
pub mod types;
mod values;

use std::path::{Path, PathBuf};

pub use problem::{Problem, Problems};
pub use types::*;

use reader::{Notes, Table};

/// Reads and validates a configuration file. The role is told by its shape.
///
/// # Errors
/// Every problem of the file.
pub fn load(path: &Path) -> Result<Config, Problems> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path),
        Err(error) => Err(Problems {
            file: path.to_owned(),
            text: String::new(),
            list: vec![Problem {
                span: 0..0,
                message: format!("can't be read: {error}"),
                help: None,
            }],
        }),
    }
}

/// Validates a configuration's text; `path` is where it stands.
///
/// # Errors
/// Every problem of the text.
pub fn parse(text: &str, path: &Path) -> Result<Config, Problems> {
    let fail = |list| Problems {
        file: path.to_owned(),
        text: text.to_owned(),
        list,
    };
    let document = toml::de::DeTable::parse(text).map_err(|error| {
        fail(vec![Problem {
            span: error.span().unwrap_or(0..0),
            message: error.message().to_owned(),
            help: None,
        }])
    })?;
    let log = Notes::default();
    let root = Table::new("the file", document.span(), document.get_ref(), log.clone());
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let config = match shape(&root) {
        Shape::Gateway => gateway::read(root, path, &folder).map(Config::Gateway),
        Shape::Acceptor => acceptor::read(root, path, &folder).map(Config::Acceptor),
        Shape::Unclear(message) => {
            log.add(0..1, message, "a gateway has [[route]] and [backend.NAME], an acceptor `backend` in each [[listener]]");
            None
        }
    };
    let problems = log.take();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ if problems.is_empty() => Err(fail(vec![Problem {
            span: 0..1,
            message: "the file can't be used".to_owned(),
            help: None,
        }])),
        _ => Err(fail(problems)),
    }
}

enum Shape {
    Gateway,
    Acceptor,
    Unclear(&'static str),
}

fn shape(root: &Table<'_>) -> Shape {
    let gateway = root.get("route").is_some() || root.get("backend").is_some();
    let quiet = Notes::default();
    let acceptor = root
        .entries()
        .iter()
        .filter(|(key, _)| key == "listener")
        .any(|(_, value)| {
            value
                .list_quietly()
                .iter()
                .filter_map(|item| item.table_with("listener", quiet.clone()))
                .any(|l| l.get("backend").is_some())
        });
    match (gateway, acceptor) {
        (true, false) => Shape::Gateway,
        (false, true) => Shape::Acceptor,
        (true, true) => Shape::Unclear("is it a gateway or an acceptor? it has the marks of both"),
        (false, false) => Shape::Unclear("neither a gateway nor an acceptor"),
    }
}

impl Config {
    /// What both roles have.
    #[must_use]
    pub fn common(&self) -> &Common {
        match self {
            Self::Gateway(gateway) => &gateway.common,
            Self::Acceptor(acceptor) => &acceptor.common,
        }
    }

    /// Every file that it names, itself included.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let common = self.common();
        let mut files = vec![common.file.clone()];
        add_identity(&mut files, &common.identity);
        if let Some(admin) = &common.admin {
            add_secret(&mut files, admin.token.as_ref());
            files.extend(
                admin
                    .certificate
                    .iter()
                    .flat_map(|c| [c.certificate.clone(), c.key.clone()]),
            );
        }
        match self {
            Self::Gateway(gateway) => {
                for listener in &gateway.listeners {
                    for certificate in &listener.certificates {
                        files.extend([certificate.certificate.clone(), certificate.key.clone()]);
                        add_secret(&mut files, certificate.key_passphrase.as_ref());
                    }
                    if let Some(auth) = &listener.client_auth {
                        files.extend(auth.ca.clone());
                        files.extend(auth.pinned.iter().cloned());
                        files.extend(auth.revocation.iter().flat_map(|r| r.files.clone()));
                    }
                    let lists = [
                        listener.allow.as_ref(),
                        Some(&listener.deny),
                        listener.proxy_from.as_ref(),
                        Some(&listener.trusted_proxies),
                    ];
                    files.extend(
                        lists
                            .into_iter()
                            .flatten()
                            .flat_map(|list| list.files.clone()),
                    );
                }
                for backend in gateway.backends.values() {
                    if let Some(identity) = &backend.identity {
                        add_identity(&mut files, identity);
                    }
                }
            }
            Self::Acceptor(acceptor) => {
                for listener in &acceptor.listeners {
                    files.extend(listener.backend_tls.iter().map(|tls| tls.trust.clone()));
                    files.extend(
                        listener
                            .rules
                            .iter()
                            .filter_map(|r| r.from.as_ref())
                            .flat_map(|l| l.files.clone()),
                    );
                    let lists = [Some(&listener.untrusted_ips), listener.proxy_from.as_ref()];
                    files.extend(
                        lists
                            .into_iter()
                            .flatten()
                            .flat_map(|list| list.files.clone()),
                    );
                }
            }
        }
        files.sort();
        files.dedup();
        files
    }
}

fn add_identity(files: &mut Vec<PathBuf>, identity: &Identity) {
    files.extend([identity.certificate.clone(), identity.key.clone()]);
    files.extend(identity.trust.clone());
    files.extend(identity.bundles.iter().map(|bundle| bundle.file.clone()));
    files.extend(identity.pinned.iter().cloned());
    files.extend(identity.revocation.iter().flat_map(|r| r.files.clone()));
    add_secret(files, identity.key_passphrase.as_ref());
}

fn add_secret(files: &mut Vec<PathBuf>, secret: Option<&SecretRef>) {
    if let Some(SecretRef::File(file)) = secret {
        files.push(file.clone());
    }
}

#[cfg(test)]
mod tests;
