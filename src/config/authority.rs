//! The configuration of `pki serve`.

use super::{
    AuthorityConfig, AuthorityListener,
    acceptor::read_source,
    bound::{Bound, check_bound, read_bound, read_proxy_from},
    common::{Head, head, limits_over, tls_over},
    defaults,
    identity::read_store,
    reader::Table,
    values::{networks, some_peer_names},
};

/// Reads the whole file. `None`: there are problems.
pub(super) fn read(root: Table<'_>) -> Option<AuthorityConfig> {
    let head = head(&root, defaults::AUTHORITY_CONNECTIONS_PER_IP);
    head.check_challenges(&root, false);
    let store = root
        .need("pki", "the store that it serves: dir = \"pki\"")
        .and_then(|value| value.table("[pki]"))
        .and_then(|table| {
            let dir = table.need("dir", "the folder that `pki init` made");
            let passphrase = table.get("ca_passphrase");
            table.finish();
            read_store(&dir?, passphrase.as_ref())
        });
    let values = root
        .need("listener", "at least one [[listener]]")
        .and_then(|v| v.list())
        .unwrap_or_default();
    let mut bounds = Vec::new();
    let mut listeners = Vec::new();
    for value in &values {
        let Some(table) = value.table("[[listener]]") else {
            continue;
        };
        let why = "where gateways and acceptors connect: \"10.0.0.5:9444\"";
        let bound = read_bound(&table, value, why);
        listeners.extend(read_listener(table, &bound, &head));
        bounds.push(bound);
    }
    check_bound(&bounds.iter().collect::<Vec<_>>(), &head);
    let notes = root.notes;
    root.finish();
    Some(AuthorityConfig {
        common: head.into_common(notes)?,
        store: store?,
        listeners,
    })
}

fn read_listener(table: Table<'_>, bound: &Bound<'_>, head: &Head) -> Option<AuthorityListener> {
    let label = bound.name.clone().unwrap_or_else(|| "?".to_owned());
    let tls = tls_over(&head.tls, table.get("tls").as_ref(), "[listener.tls]");
    let limits = limits_over(
        &head.limits,
        table.get("limits").as_ref(),
        "[listener.limits]",
    );
    let any = table.flag("danger_any_source");
    let trusted = table.get("trusted_ips");
    let trusted = read_source(
        &table,
        trusted.as_ref(),
        any.as_ref(),
        "trusted_ips",
        &label,
    );
    let untrusted_ips = table
        .get("untrusted_ips")
        .and_then(|v| networks(&v))
        .unwrap_or_default();
    let written = table.get("holders");
    let holders = written
        .as_ref()
        .and_then(|v| some_peer_names(v, &head.pinned()));
    let proxy_from = read_proxy_from(&table);
    table.finish();
    if written.is_some() && holders.is_none() {
        return None;
    }
    Some(AuthorityListener {
        name: bound.name.as_deref()?.into(),
        address: bound.address.clone()?,
        trusted: trusted?.0,
        untrusted_ips,
        holders,
        proxy_from,
        tls,
        limits,
    })
}
