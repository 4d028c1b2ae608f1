//! acceptor.toml.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    AcceptorConfig, AcceptorListener, AcceptorRule, BackendTls, DialAddress, NetworkList,
    ProxyVersion, TlsOptions,
    common::{Head, clashes, head, limits_over, tls_keys, tls_over},
    reader::{Table, Value},
    values::{dial_address, listen_address, networks, server_name, some_networks, some_peer_names},
};

pub(super) fn read(root: Table<'_>, file: &Path, folder: &Path) -> Option<AcceptorConfig> {
    let mut head = head(&root, folder, 0);
    let values = root
        .need("listener", "at least one [[listener]]")
        .and_then(|v| v.list())
        .unwrap_or_default();
    let mut listeners: Vec<AcceptorListener> = Vec::new();
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
    root.finish();
    let complete = listeners.len() == values.len() && !values.is_empty();
    let common = head.into_common(file)?;
    complete.then_some(AcceptorConfig { common, listeners })
}

fn read_listener(table: Table<'_>, head: &mut Head, folder: &Path) -> Option<AcceptorListener> {
    let address = table
        .need("address", "where gateways connect: \"0.0.0.0:9443\"")
        .and_then(|v| listen_address(&v));
    let name = table.get("name").and_then(|v| v.string());
    let mode = table.need("mode", "\"tcp\"");
    if let Some(mode) = &mode {
        match mode.string().as_deref() {
            Some("tcp") | None => {}
            Some("http") => mode.bad(
                "`mode = \"http\"` is not supported yet by acceptors",
                "\"tcp\" passes HTTP as it is",
            ),
            Some(other) => mode.bad(format!("`mode` can't be {other:?}"), "expected \"tcp\""),
        }
    }
    table.later("require");
    table.later("client_cert_header");
    let backend = read_backend(&table, head);
    let pinned: Vec<PathBuf> = head
        .identity
        .as_ref()
        .map(|i| i.pinned.clone())
        .unwrap_or_default();
    let tls = tls_over(&head.tls, table.get("tls").as_ref(), "[listener.tls]");
    let limits = limits_over(
        &head.limits,
        table.get("limits").as_ref(),
        "[listener.limits]",
    );
    let backend_tls = table
        .get("backend_tls")
        .and_then(|v| read_backend_tls(&v, &tls, folder));
    let source_address = table
        .get("source_address")
        .and_then(|v| v.parsed("an IP address", |t| t.parse().ok()));
    let untrusted_ips = table
        .get("untrusted_ips")
        .and_then(|v| networks(&v, folder))
        .unwrap_or_default();
    let proxy_from = read_proxy_from(&table, folder);
    let expect_proxy = table
        .get("expect_proxy")
        .and_then(|v| v.boolean())
        .unwrap_or(false);
    let send_proxy = table
        .get("send_proxy")
        .and_then(|v| v.word(&[("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)]));
    let rules = read_rules(
        &table,
        head,
        folder,
        &pinned,
        name.as_deref().unwrap_or("?"),
    );
    table.finish();
    let address = address?;
    mode?;
    Some(AcceptorListener {
        name: name.map_or_else(|| address.to_string().into(), Arc::from),
        address,
        backend: backend?,
        backend_tls,
        source_address,
        rules: rules?,
        untrusted_ips,
        proxy_from,
        expect_proxy,
        send_proxy,
        tls,
        limits,
    })
}

fn read_backend(table: &Table<'_>, head: &mut Head) -> Option<DialAddress> {
    let plain = table
        .get("danger_plaintext_backend")
        .and_then(|v| v.boolean())
        .unwrap_or(false);
    let value = table.need(
        "backend",
        "what we stand before: \"127.0.0.1:8080\" or \"unix:/run/legacy.sock\"",
    )?;
    let address = dial_address(&value)?;
    let beside = match &address {
        DialAddress::Ip(ip) => ip.ip().to_canonical().is_loopback(),
        DialAddress::Host(host, _) => host == "localhost",
        DialAddress::Unix(_) => true,
    };
    if !beside && table.get("backend_tls").is_none() {
        if plain {
            head.warnings.push(format!(
                "danger_plaintext_backend: bytes to {address} cross a network in plain text"
            ));
        } else {
            value.bad(
                format!("{address} is another host, and plain text would cross the network"),
                "put the acceptor beside its backend, add backend_tls, or set danger_plaintext_backend = true",
            );
        }
    }
    Some(address)
}

fn read_backend_tls(value: &Value<'_>, tls: &TlsOptions, folder: &Path) -> Option<BackendTls> {
    let table = value.table("backend_tls")?;
    let trust = table
        .need("trust", "the roots of the backend's certificate")
        .and_then(|v| v.path(folder));
    let name = table
        .need("server_name", "the name in the backend's certificate")
        .and_then(|v| server_name(&v));
    // the same keys as [tls] stand beside trust and server_name
    let mut tls = TlsOptions {
        min_version: None,
        ..tls.clone()
    };
    tls_keys(&mut tls, &table);
    table.finish();
    Some(BackendTls {
        trust: trust?,
        server_name: name?,
        tls,
    })
}

pub(super) fn read_proxy_from(table: &Table<'_>, folder: &Path) -> Option<NetworkList> {
    let value = table.get("proxy_protocol")?;
    let from = value.table("proxy_protocol")?;
    let list = from
        .need("from", "the balancers' addresses")
        .and_then(|v| some_networks(&v, folder));
    from.finish();
    list
}

fn read_rules(
    table: &Table<'_>,
    head: &mut Head,
    folder: &Path,
    pinned: &[PathBuf],
    name: &str,
) -> Option<Vec<AcceptorRule>> {
    let any_source = table
        .get("danger_any_source")
        .and_then(|v| v.boolean())
        .unwrap_or(false);
    let trusted = table.get("trusted_ips");
    let gateways = table.get("gateways");
    if let Some(rules) = table.get("rule") {
        for value in [trusted, gateways].into_iter().flatten() {
            value.bad(
                format!("`{}` and [[listener.rule]]", value.key),
                "a rule holds both; take one way",
            );
        }
        let list = rules.list()?;
        if list.is_empty() {
            rules.bad("no rule admits anybody", "add one [[listener.rule]]");
        }
        return list
            .iter()
            .map(|item| read_rule(item, folder, pinned))
            .collect();
    }
    let from = match (&trusted, any_source) {
        (Some(value), true) => {
            value.bad("`trusted_ips` and `danger_any_source`", "take one of them");
            None
        }
        (Some(value), false) => Some(some_networks(value, folder)?),
        (None, true) => {
            head.warnings.push(format!(
                "danger_any_source: listener {name} reads TLS bytes from any address"
            ));
            None
        }
        (None, false) => {
            table.log.add(
                table.head(),
                "[[listener]] needs `trusted_ips`",
                "the gateways' egress addresses; danger_any_source = true turns the check off",
            );
            return None;
        }
    };
    let Some(gateways) = gateways else {
        table.log.add(
            table.head(),
            "[[listener]] needs `gateways`",
            "which certificates may enter: [\"spiffe://example.internal/gateway/*\"]",
        );
        return None;
    };
    Some(vec![AcceptorRule {
        from,
        gateways: some_peer_names(&gateways, folder, pinned)?,
    }])
}

fn read_rule(item: &Value<'_>, folder: &Path, pinned: &[PathBuf]) -> Option<AcceptorRule> {
    let table = item.table("[[listener.rule]]")?;
    let from = table
        .need("from", "networks")
        .and_then(|v| some_networks(&v, folder));
    let gateways = table
        .need("gateways", "peer names")
        .and_then(|v| some_peer_names(&v, folder, pinned));
    table.finish();
    Some(AcceptorRule {
        from: Some(from?),
        gateways: gateways?,
    })
}
