//! The tables that both roles have: identity, tls, limits, admin, log, runtime.

use std::path::{Path, PathBuf};

use super::{
    Admin, Cipher, Common, Identity, KeyExchange, Limits, ListenAddress, Log as LogTable,
    LogFormat, Revocation, TlsOptions, TlsVersion, TrustBundle, defaults,
    reader::{Table, Value},
    values::{
        certificate_files, duration, listen_address, secret, size, some_duration, some_peer_names,
    },
};
use crate::admit::DeniedList;

/// What is read of a whole file before its listeners are.
pub(super) struct Head {
    pub(super) identity: Option<Identity>,
    pub(super) tls: TlsOptions,
    pub(super) limits: Limits,
    pub(super) admin: Option<Admin>,
    pub(super) log: LogTable,
    pub(super) workers: usize,
    pub(super) warnings: Vec<String>,
}

pub(super) fn head(root: &Table<'_>, folder: &Path, per_ip: usize) -> Head {
    let mut warnings = Vec::new();
    let identity = root
        .need(
            "identity",
            "who this process is: certificate, key, and trust or pinned",
        )
        .and_then(|value| value.table("[identity]"))
        .and_then(|table| read_identity(table, folder));
    if let Some(identity) = &identity
        && identity.revocation.is_none()
        && (identity.trust.is_some() || !identity.bundles.is_empty())
    {
        warnings.push("identity.crl is not set: revoked certificates are not refused".to_owned());
    }
    let tls = tls_over(&defaults::tls(), root.get("tls").as_ref(), "[tls]");
    let limits = limits_over(
        &defaults::limits(per_ip),
        root.get("limits").as_ref(),
        "[limits]",
    );
    let admin = root
        .get("admin")
        .and_then(|value| read_admin(&value, folder));
    let log = read_log(root.get("log").as_ref());
    let workers = read_workers(root.get("runtime").as_ref());
    Head {
        identity,
        tls,
        limits,
        admin,
        log,
        workers,
        warnings,
    }
}

impl Head {
    pub(super) fn into_common(self, file: &Path) -> Option<Common> {
        Some(Common {
            file: file.to_owned(),
            identity: self.identity?,
            tls: self.tls,
            admin: self.admin,
            log: self.log,
            workers: self.workers,
            warnings: self.warnings,
        })
    }
}

pub(super) fn read_identity(table: Table<'_>, folder: &Path) -> Option<Identity> {
    let span = table.span.clone();
    if let Some(source) = table.get("source") {
        match source.string().as_deref() {
            Some("files") | None => {}
            Some("renew" | "pki" | "acme" | "spiffe") => {
                source.bad(
                    "only `source = \"files\"` is supported yet",
                    "issue with portcullis pki and name the files",
                );
            }
            Some(other) => source.bad(format!("`source` can't be {other:?}"), "expected \"files\""),
        }
    }
    let files = certificate_files(&table, folder);
    let trust = table.get("trust").and_then(|v| v.path(folder));
    let pinned = paths(table.get("pinned").as_ref(), folder);
    let bundles: Vec<TrustBundle> = table
        .get("trust_bundle")
        .and_then(|v| v.list())
        .unwrap_or_default()
        .iter()
        .filter_map(|item| read_bundle(item, folder))
        .collect();
    let revocation = revocation(&table, folder, "crl", "crl_policy", Some("crl_scope"));
    let denied = table
        .get("denied")
        .map(|v| read_denied(&v))
        .unwrap_or_default();
    if trust.is_none() && pinned.is_empty() && bundles.is_empty() {
        table.log.add(
            table.head(),
            "[identity] trusts nobody: `trust`, `pinned` and `trust_bundle` are absent",
            "name the roots of the other side: trust = \"trust.pem\"",
        );
    }
    table.finish();
    let files = files?;
    Some(Identity {
        certificate: files.certificate,
        key: files.key,
        key_passphrase: files.key_passphrase,
        trust,
        bundles,
        pinned,
        revocation,
        denied,
        span,
    })
}

fn read_bundle(item: &Value<'_>, folder: &Path) -> Option<TrustBundle> {
    let table = item.table("[[identity.trust_bundle]]")?;
    let file = table
        .need("file", "a PEM file of roots")
        .and_then(|v| v.path(folder));
    let names = table
        .need(
            "names",
            "what these roots may speak for: [\"dns:*.partner.example\"]",
        )
        .and_then(|v| some_peer_names(&v, folder, &[]));
    table.finish();
    Some(TrustBundle {
        file: file?,
        names: names?,
    })
}

fn read_denied(value: &Value<'_>) -> DeniedList {
    let mut denied = DeniedList::default();
    for item in value.list().unwrap_or_default() {
        if let Some(text) = item.string()
            && let Err(expected) = denied.add(&text)
        {
            item.bad("not an entry of `denied`", expected);
        }
    }
    denied
}

pub(super) fn paths(value: Option<&Value<'_>>, folder: &Path) -> Vec<PathBuf> {
    let Some(items) = value.and_then(Value::list_or_one) else {
        return Vec::new();
    };
    items.iter().filter_map(|item| item.path(folder)).collect()
}

pub(super) fn revocation(
    table: &Table<'_>,
    folder: &Path,
    crl: &'static str,
    policy: &'static str,
    scope: Option<&'static str>,
) -> Option<Revocation> {
    let files = table.get(crl);
    let tolerate = table.get(policy);
    let leaf_only = scope.and_then(|scope| table.get(scope));
    let Some(files) = files else {
        for lonely in [tolerate, leaf_only].into_iter().flatten() {
            lonely.bad(
                format!("`{}` without `{crl}`", lonely.key),
                format!("name the files: {crl} = [\"crl.pem\"]"),
            );
        }
        return None;
    };
    let list = paths(Some(&files), folder);
    if list.is_empty() {
        files.bad(
            format!("`{crl}` names no file"),
            "leave it out, or name at least one",
        );
    }
    Some(Revocation {
        files: list,
        tolerate_expired: tolerate
            .and_then(|v| v.word(&[("require", false), ("tolerate", true)]))
            .unwrap_or(false),
        leaf_only: leaf_only
            .and_then(|v| v.word(&[("chain", false), ("leaf", true)]))
            .unwrap_or(false),
    })
}

pub(super) fn tls_over(base: &TlsOptions, value: Option<&Value<'_>>, name: &str) -> TlsOptions {
    let mut tls = base.clone();
    if let Some(table) = value.and_then(|value| value.table(name)) {
        tls_keys(&mut tls, &table);
        table.finish();
    }
    tls
}

/// The keys of a `[tls]` table, wherever they stand.
pub(super) fn tls_keys(tls: &mut TlsOptions, table: &Table<'_>) {
    if let Some(version) = table
        .get("min_version")
        .and_then(|v| v.word(&[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)]))
    {
        tls.min_version = Some(version);
    }
    let groups = [
        ("x25519mlkem768", KeyExchange::X25519MlKem768),
        ("x25519", KeyExchange::X25519),
        ("secp256r1", KeyExchange::Secp256r1),
        ("secp384r1", KeyExchange::Secp384r1),
    ];
    let ciphers = [
        ("aes128-gcm", Cipher::Aes128Gcm),
        ("aes256-gcm", Cipher::Aes256Gcm),
        ("chacha20-poly1305", Cipher::ChaCha20Poly1305),
    ];
    if let Some(list) = table.get("key_exchange").and_then(|v| words(&v, &groups)) {
        tls.key_exchange = list;
    }
    if let Some(list) = table.get("ciphers").and_then(|v| words(&v, &ciphers)) {
        tls.ciphers = list;
    }
}

fn words<T: Copy + PartialEq>(value: &Value<'_>, known: &[(&'static str, T)]) -> Option<Vec<T>> {
    let list: Vec<T> = value
        .list()?
        .iter()
        .filter_map(|item| item.word(known))
        .collect();
    if list.is_empty() {
        value.bad(
            format!("`{}` leaves nothing to negotiate", value.key),
            "name at least one, or leave it out",
        );
        return None;
    }
    Some(list)
}

pub(super) fn limits_over(base: &Limits, value: Option<&Value<'_>>, name: &str) -> Limits {
    let mut limits = base.clone();
    let Some(table) = value.and_then(|value| value.table(name)) else {
        return limits;
    };
    let count = |key, to: &mut usize| {
        if let Some(n) = table.get(key).and_then(|v| v.number()) {
            *to = usize::try_from(n).unwrap_or(usize::MAX);
        }
    };
    count("connections", &mut limits.connections);
    count("connections_per_ip", &mut limits.connections_per_ip);
    count("handshakes", &mut limits.handshakes);
    if limits.connections == 0
        && let Some(value) = table.get("connections")
    {
        value.bad(
            "`connections` can't be 0",
            "a listener that admits nobody is left out",
        );
    }
    let needed = |key, to: &mut std::time::Duration| {
        if let Some(d) = table.get(key).and_then(|v| some_duration(&v)) {
            *to = d;
        }
    };
    needed("handshake_timeout", &mut limits.handshake_timeout);
    needed("header_timeout", &mut limits.header_timeout);
    needed("keepalive_timeout", &mut limits.keepalive_timeout);
    needed("response_timeout", &mut limits.response_timeout);
    needed("write_timeout", &mut limits.write_timeout);
    needed("idle_timeout", &mut limits.idle_timeout);
    if let Some(drain) = table.get("drain_timeout").and_then(|v| duration(&v)) {
        limits.drain_timeout = drain;
    }
    if let Some(rate) = table.get("body_min_rate").and_then(|v| size(&v)) {
        limits.body_min_rate = rate;
    }
    if let Some(value) = table.get("header_bytes")
        && let Some(bytes) = size(&value)
    {
        if !(1024..=(1 << 20)).contains(&bytes) {
            value.bad("`header_bytes` is out of bounds", "expected 1KiB to 1MiB");
        }
        limits.header_bytes = usize::try_from(bytes).unwrap_or(limits.header_bytes);
    }
    if let Some(bytes) = table.get("body_bytes").and_then(|v| size(&v)) {
        limits.body_bytes = bytes;
    }
    table.finish();
    limits
}

fn read_admin(value: &Value<'_>, folder: &Path) -> Option<Admin> {
    let table = value.table("[admin]")?;
    let address_value = table.need("address", "where /healthz, /readyz and /metrics answer");
    let address = address_value.as_ref().and_then(listen_address);
    let token = table.get("token").and_then(|v| secret(&v, folder));
    let certificate = table
        .get("tls")
        .and_then(|v| v.table("[admin.tls]"))
        .and_then(|tls| {
            let files = certificate_files(&tls, folder);
            tls.finish();
            files
        });
    if let (Some(ListenAddress::Tcp(tcp)), Some(at)) = (&address, &address_value)
        && !tcp.ip().to_canonical().is_loopback()
    {
        if certificate.is_none() {
            at.bad(
                "`address` is beyond loopback",
                "the admin listener needs [admin.tls] there",
            );
        }
        if token.is_none() {
            at.bad(
                "`address` is beyond loopback",
                "the admin listener needs `token` there",
            );
        }
    }
    table.finish();
    Some(Admin {
        address: address?,
        token,
        certificate,
    })
}

fn read_log(value: Option<&Value<'_>>) -> LogTable {
    let mut log = LogTable {
        level: "info".to_owned(),
        format: LogFormat::Auto,
        access: true,
    };
    let Some(table) = value.and_then(|value| value.table("[log]")) else {
        return log;
    };
    if let Some(value) = table.get("level")
        && let Some(level) = value.string()
    {
        if let Err(error) = level.parse::<tracing_subscriber::filter::Targets>() {
            value.bad(
                format!("`level` can't be {level:?}"),
                format!("expected a tracing filter like \"info\": {error}"),
            );
        }
        log.level = level;
    }
    if let Some(value) = table.get("format") {
        if value.string().as_deref() == Some("journald") {
            value.bad(
                "\"journald\" is not supported yet",
                "expected \"auto\", \"json\" or \"text\"",
            );
        } else if let Some(format) = value.word(&[
            ("auto", LogFormat::Auto),
            ("json", LogFormat::Json),
            ("text", LogFormat::Text),
        ]) {
            log.format = format;
        }
    }
    if let Some(access) = table.get("access").and_then(|v| v.boolean()) {
        log.access = access;
    }
    table.finish();
    log
}

fn read_workers(value: Option<&Value<'_>>) -> usize {
    let Some(table) = value.and_then(|value| value.table("[runtime]")) else {
        return 0;
    };
    let workers = table.get("workers").and_then(|value| {
        let n = value.number()?;
        if n > 1024 {
            value.bad(
                "`workers` is out of bounds",
                "expected 0 (one per core) to 1024",
            );
        }
        usize::try_from(n).ok()
    });
    table.finish();
    workers.unwrap_or(0)
}

/// Addresses that two listeners can't both have.
pub(super) fn clashes(a: &ListenAddress, b: &ListenAddress) -> bool {
    match (a, b) {
        (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) => {
            a.port() != 0
                && a.port() == b.port()
                && (a.ip() == b.ip()
                    || a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4())
                    || b.ip().is_unspecified() && (b.is_ipv6() || a.is_ipv4()))
        }
        _ => a == b,
    }
}
