//! gateway.toml. Listeners, routes and backends are each in their own file.

mod backend;
mod credentials;
mod listener;
mod route;

use std::{collections::BTreeMap, sync::Arc};

use super::{GatewayConfig, bound::check_bound, common::head, defaults, reader::Table};

/// Reads the whole file. `None`: there are problems.
pub(super) fn read(root: Table<'_>) -> Option<GatewayConfig> {
    let head = head(&root, defaults::GATEWAY_CONNECTIONS_PER_IP);
    root.later(&["policy"]);
    let values = root
        .need("listener", "at least one [[listener]]")
        .and_then(|v| v.list())
        .unwrap_or_default();
    let sketches: Vec<_> = values
        .iter()
        .filter_map(|value| listener::read(value, &head))
        .collect();
    let bounds: Vec<_> = sketches.iter().map(|sketch| &sketch.bound).collect();
    check_bound(&bounds, head.admin.as_ref());

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
        routes: routes.into_iter().map(|placed| placed.route).collect(),
        backends,
    })
}
