//! acceptor.toml.

use std::path::PathBuf;

use super::{
    AcceptorConfig, AcceptorListener, AcceptorRule, BackendProtocol, BackendTls, ClientCertHeader,
    DialAddress, ListenAddress, Mode, ProxyVersion, ServerName, TlsOptions,
    bound::{Bound, check_bound, read_bound, read_proxy_from},
    common::{Head, head, limits_over, tls_keys, tls_over},
    defaults,
    reader::{Table, Value},
    require,
    values::{dial_address, networks, own_address, server_name, some_networks, some_peer_names},
};
use crate::identity::DnsName;

/// What turns a source check off, in words for both places where it may stand.
const ANY_SOURCE: &str =
    "to turn the check off, write danger_any_source = true instead: it is said at every start";
const GATEWAYS: &str =
    "which certificates may enter: gateways = [\"spiffe://example.internal/gateway/*\"]";

/// Reads the whole file. `None`: there are problems.
pub(super) fn read(root: Table<'_>) -> Option<AcceptorConfig> {
    let head = head(&root, defaults::ACCEPTOR_CONNECTIONS_PER_IP);
    head.check_challenges(&root, false);
    let values = root
        .need("listener", "at least one [[listener]]")
        .and_then(|v| v.list())
        .unwrap_or_default();
    let mut bounds = Vec::new();
    let mut listeners = Vec::new();
    let mut backends = Vec::new();
    for value in &values {
        let Some(table) = value.table("[[listener]]") else {
            continue;
        };
        let bound = read_bound(&table, value, "where gateways connect: \"0.0.0.0:9443\"");
        backends.push(table.get("backend"));
        listeners.extend(read_listener(table, &bound, &head));
        bounds.push(bound);
    }
    check_bound(&bounds.iter().collect::<Vec<_>>(), &head);
    for backend in backends.into_iter().flatten() {
        check_loop(&backend, &bounds);
    }
    let notes = root.notes;
    root.finish();
    Some(AcceptorConfig {
        common: head.into_common(notes)?,
        listeners,
    })
}

fn read_listener(table: Table<'_>, bound: &Bound<'_>, head: &Head) -> Option<AcceptorListener> {
    let label = bound.name.clone().unwrap_or_else(|| "?".to_owned());
    let mode = table
        .need(
            "mode",
            "\"tcp\": bytes pass as they are; \"http\": requests are parsed, checked and stamped",
        )
        .and_then(|value| value.word(&[("tcp", Mode::Tcp), ("http", Mode::Http)], &[]));
    let require = require::read(&table, mode);
    let http = HttpKeys::read(&table, mode);
    let tls = tls_over(&head.tls, table.get("tls").as_ref(), "[listener.tls]");
    let limits = limits_over(
        &head.limits,
        table.get("limits").as_ref(),
        "[listener.limits]",
    );
    let backend = read_backend(&table, &label);
    let own_tls = table.get("backend_tls");
    let backend_tls = own_tls.and_then(|v| read_backend_tls(&v, backend.as_ref(), &head.tls));
    let source = table.get("source_address");
    let source_address = source.as_ref().and_then(own_address);
    if let (Some(value), Some(ours)) = (&source, source_address) {
        match &backend {
            Some(DialAddress::Unix(_)) => {
                value.bad(
                    "`source_address` with a Unix socket",
                    "a Unix socket has no addresses",
                );
            }
            Some(DialAddress::Ip(theirs)) if theirs.is_ipv4() != ours.is_ipv4() => value.bad(
                format!("{ours} can't reach {theirs}: one is IPv4, the other IPv6"),
                "expected an address of the backend's family",
            ),
            _ => {}
        }
    }
    let untrusted_ips = table
        .get("untrusted_ips")
        .and_then(|v| networks(&v))
        .unwrap_or_default();
    let proxy_from = read_proxy_from(&table);
    let expect_proxy = table.flag("expect_proxy");
    if let (Some(value), Some(Mode::Http)) = (&expect_proxy, mode) {
        value.bad(
            "`expect_proxy` is for mode = \"tcp\"",
            "in http mode a gateway says whom it speaks for in X-Forwarded-For",
        );
    }
    let versions = [("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)];
    let send_proxy = table.get("send_proxy").and_then(|v| v.word(&versions, &[]));
    let rules = read_rules(&table, &head.pinned(), &label);
    table.finish();
    Some(AcceptorListener {
        name: bound.name.as_deref()?.into(),
        address: bound.address.clone()?,
        mode: mode?,
        protocol: http.protocol,
        client_cert_header: http.client_cert_header,
        backend: backend?,
        backend_tls,
        source_address,
        rules: rules?,
        untrusted_ips,
        proxy_from,
        expect_proxy: expect_proxy.is_some(),
        send_proxy,
        require: require?,
        tls,
        limits,
    })
}

/// What a listener has in http mode alone.
struct HttpKeys {
    protocol: BackendProtocol,
    client_cert_header: ClientCertHeader,
}

impl HttpKeys {
    fn read(table: &Table<'_>, mode: Option<Mode>) -> Self {
        let protocol = table.get("protocol");
        let header = table.get("client_cert_header");
        if mode == Some(Mode::Tcp) {
            let unless_off = |value: &&Value<'_>| value.string() != Some("off");
            let refused = [protocol.as_ref(), header.as_ref().filter(unless_off)];
            for value in refused.into_iter().flatten() {
                value.bad(
                    format!("`{}` is for mode = \"http\"", value.key),
                    "tcp mode passes bytes as they are",
                );
            }
        }
        let protocols = [
            ("http/1.1", BackendProtocol::Http1),
            ("h2", BackendProtocol::Http2),
        ];
        let headers = [
            ("xfcc", ClientCertHeader::Xfcc),
            ("rfc9440", ClientCertHeader::Rfc9440),
            ("off", ClientCertHeader::Off),
        ];
        Self {
            protocol: protocol
                .and_then(|value| value.word(&protocols, &[]))
                .unwrap_or(BackendProtocol::Http1),
            client_cert_header: header
                .and_then(|value| value.word(&headers, &[]))
                .unwrap_or(ClientCertHeader::Xfcc),
        }
    }
}

fn read_backend(table: &Table<'_>, label: &str) -> Option<DialAddress> {
    let plain = table.flag("danger_plaintext_backend").is_some();
    let value = table.need("backend", "\"127.0.0.1:8080\" or \"unix:/run/legacy.sock\"")?;
    let address = dial_address(&value)?;
    let beside = match &address {
        DialAddress::Ip(ip) => ip.ip().to_canonical().is_loopback(),
        // RFC 6761 section 6.3: it is loopback, whatever the resolver says
        DialAddress::Host(host, _) => host == "localhost" || host.ends_with(".localhost"),
        DialAddress::Unix(_) => true,
    };
    if plain {
        value.notes.warn(format!(
            "danger_plaintext_backend: listener {label} may send bytes to {address} in plain text"
        ));
    } else if !beside && table.get("backend_tls").is_none() {
        value.bad(
            format!("{address} is another host, and plain text would cross the network"),
            "put the acceptor beside its backend, or add backend_tls = { trust = \"…\", server_name \
             = \"…\" }; danger_plaintext_backend = true sends plain text",
        );
    }
    Some(address)
}

fn read_backend_tls(
    value: &Value<'_>,
    backend: Option<&DialAddress>,
    base: &TlsOptions,
) -> Option<BackendTls> {
    let table = value.table("`backend_tls`")?;
    let trust = table
        .need("trust", "the roots of the backend's certificate")
        .and_then(|v| v.path());
    let written = table.get("server_name");
    let server_name = match (&written, backend) {
        (Some(value), _) => server_name(value),
        (None, Some(DialAddress::Ip(ip))) => Some(ServerName::Ip(ip.ip().to_canonical())),
        (None, Some(DialAddress::Host(host, _))) => DnsName::parse(host).map(ServerName::Dns),
        (None, Some(DialAddress::Unix(_))) => {
            let help = "a Unix socket has no name: write the one in the backend's certificate";
            table.add("`backend_tls` needs `server_name`", help);
            None
        }
        (None, None) => None,
    };
    // the same keys as [tls] stand beside trust and server_name
    let mut tls = base.clone();
    tls_keys(&mut tls, &table);
    table.finish();
    Some(BackendTls {
        trust: trust?,
        server_name: server_name?,
        tls,
    })
}

/// A backend that is one of our own listeners would be dialled for ever.
fn check_loop(value: &Value<'_>, bounds: &[Bound<'_>]) {
    if !value.is_string() {
        return;
    }
    for bound in bounds {
        let itself = match (bound.address.as_ref(), quiet_address(value)) {
            (Some(ListenAddress::Tcp(own)), Some(DialAddress::Ip(backend))) => {
                let (ours, theirs) = (own.ip().to_canonical(), backend.ip().to_canonical());
                own.port() == backend.port()
                    && (ours == theirs || ours.is_unspecified() && theirs.is_loopback())
            }
            (Some(ListenAddress::Unix(own)), Some(DialAddress::Unix(backend))) => *own == backend,
            _ => false,
        };
        if itself {
            let name = bound.name.as_deref().unwrap_or("?");
            let message = format!("this is listener {name:?} itself, not a backend");
            value.bad(
                message,
                "move the backend to a port of its own, on loopback",
            );
        }
    }
}

fn quiet_address(value: &Value<'_>) -> Option<DialAddress> {
    let text = value.string()?;
    match text.strip_prefix("unix:") {
        Some(path) => Some(DialAddress::Unix(PathBuf::from(path))),
        None => text.parse().ok().map(DialAddress::Ip),
    }
}

fn read_rules(table: &Table<'_>, pinned: &[PathBuf], label: &str) -> Option<Vec<AcceptorRule>> {
    let any = table.flag("danger_any_source");
    let trusted = table.get("trusted_ips");
    let gateways = table.get("gateways");
    if let Some(rules) = table.get("rule") {
        for value in [&trusted, &gateways, &any].into_iter().flatten() {
            let message = format!("`{}` beside [[listener.rule]]", value.key);
            value.bad(
                message,
                "a rule says both source and identity: write it into the rules",
            );
        }
        let list = rules.list()?;
        if list.is_empty() {
            rules.bad("no rule admits anybody", "add one [[listener.rule]]");
        }
        // every rule is read before one can end this
        let read: Vec<_> = list
            .iter()
            .map(|item| read_rule(item, pinned, label))
            .collect();
        return read.into_iter().collect();
    }
    // both are read before either can end this, so that both are checked
    let source = read_source(table, trusted.as_ref(), any.as_ref(), "trusted_ips", label);
    let gateways = match gateways {
        Some(value) => some_peer_names(&value, pinned),
        None => {
            table.add("[[listener]] needs `gateways`", GATEWAYS);
            None
        }
    };
    Some(vec![AcceptorRule {
        from: source?.0,
        gateways: gateways?,
    }])
}

fn read_rule(item: &Value<'_>, pinned: &[PathBuf], label: &str) -> Option<AcceptorRule> {
    let table = item.table("[[listener.rule]]")?;
    let (from, any) = (table.get("from"), table.flag("danger_any_source"));
    let from = read_source(&table, from.as_ref(), any.as_ref(), "from", label);
    let gateways = table
        .need("gateways", GATEWAYS)
        .and_then(|v| some_peer_names(&v, pinned));
    table.finish();
    Some(AcceptorRule {
        from: from?.0,
        gateways: gateways?,
    })
}

/// Sources, or none for everybody, which has to be written. `None`: there are problems.
pub(super) struct Sources(pub(super) Option<super::NetworkList>);

pub(super) fn read_source(
    table: &Table<'_>,
    written: Option<&Value<'_>>,
    any: Option<&Value<'_>>,
    key: &str,
    label: &str,
) -> Option<Sources> {
    match (written, any) {
        (Some(value), Some(_)) => {
            let message = format!("`{key}` and `danger_any_source` contradict each other");
            value.bad(message, "take one of them");
            None
        }
        (Some(value), None) => some_networks(value, ANY_SOURCE).map(|list| Sources(Some(list))),
        (None, Some(value)) => {
            value.notes.warn(format!(
                "danger_any_source: listener {label} answers TLS from every address"
            ));
            Some(Sources(None))
        }
        (None, None) => {
            table.add(
                format!("`{key}` is missing: nobody is admitted without it"),
                format!(
                    "name the gateways' egress addresses: {key} = [\"203.0.113.0/28\"]; {ANY_SOURCE}"
                ),
            );
            None
        }
    }
}
