//! Where a certificate comes from an ACME CA (RFC 8555): the keys of `source = "acme"`.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use super::{
    Acme, CertificateFiles, Challenge, ExternalAccount,
    reader::{Table, Value},
    values::{judge_endpoint, secret},
};
use crate::identity::{DnsName, Sha256};

/// An order for more names than this is refused by the CAs that there are.
const MOST_DOMAINS: usize = 100;

/// Of a domain, in the names of its files.
const LONGEST_STEM: usize = 150;

/// What `source = "acme"` has beside `url`.
pub(super) struct Keys<'a> {
    pub(super) domains: Option<Value<'a>>,
    pub(super) contact: Option<Value<'a>>,
    pub(super) trust: Option<Value<'a>>,
    pub(super) external: Option<Value<'a>>,
    pub(super) http: Option<Value<'a>>,
}

impl<'a> Keys<'a> {
    pub(super) fn of(table: &Table<'a>) -> Self {
        Self {
            domains: table.get("domains"),
            contact: table.get("contact"),
            trust: table.get("acme_trust"),
            external: table.get("external_account"),
            http: table.get("acme_http"),
        }
    }

    /// Those that are written.
    pub(super) fn written(&self) -> impl Iterator<Item = &Value<'a>> {
        let all = [
            &self.domains,
            &self.contact,
            &self.trust,
            &self.external,
            &self.http,
        ];
        all.into_iter().flatten()
    }

    /// Reads them; `name` is the table's, for problems.
    pub(super) fn read(
        self,
        table: &Table<'a>,
        name: &str,
        url: Option<&Value<'a>>,
    ) -> Option<Arc<Acme>> {
        if url.is_none() {
            table.add(
                format!("[{name}] with source = \"acme\" needs `url`"),
                "the CA's directory: url = \"https://ca.internal/acme/acme/directory\"",
            );
        }
        if self.domains.is_none() {
            table.add(
                format!("[{name}] with source = \"acme\" needs `domains`"),
                "the names that the certificate is for: domains = [\"edge.example\"]",
            );
        }
        let url = url.and_then(|url| {
            url.judged("an https:// URL", |text| {
                judge_endpoint(text).map(|_endpoint| text.to_owned())
            })
        });
        let domains = self.domains.and_then(|value| read_domains(&value));
        let contact = self.contact.map(|value| read_contact(&value));
        let trust = self.trust.map(|value| value.path());
        let external = self.external.map(|value| read_external(&value));
        let http = self.http.map(|value| {
            value.judged("\"IP:PORT\" or \"[IPv6]:PORT\"", |text| {
                let parsed = text.parse::<SocketAddr>();
                parsed.map_err(|_not_one| "expected such as \"0.0.0.0:80\"".to_owned())
            })
        });
        Some(Arc::new(Acme {
            url: url?,
            domains: domains?,
            contact: contact.unwrap_or_default(),
            challenge: Challenge::Http01,
            trust: trust.unwrap_or_default(),
            external_account: match external {
                Some(read) => Some(read?),
                None => None,
            },
            http: match http {
                Some(read) => Some(read?),
                None => None,
            },
        }))
    }
}

/// `certificate = { acme = "URL", domains = […] }` of a listener: its files are in `state`, and
/// listeners that say the same share them.
pub(super) fn certificate(value: &Value<'_>, state: Option<PathBuf>) -> Option<CertificateFiles> {
    let table = value.table("`certificate`")?;
    let url = table.need("acme", "the CA's directory: acme = \"https://…\"");
    let domains = table.need("domains", "the names that it is for: [\"www.example.org\"]");
    let contact = table.get("contact");
    let trust = table.get("trust");
    let external = table.get("external_account");
    let challenge = table.get("challenge");
    table.finish();
    let url = url.and_then(|url| {
        url.judged("an https:// URL", |text| {
            judge_endpoint(text).map(|_endpoint| text.to_owned())
        })
    });
    let domains = domains.and_then(|value| read_domains(&value));
    let contact = contact.map(|value| read_contact(&value));
    let trust = trust.map(|value| value.path());
    let external = external.map(|value| read_external(&value));
    let ways = [
        ("tls-alpn-01", Challenge::TlsAlpn01),
        ("http-01", Challenge::Http01),
    ];
    let challenge = challenge.map(|value| value.word(&ways, &[]));
    let Some(state) = state else {
        let help = "set [runtime] state_dir";
        value.bad("there is no folder for the certificate", help);
        return None;
    };
    let acme = Acme {
        url: url?,
        domains: domains?,
        contact: contact.unwrap_or_default(),
        trust: trust.unwrap_or_default(),
        external_account: match external {
            Some(read) => Some(read?),
            None => None,
        },
        challenge: match challenge {
            Some(read) => read?,
            None => Challenge::TlsAlpn01,
        },
        http: None,
    };
    let mut names = acme.domains.clone();
    names.sort();
    let hash = Sha256::of(format!("{}\n{}", acme.url, names.join("\n")).as_bytes()).to_string();
    let hash: String = hash.chars().take(16).collect();
    // a file's name has 255 bytes at most, and a domain 253; what goes into it beside is told by the hash
    let name: String = acme.domains.first()?.chars().take(LONGEST_STEM).collect();
    let file = |end: &str| {
        let path = state.join("acme").join(format!("{name}-{hash}.{end}"));
        value.notes.name(&path, value.span.clone());
        path
    };
    Some(CertificateFiles {
        certificate: file("pem"),
        key: file("key"),
        key_passphrase: None,
        acme: Some(Arc::new(acme)),
    })
}

fn read_domains(value: &Value<'_>) -> Option<Vec<String>> {
    let items = value.list()?;
    if items.is_empty() || items.len() > MOST_DOMAINS {
        let message = format!("`{}` names {} domains", value.key, items.len());
        value.bad(message, format!("expected 1 to {MOST_DOMAINS}"));
        return None;
    }
    let mut domains: Vec<String> = Vec::new();
    for item in items {
        let domain = item.judged("a DNS name", |text| {
            if text.starts_with("*.") {
                return Err(
                    "a wildcard takes the challenge dns-01, which is not spoken: name \
                            each host"
                        .to_owned(),
                );
            }
            match DnsName::parse(text) {
                Some(name) => Ok(name.as_str().to_owned()),
                None => Err("expected a DNS name, such as \"edge.example\"".to_owned()),
            }
        });
        match domain {
            Some(domain) if domains.contains(&domain) => {
                item.bad(format!("{domain:?} stands here twice"), "remove one");
            }
            domain => domains.extend(domain),
        }
    }
    Some(domains)
}

fn read_contact(value: &Value<'_>) -> Vec<String> {
    let items = value.list_or_one().unwrap_or_default();
    let read = |item: &Value<'_>| {
        item.judged("a URL", |text| {
            let plain = text.chars().all(|c| c.is_ascii_graphic());
            match text.strip_prefix("mailto:") {
                Some(address) if plain && address.contains('@') => Ok(text.to_owned()),
                None if plain && text.contains(':') => Ok(text.to_owned()),
                _ => Err("expected such as \"mailto:ops@example.org\"".to_owned()),
            }
        })
    };
    items.iter().filter_map(read).collect()
}

fn read_external(value: &Value<'_>) -> Option<ExternalAccount> {
    let table = value.table("`external_account`")?;
    let key_id = table
        .need("key_id", "what the CA calls the account")
        .and_then(|v| v.string().map(str::to_owned));
    let key = table
        .need(
            "key",
            "the secret that the CA gave with it: { file = \"…\" }",
        )
        .and_then(|v| secret(&v, false));
    table.finish();
    Some(ExternalAccount {
        key_id: key_id?,
        key: key?,
    })
}
