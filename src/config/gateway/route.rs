//! `[[route]]`: in order, the first that matches wins, one that can never match is an error.

use std::{path::PathBuf, sync::Arc};

use super::{
    super::{
        Mode, Route,
        reader::{Table, Value},
        values::some_peer_names,
    },
    listener::Sketch,
};
use crate::{
    identity::DnsPattern,
    wire::{forwarded, path::PathPrefix},
};

/// A route and the listeners that it can match on.
pub(super) struct Placed {
    pub(super) route: Arc<Route>,
    /// Positions of listeners.
    pub(super) scope: Vec<usize>,
}

/// From which kinds of listeners routes lead to a backend.
#[derive(Clone, Copy, Default)]
pub(super) struct Users {
    pub(super) any: bool,
    pub(super) http: bool,
    pub(super) tcp: bool,
}

impl Users {
    pub(super) fn of(backend: &str, routes: &[Placed], listeners: &[Sketch<'_>]) -> Self {
        let mut users = Self::default();
        for placed in routes
            .iter()
            .filter(|placed| placed.route.backend == backend)
        {
            users.any = true;
            for listener in placed.scope.iter().filter_map(|at| listeners.get(*at)) {
                users.http |= listener.mode == Some(Mode::Http);
                users.tcp |= listener.mode == Some(Mode::Tcp);
            }
        }
        users
    }
}

pub(super) fn read_all(
    root: &Table<'_>,
    listeners: &[Sketch<'_>],
    backends: &[&str],
) -> Vec<Placed> {
    let values = root
        .need(
            "route",
            "at least one [[route]]: without one nothing is let through",
        )
        .and_then(|v| v.list())
        .unwrap_or_default();
    let mut routes: Vec<Placed> = Vec::new();
    for (at, value) in values.iter().enumerate() {
        let Some(table) = value.table("[[route]]") else {
            continue;
        };
        let clean = table.notes.count();
        let placed = read(&table, at, listeners, backends);
        table.finish();
        let Some(placed) = placed else { continue };
        // what is wrong in itself is said once
        if value.notes.count() == clean
            && let Some(earlier) = takes_all(&routes, &placed)
        {
            let labels: Vec<&str> = earlier.iter().map(|route| route.label.as_str()).collect();
            let exact = earlier
                .iter()
                .all(|earlier| names_all(earlier, &placed.route, str::eq));
            let help = match exact {
                true => {
                    "the first that matches wins, and its `clients` refuse without passing on: put the narrower \
                     route first"
                }
                false => {
                    "a method in another case than its route's is refused without passing on: name both in one \
                     route"
                }
            };
            let labels = labels.join(" and ");
            value.bad(
                format!("this route can never match: what it takes goes to {labels}"),
                help,
            );
        }
        routes.push(placed);
    }
    routes
}

fn read(
    table: &Table<'_>,
    at: usize,
    listeners: &[Sketch<'_>],
    backends: &[&str],
) -> Option<Placed> {
    let (path, methods, rewrite, keep) = (
        table.get("path"),
        table.get("methods"),
        table.get("rewrite_prefix"),
        table.get("keep_headers"),
    );
    let of_http: Vec<&Value<'_>> = [&path, &methods, &rewrite, &keep]
        .into_iter()
        .flatten()
        .collect();
    let listener = table.get("listener");
    let scope = read_scope(table, listener.as_ref(), listeners, &of_http);
    let hosts_value = table.get("host");
    let hosts = hosts_value.as_ref().map(read_hosts);
    table.later(&["policies"]);
    let backend = table
        .need("backend", "the name of a [backend.NAME]")
        .and_then(|value| {
            let name = value.string()?;
            if !backends.contains(&name) {
                let message = format!("there is no backend {name:?}");
                value.notes.add_unknown(
                    value.span.clone(),
                    message,
                    name,
                    backends.iter().copied(),
                );
            }
            Some(name.to_owned())
        });
    let clients = table.get("clients").and_then(|value| {
        let asking = || {
            scope
                .iter()
                .filter_map(|at| listeners.get(*at))
                .filter(|l| l.asks)
        };
        if !scope.is_empty() && asking().next().is_none() {
            let help = "set client_ca and clients on the listener";
            value.bad("`clients` where no caller is asked for a certificate", help);
        }
        let pinned: Vec<PathBuf> = asking().flat_map(|l| l.pinned.iter().cloned()).collect();
        some_peer_names(&value, &pinned)
    });
    let methods = methods.as_ref().and_then(read_methods);
    if let (Some(list), Some(path)) = (&methods, &path)
        && list.iter().any(|method| method == "CONNECT")
    {
        path.bad(
            "a CONNECT request names no path",
            "give it a route of its own, without `path`",
        );
    }
    let path = path
        .and_then(|v| read_path(&v))
        .unwrap_or_else(|| "/".to_owned());
    let label = label(at, hosts.as_deref(), &path);
    let route = Route {
        label,
        listener: listener.and_then(|v| v.string()).map(Into::into),
        hosts,
        // what `read_path` let through has one
        prefix: PathPrefix::parse(&path).ok()?,
        path,
        methods,
        clients,
        backend: backend?,
        rewrite_prefix: rewrite.and_then(|v| read_path(&v)),
        keep_headers: keep.as_ref().map(read_kept).unwrap_or_default(),
    };
    Some(Placed {
        route: Arc::new(route),
        scope,
    })
}

fn label(at: usize, hosts: Option<&[DnsPattern]>, path: &str) -> String {
    let hosts = hosts.map_or_else(
        || "*".to_owned(),
        |hosts| {
            hosts
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",")
        },
    );
    format!("route[{at}] {hosts}{path}")
}

/// The listeners that a route can match on: the one that it names, else every one of a fitting
/// mode. `of_http` are the keys that it has and that only HTTP knows.
fn read_scope(
    table: &Table<'_>,
    listener: Option<&Value<'_>>,
    listeners: &[Sketch<'_>],
    of_http: &[&Value<'_>],
) -> Vec<usize> {
    let all = || listeners.iter().enumerate();
    if let Some(value) = listener {
        let Some(name) = value.string() else {
            return Vec::new();
        };
        let found = all().find(|(_, l)| l.bound.name.as_deref() == Some(name));
        let Some((at, sketch)) = found else {
            let names = listeners.iter().filter_map(|l| l.bound.name.as_deref());
            let message = format!("there is no listener {name:?}");
            value
                .notes
                .add_unknown(value.span.clone(), message, name, names);
            return Vec::new();
        };
        if sketch.mode == Some(Mode::Tcp) {
            for value in of_http {
                let message = format!("`{}` on a route of the tcp listener {name:?}", value.key);
                value.bad(
                    message,
                    "a byte stream has a host (SNI) and nothing else to look at",
                );
            }
        }
        return vec![at];
    }
    let fits = |mode: Option<Mode>| of_http.is_empty() || mode != Some(Mode::Tcp);
    let scope: Vec<usize> = all()
        .filter(|(_, l)| fits(l.mode))
        .map(|(at, _)| at)
        .collect();
    if scope.is_empty() && !listeners.is_empty() {
        let keys: Vec<String> = of_http.iter().map(|v| format!("`{}`", v.key)).collect();
        table.add(
            format!(
                "this route can never match: {} needs an http listener",
                keys.join(", ")
            ),
            "a byte stream has a host (SNI) and nothing else to look at",
        );
    }
    scope
}

fn read_hosts(value: &Value<'_>) -> Vec<DnsPattern> {
    if value.is_empty_list() {
        never(value);
    }
    let expected = "a host name such as \"api.example.org\" or \"*.example.org\"";
    let read = |item: &Value<'_>| {
        item.judged(expected, |text| {
            DnsPattern::parse(text).ok_or_else(|| match text.rsplit_once(':') {
                Some((host, port)) if port.parse::<u16>().is_ok() => {
                    format!("hosts are compared without their port: {host:?}")
                }
                _ if text.parse::<std::net::IpAddr>().is_ok() => {
                    "an address is no host name: leave `host` out to match any".to_owned()
                }
                _ => format!("expected {expected}"),
            })
        })
    };
    value
        .list_or_one()
        .unwrap_or_default()
        .iter()
        .filter_map(read)
        .collect()
}

/// An optional restriction that is written and empty admits nobody.
fn never(value: &Value<'_>) {
    let message = format!("this route can never match: `{}` is empty", value.key);
    value.bad(message, "leave it out to match any");
}

fn read_path(value: &Value<'_>) -> Option<String> {
    let expected = "a path that starts with / and holds no dot segment, %, ? or #";
    value.parsed(expected, |text| {
        let plain = text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'%' | b'?' | b'#' | b'\\' | b'"'));
        let segments = || text.split('/').skip(1);
        let dots = segments().any(|segment| matches!(segment, "." | ".."));
        let hollow = text.contains("//");
        let plain = plain && !dots && !hollow && PathPrefix::parse(text).is_ok();
        plain.then(|| text.to_owned())
    })
}

/// Only what is removed can be kept, so that nobody believes that a claim is.
fn read_kept(value: &Value<'_>) -> Vec<http::HeaderName> {
    let expected = "one of the headers that are removed, such as \"X-HTTP-Method-Override\"";
    let read = |item: &Value<'_>| {
        item.judged(expected, |text| {
            http::HeaderName::from_bytes(text.as_bytes())
                .ok()
                .filter(forwarded::is_override)
                .ok_or_else(|| {
                    let names = forwarded::overrides().collect::<Vec<_>>().join(", ");
                    format!("{text:?} is none of the headers that can be kept: {names}")
                })
        })
    };
    value
        .list()
        .unwrap_or_default()
        .iter()
        .filter_map(read)
        .collect()
}

fn read_methods(value: &Value<'_>) -> Option<Vec<String>> {
    const KNOWN: [&str; 8] = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT",
    ];
    let items = value.list()?;
    if items.is_empty() {
        never(value);
    }
    let mut list = Vec::new();
    for item in items {
        let Some(method) = item.string() else {
            continue;
        };
        let upper = method.to_ascii_uppercase();
        if method == "*" {
            let help = "leave `methods` out: a route without it takes every method but CONNECT";
            item.bad("\"*\" stands for no method", help);
        } else if upper == "TRACE" {
            item.bad(format!("{method} is never forwarded"), "remove it");
        } else if upper != method && KNOWN.contains(&upper.as_str()) {
            let message = format!("{method:?} is not a method: their case matters");
            item.notes
                .add_unknown(item.span.clone(), message, &upper, KNOWN);
        } else if http::Method::from_bytes(method.as_bytes()).is_err() {
            item.bad(
                format!("{method:?} is not an HTTP method"),
                "expected a token like \"GET\"",
            );
        } else {
            list.push(method.to_owned());
        }
    }
    Some(list)
}

/// The earlier routes that together take all that `later` could match; `None`: something is left.
fn takes_all<'r>(earlier: &'r [Placed], later: &Placed) -> Option<Vec<&'r Route>> {
    let route = &later.route;
    let any = [None];
    let hosts: Vec<Option<&DnsPattern>> = match &route.hosts {
        Some(hosts) => hosts.iter().map(Some).collect(),
        None => any.to_vec(),
    };
    let mut takers: Vec<&Route> = Vec::new();
    for at in &later.scope {
        for host in &hosts {
            let taker = earlier
                .iter()
                .find(|placed| placed.scope.contains(at) && takes(&placed.route, route, *host))?;
            if !takers.iter().any(|known| known.label == taker.route.label) {
                takers.push(&taker.route);
            }
        }
    }
    (!takers.is_empty()).then_some(takers)
}

/// Whether `earlier` takes all that `later` could match under `host`.
fn takes(earlier: &Route, later: &Route, host: Option<&DnsPattern>) -> bool {
    let host = match (&earlier.hosts, host) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(hosts), Some(host)) => hosts.iter().any(|own| own.covers(host)),
    };
    // `clients` is no part of the match: it refuses, and does not pass on to the next route; nor does
    // a method in another case
    host && names_all(earlier, later, str::eq_ignore_ascii_case)
        && path_takes(&earlier.path, &later.path)
}

/// Whether `earlier` names every method that `later` takes.
fn names_all(earlier: &Route, later: &Route, same: fn(&str, &str) -> bool) -> bool {
    match (&earlier.methods, &later.methods) {
        (None, None) => true,
        // a tunnel is taken by name alone
        (None, Some(theirs)) => !theirs.iter().any(|method| method == "CONNECT"),
        (Some(_), None) => false,
        (Some(own), Some(theirs)) => {
            let named = |method: &String| own.iter().any(|own| same(own, method));
            theirs.iter().all(named)
        }
    }
}

/// Whether every path below `later` is below `earlier`: prefixes at segment boundaries, where a
/// slash at the end says nothing.
fn path_takes(earlier: &str, later: &str) -> bool {
    let (earlier, later) = (earlier.trim_end_matches('/'), later.trim_end_matches('/'));
    let rest = later.strip_prefix(earlier);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_segment_boundary() {
        for (earlier, later, taken) in [
            ("/", "/", true),
            ("/", "/a", true),
            ("/a", "/a/b", true),
            ("/a/", "/a/b", true),
            ("/a", "/a/", true),
            ("/a", "/ab", false),
            ("/a/b", "/a", false),
            ("/a/", "/a", true),
            ("/a", "/", false),
        ] {
            assert_eq!(path_takes(earlier, later), taken, "{earlier} {later}");
        }
    }
}
