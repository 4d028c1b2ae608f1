//! `[[listener]]` of a gateway with mode = "redirect": plain text, for those who forgot the s and for
//! the CA that asks for its proof.

use super::super::{
    RedirectListener,
    bound::{Bound, read_bound, read_proxy_from},
    common::{Head, limits_over},
    defaults,
    reader::Value,
    values::networks,
};

/// Whether this listener is one.
pub(super) fn is_one(item: &Value<'_>) -> bool {
    let table = item
        .is_table()
        .then(|| item.table("[[listener]]"))
        .flatten();
    let mode = table.and_then(|table| table.get("mode"));
    mode.filter(Value::is_string)
        .and_then(|mode| mode.string())
        .is_some_and(|mode| mode == "redirect")
}

/// Its name and address, and the rest where nothing is wrong with it.
pub(super) fn read<'a>(
    item: &Value<'a>,
    head: &Head,
) -> Option<(Bound<'a>, Option<RedirectListener>)> {
    let table = item.table("[[listener]]")?;
    let bound = read_bound(&table, item, "where clients connect: \"0.0.0.0:80\"");
    let _said = table.get("mode");
    let limits = limits_over(
        &head.limits,
        table.get("limits").as_ref(),
        "[listener.limits]",
    );
    let allow = table.get("allow");
    if allow.as_ref().is_some_and(Value::is_empty_list) {
        let name = bound.name.as_deref().unwrap_or("?");
        table.notes.warn(format!(
            "`allow` of listener {name} is empty: it admits nobody"
        ));
    }
    let allow = allow.map(|value| networks(&value).unwrap_or_default());
    let deny = table.get("deny").and_then(|value| networks(&value));
    let proxy_from = read_proxy_from(&table);
    let port = table.get("https_port");
    let port = port.and_then(|value| value.number(1..=u64::from(u16::MAX)));
    for key in ["certificate", "key", "tls_certificate", "tls", "client_ca"] {
        if let Some(value) = table.get(key) {
            value.bad(
                format!("`{key}` in redirect mode"),
                "nothing is encrypted there: it belongs to the listener that requests are sent to",
            );
        }
    }
    table.finish();
    let name = bound.name.clone();
    let address = bound.address.clone();
    let listener = name.zip(address).map(|(name, address)| RedirectListener {
        name: name.into(),
        address,
        allow,
        deny: deny.unwrap_or_default(),
        proxy_from,
        https_port: port
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(defaults::HTTPS_PORT),
        limits,
    });
    Some((bound, listener))
}
