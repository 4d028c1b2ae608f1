//! Which route takes a connection or a request. Pure: `explain` asks the same functions.

use std::sync::Arc;

use http::{Method, Request, Uri, uri};

use crate::{
    admit::{Denial, Denied, PeerFacts},
    config::Route,
    wire::path,
};

/// The route of a byte stream, by the name that the client asked for.
#[must_use]
pub fn match_tcp<'r>(
    routes: &'r [Arc<Route>],
    listener: &str,
    sni: Option<&str>,
) -> Option<&'r Arc<Route>> {
    routes
        .iter()
        .find(|route| at(route, listener) && host(route, sni))
}

/// The route of a request. `path` is the raw path, already checked for dot segments; it falls under
/// a prefix as the most lenient backend would read it, so that no spelling passes by a rule; nor does
/// a method that a route names in another case, which is then no route's.
#[must_use]
pub fn match_http<'r>(
    routes: &'r [Arc<Route>],
    listener: &str,
    wanted: Option<&str>,
    path: &str,
    method: &str,
) -> Option<&'r Arc<Route>> {
    let found = routes.iter().find(|route| {
        at(route, listener)
            && host(route, wanted)
            && route.prefix.matches(path)
            && match &route.methods {
                Some(list) => list.iter().any(|m| m.eq_ignore_ascii_case(method)),
                // tunnels are opened by a route that says so
                None => !method.eq_ignore_ascii_case("CONNECT"),
            }
    });
    let exact = |route: &&Arc<Route>| match &route.methods {
        Some(list) => list.iter().any(|m| m == method),
        None => true,
    };
    found.filter(exact)
}

/// The same, and why there is none.
///
/// # Errors
/// `NoRoute`.
pub fn find_http<'r>(
    routes: &'r [Arc<Route>],
    listener: &str,
    wanted: Option<&str>,
    path: &str,
    method: &str,
) -> Result<&'r Arc<Route>, Denied> {
    match_http(routes, listener, wanted, path, method).ok_or_else(|| {
        Denied::new(
            Denial::NoRoute,
            format!("{method} {}{path}", wanted.unwrap_or("-")),
        )
    })
}

/// The path by which a request is routed, raw.
///
/// # Errors
/// `RequestInvalid`: two servers would read it as two paths.
pub fn path_of<B>(request: &Request<B>) -> Result<&str, Denied> {
    let path = request.uri().path();
    path::check(path).map_err(|error| invalid(&error))?;
    if path == "*" && request.method() != Method::OPTIONS {
        return Err(invalid(&"\"*\" is a target of OPTIONS alone"));
    }
    Ok(path)
}

/// Gives a request the path that routes and backend are to see (`path_normalisation`).
///
/// # Errors
/// `RequestInvalid`: it has no one meaning.
pub fn normalise<B>(request: &mut Request<B>) -> Result<(), Denied> {
    let uri = request.uri();
    let Some(path) = path::normalise(uri.path()).map_err(|error| invalid(&error))? else {
        return Ok(());
    };
    let whole = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(
        whole
            .parse()
            .map_err(|error: uri::InvalidUri| invalid(&error))?,
    );
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| invalid(&error))?;
    Ok(())
}

fn invalid(error: &dyn std::fmt::Display) -> Denied {
    Denied::new(Denial::RequestInvalid, error.to_string())
}

/// A route's `clients` are narrower than its listener's.
///
/// # Errors
/// `ClientNotAllowed`.
pub fn check_clients(route: &Route, peer: Option<&PeerFacts>) -> Result<(), Denied> {
    let Some(names) = &route.clients else {
        return Ok(());
    };
    let admitted = peer.is_some_and(|peer| names.first_match(&peer.leaf).is_some());
    if admitted {
        return Ok(());
    }
    let who = peer.map_or_else(|| "no certificate".to_owned(), |peer| peer.leaf.describe());
    Err(Denied::new(
        Denial::ClientNotAllowed,
        format!("{}: {who}", route.label),
    ))
}

/// Whether a route of this listener is written for this host, not for any.
#[must_use]
pub fn names_host(routes: &[Arc<Route>], listener: &str, name: &str) -> bool {
    routes
        .iter()
        .any(|route| at(route, listener) && route.hosts.is_some() && host(route, Some(name)))
}

fn at(route: &Route, listener: &str) -> bool {
    route
        .listener
        .as_deref()
        .is_none_or(|name| name == listener)
}

fn host(route: &Route, wanted: Option<&str>) -> bool {
    match (&route.hosts, wanted) {
        (None, _) => true,
        (Some(hosts), Some(name)) => hosts.iter().any(|pattern| pattern.matches(name)),
        (Some(_), None) => false,
    }
}

/// The path that the backend is asked for.
#[must_use]
pub fn rewritten(route: &Route, path: &str) -> Option<String> {
    let replacement = route.rewrite_prefix.as_deref()?;
    route.prefix.rewrite(path, replacement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::DnsPattern, wire::path::PathPrefix};

    fn route(host: Option<&str>, path: &str, methods: Option<&[&str]>) -> Arc<Route> {
        Arc::new(Route {
            label: format!("{host:?} {path}"),
            listener: None,
            hosts: host.map(|host| vec![DnsPattern::parse(host).unwrap()]),
            path: path.into(),
            prefix: PathPrefix::parse(path).unwrap(),
            methods: methods.map(|m| m.iter().map(ToString::to_string).collect()),
            clients: None,
            backend: "b".into(),
            rewrite_prefix: Some("/v2/".into()),
            keep_headers: Vec::new(),
        })
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        for (prefix, path, expected) in [
            ("/orders/", "/orders/7", true),
            ("/orders/", "/orders", true),
            ("/orders", "/orders/7", true),
            ("/orders", "/ordersx", false),
            ("/", "/anything", true),
            ("/a", "/b/a", false),
            ("/orders/", "/%6frders/7", true),
            ("/orders/", "//orders;v=1/7", true),
        ] {
            let route = route(None, prefix, None);
            assert_eq!(route.prefix.matches(path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn the_first_route_that_matches_wins() {
        let routes = [
            route(Some("*.shop.example"), "/a", None),
            route(None, "/a", Some(&["GET"])),
            route(None, "/", None),
        ];
        let find = |host, path, method| {
            routes
                .iter()
                .position(|r| Arc::ptr_eq(r, match_http(&routes, "l", host, path, method).unwrap()))
        };
        assert_eq!(find(Some("x.shop.example"), "/a/b", "POST"), Some(0));
        assert_eq!(find(Some("other.example"), "/a/b", "GET"), Some(1));
        assert_eq!(find(Some("other.example"), "/a/b", "POST"), Some(2));
        assert!(match_tcp(&routes[..1], "l", None).is_none());
    }

    #[test]
    fn no_spelling_of_a_method_passes_by_a_route() {
        let routes = [
            route(None, "/a", Some(&["DELETE", "CONNECT"])),
            route(None, "/", None),
        ];
        let find =
            |path, method| match_http(&routes, "l", None, path, method).map(|route| &*route.path);
        assert_eq!(find("/a", "DELETE"), Some("/a"));
        // a backend may take it for DELETE, or not: it is neither route's
        assert_eq!(find("/a", "delete"), None);
        assert_eq!(find("/a", "Delete"), None);
        assert_eq!(find("/b", "delete"), Some("/"));
        assert_eq!(find("/a", "get"), Some("/"));
        assert_eq!(find("/b", "connect"), None);
    }

    #[test]
    fn a_prefix_is_rewritten_once() {
        let route = route(None, "/orders/", None);
        assert_eq!(rewritten(&route, "/orders/7").as_deref(), Some("/v2/7"));
        assert_eq!(rewritten(&route, "/orders").as_deref(), Some("/v2"));
    }
}
