//! `[identity]`: who we are on the link, and whom we believe; and the same keys where they stand
//! elsewhere.

use std::path::PathBuf;

use super::{
    CertificateFiles, Identity, Renewal, RenewalSource, Revocation, Store, TrustBundle,
    acme::Keys,
    defaults,
    reader::{Table, Value},
    values::{
        certificate_files, duration, judge_endpoint, key_passphrase, own_address, secret,
        some_peer_names,
    },
};
use crate::{
    admit::DeniedList,
    identity::{PeerName, SpiffeId},
};

/// `[identity]`, or a backend's own; `name` is what warnings call it.
pub(super) fn read_identity(table: Table<'_>, name: &str) -> Option<Identity> {
    let renewal = read_renewal(&table, name);
    let source = table.get("source").filter(Value::is_string);
    // also where something else about it is wrong: it is told of that, not of files
    let held = source.and_then(|v| v.string()).filter(|v| *v == "spiffe");
    let files = match &held {
        None => certificate_files(&table),
        Some(_) => no_files(&table, renewal.as_ref()),
    };
    if let (
        Some(Renewal {
            from: RenewalSource::Acme(_),
            ..
        }),
        Some(files),
    ) = (&renewal, &files)
        && files.key_passphrase.is_some()
    {
        table.add(
            format!("[{name}] with source = \"acme\" has `key_passphrase`"),
            "keys of its certificates are made anew each time, and written with mode 0600: remove it",
        );
    }
    let trust = table.get("trust").filter(|_| held.is_none());
    if let (Some(renewal), None) = (&renewal, &trust)
        && matches!(renewal.from, RenewalSource::Server { .. })
    {
        table.add(
            format!("[{name}] with source = \"renew\" needs `trust`"),
            "the certificate of `pki serve` must chain to one of its roots",
        );
    }
    let pinned = table.get("pinned");
    let bundle = table.get("trust_bundle");
    let (no_trust, no_bundle) = (trust.is_none(), bundle.is_none());
    let list = pinned.as_ref().map(paths).unwrap_or_default();
    let bundles: Vec<TrustBundle> = bundle
        .as_ref()
        .and_then(Value::list)
        .unwrap_or_default()
        .iter()
        .filter_map(read_bundle)
        .collect();
    let revocation = match held {
        None => revocation(&table, ["crl", "crl_policy"], Some("crl_scope")),
        Some(_) => revocation_of_held(&table),
    };
    let denied = table
        .get("denied")
        .map(|v| read_denied(&v))
        .unwrap_or_default();
    if held.is_none() && no_trust && no_bundle && pinned.as_ref().is_none_or(Value::is_empty_list) {
        table.add(
            format!("[{name}] trusts nobody: `trust`, `pinned` and `trust_bundle` are absent"),
            "name the roots that the other side chains to: trust = \"trust.pem\"",
        );
    }
    if revocation.is_none() && !(no_trust && no_bundle) && table.get("crl").is_none() {
        let warning = "is not set: revoked certificates of the other side are not refused";
        table.notes.warn(format!("{name}.crl {warning}"));
    }
    let span = table.span.clone();
    let trust = trust.and_then(|v| v.path());
    table.finish();
    let files = files?;
    Some(Identity {
        certificate: files.certificate,
        key: files.key,
        key_passphrase: files.key_passphrase,
        trust,
        bundles,
        pinned: list,
        revocation,
        denied,
        renewal,
        span,
    })
}

/// What `source` may say.
#[derive(Clone, Copy)]
enum Source {
    Files,
    Renew,
    Pki,
    Spiffe,
    Acme,
}

/// `source` and its companions. `None`: files that somebody else replaces.
fn read_renewal(table: &Table<'_>, name: &str) -> Option<Renewal> {
    let source = table.get("source");
    let words = [
        ("files", Source::Files),
        ("renew", Source::Renew),
        ("pki", Source::Pki),
        ("spiffe", Source::Spiffe),
        ("acme", Source::Acme),
    ];
    let chosen = match &source {
        None => Source::Files,
        Some(value) => value.word(&words, &[])?,
    };
    if let (Some(value), true) = (
        source.filter(|_| !matches!(chosen, Source::Files)),
        name != "identity",
    ) {
        value.bad(
            format!("[{name}] can't renew itself: it is not supported yet"),
            "expected source = \"files\" here; [identity] itself can",
        );
    }
    let url = table.get("url");
    let dir = table.get("dir");
    let passphrase = table.get("ca_passphrase");
    let refresh = table.get("refresh");
    let bind = table.get("bind");
    let socket = table.get("socket");
    let id = table.get("id");
    let acme = Keys::of(table);
    let unused: &[_] = match chosen {
        Source::Files => &[&url, &bind, &dir, &passphrase, &refresh, &socket, &id],
        Source::Renew => &[&dir, &passphrase, &socket, &id],
        Source::Pki => &[&url, &bind, &socket, &id],
        Source::Spiffe => &[&url, &bind, &dir, &passphrase, &refresh],
        Source::Acme => &[&bind, &dir, &passphrase, &refresh, &socket, &id],
    };
    let of_acme = acme.written().filter(|_| !matches!(chosen, Source::Acme));
    refuse_unused(unused.iter().copied().flatten().chain(of_acme));
    let from = match chosen {
        Source::Files => return None,
        Source::Renew => {
            let Some(url) = url else {
                table.add(
                    format!("[{name}] with source = \"renew\" needs `url`"),
                    "where `pki serve` listens: url = \"https://pki.internal:9444\"",
                );
                return None;
            };
            read_server(&url, bind.as_ref())?
        }
        Source::Pki => {
            let Some(dir) = dir else {
                table.add(
                    format!("[{name}] with source = \"pki\" needs `dir`"),
                    "the folder that `pki init` made: dir = \"pki\"",
                );
                return None;
            };
            RenewalSource::Store(read_store(&dir, passphrase.as_ref())?)
        }
        Source::Spiffe => read_workload(table, name, socket.as_ref(), id.as_ref())?,
        Source::Acme => RenewalSource::Acme(acme.read(table, name, url.as_ref())?),
    };
    Some(Renewal {
        from,
        refresh: refresh
            .and_then(|value| duration(&value))
            .unwrap_or(defaults::REFRESH),
    })
}

fn refuse_unused<'v, 'a: 'v>(values: impl Iterator<Item = &'v Value<'a>>) {
    for value in values {
        let wanted = match value.key {
            "url" | "bind" | "refresh" => "renew",
            "socket" | "id" => "spiffe",
            "dir" | "ca_passphrase" => "pki",
            _ => "acme",
        };
        value.bad(
            format!("`{}` does nothing with this source", value.key),
            format!("it goes with source = {wanted:?}"),
        );
    }
}

/// Where a Workload API is, and which of its identities is ours.
fn read_workload(
    table: &Table<'_>,
    name: &str,
    socket: Option<&Value<'_>>,
    id: Option<&Value<'_>>,
) -> Option<RenewalSource> {
    let Some(socket) = socket else {
        table.add(
            format!("[{name}] with source = \"spiffe\" needs `socket`"),
            "the agent's Workload API: socket = \"unix:/run/spire/agent.sock\"",
        );
        return None;
    };
    let socket = socket.judged("\"unix:/PATH\"", workload_socket);
    let id = match id {
        None => None,
        Some(id) => Some(id.judged("a SPIFFE ID", |text| {
            SpiffeId::parse(text).map_err(|error| error.to_string())
        })?),
    };
    Some(RenewalSource::Workload {
        socket: socket?,
        id,
    })
}

/// As in `SPIFFE_ENDPOINT_SOCKET`: `unix:/path` or `unix:///path`, without host, user, query or
/// fragment (SPIFFE Workload Endpoint section 4).
fn workload_socket(text: &str) -> Result<PathBuf, String> {
    let expected = "expected an absolute path, such as \"unix:/run/spire/agent.sock\"";
    let rest = text.strip_prefix("unix:").ok_or(expected)?;
    let path = match rest.strip_prefix("//") {
        // what follows the two slashes would be a host
        Some(path) => path,
        None => rest,
    };
    let whole = path.starts_with('/')
        && !path.starts_with("//")
        && !path.contains(['?', '#'])
        && !path.chars().any(char::is_control);
    // of `sockaddr_un`
    if !whole || path.len() > 107 {
        return Err(expected.to_owned());
    }
    Ok(PathBuf::from(path))
}

/// Nothing of an identity that is held in memory alone stands in files of ours.
fn no_files(table: &Table<'_>, renewal: Option<&Renewal>) -> Option<CertificateFiles> {
    let passphrase = key_passphrase(table).is_some();
    let keys = [
        table.get("certificate"),
        table.get("key"),
        table.get("key_passphrase").filter(|_| passphrase),
        table.get("trust"),
        table.get("crl"),
    ];
    for value in keys.into_iter().flatten() {
        value.bad(
            format!("`{}` does nothing with source = \"spiffe\"", value.key),
            "remove it: it comes from the Workload API",
        );
    }
    let RenewalSource::Workload { socket, .. } = &renewal?.from else {
        return None;
    };
    Some(CertificateFiles {
        certificate: socket.clone(),
        key: socket.clone(),
        key_passphrase: None,
        acme: None,
    })
}

/// How the CRLs of a Workload API are used; `None`: as they come.
fn revocation_of_held(table: &Table<'_>) -> Option<Revocation> {
    let policy = table.get("crl_policy");
    let scope = table.get("crl_scope");
    if policy.is_none() && scope.is_none() {
        return None;
    }
    let (tolerate_expired, leaf_only) = crl_words(policy.as_ref(), scope.as_ref());
    Some(Revocation {
        files: Vec::new(),
        tolerate_expired,
        leaf_only,
    })
}

/// What `crl_policy` and `crl_scope` say, the strict way where they say nothing.
fn crl_words(policy: Option<&Value<'_>>, scope: Option<&Value<'_>>) -> (bool, bool) {
    let tolerate = policy.and_then(|v| v.word(&[("require", false), ("tolerate", true)], &[]));
    let leaf_only = scope.and_then(|v| v.word(&[("chain", false), ("leaf", true)], &[]));
    (tolerate.unwrap_or(false), leaf_only.unwrap_or(false))
}

/// Where `pki serve` is.
fn read_server(url: &Value<'_>, bind: Option<&Value<'_>>) -> Option<RenewalSource> {
    let endpoint = url.judged("an https:// URL", |text| {
        let (address, server_name, host, target) = judge_endpoint(text)?;
        if target != "/" {
            return Err("expected scheme, host and port alone".to_owned());
        }
        Ok((address, server_name, host))
    });
    let (address, server_name, host) = endpoint?;
    Some(RenewalSource::Server {
        address,
        server_name,
        host,
        bind: bind.and_then(own_address),
    })
}

/// The folder of an authority and the passphrase of its keys. What is in the folder is none of
/// the files that a reload reads.
pub(super) fn read_store(dir: &Value<'_>, passphrase: Option<&Value<'_>>) -> Option<Store> {
    let folder = dir.judged("a folder", |text| {
        if text.is_empty() || text.contains('\0') {
            return Err("expected the folder that `pki init` made".to_owned());
        }
        Ok(dir.joined(text))
    });
    let passphrase = match passphrase {
        None => None,
        // whoever made the CA chose it: a short one is judged by `pki init`
        Some(value) => Some(secret(value, true)?),
    };
    Some(Store {
        folder: folder?,
        passphrase,
    })
}

fn read_bundle(item: &Value<'_>) -> Option<TrustBundle> {
    let table = item.table("[[identity.trust_bundle]]")?;
    let file = table
        .need("file", "a PEM file of roots")
        .and_then(|v| v.path());
    let names = table.need(
        "names",
        "what these roots speak for: [\"dns:*.partner.example\"]",
    );
    let names = names.and_then(|value| {
        let names = some_peer_names(&value, &[])?;
        let of_one = |name: &PeerName| match name {
            PeerName::Spiffe(_) | PeerName::SpiffePrefix { .. } | PeerName::Dns(_) => false,
            PeerName::Fingerprint(_) | PeerName::Spki(_) | PeerName::Pinned { .. } => true,
        };
        if names.0.iter().any(of_one) {
            let help = "expected names that a CA can put into a certificate: dns: or spiffe://";
            value.bad(
                "roots speak for names, not for one certificate or key",
                help,
            );
        }
        Some(names)
    });
    table.finish();
    Some(TrustBundle {
        file: file?,
        names: names?,
    })
}

fn read_denied(value: &Value<'_>) -> DeniedList {
    let mut denied = DeniedList::default();
    for item in value.list().unwrap_or_default() {
        let expected = "\"sha256:HEX\" or \"serial:HEX\"";
        let _added = item.judged(expected, |text| denied.add(text));
    }
    denied
}

/// One file or a list of files, none of them twice.
pub(super) fn paths(value: &Value<'_>) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = Vec::new();
    for item in value.list_or_one().unwrap_or_default() {
        match item.path() {
            Some(path) if list.contains(&path) => {
                item.bad(
                    format!("{} stands here twice", path.display()),
                    "remove one",
                );
            }
            path => list.extend(path),
        }
    }
    list
}

/// `crl` and its companions, under the names that they have in this table.
pub(super) fn revocation(
    table: &Table<'_>,
    [crl, policy]: [&'static str; 2],
    scope: Option<&'static str>,
) -> Option<Revocation> {
    let files = table.get(crl);
    let policy = table.get(policy);
    let scope = scope.and_then(|scope| table.get(scope));
    let (tolerate_expired, leaf_only) = crl_words(policy.as_ref(), scope.as_ref());
    let Some(files) = files else {
        for lonely in [policy, scope].into_iter().flatten() {
            // who writes "require" believes that something is required
            lonely.bad(
                format!("`{}` without `{crl}` does nothing", lonely.key),
                format!("name the files: {crl} = [\"crl.pem\"]"),
            );
        }
        return None;
    };
    if files.is_empty_list() {
        files.bad(
            format!("`{crl}` names no file"),
            "leave it out, or name at least one",
        );
    }
    Some(Revocation {
        files: paths(&files),
        tolerate_expired,
        leaf_only,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_socket_is_an_absolute_path() {
        for good in ["unix:/run/agent.sock", "unix:///run/agent.sock"] {
            let path = workload_socket(good).unwrap();
            assert_eq!(path, Path::new("/run/agent.sock"), "{good}");
        }
        for bad in [
            "",
            "/run/agent.sock",
            "unix:",
            "unix:agent.sock",
            "unix://host/agent.sock",
            "unix:////agent.sock",
            "unix:/a?b",
            "unix:/a#b",
            "unix:/a\nb",
            "tcp://127.0.0.1:8081",
            &format!("unix:/{}", "a".repeat(107)),
        ] {
            assert!(workload_socket(bad).is_err(), "{bad}");
        }
    }
}
