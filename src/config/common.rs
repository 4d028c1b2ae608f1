//! The tables that both roles have: identity, tls, limits, admin, log, runtime; and what listeners
//! of both have in common.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    Admin, Cipher, Common, Identity, KeyExchange, Limits, ListenAddress, Log, LogFormat,
    NetworkList, Revocation, Source, TlsOptions, TlsVersion, TrustBundle, defaults,
    reader::{Notes, Table, Value},
    values::{
        certificate_files, duration, key_passphrase, listen_address, secret, size, some_networks,
        some_peer_names,
    },
};
use crate::{admit::DeniedList, identity::PeerName};

/// More workers than any machine has cores.
const MOST_WORKERS: u64 = 1_024;
/// Sixteen million connections are more than a process can hold, and fewer than a semaphore can.
const MOST: u64 = 16_000_000;
/// hyper keeps at least 8 KiB for a head.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 8 << 10..=1 << 20;

/// What is read of a whole file before its listeners are.
pub(super) struct Head {
    pub(super) identity: Option<Identity>,
    pub(super) tls: TlsOptions,
    pub(super) limits: Limits,
    pub(super) admin: Option<Admin>,
    pub(super) log: Log,
    pub(super) workers: usize,
}

/// Reads the tables that both roles have. `per_ip` is the role's default.
pub(super) fn head(root: &Table<'_>, per_ip: usize) -> Head {
    let identity = root
        .need(
            "identity",
            "who this process is: certificate, key, and trust or pinned",
        )
        .and_then(|value| value.table("[identity]"))
        .and_then(|table| read_identity(table, "identity"));
    Head {
        identity,
        tls: tls_over(&defaults::tls(), root.get("tls").as_ref(), "[tls]"),
        limits: limits_over(
            &defaults::limits(per_ip),
            root.get("limits").as_ref(),
            "[limits]",
        ),
        admin: root.get("admin").and_then(|value| read_admin(&value)),
        log: read_log(root.get("log").as_ref()),
        workers: read_workers(root.get("runtime").as_ref()),
    }
}

impl Head {
    pub(super) fn into_common(self, notes: &Notes) -> Option<Common> {
        Some(Common {
            // both are filled in when the whole file is read
            file: PathBuf::new(),
            source: Arc::new(Source::default()),
            identity: self.identity?,
            tls: self.tls,
            admin: self.admin,
            log: self.log,
            workers: self.workers,
            warnings: notes.take_warnings(),
        })
    }

    /// The pins that a name may refer to where no other identity stands nearer.
    pub(super) fn pinned(&self) -> Vec<PathBuf> {
        self.identity
            .as_ref()
            .map(|identity| identity.pinned.clone())
            .unwrap_or_default()
    }
}

/// `[identity]`, or a backend's own; `name` is what warnings call it.
pub(super) fn read_identity(table: Table<'_>, name: &str) -> Option<Identity> {
    if let Some(source) = table.get("source") {
        let _files = source.word(&[("files", ())], &["renew", "pki", "acme", "spiffe"]);
    }
    let files = certificate_files(&table);
    let trust = table.get("trust");
    let pinned = table.get("pinned");
    let bundle = table.get("trust_bundle");
    let (no_trust, no_bundle) = (trust.is_none(), bundle.is_none());
    let list = pinned.as_ref().map(paths).unwrap_or_default();
    let bundles: Vec<TrustBundle> = bundle
        .as_ref()
        .and_then(Value::list)
        .unwrap_or_default()
        .iter()
        .filter_map(read_bundle)
        .collect();
    let revocation = revocation(&table, ["crl", "crl_policy"], Some("crl_scope"));
    let denied = table
        .get("denied")
        .map(|v| read_denied(&v))
        .unwrap_or_default();
    if no_trust && no_bundle && pinned.as_ref().is_none_or(Value::is_empty_list) {
        table.add(
            format!("[{name}] trusts nobody: `trust`, `pinned` and `trust_bundle` are absent"),
            "name the roots that the other side chains to: trust = \"trust.pem\"",
        );
    }
    if revocation.is_none() && !(no_trust && no_bundle) && table.get("crl").is_none() {
        let warning = "is not set: revoked certificates of the other side are not refused";
        table.notes.warn(format!("{name}.crl {warning}"));
    }
    let span = table.span.clone();
    let trust = trust.and_then(|v| v.path());
    table.finish();
    let files = files?;
    Some(Identity {
        certificate: files.certificate,
        key: files.key,
        key_passphrase: files.key_passphrase,
        trust,
        bundles,
        pinned: list,
        revocation,
        denied,
        span,
    })
}

fn read_bundle(item: &Value<'_>) -> Option<TrustBundle> {
    let table = item.table("[[identity.trust_bundle]]")?;
    let file = table
        .need("file", "a PEM file of roots")
        .and_then(|v| v.path());
    let names = table.need(
        "names",
        "what these roots speak for: [\"dns:*.partner.example\"]",
    );
    let names = names.and_then(|value| {
        let names = some_peer_names(&value, &[])?;
        let of_one = |name: &PeerName| match name {
            PeerName::Spiffe(_) | PeerName::SpiffePrefix { .. } | PeerName::Dns(_) => false,
            PeerName::Fingerprint(_) | PeerName::Spki(_) | PeerName::Pinned { .. } => true,
        };
        if names.0.iter().any(of_one) {
            let help = "expected names that a CA can put into a certificate: dns: or spiffe://";
            value.bad(
                "roots speak for names, not for one certificate or key",
                help,
            );
        }
        Some(names)
    });
    table.finish();
    Some(TrustBundle {
        file: file?,
        names: names?,
    })
}

fn read_denied(value: &Value<'_>) -> DeniedList {
    let mut denied = DeniedList::default();
    for item in value.list().unwrap_or_default() {
        let expected = "\"sha256:HEX\" or \"serial:HEX\"";
        let _added = item.judged(expected, |text| denied.add(text));
    }
    denied
}

/// One file or a list of files, none of them twice.
pub(super) fn paths(value: &Value<'_>) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = Vec::new();
    for item in value.list_or_one().unwrap_or_default() {
        match item.path() {
            Some(path) if list.contains(&path) => {
                item.bad(
                    format!("{} stands here twice", path.display()),
                    "remove one",
                );
            }
            path => list.extend(path),
        }
    }
    list
}

/// `crl` and its companions, under the names that they have in this table.
pub(super) fn revocation(
    table: &Table<'_>,
    [crl, policy]: [&'static str; 2],
    scope: Option<&'static str>,
) -> Option<Revocation> {
    let files = table.get(crl);
    let policy = table.get(policy);
    let scope = scope.and_then(|scope| table.get(scope));
    let tolerate = policy
        .as_ref()
        .and_then(|v| v.word(&[("require", false), ("tolerate", true)], &[]));
    let leaf_only = scope
        .as_ref()
        .and_then(|v| v.word(&[("chain", false), ("leaf", true)], &[]));
    let Some(files) = files else {
        for lonely in [policy, scope].into_iter().flatten() {
            // who writes "require" believes that something is required
            lonely.bad(
                format!("`{}` without `{crl}` does nothing", lonely.key),
                format!("name the files: {crl} = [\"crl.pem\"]"),
            );
        }
        return None;
    };
    if files.is_empty_list() {
        files.bad(
            format!("`{crl}` names no file"),
            "leave it out, or name at least one",
        );
    }
    Some(Revocation {
        files: paths(&files),
        tolerate_expired: tolerate.unwrap_or(false),
        leaf_only: leaf_only.unwrap_or(false),
    })
}

/// A `[tls]` table over what a farther one says.
pub(super) fn tls_over(base: &TlsOptions, value: Option<&Value<'_>>, name: &str) -> TlsOptions {
    let mut tls = base.clone();
    if let Some(table) = value.and_then(|value| value.table(name)) {
        tls_keys(&mut tls, &table);
        table.finish();
    }
    tls
}

/// The keys of a `[tls]` table, wherever they stand.
pub(super) fn tls_keys(tls: &mut TlsOptions, table: &Table<'_>) {
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    if let Some(version) = table
        .get("min_version")
        .and_then(|v| v.word(&versions, &[]))
    {
        tls.min_version = Some(version);
    }
    let groups = [
        ("x25519mlkem768", KeyExchange::X25519MlKem768),
        ("x25519", KeyExchange::X25519),
        ("secp256r1", KeyExchange::Secp256r1),
        ("secp384r1", KeyExchange::Secp384r1),
    ];
    let ciphers = [
        ("aes128-gcm", Cipher::Aes128Gcm),
        ("aes256-gcm", Cipher::Aes256Gcm),
        ("chacha20-poly1305", Cipher::ChaCha20Poly1305),
    ];
    if let Some(list) = table
        .get("key_exchange")
        .and_then(|v| preferences(&v, &groups))
    {
        tls.key_exchange = list;
    }
    if let Some(list) = table.get("ciphers").and_then(|v| preferences(&v, &ciphers)) {
        tls.ciphers = list;
    }
}

/// A list of words in order of preference: at least one, none twice.
pub(super) fn preferences<T: Copy + PartialEq>(
    value: &Value<'_>,
    known: &[(&'static str, T)],
) -> Option<Vec<T>> {
    let items = value.list()?;
    if items.is_empty() {
        let message = format!("`{}` leaves nothing to negotiate", value.key);
        value.bad(message, "name at least one, or leave it out");
    }
    let mut list = Vec::new();
    for item in items {
        match item.word(known, &[]) {
            Some(word) if list.contains(&word) => item.bad("it stands here twice", "remove one"),
            word => list.extend(word),
        }
    }
    Some(list)
}

/// A `[limits]` table over what a farther one says.
pub(super) fn limits_over(base: &Limits, value: Option<&Value<'_>>, name: &str) -> Limits {
    let mut limits = base.clone();
    let Some(table) = value.and_then(|value| value.table(name)) else {
        return limits;
    };
    let count = |key, least, to: &mut usize| {
        let number = table.get(key).and_then(|v| v.number(least..=MOST));
        *to = number.and_then(|n| usize::try_from(n).ok()).unwrap_or(*to);
    };
    count("connections", 1, &mut limits.connections);
    count("connections_per_ip", 0, &mut limits.connections_per_ip);
    count("handshakes", 0, &mut limits.handshakes);
    let wait = |key, to: &mut Duration| {
        *to = table.get(key).and_then(|v| duration(&v)).unwrap_or(*to);
    };
    wait("handshake_timeout", &mut limits.handshake_timeout);
    wait("header_timeout", &mut limits.header_timeout);
    wait("keepalive_timeout", &mut limits.keepalive_timeout);
    wait("response_timeout", &mut limits.response_timeout);
    wait("write_timeout", &mut limits.write_timeout);
    wait("idle_timeout", &mut limits.idle_timeout);
    wait("drain_timeout", &mut limits.drain_timeout);
    let bytes = |key, to: &mut u64| {
        *to = table.get(key).and_then(|v| size(&v)).unwrap_or(*to);
    };
    bytes("body_min_rate", &mut limits.body_min_rate);
    bytes("body_bytes", &mut limits.body_bytes);
    if let Some(value) = table.get("header_bytes")
        && let Some(bytes) = size(&value)
    {
        if !HEADER_BYTES.contains(&bytes) {
            value.bad(
                "`header_bytes` is out of bounds",
                "expected \"8KiB\" to \"1MiB\"",
            );
        }
        limits.header_bytes = usize::try_from(bytes).unwrap_or(limits.header_bytes);
    }
    table.finish();
    limits
}

fn read_admin(value: &Value<'_>) -> Option<Admin> {
    let table = value.table("[admin]")?;
    let place = table.need("address", "where /healthz, /readyz and /metrics answer");
    let address = place.as_ref().and_then(listen_address);
    let short = table.flag("danger_short_secret").is_some();
    let token = table.get("token");
    let tls = table.get("tls");
    if let (Some(ListenAddress::Tcp(tcp)), Some(place)) = (&address, &place)
        && !tcp.ip().to_canonical().is_loopback()
    {
        let message = format!("the admin listener {tcp} can be reached from other hosts");
        if tls.is_none() {
            place.bad(message.as_str(), "add [admin.tls] with certificate and key");
        }
        if token.is_none() {
            place.bad(message.as_str(), "add token = { file = \"admin.token\" }");
        }
    }
    let token = token.and_then(|v| secret(&v, short));
    let certificate = tls.and_then(|v| v.table("[admin.tls]")).and_then(|tls| {
        let files = certificate_files(&tls);
        tls.finish();
        files
    });
    table.finish();
    Some(Admin {
        address: address?,
        token,
        certificate,
    })
}

fn read_log(value: Option<&Value<'_>>) -> Log {
    let level = defaults::LOG_LEVEL.to_owned();
    let mut log = Log {
        level,
        format: LogFormat::Auto,
        access: true,
    };
    let Some(table) = value.and_then(|value| value.table("[log]")) else {
        return log;
    };
    let filter = "a tracing filter such as \"info\" or \"warn,portcullis=debug\"";
    if let Some(level) = table
        .get("level")
        .and_then(|v| v.judged(filter, read_filter))
    {
        log.level = level;
    }
    let formats = [
        ("auto", LogFormat::Auto),
        ("json", LogFormat::Json),
        ("text", LogFormat::Text),
    ];
    if let Some(format) = table
        .get("format")
        .and_then(|v| v.word(&formats, &["journald"]))
    {
        log.format = format;
    }
    if let Some(access) = table.get("access").and_then(|v| v.boolean()) {
        log.access = access;
    }
    table.finish();
    log
}

fn read_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // a bare word is a level to a reader, and the name of a module to the filter
    let word = text.bytes().all(|b| b.is_ascii_alphanumeric());
    if text.is_empty() || word && !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text)) {
        return Err(format!(
            "expected one of {}, or targets with levels",
            LEVELS.join(", ")
        ));
    }
    tracing_subscriber::EnvFilter::builder()
        .parse(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("expected a tracing filter such as \"info\": {error}"))
}

fn read_workers(value: Option<&Value<'_>>) -> usize {
    let Some(table) = value.and_then(|value| value.table("[runtime]")) else {
        return 0;
    };
    let workers = table
        .get("workers")
        .and_then(|value| value.number(0..=MOST_WORKERS));
    table.finish();
    workers.and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

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
pub(super) fn check_bound(all: &[&Bound<'_>], admin: Option<&Admin>) {
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
