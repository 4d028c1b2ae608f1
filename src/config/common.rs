//! The tables that both roles have: tls, limits, admin, log, runtime. `[identity]` has a file of
//! its own.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    Admin, Cipher, Common, Identity, KeyExchange, Limits, ListenAddress, Log, LogFormat, Records,
    Scheduling, Source, TlsOptions, TlsVersion, defaults,
    identity::read_identity,
    reader::{Notes, Table, Value},
    values::{certificate_files, duration, listen_address, secret, size},
};

/// More workers than any machine has cores.
const MOST_WORKERS: u64 = 1_024;
/// Sixteen million connections are more than a process can hold, and fewer than a semaphore can.
const MOST: u64 = 16_000_000;
/// Each may hold a window of a request's body.
const MOST_STREAMS: u64 = 10_000;
/// hyper keeps at least 8 KiB for a head.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 8 << 10..=1 << 20;

/// What is read of a whole file before its listeners are.
pub(super) struct Head {
    pub(super) identity: Option<Identity>,
    pub(super) tls: TlsOptions,
    pub(super) limits: Limits,
    pub(super) admin: Option<Admin>,
    pub(super) log: Log,
    pub(super) runtime: Runtime,
}

/// `[runtime]`.
#[derive(Default)]
pub(super) struct Runtime {
    workers: usize,
    scheduling: Scheduling,
    state_dir: Option<PathBuf>,
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
        runtime: read_runtime(root.get("runtime").as_ref()),
    }
}

impl Head {
    /// The folder of what has to outlive the process.
    pub(super) fn state_folder(&self) -> Option<PathBuf> {
        self.runtime.state_dir.clone().or_else(usual_state_folder)
    }

    pub(super) fn into_common(self, notes: &Notes) -> Option<Common> {
        Some(Common {
            // both are filled in when the whole file is read
            file: PathBuf::new(),
            source: Arc::new(Source::default()),
            identity: self.identity?,
            tls: self.tls,
            admin: self.admin,
            log: self.log,
            workers: self.runtime.workers,
            scheduling: self.runtime.scheduling,
            state_dir: self.runtime.state_dir,
            warnings: notes.take_warnings(),
        })
    }

    /// An identity from an ACME CA needs a place where its challenge is answered.
    pub(super) fn check_challenges(&self, root: &Table<'_>, redirects: bool) {
        let acme = self.identity.as_ref().and_then(Identity::acme);
        if acme.is_some_and(|acme| acme.http.is_none()) && !redirects {
            root.add(
                "[identity] with source = \"acme\" needs `acme_http`",
                "where the CA's challenge is answered, port 80 of its domains: \
                 acme_http = \"0.0.0.0:80\"; at a gateway a listener with mode = \"redirect\" does too",
            );
        }
    }

    /// The pins that a name may refer to where no other identity stands nearer.
    pub(super) fn pinned(&self) -> Vec<PathBuf> {
        self.identity
            .as_ref()
            .map(|identity| identity.pinned.clone())
            .unwrap_or_default()
    }
}

/// Where a system service keeps what it has to remember.
const SYSTEM: &str = "/var/lib/portcullis";

/// The service manager's `STATE_DIRECTORY`, else the system's or the user's folder for state.
pub(super) fn usual_state_folder() -> Option<PathBuf> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    // it may name several, with colons between them
    let first = |all| std::env::split_paths(&all).find(|path| !path.as_os_str().is_empty());
    let state = std::env::var_os("STATE_DIRECTORY").and_then(first);
    state
        .or_else(|| {
            rustix::process::geteuid()
                .is_root()
                .then(|| PathBuf::from(SYSTEM))
        })
        .or_else(|| folder("XDG_STATE_HOME").map(|state| state.join("portcullis")))
        .or_else(|| folder("HOME").map(|home| home.join(".local/state/portcullis")))
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
    let keepers = [("own", Records::Own), ("rustls", Records::Rustls)];
    if let Some(keeper) = table.get("records").and_then(|v| v.word(&keepers, &[])) {
        tls.records = keeper;
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
    if let Some(streams) = table
        .get("streams")
        .and_then(|v| v.number(1..=MOST_STREAMS))
    {
        limits.streams = u32::try_from(streams).unwrap_or(limits.streams);
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

fn read_runtime(value: Option<&Value<'_>>) -> Runtime {
    let Some(table) = value.and_then(|value| value.table("[runtime]")) else {
        return Runtime::default();
    };
    let workers = table
        .get("workers")
        .and_then(|value| value.number(0..=MOST_WORKERS));
    let scheduling = table.get("scheduling").and_then(|value| {
        let words = [
            ("batch", Scheduling::Batch),
            ("inherit", Scheduling::Inherit),
        ];
        value.word(&words, &[])
    });
    let state_dir = table.get("state_dir").and_then(|value| value.folder());
    table.finish();
    Runtime {
        workers: workers.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
        scheduling: scheduling.unwrap_or_default(),
        state_dir,
    }
}
