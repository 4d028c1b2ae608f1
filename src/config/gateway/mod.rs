//! gateway.toml. Listeners, routes and backends are each in their own file.

mod backend;
mod credentials;
mod listener;
mod redirect;
mod route;

use std::{collections::BTreeMap, sync::Arc};

use super::{Challenge, GatewayConfig, bound::check_bound, common::head, defaults, reader::Table};

/// Reads the whole file. `None`: there are problems.
pub(super) fn read(root: Table<'_>) -> Option<GatewayConfig> {
    let head = head(&root, defaults::GATEWAY_CONNECTIONS_PER_IP);
    root.later(&["policy"]);
    let values = root
        .need("listener", "at least one [[listener]]")
        .and_then(|v| v.list())
        .unwrap_or_default();
    let (plain, served): (Vec<_>, Vec<_>) = values.iter().partition(|v| redirect::is_one(v));
    let sketches: Vec<_> = served
        .into_iter()
        .filter_map(|value| listener::read(value, &head))
        .collect();
    let redirects: Vec<_> = plain
        .into_iter()
        .filter_map(|value| redirect::read(value, &head))
        .collect();
    let plain = redirects.iter().map(|(bound, _)| bound);
    let bounds: Vec<_> = sketches
        .iter()
        .map(|sketch| &sketch.bound)
        .chain(plain)
        .collect();
    check_bound(&bounds, &head);
    head.check_challenges(&root, !redirects.is_empty());
    let by_http = |sketch: &listener::Sketch<'_>| {
        let files = sketch.listener.iter().flat_map(|l| &l.certificates);
        let mut ordered = files.filter_map(|files| files.acme.as_ref());
        ordered.any(|acme| acme.challenge == Challenge::Http01)
    };
    if let (Some(sketch), true) = (sketches.iter().find(|s| by_http(s)), redirects.is_empty()) {
        sketch.bound.at.bad(
            "challenge = \"http-01\" without a listener in redirect mode",
            "it is answered there: mode = \"redirect\" on port 80",
        );
    }

    let named = root
        .need("backend", "at least one [backend.NAME]")
        .and_then(|v| v.table("[backend]"))
        .map(|table| table.entries())
        .unwrap_or_default();
    let names: Vec<&str> = named.iter().map(|(name, ..)| *name).collect();
    let routes = route::read_all(&root, &sketches, &names);
    let mut backends = BTreeMap::new();
    for (name, at, value) in &named {
        let users = route::Users::of(name, &routes, &sketches);
        if !users.any {
            root.notes.warn(format!("no route leads to backend {name}"));
        }
        if let Some(backend) = backend::read(name, at, value, &head, users) {
            backends.insert((*name).to_owned(), Arc::new(backend));
        }
    }
    for (at, sketch) in sketches.iter().enumerate() {
        if !routes.iter().any(|route| route.scope.contains(&at)) {
            let name = sketch.bound.name.as_deref().unwrap_or("?");
            root.notes.warn(format!(
                "no route leads from listener {name}: it refuses everybody"
            ));
        }
    }
    let notes = root.notes;
    root.finish();
    Some(GatewayConfig {
        common: head.into_common(notes)?,
        listeners: sketches
            .into_iter()
            .filter_map(|sketch| sketch.listener)
            .collect(),
        redirects: redirects.into_iter().filter_map(|(_, read)| read).collect(),
        routes: routes.into_iter().map(|placed| placed.route).collect(),
        backends,
    })
}
