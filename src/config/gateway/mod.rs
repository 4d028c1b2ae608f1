//! gateway.toml: listeners. Routes and backends are in their own files.

mod backend;
mod route;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{
    CertificateFiles, ClientAuth, ClientCert, GatewayConfig, GatewayListener, Mode, TlsOptions,
    acceptor::read_proxy_from,
    common::{Head, clashes, head, limits_over, paths, revocation, tls_over},
    defaults,
    reader::{Table, Value},
    values::{certificate_files, listen_address, networks, peer_names, secret},
};

pub(super) fn read(root: Table<'_>, file: &Path, folder: &Path) -> Option<GatewayConfig> {
    let mut head = head(&root, folder, defaults::CONNECTIONS_PER_IP);
    root.later("policy");
    let values = root
        .need("listener", "at least one [[listener]]")
        .and_then(|v| v.list())
        .unwrap_or_default();
    let mut listeners: Vec<GatewayListener> = Vec::new();
    for value in &values {
        let Some(table) = value.table("[[listener]]") else {
            continue;
        };
        let Some(listener) = read_listener(table, &mut head, folder) else {
            continue;
        };
        if let Some(other) = listeners.iter().find(|other| other.name == listener.name) {
            value.bad(
                format!("two listeners are called {:?}", other.name),
                "give each a name of its own",
            );
        }
        if let Some(other) = listeners
            .iter()
            .find(|other| clashes(&other.address, &listener.address))
        {
            value.bad(
                format!(
                    "{} clashes with {} of listener {:?}",
                    listener.address, other.address, other.name
                ),
                "only one of them can be bound",
            );
        }
        listeners.push(listener);
    }
    let mut backends = BTreeMap::new();
    if let Some(table) = root
        .need("backend", "at least one [backend.NAME]")
        .and_then(|v| v.table("[backend]"))
    {
        for (name, value) in table.entries() {
            if let Some(backend) = backend::read(&name, &value, &head, folder) {
                backends.insert(name, Arc::new(backend));
            }
        }
    }
    let complete = listeners.len() == values.len() && !values.is_empty();
    let names: Vec<String> = root
        .get("backend")
        .and_then(|v| v.table("[backend]"))
        .map(|table| table.entries().into_iter().map(|(name, _)| name).collect())
        .unwrap_or_default();
    let routes = route::read_all(&root, &listeners, complete, &names, folder);
    for name in &names {
        if !routes.iter().any(|route| &route.backend == name) {
            head.warnings
                .push(format!("no route leads to backend {name}"));
        }
    }
    root.finish();
    let common = head.into_common(file)?;
    complete.then_some(GatewayConfig {
        common,
        listeners,
        routes,
        backends,
    })
}

fn read_listener(table: Table<'_>, head: &mut Head, folder: &Path) -> Option<GatewayListener> {
    let address = table
        .need("address", "where clients connect: \"0.0.0.0:8443\"")
        .and_then(|v| listen_address(&v));
    let name = table.get("name").and_then(|v| v.string());
    let mode_value = table.need("mode", "\"http\" or \"tcp\"");
    let mode = mode_value.as_ref().and_then(|value| {
        if value.string().as_deref() == Some("redirect") {
            value.bad(
                "`mode = \"redirect\"` is not supported yet",
                "expected \"http\" or \"tcp\"",
            );
            return None;
        }
        value.word(&[("http", Mode::Http), ("tcp", Mode::Tcp)])
    });
    let tls = tls_over(&head.tls, table.get("tls").as_ref(), "[listener.tls]");
    let limits = limits_over(
        &head.limits,
        table.get("limits").as_ref(),
        "[listener.limits]",
    );
    let certificates = read_certificates(&table, folder);
    let alpn = read_alpn(&table, mode);
    let allow = table.get("allow").and_then(|v| networks(&v, folder));
    let deny = table
        .get("deny")
        .and_then(|v| networks(&v, folder))
        .unwrap_or_default();
    let label = name.clone().unwrap_or_else(|| "?".to_owned());
    let client_auth = read_client_auth(&table, head, folder, &label);
    let proxy_from = read_proxy_from(&table, folder);
    let proxies = table.get("trusted_proxies");
    if let (Some(value), Some(Mode::Tcp)) = (&proxies, mode) {
        value.bad(
            "`trusted_proxies` in tcp mode",
            "it is about HTTP headers; proxy_protocol is for byte streams",
        );
    }
    let trusted_proxies = proxies
        .and_then(|v| networks(&v, folder))
        .unwrap_or_default();
    let starttls = table.get("starttls");
    let starttls_postgres = starttls
        .as_ref()
        .is_some_and(|value| read_starttls(value, mode));
    table.finish();
    let (address, certificates) = (address?, certificates?);
    Some(GatewayListener {
        name: name.map_or_else(|| address.to_string().into(), Arc::from),
        address,
        mode: mode?,
        certificates,
        alpn,
        allow,
        deny,
        client_auth,
        proxy_from,
        trusted_proxies,
        starttls_postgres,
        tls,
        limits,
    })
}

fn read_starttls(value: &Value<'_>, mode: Option<Mode>) -> bool {
    match value.string().as_deref() {
        Some("postgres") => {}
        Some(other @ ("mysql" | "smtp" | "imap" | "ldap")) => {
            value.bad(
                format!("`starttls = {other:?}` is not supported yet"),
                "expected \"postgres\"",
            );
        }
        Some(other) => value.bad(
            format!("`starttls` can't be {other:?}"),
            "expected \"postgres\"",
        ),
        None => {}
    }
    if mode == Some(Mode::Http) {
        value.bad(
            "`starttls` in http mode",
            "it is for byte streams: mode = \"tcp\"",
        );
    }
    true
}

fn read_alpn(table: &Table<'_>, mode: Option<Mode>) -> Vec<String> {
    let Some(value) = table.get("alpn") else {
        return if mode == Some(Mode::Http) {
            vec!["h2".to_owned(), "http/1.1".to_owned()]
        } else {
            Vec::new()
        };
    };
    if mode == Some(Mode::Tcp) {
        value.bad(
            "`alpn` in tcp mode",
            "a byte stream has no protocols to choose from",
        );
        return Vec::new();
    }
    let list: Vec<&str> = value
        .list()
        .unwrap_or_default()
        .iter()
        .filter_map(|item| item.word(&[("h2", "h2"), ("http/1.1", "http/1.1")]))
        .collect();
    if list.is_empty() {
        value.bad(
            "`alpn` leaves nothing to negotiate",
            "expected [\"h2\", \"http/1.1\"] or one of them",
        );
    }
    list.into_iter().map(str::to_owned).collect()
}

fn read_certificates(table: &Table<'_>, folder: &Path) -> Option<Vec<CertificateFiles>> {
    let (certificate, key) = (table.get("certificate"), table.get("key"));
    let passphrase = table.get("key_passphrase").and_then(|v| secret(&v, folder));
    let more = table.get("tls_certificate");
    let mut list = Vec::new();
    match (&certificate, &key) {
        (Some(value), _) if value.is_table() => {
            value.bad("a certificate by ACME is not supported yet", "name a file");
            return None;
        }
        (Some(certificate), Some(key)) => list.push(CertificateFiles {
            certificate: certificate.path(folder)?,
            key: key.path(folder)?,
            key_passphrase: passphrase,
        }),
        (Some(value), None) => value.bad("`certificate` without `key`", "name the private key"),
        (None, Some(value)) => value.bad("`key` without `certificate`", "name the certificate"),
        (None, None) => {}
    }
    for item in more.as_ref().and_then(Value::list).unwrap_or_default() {
        if let Some(table) = item.table("[[listener.tls_certificate]]") {
            let files = certificate_files(&table, folder);
            table.finish();
            list.push(files?);
        }
    }
    if list.is_empty() && certificate.is_none() && key.is_none() {
        table.log.add(
            table.head(),
            "[[listener]] needs `certificate` and `key`",
            "clients are answered over TLS only: name what is shown to them",
        );
    }
    (!list.is_empty()).then_some(list)
}

fn read_client_auth(
    table: &Table<'_>,
    head: &mut Head,
    folder: &Path,
    name: &str,
) -> Option<ClientAuth> {
    let ca = table.get("client_ca");
    let pinned_value = table.get("client_pinned");
    let mode = table.get("client_cert");
    let clients = table.get("clients");
    let any = table.get("danger_any_client");
    let revocation = revocation(table, folder, "client_crl", "client_crl_policy", None);
    if ca.is_none() && pinned_value.is_none() {
        for value in [&mode, &clients, &any].into_iter().flatten() {
            value.bad(
                format!("`{}` without `client_ca` or `client_pinned`", value.key),
                "nobody is asked for a certificate: name the CA of the callers",
            );
        }
        return None;
    }
    let pinned = paths(pinned_value.as_ref(), folder);
    let any = any.and_then(|v| v.boolean()).unwrap_or(false);
    let names = clients
        .as_ref()
        .and_then(|v| peer_names(v, folder, &pinned));
    match (&clients, any) {
        (Some(value), true) => value.bad("`clients` and `danger_any_client`", "take one of them"),
        (Some(value), false) if names.as_ref().is_some_and(|n| n.0.is_empty()) => {
            value.bad("`clients` names nobody", "absence is never permission: name at least one peer");
        }
        (None, true) => head
            .warnings
            .push(format!("danger_any_client: listener {name} admits every certificate of client_ca")),
        (None, false) => table.log.add(
            ca.as_ref().or(pinned_value.as_ref()).map_or_else(|| table.head(), |v| v.span.clone()),
            "`client_ca` needs `clients`",
            "which certificates may enter: [\"dns:*.staff.example\"]; danger_any_client = true admits all",
        ),
        _ => {}
    }
    Some(ClientAuth {
        ca: ca.and_then(|v| v.path(folder)),
        pinned,
        revocation,
        mode: mode
            .and_then(|v| {
                v.word(&[
                    ("require", ClientCert::Require),
                    ("optional", ClientCert::Optional),
                ])
            })
            .unwrap_or(ClientCert::Require),
        clients: names,
    })
}

/// TLS towards acceptors: 1.3 unless a nearer table says otherwise.
fn link_tls(base: &TlsOptions, value: Option<&Value<'_>>) -> TlsOptions {
    tls_over(base, value, "[backend.NAME.tls]")
}
