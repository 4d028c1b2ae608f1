//! `[backend.NAME]`: where acceptors are and how they are spoken to.

use std::{ops::Range, path::PathBuf, time::Duration};

use super::{
    super::{
        Backend, BackendProtocol, Balance, ClientCertHeader, DialAddress, Health, HostHeader, Pool,
        ProxyVersion, ServerName, Tunnel,
        common::{Head, tls_over},
        defaults,
        identity::read_identity,
        reader::{Table, Value},
        values::{dial_address, duration, own_address, peer_names, server_name},
    },
    credentials,
    route::Users,
};
use crate::{identity::PeerNames, wire::host::Authority};

/// More kept connections than any backend wants.
const MOST_KEPT: u64 = 100_000;

pub(super) fn read(
    name: &str,
    at: &Range<usize>,
    value: &Value<'_>,
    head: &Head,
    users: Users,
) -> Option<Backend> {
    let table = value.table(format!("[backend.{name}]"))?;
    if !name
        .chars()
        .all(|c| c.is_alphanumeric() || "-_.".contains(c))
        || name.len() > 64
    {
        table.notes.add(
            Some(at.clone()),
            format!("a backend can't be called {name:?}"),
            "expected 1 to 64 letters, digits, '-', '_' or '.'",
        );
    }
    let list = table.need(
        "acceptors",
        "where the acceptor listens: [\"10.0.4.7:9443\"]",
    );
    let acceptors = list.as_ref().map(read_acceptors).unwrap_or_default();
    let identity = table
        .get("identity")
        .and_then(|v| v.table(format!("backend.{name}.identity")))
        .and_then(|table| read_identity(table, &format!("backend.{name}.identity")));
    let pinned = identity
        .as_ref()
        .map_or_else(|| head.pinned(), |own| own.pinned.clone());
    let acceptor_ids = read_acceptor_ids(&table, &pinned, name);
    let server_name = read_server_name(&table, list.as_ref(), &acceptors, acceptor_ids.is_some());
    let words = [
        ("auto", Tunnel::Auto),
        ("direct", Tunnel::Direct),
        ("reuse", Tunnel::Reuse),
        ("mux", Tunnel::Mux),
    ];
    let tunnel = table.get("tunnel").and_then(|v| v.word(&words, &[]));
    let backend = Backend {
        name: name.to_owned(),
        bind: read_bind(&table, &acceptors),
        acceptors,
        host_header: read_host_header(&table, server_name.as_ref()),
        server_name,
        acceptor_ids,
        protocol: read_protocol(&table),
        balance: read_balance(&table),
        connect_timeout: table
            .get("connect_timeout")
            .and_then(|v| duration(&v))
            .unwrap_or(defaults::CONNECT_TIMEOUT),
        pool: table
            .get("pool")
            .map_or_else(defaults::pool, |v| read_pool(&v)),
        tunnel: tunnel.unwrap_or_default(),
        proxy_protocol: read_proxy_protocol(&table, users),
        health: table.get("health").and_then(|v| read_health(&v)),
        identity,
        client_cert_header: read_client_cert_header(&table),
        credentials: credentials::read(&table, name, head, users.http || !users.any),
        tls: tls_over(
            &head.tls,
            table.get("tls").as_ref(),
            &format!("[backend.{name}.tls]"),
        ),
    };
    table.finish();
    (!backend.acceptors.is_empty()).then_some(backend)
}

fn read_acceptors(list: &Value<'_>) -> Vec<DialAddress> {
    let mut acceptors: Vec<DialAddress> = Vec::new();
    if list.is_empty_list() {
        list.bad(
            "`acceptors` names none",
            "expected at least one address: [\"10.0.4.7:9443\"]",
        );
    }
    for item in list.list().unwrap_or_default() {
        match dial_address(&item) {
            Some(address) if acceptors.contains(&address) => {
                item.bad(format!("{address} stands here twice"), "remove one");
            }
            address => acceptors.extend(address),
        }
    }
    acceptors
}

fn read_acceptor_ids(table: &Table<'_>, pinned: &[PathBuf], name: &str) -> Option<PeerNames> {
    let value = table.get("acceptor_ids")?;
    if value.is_empty_list() {
        let what = "acceptor_ids is empty: no acceptor is ever the right one";
        table.notes.warn(format!("backend {name}: {what}"));
    }
    // written is written, even when it can't be read
    Some(peer_names(&value, pinned).unwrap_or_default())
}

fn read_server_name(
    table: &Table<'_>,
    list: Option<&Value<'_>>,
    acceptors: &[DialAddress],
    ids: bool,
) -> Option<ServerName> {
    let value = table.get("server_name");
    if value.is_none()
        && !ids
        && let Some(list) = list
        && acceptors
            .iter()
            .any(|address| matches!(address, DialAddress::Unix(_)))
    {
        list.bad(
            "a Unix socket has no host name to verify",
            "set server_name or acceptor_ids",
        );
    }
    value.as_ref().and_then(server_name)
}

fn read_bind(table: &Table<'_>, acceptors: &[DialAddress]) -> Option<std::net::IpAddr> {
    let value = table.get("bind")?;
    let ours = own_address(&value)?;
    for acceptor in acceptors {
        if let DialAddress::Ip(theirs) = acceptor
            && theirs.ip().to_canonical().is_ipv4() != ours.is_ipv4()
        {
            value.bad(
                format!("{ours} can't reach {theirs}: one is IPv4, the other IPv6"),
                "expected an address of the acceptors' family",
            );
        }
    }
    Some(ours)
}

fn read_protocol(table: &Table<'_>) -> BackendProtocol {
    let words = [
        ("http/1.1", BackendProtocol::Http1),
        ("h2", BackendProtocol::Http2),
    ];
    let word = table.get("protocol").and_then(|v| v.word(&words, &[]));
    word.unwrap_or(BackendProtocol::Http1)
}

fn read_balance(table: &Table<'_>) -> Balance {
    let words = [
        ("round-robin", Balance::RoundRobin),
        ("least-requests", Balance::LeastRequests),
    ];
    table
        .get("balance")
        .and_then(|v| v.word(&words, &[]))
        .unwrap_or(Balance::LeastRequests)
}

fn read_proxy_protocol(table: &Table<'_>, users: Users) -> Option<ProxyVersion> {
    let value = table.get("proxy_protocol")?;
    if users.http && !users.tcp {
        let help = "it is for byte streams; http requests carry X-Forwarded-For";
        value.bad("`proxy_protocol` on a backend of http listeners", help);
    }
    value.word(&[("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)], &[])
}

fn read_client_cert_header(table: &Table<'_>) -> ClientCertHeader {
    let words = [
        ("off", ClientCertHeader::Off),
        ("xfcc", ClientCertHeader::Xfcc),
        ("rfc9440", ClientCertHeader::Rfc9440),
    ];
    let word = table
        .get("client_cert_header")
        .and_then(|v| v.word(&words, &[]));
    word.unwrap_or(ClientCertHeader::Off)
}

fn read_host_header(table: &Table<'_>, server_name: Option<&ServerName>) -> HostHeader {
    let Some(value) = table.get("host_header") else {
        return HostHeader::Preserve;
    };
    let expected = "\"preserve\", \"backend\", or a host such as \"legacy.internal\"";
    let unix = || table.get("acceptors").is_some_and(|v| v.mentions("unix:"));
    let read = value.judged(expected, |text| match text {
        "preserve" => Ok(HostHeader::Preserve),
        "backend" if server_name.is_none() && unix() => {
            Err("a Unix socket has no host: set server_name, or write the host here".to_owned())
        }
        "backend" => Ok(HostHeader::Backend),
        // as strictly as a client's is read
        _ => match Authority::parse(text) {
            Ok(_) => Ok(HostHeader::Literal(text.to_owned())),
            Err(error) => Err(format!("{error}: expected {expected}")),
        },
    });
    read.unwrap_or(HostHeader::Preserve)
}

fn read_pool(value: &Value<'_>) -> Pool {
    let mut pool = defaults::pool();
    let Some(table) = value.table("`pool`") else {
        return pool;
    };
    let count = |key, to: &mut usize| {
        let number = table.get(key).and_then(|v| v.number(0..=MOST_KEPT));
        *to = number.and_then(|n| usize::try_from(n).ok()).unwrap_or(*to);
    };
    count("idle", &mut pool.idle);
    count("ready", &mut pool.ready);
    wait(&table, "idle_timeout", &mut pool.idle_timeout);
    wait(&table, "max_age", &mut pool.max_age);
    table.finish();
    pool
}

fn read_health(value: &Value<'_>) -> Option<Health> {
    let mut health = defaults::health();
    let table = value.table("`health`")?;
    health.path = table.get("path").and_then(|v| {
        v.parsed("a path that starts with /", |text| {
            let fits = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
            (fits && !text.contains('#')).then(|| text.to_owned())
        })
    });
    wait(&table, "interval", &mut health.interval);
    wait(&table, "timeout", &mut health.timeout);
    let count = |key, to: &mut u32| {
        let number = table.get(key).and_then(|v| v.number(1..=1_000));
        *to = number.and_then(|n| u32::try_from(n).ok()).unwrap_or(*to);
    };
    count("unhealthy_after", &mut health.unhealthy_after);
    count("healthy_after", &mut health.healthy_after);
    table.finish();
    Some(health)
}

fn wait(table: &Table<'_>, key: &'static str, to: &mut Duration) {
    *to = table.get(key).and_then(|v| duration(&v)).unwrap_or(*to);
}
