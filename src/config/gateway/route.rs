//! `[[route]]`: in order, the first that matches wins, one that can never match is an error.

use std::{path::Path, sync::Arc};

use super::super::{
    GatewayListener, Mode, Route,
    reader::{Table, Value, suggest},
    values::peer_names,
};
use crate::identity::DnsPattern;

pub(super) fn read_all(
    root: &Table<'_>,
    listeners: &[GatewayListener],
    complete: bool,
    backends: &[String],
    folder: &Path,
) -> Vec<Arc<Route>> {
    let values = root
        .need(
            "route",
            "at least one [[route]]: without one nothing is let through",
        )
        .and_then(|v| v.list())
        .unwrap_or_default();
    let mut routes: Vec<Arc<Route>> = Vec::new();
    for (at, value) in values.iter().enumerate() {
        let Some(table) = value.table("[[route]]") else {
            continue;
        };
        let Some(route) = read(table, at, listeners, complete, backends, folder) else {
            continue;
        };
        if let Some(earlier) = routes.iter().find(|earlier| shadows(earlier, &route)) {
            value.bad(
                format!(
                    "this route can never match: {} comes first and takes all of it",
                    earlier.label
                ),
                "put the narrower route first",
            );
        }
        routes.push(Arc::new(route));
    }
    routes
}

#[expect(clippy::too_many_lines, reason = "a table: one key after the other")]
fn read(
    table: Table<'_>,
    at: usize,
    listeners: &[GatewayListener],
    complete: bool,
    backends: &[String],
    folder: &Path,
) -> Option<Route> {
    let listener = table.get("listener");
    let name = listener.as_ref().and_then(Value::string);
    let found = name
        .as_ref()
        .and_then(|name| listeners.iter().find(|l| *l.name == **name));
    if let (Some(value), Some(name), None, true) = (&listener, &name, found, complete) {
        value.bad(
            format!("there is no listener {name:?}"),
            suggest(name, listeners.iter().map(|l| &*l.name)),
        );
    }
    let http = found.map_or_else(
        || listeners.iter().any(|l| l.mode == Mode::Http),
        |l| l.mode == Mode::Http,
    );
    let hosts = table.get("host").map(|value| read_hosts(&value));
    let path = table.get("path");
    let methods = table.get("methods");
    let rewrite = table.get("rewrite_prefix");
    if complete && !http {
        for value in [&path, &methods, &rewrite].into_iter().flatten() {
            value.bad(
                format!("`{}` on a route of a tcp listener", value.key),
                "a byte stream has hosts (SNI) only",
            );
        }
    }
    table.later("policies");
    let backend = table.need("backend", "the name of a [backend.NAME]");
    let backend_name = backend.as_ref().and_then(Value::string);
    if let (Some(value), Some(name)) = (&backend, &backend_name)
        && !backends.contains(name)
    {
        value.bad(
            format!("there is no backend {name:?}"),
            suggest(name, backends.iter().map(String::as_str)),
        );
    }
    let pinned: Vec<_> = listeners
        .iter()
        .filter_map(|l| l.client_auth.as_ref())
        .flat_map(|a| a.pinned.clone())
        .collect();
    let clients = table.get("clients").and_then(|value| {
        let asked = found.map_or_else(
            || listeners.iter().any(|l| l.client_auth.is_some()),
            |l| l.client_auth.is_some(),
        );
        if complete && !asked {
            value.bad(
                "`clients` on a route whose listener asks nobody for a certificate",
                "set client_ca on the listener",
            );
        }
        peer_names(&value, folder, &pinned)
    });
    let path = path
        .and_then(|v| read_path(&v))
        .unwrap_or_else(|| "/".to_owned());
    let rewrite_prefix = rewrite.and_then(|v| read_path(&v));
    let methods = methods.as_ref().and_then(read_methods);
    table.finish();
    let hosts_label = hosts.as_ref().map_or_else(
        || "*".to_owned(),
        |hosts| {
            hosts
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",")
        },
    );
    Some(Route {
        label: format!("route[{at}] {hosts_label}{path}"),
        listener: name.map(Arc::from),
        hosts,
        path,
        methods,
        clients,
        backend: backend_name?,
        rewrite_prefix,
    })
}

fn read_hosts(value: &Value<'_>) -> Vec<DnsPattern> {
    value
        .list_or_one()
        .unwrap_or_default()
        .iter()
        .filter_map(|item| {
            item.parsed(
                "a host name, or one leading \"*.\" and a name",
                DnsPattern::parse,
            )
        })
        .collect()
}

fn read_path(value: &Value<'_>) -> Option<String> {
    value.parsed(
        "a path that starts with / and holds no dot segments, % or ?",
        |text| {
            let plain = text
                .bytes()
                .all(|b| b.is_ascii_graphic() && !matches!(b, b'%' | b'?' | b'#' | b'\\'));
            let dots = text.split('/').any(|segment| matches!(segment, "." | ".."));
            (text.starts_with('/') && plain && !dots).then(|| text.to_owned())
        },
    )
}

fn read_methods(value: &Value<'_>) -> Option<Vec<String>> {
    let mut list = Vec::new();
    for item in value.list()? {
        let Some(method) = item.string() else {
            continue;
        };
        if matches!(method.as_str(), "TRACE" | "CONNECT") {
            item.bad(format!("{method} is never forwarded"), "remove it");
        } else if http::Method::from_bytes(method.as_bytes()).is_err() {
            item.bad(
                format!("{method:?} is no HTTP method"),
                "expected a token like \"GET\"",
            );
        } else {
            list.push(method);
        }
    }
    Some(list)
}

/// Whether everything that `later` could take goes to `earlier`.
fn shadows(earlier: &Route, later: &Route) -> bool {
    let listener = earlier.listener.is_none() || earlier.listener == later.listener;
    let host = match (&earlier.hosts, &later.hosts) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => b.iter().all(|b| a.iter().any(|a| a.covers(b))),
    };
    let method = match (&earlier.methods, &later.methods) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => b.iter().all(|b| a.contains(b)),
    };
    let path = later.path == earlier.path
        || later
            .path
            .strip_prefix(earlier.path.trim_end_matches('/'))
            .is_some_and(|rest| rest.starts_with('/'));
    // `clients` refuses, it does not pass on to the next route
    listener && host && method && path
}
