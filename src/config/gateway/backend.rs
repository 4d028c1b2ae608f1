//! `[backend.NAME]`.

use std::{path::Path, time::Duration};

use super::super::{
    Backend, BackendProtocol, Balance, ClientCertHeader, DialAddress, Health, HostHeader, Pool,
    ProxyVersion,
    common::{Head, read_identity},
    defaults,
    reader::Value,
    values::{dial_address, peer_names, server_name, some_duration},
};
use super::link_tls;

#[expect(clippy::too_many_lines, reason = "a table: one key after the other")]
pub(super) fn read(name: &str, value: &Value<'_>, head: &Head, folder: &Path) -> Option<Backend> {
    let table = value.table(format!("[backend.{name}]"))?;
    let list = table.need(
        "acceptors",
        "where the acceptor listens: [\"10.0.4.7:9443\"]",
    );
    let acceptors: Vec<DialAddress> = list
        .as_ref()
        .and_then(Value::list)
        .unwrap_or_default()
        .iter()
        .filter_map(dial_address)
        .collect();
    if let Some(list) = &list
        && acceptors.is_empty()
    {
        list.bad("`acceptors` names none", "expected at least one address");
    }
    table.later("credentials");
    let identity = table
        .get("identity")
        .and_then(|v| v.table(format!("backend.{name}.identity")))
        .and_then(|t| read_identity(t, folder));
    let pinned = identity
        .as_ref()
        .or(head.identity.as_ref())
        .map(|i| i.pinned.clone())
        .unwrap_or_default();
    let acceptor_ids = table
        .get("acceptor_ids")
        .and_then(|v| peer_names(&v, folder, &pinned));
    let own_name = table.get("server_name").and_then(|v| server_name(&v));
    if own_name.is_none()
        && acceptor_ids.is_none()
        && let Some(list) = &list
        && acceptors.iter().any(|a| matches!(a, DialAddress::Unix(_)))
    {
        list.bad(
            "a Unix socket has no host name to verify",
            "set server_name or acceptor_ids",
        );
    }
    if let Some(value) = table.get("tunnel") {
        match value.string().as_deref() {
            Some("auto" | "direct") | None => {}
            Some(other @ ("reuse" | "mux")) => {
                value.bad(
                    format!("`tunnel = {other:?}` is not supported yet"),
                    "expected \"auto\" or \"direct\"",
                );
            }
            Some(other) => value.bad(
                format!("`tunnel` can't be {other:?}"),
                "expected \"auto\" or \"direct\"",
            ),
        }
    }
    let backend = Backend {
        name: name.to_owned(),
        acceptors,
        server_name: own_name,
        acceptor_ids,
        protocol: table
            .get("protocol")
            .and_then(|v| {
                v.word(&[
                    ("http/1.1", BackendProtocol::Http1),
                    ("h2", BackendProtocol::Http2),
                ])
            })
            .unwrap_or(BackendProtocol::Http1),
        balance: table
            .get("balance")
            .and_then(|v| {
                v.word(&[
                    ("round-robin", Balance::RoundRobin),
                    ("least-requests", Balance::LeastRequests),
                ])
            })
            .unwrap_or(Balance::LeastRequests),
        connect_timeout: table
            .get("connect_timeout")
            .and_then(|v| some_duration(&v))
            .unwrap_or(defaults::CONNECT_TIMEOUT),
        bind: table
            .get("bind")
            .and_then(|v| v.parsed("an IP address", |text| text.parse().ok())),
        pool: table
            .get("pool")
            .map_or_else(defaults::pool, |v| read_pool(&v)),
        proxy_protocol: table
            .get("proxy_protocol")
            .and_then(|v| v.word(&[("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)])),
        health: table.get("health").and_then(|v| read_health(&v)),
        identity,
        host_header: table.get("host_header").and_then(|v| v.string()).map_or(
            HostHeader::Preserve,
            |text| match text.as_str() {
                "preserve" => HostHeader::Preserve,
                "backend" => HostHeader::Backend,
                _ => HostHeader::Literal(text),
            },
        ),
        client_cert_header: table
            .get("client_cert_header")
            .and_then(|v| {
                v.word(&[
                    ("off", ClientCertHeader::Off),
                    ("xfcc", ClientCertHeader::Xfcc),
                    ("rfc9440", ClientCertHeader::Rfc9440),
                ])
            })
            .unwrap_or(ClientCertHeader::Off),
        tls: link_tls(&head.tls, table.get("tls").as_ref()),
    };
    table.finish();
    (!backend.acceptors.is_empty()).then_some(backend)
}

fn read_pool(value: &Value<'_>) -> Pool {
    let mut pool = defaults::pool();
    let Some(table) = value.table("pool") else {
        return pool;
    };
    let count = |key, to: &mut usize| {
        if let Some(n) = table.get(key).and_then(|v| v.number()) {
            *to = usize::try_from(n).unwrap_or(*to);
        }
    };
    count("idle", &mut pool.idle);
    count("ready", &mut pool.ready);
    let wait = |key, to: &mut Duration| {
        if let Some(d) = table.get(key).and_then(|v| some_duration(&v)) {
            *to = d;
        }
    };
    wait("idle_timeout", &mut pool.idle_timeout);
    wait("max_age", &mut pool.max_age);
    table.finish();
    pool
}

fn read_health(value: &Value<'_>) -> Option<Health> {
    let mut health = defaults::health();
    let table = value.table("health")?;
    health.path = table.get("path").and_then(|v| {
        v.parsed("a path that starts with /", |text| {
            let fits = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
            fits.then(|| text.to_owned())
        })
    });
    let wait = |key, to: &mut Duration| {
        if let Some(d) = table.get(key).and_then(|v| some_duration(&v)) {
            *to = d;
        }
    };
    wait("interval", &mut health.interval);
    wait("timeout", &mut health.timeout);
    let count = |key, to: &mut u32| {
        if let Some(value) = table.get(key)
            && let Some(n) = value.number()
        {
            if n == 0 {
                value.bad(format!("`{key}` can't be 0"), "expected at least 1");
            }
            *to = u32::try_from(n).unwrap_or(*to);
        }
    };
    count("unhealthy_after", &mut health.unhealthy_after);
    count("healthy_after", &mut health.healthy_after);
    table.finish();
    Some(health)
}
