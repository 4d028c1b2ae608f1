//! Our account at a CA: its key is made once, kept in `state_dir` with mode 0600, and never leaves
//! this host.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use http::header;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::super::blocking;
use super::client::{Client, Refusal, Reply};
use crate::{
    config::{Acme, secret},
    identity::Sha256,
    pki::store::{PRIVATE, write_file},
    wire::{
        acme::jws::{AccountKey, Signer},
        base64,
    },
};

/// The layout of the file.
const SCHEMA: u32 = 1;

#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    schema: u32,
    /// For people, and to tell that the file is the right one.
    directory: String,
    contact: Vec<String>,
    /// PKCS#8, in base64.
    key: String,
    /// Its URL; `None`: the CA does not know it yet.
    account: Option<String>,
}

/// An account.
pub(super) struct Account {
    file: PathBuf,
    kept: Kept,
    pub(super) key: AccountKey,
}

/// The start of a hash, for names of files.
pub(super) fn short(text: &str) -> String {
    Sha256::of(text.as_bytes())
        .to_string()
        .chars()
        .take(16)
        .collect()
}

impl Account {
    /// The one of this CA and external account; it is made if there is none.
    pub(super) fn open(folder: &Path, acme: &Acme) -> Result<Self, String> {
        let external = acme.external_account.as_ref().map(|e| e.key_id.as_str());
        let of = format!("{}\n{}", acme.url, external.unwrap_or_default());
        let file = folder.join(format!("account-{}.json", short(&of)));
        let bad = |why: String| {
            format!(
                "{}: {why}: move it away, and another account is made",
                file.display()
            )
        };
        let kept: Kept = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = AccountKey::generate()?;
                let kept = Kept {
                    schema: SCHEMA,
                    directory: acme.url.clone(),
                    contact: acme.contact.clone(),
                    key: base64::encode(key.pkcs8()),
                    account: None,
                };
                // before the CA hears of it: an account without its key would be lost
                save(&file, &kept)?;
                kept
            }
            Err(error) => return Err(format!("{}: {error}", file.display())),
        };
        if kept.schema != SCHEMA {
            return Err(bad(format!("it has schema {}", kept.schema)));
        }
        let pkcs8 = base64::decode(kept.key.as_bytes()).map(Zeroizing::new);
        let pkcs8 = pkcs8.ok_or_else(|| bad("no key".into()))?;
        let key = AccountKey::from_pkcs8(&pkcs8).map_err(bad)?;
        Ok(Self { file, kept, key })
    }

    async fn keep(&self) -> Result<(), Refusal> {
        let (file, kept) = (self.file.clone(), self.kept.clone());
        Ok(blocking(move || save(&file, &kept)).await?)
    }

    /// Makes it known to the CA, or tells it of other contacts.
    async fn register(&mut self, client: &mut Client, acme: &Acme) -> Result<(), Refusal> {
        if let Some(account) = self.kept.account.clone() {
            if self.kept.contact != acme.contact {
                let payload = json!({ "contact": acme.contact }).to_string();
                let signer = (&self.key, Signer::Account(&account));
                let _updated = client
                    .post(signer, &account, &payload, "our contact")
                    .await?;
                self.kept.contact.clone_from(&acme.contact);
                self.keep().await?;
            }
            return Ok(());
        }
        let url = client.directory.new_account.clone();
        let mut payload = serde_json::Map::new();
        payload.insert("termsOfServiceAgreed".to_owned(), true.into());
        if !acme.contact.is_empty() {
            payload.insert("contact".to_owned(), json!(acme.contact));
        }
        match &acme.external_account {
            None if client.directory.meta.external_account_required => {
                return Err(
                    "the CA makes no account for strangers: set external_account to what \
                            it gave you"
                        .to_owned()
                        .into(),
                );
            }
            None => {}
            Some(external) => {
                let text = secret::load(&external.key, false).map_err(|e| e.to_string())?;
                let key = std::str::from_utf8(&text)
                    .ok()
                    .and_then(|text| base64::decode_url(text.trim_end_matches('=')))
                    .ok_or("external_account.key is not base64url, as CAs give it")
                    .map_err(str::to_owned)?;
                let bound = self.key.bound_to(&external.key_id, &key, &url);
                payload.insert("externalAccountBinding".to_owned(), bound);
            }
        }
        let signer = (&self.key, Signer::Key);
        let reply = client
            .post(signer, &url, &json!(payload).to_string(), "an account")
            .await?;
        let account = reply.header(header::LOCATION).map(str::to_owned);
        self.kept.account = Some(
            account
                .ok_or("the CA names no account")
                .map_err(str::to_owned)?,
        );
        self.kept.contact.clone_from(&acme.contact);
        self.keep().await?;
        tracing::info!(directory = %acme.url, "an account at the CA is ours");
        Ok(())
    }

    /// A request of the account. One that the CA has forgotten is made known again, once.
    pub(super) async fn post(
        &mut self,
        client: &mut Client,
        acme: &Acme,
        url: &str,
        payload: &str,
        what: &str,
    ) -> Result<Reply, Refusal> {
        let mut forgotten = false;
        loop {
            let done = match self.register(client, acme).await {
                Err(refusal) => Err(refusal),
                Ok(()) => {
                    let account = self.kept.account.clone().unwrap_or_default();
                    let signer = (&self.key, Signer::Account(&account));
                    client.post(signer, url, payload, what).await
                }
            };
            match done {
                Err(refusal)
                    if !forgotten && refusal.code.as_deref() == Some("accountDoesNotExist") =>
                {
                    forgotten = true;
                    self.kept.account = None;
                }
                done => return done,
            }
        }
    }
}

fn save(file: &Path, kept: &Kept) -> Result<(), String> {
    let text = serde_json::to_vec_pretty(kept).map_err(|error| error.to_string())?;
    write_file(file, &text, PRIVATE)
        .map_err(|error| format!("can't write {}: {error}", file.display()))
}

/// The folder of accounts and of what was tried, made if need be.
pub(super) fn folder(state: &Path) -> Result<PathBuf, String> {
    let folder = state.join("acme");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| {
            format!(
                "can't make {}: {error}: set [runtime] state_dir to a folder that the process may \
                 write to",
                folder.display()
            )
        })?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn acme(url: &str) -> Acme {
        Acme {
            url: url.to_owned(),
            domains: vec!["a.example".to_owned()],
            contact: Vec::new(),
            trust: None,
            external_account: None,
            challenge: crate::config::Challenge::Http01,
            http: None,
        }
    }

    #[test]
    fn a_key_is_made_once_for_each_ca_and_is_private() {
        let state = tempfile::tempdir().unwrap();
        let folder = folder(state.path()).unwrap();
        let made = Account::open(&folder, &acme("https://a.example/d")).unwrap();
        let again = Account::open(&folder, &acme("https://a.example/d")).unwrap();
        assert_eq!(made.key.thumbprint(), again.key.thumbprint());
        let other = Account::open(&folder, &acme("https://b.example/d")).unwrap();
        assert_ne!(made.key.thumbprint(), other.key.thumbprint());
        let mode = fs::metadata(&made.file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        write_file(&made.file, b"{}", PRIVATE).unwrap();
        let error = Account::open(&folder, &acme("https://a.example/d"))
            .err()
            .unwrap();
        assert!(error.contains("move it away"), "{error}");
    }
}
