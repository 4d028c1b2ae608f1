//! What listeners of both roles have in common: name, address, PROXY headers; and which of them
//! can't be bound at once.

use super::{
    Identity, ListenAddress, NetworkList,
    common::Head,
    reader::{Table, Value},
    values::{key_passphrase, listen_address, some_networks},
};

/// `certificate` and `key` may be left out where other certificates are named, but go together.
pub(super) fn lonely_key(
    table: &Table<'_>,
    certificate: Option<&Value<'_>>,
    key: Option<&Value<'_>>,
) {
    match (certificate, key) {
        (Some(value), None) => value.bad("`certificate` without `key`", "name its private key"),
        (None, Some(value)) => value.bad("`key` without `certificate`", "name its certificate"),
        (None, None) => {
            if key_passphrase(table).is_some() {
                table.add("`key_passphrase` without `key`", "name the private key");
            }
        }
        (Some(_), Some(_)) => {}
    }
}

/// `proxy_protocol = { from = […] }` of a listener.
pub(super) fn read_proxy_from(table: &Table<'_>) -> Option<NetworkList> {
    let value = table.get("proxy_protocol")?;
    if value.is_string() {
        let help = "a listener names the balancers: proxy_protocol = { from = [\"10.0.0.0/24\"] }";
        value.bad("`proxy_protocol` is a string", help);
        return None;
    }
    let from = value.table("`proxy_protocol`")?;
    let open = "name the balancers alone: whoever is in `from` chooses the address it is judged by";
    let list = from
        .need("from", "the balancers' addresses")
        .and_then(|v| some_networks(&v, open));
    from.finish();
    list
}

/// A name for logs, metrics and the page: what `text` says, if it can be one.
pub(super) fn read_name(value: &Value<'_>) -> Option<String> {
    value.judged("a name", |text| {
        let plain = |c: char| c.is_alphanumeric() || "-_.:/[] ".contains(c);
        if text.trim().is_empty() || text.len() > 64 || !text.chars().all(plain) {
            return Err("expected 1 to 64 letters, digits, '-', '_' or '.'".to_owned());
        }
        Ok(text.to_owned())
    })
}

/// What is known of a listener even when the rest of it is wrong.
pub(super) struct Bound<'a> {
    pub(super) name: Option<String>,
    pub(super) address: Option<ListenAddress>,
    /// Where its address stands, or the listener.
    pub(super) at: Value<'a>,
    /// Where its name stands, if it does.
    pub(super) named_at: Option<Value<'a>>,
}

/// `name` and `address` of a listener; the name's default is the address.
pub(super) fn read_bound<'a>(table: &Table<'a>, item: &Value<'a>, why: &str) -> Bound<'a> {
    let place = table.need("address", why);
    let address = place.as_ref().and_then(listen_address);
    let named = table.get("name");
    let name = match &named {
        Some(value) => read_name(value),
        None => address.as_ref().map(ToString::to_string),
    };
    Bound {
        name,
        address,
        at: place.unwrap_or_else(|| item.clone()),
        named_at: named,
    }
}

/// Names and addresses that two listeners, or a listener and `[admin]`, can't both have.
pub(super) fn check_bound(all: &[&Bound<'_>], head: &Head) {
    let admin = head.admin.as_ref();
    let acme = head.identity.as_ref().and_then(Identity::acme);
    let acme = acme.and_then(|acme| acme.http).map(ListenAddress::Tcp);
    for (at, bound) in all.iter().enumerate() {
        let earlier = all.get(..at).unwrap_or_default();
        if let Some(name) = &bound.name
            && earlier
                .iter()
                .any(|other| other.name.as_ref() == Some(name))
        {
            let message = format!("two listeners are called {name:?}");
            let at = bound.named_at.as_ref().unwrap_or(&bound.at);
            at.bad(message, "give each a name of its own");
        }
        let Some(address) = &bound.address else {
            continue;
        };
        for other in earlier {
            if let Some(theirs) = &other.address
                && clashes(theirs, address)
            {
                let whose = other.name.as_deref().unwrap_or("another");
                bound.at.bad(
                    format!("{address} clashes with {theirs} of listener {whose:?}"),
                    "only one of them can be bound: give each an address of its own",
                );
            }
        }
        if let Some(acme) = &acme
            && clashes(acme, address)
        {
            bound.at.bad(
                format!("{address} clashes with acme_http = \"{acme}\" of [identity]"),
                "only one of them can be bound: a listener in redirect mode answers the CA by itself",
            );
        }
        if let Some(admin) = admin
            && clashes(&admin.address, address)
        {
            bound.at.bad(
                format!("{address} clashes with {} of [admin]", admin.address),
                "only one of them can be bound: give each an address of its own",
            );
        }
    }
}

/// Whether two listeners can't be bound at once. `[::]` takes IPv4 too.
pub(super) fn clashes(a: &ListenAddress, b: &ListenAddress) -> bool {
    let (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) = (a, b) else {
        return a == b;
    };
    let (ip_a, ip_b) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() != 0
        && a.port() == b.port()
        && (ip_a == ip_b
            || ip_a.is_unspecified() && (ip_a.is_ipv6() || ip_b.is_ipv4())
            || ip_b.is_unspecified() && (ip_b.is_ipv6() || ip_a.is_ipv4()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_clash_as_the_kernel_says() {
        let tcp = |text: &str| ListenAddress::Tcp(text.parse().unwrap());
        for (a, b, clash) in [
            ("0.0.0.0:443", "127.0.0.1:443", true),
            ("127.0.0.1:443", "0.0.0.0:443", true),
            ("[::]:443", "127.0.0.1:443", true),
            ("[::]:443", "0.0.0.0:443", true),
            ("[::ffff:127.0.0.1]:443", "127.0.0.1:443", true),
            ("0.0.0.0:443", "[::1]:443", false),
            ("127.0.0.1:443", "127.0.0.2:443", false),
            ("0.0.0.0:443", "0.0.0.0:444", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(clashes(&tcp(a), &tcp(b)), clash, "{a} {b}");
        }
        let unix = |path: &str| ListenAddress::Unix(path.into());
        assert!(clashes(&unix("/a"), &unix("/a")) && !clashes(&unix("/a"), &unix("/b")));
    }
}
