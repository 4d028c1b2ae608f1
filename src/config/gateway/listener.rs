//! `[[listener]]` of a gateway: where clients connect.

use std::path::PathBuf;

use super::super::{
    CertificateFiles, Challenge, ClientAuth, ClientCert, GatewayListener, Mode, PathNormalisation,
    UnderscoreHeaders, acme,
    bound::{Bound, lonely_key, read_bound, read_proxy_from},
    common::{Head, limits_over, preferences, tls_over},
    defaults,
    identity::{paths, revocation},
    reader::{Table, Value},
    values::{certificate_files, key_passphrase, limited_networks, networks, some_peer_names},
};
use crate::identity::{PeerName, PeerNames};

/// What routes need to know of a listener, even when the rest of it is wrong.
pub(super) struct Sketch<'a> {
    pub(super) bound: Bound<'a>,
    /// `None`: wrong, or missing.
    pub(super) mode: Option<Mode>,
    /// Callers are asked for certificates.
    pub(super) asks: bool,
    /// `client_pinned`.
    pub(super) pinned: Vec<PathBuf>,
    /// `None`: there are problems.
    pub(super) listener: Option<GatewayListener>,
}

pub(super) fn read<'a>(item: &Value<'a>, head: &Head) -> Option<Sketch<'a>> {
    let table = item.table("[[listener]]")?;
    let bound = read_bound(&table, item, "where clients connect: \"0.0.0.0:8443\"");
    let label = bound.name.clone().unwrap_or_else(|| "?".to_owned());
    let modes = [("http", Mode::Http), ("tcp", Mode::Tcp)];
    let mode = table
        .need(
            "mode",
            "\"http\" for HTTP/1.1 and HTTP/2, \"tcp\" for any byte stream, \"redirect\" for plain port 80",
        )
        .and_then(|value| value.word(&modes, &[]));
    let asks = table.get("client_ca").is_some() || table.get("client_pinned").is_some();
    let pinned = table
        .get("client_pinned")
        .as_ref()
        .map(paths)
        .unwrap_or_default();
    let client_auth = read_client_auth(&table, &pinned, &label);
    let listener = read_rest(&table, &bound, mode, client_auth, head);
    table.finish();
    Some(Sketch {
        bound,
        mode,
        asks,
        pinned,
        listener,
    })
}

fn read_rest(
    table: &Table<'_>,
    bound: &Bound<'_>,
    mode: Option<Mode>,
    client_auth: Option<ClientAuth>,
    head: &Head,
) -> Option<GatewayListener> {
    let tls = tls_over(&head.tls, table.get("tls").as_ref(), "[listener.tls]");
    let limits = limits_over(
        &head.limits,
        table.get("limits").as_ref(),
        "[listener.limits]",
    );
    let certificates = read_certificates(table, head);
    let alpn = read_alpn(table, mode);
    let allow = table.get("allow");
    if allow.as_ref().is_some_and(Value::is_empty_list) {
        let name = bound.name.as_deref().unwrap_or("?");
        table.notes.warn(format!(
            "`allow` of listener {name} is empty: it admits nobody"
        ));
    }
    let allow_list = allow.as_ref().map(|v| networks(v).unwrap_or_default());
    let deny = table
        .get("deny")
        .and_then(|v| networks(&v))
        .unwrap_or_default();
    let proxy_from = read_proxy_from(table);
    let proxies = table.get("trusted_proxies");
    if let (Some(value), Some(Mode::Tcp)) = (&proxies, mode) {
        let help = "it is about HTTP headers; proxy_protocol is for byte streams";
        value.bad("`trusted_proxies` in tcp mode", help);
    }
    let open = "name the proxies alone: whoever is in it says whose request it sends";
    let trusted_proxies = proxies.and_then(|v| limited_networks(&v, open));
    let (path_normalisation, underscore_headers) = read_strictness(table, mode);
    let ocsp_stapling = table.get("ocsp_stapling");
    if let Some(value) = table.get("https_port") {
        value.bad(
            "`https_port` without mode = \"redirect\"",
            "it is where a listener in redirect mode sends requests to",
        );
    }
    let starttls = table.get("starttls");
    let protocol = starttls
        .as_ref()
        .and_then(|value| value.word(&[("postgres", ())], &["mysql", "smtp", "imap", "ldap"]));
    if let (Some(value), Some(Mode::Http)) = (&starttls, mode) {
        value.bad(
            "`starttls` in http mode",
            "it is for byte streams: mode = \"tcp\"",
        );
    }
    let closed = allow
        .is_some()
        .then(|| bound.name.as_deref().unwrap_or("?"));
    check_proofs(table, certificates.as_deref(), starttls.as_ref(), closed);
    Some(GatewayListener {
        name: bound.name.as_deref()?.into(),
        address: bound.address.clone()?,
        mode: mode?,
        certificates: certificates?,
        alpn,
        allow: allow_list,
        deny,
        client_auth,
        proxy_from,
        trusted_proxies: trusted_proxies.unwrap_or_default(),
        path_normalisation,
        underscore_headers,
        starttls_postgres: protocol.is_some(),
        ocsp_stapling: ocsp_stapling
            .and_then(|value| value.boolean())
            .unwrap_or(defaults::OCSP_STAPLING),
        tls,
        limits,
    })
}

/// Whether a CA gets to see its proof by TLS; `closed` is the listener's name where not everybody
/// may connect.
fn check_proofs(
    table: &Table<'_>,
    certificates: Option<&[CertificateFiles]>,
    starttls: Option<&Value<'_>>,
    closed: Option<&str>,
) {
    let ordered = certificates.iter().copied().flatten();
    let mut ordered = ordered.filter_map(|files| files.acme.as_ref());
    if !ordered.any(|acme| acme.challenge == Challenge::TlsAlpn01) {
        return;
    }
    if let Some(value) = starttls {
        value.bad(
            "a CA can't look for a proof behind `starttls`",
            "certificate = { …, challenge = \"http-01\" }, with a listener in redirect mode",
        );
    }
    if let Some(name) = closed {
        table.notes.warn(format!(
            "listener {name} has `allow`: the CA must be in it, for it looks for its proof there"
        ));
    }
}

/// What is done with requests that a backend might read otherwise than we do.
fn read_strictness(
    table: &Table<'_>,
    mode: Option<Mode>,
) -> (PathNormalisation, UnderscoreHeaders) {
    let (paths, underscores) = (
        table.get("path_normalisation"),
        table.get("underscore_headers"),
    );
    for value in [&paths, &underscores].into_iter().flatten() {
        if mode == Some(Mode::Tcp) {
            let message = format!("`{}` in tcp mode", value.key);
            value.bad(message, "a byte stream has no requests to look at");
        }
    }
    let ways = [
        ("refuse", PathNormalisation::Refuse),
        ("normalise", PathNormalisation::Normalise),
    ];
    let fates = [
        ("drop", UnderscoreHeaders::Drop),
        ("refuse", UnderscoreHeaders::Refuse),
        ("keep", UnderscoreHeaders::Keep),
    ];
    (
        paths
            .and_then(|value| value.word(&ways, &[]))
            .unwrap_or(defaults::PATH_NORMALISATION),
        underscores
            .and_then(|value| value.word(&fates, &[]))
            .unwrap_or(defaults::UNDERSCORE_HEADERS),
    )
}

fn read_alpn(table: &Table<'_>, mode: Option<Mode>) -> Vec<String> {
    let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
    match (table.get("alpn"), mode) {
        (None, Some(Mode::Http)) => own(&defaults::ALPN),
        (None, _) => Vec::new(),
        (Some(value), Some(Mode::Tcp)) => {
            value.bad(
                "`alpn` in tcp mode",
                "a byte stream has no protocols to choose from",
            );
            Vec::new()
        }
        (Some(value), _) => {
            let known = defaults::ALPN.map(|name| (name, name));
            own(&preferences(&value, &known).unwrap_or_default())
        }
    }
}

/// The shorthand first, then every `[[listener.tls_certificate]]`.
fn read_certificates(table: &Table<'_>, head: &Head) -> Option<Vec<CertificateFiles>> {
    let (certificate, key) = (table.get("certificate"), table.get("key"));
    let more = table.get("tls_certificate");
    let mut list: Vec<CertificateFiles> = Vec::new();
    let ordered = certificate.as_ref().filter(|value| value.is_table());
    if let Some(value) = ordered {
        let beside = [
            key.clone(),
            key_passphrase(table).and_then(|_| table.get("key_passphrase")),
        ];
        for key in beside.iter().flatten() {
            key.bad(
                format!("`{}` beside a certificate of an ACME CA", key.key),
                "its key is made with it: remove this",
            );
        }
        list.push(acme::certificate(value, head.state_folder())?);
    } else {
        lonely_key(table, certificate.as_ref(), key.as_ref());
    }
    if ordered.is_none()
        && let (Some(certificate), Some(key)) = (&certificate, &key)
    {
        let key_passphrase = key_passphrase(table);
        let (certificate, key) = (certificate.path(), key.path());
        list.push(CertificateFiles {
            certificate: certificate?,
            key: key?,
            key_passphrase,
            acme: None,
        });
    }
    for item in more.as_ref().and_then(Value::list).unwrap_or_default() {
        let Some(table) = item.table("[[listener.tls_certificate]]") else {
            continue;
        };
        let at = table.get("certificate").unwrap_or_else(|| item.clone());
        let files = certificate_files(&table);
        table.finish();
        let Some(files) = files else { continue };
        if list
            .iter()
            .any(|other| other.certificate == files.certificate)
        {
            let message = format!("{} stands here twice", files.certificate.display());
            at.bad(message, "one certificate is enough for all of its names");
        }
        list.push(files);
    }
    if certificate.is_none() && key.is_none() && list.is_empty() && more.is_none() {
        let help = "clients are answered over TLS only: name what is shown to them";
        table.add("[[listener]] needs `certificate` and `key`", help);
    }
    if certificate.is_none() && more.as_ref().is_some_and(Value::is_empty_list) {
        table.add(
            "[[listener]] has no certificate",
            "clients are answered over TLS only",
        );
    }
    (!list.is_empty()).then_some(list)
}

fn read_client_auth(table: &Table<'_>, pinned: &[PathBuf], label: &str) -> Option<ClientAuth> {
    let ca = table.get("client_ca");
    let pins = table.get("client_pinned");
    let mode = table.get("client_cert");
    let clients = table.get("clients");
    let any = table.get("danger_any_client");
    let revocation = revocation(table, ["client_crl", "client_crl_policy"], None);
    if ca.is_none() && pins.is_none() {
        let crl = table.get("client_crl");
        for value in [&mode, &clients, &any, &crl].into_iter().flatten() {
            value.bad(
                format!("`{}` without `client_ca` or `client_pinned`", value.key),
                "nobody is asked for a certificate: client_ca = \"clients.pem\" names the callers' CA",
            );
        }
        return None;
    }
    if let Some(value) = pins.as_ref().filter(|value| value.is_empty_list())
        && ca.is_none()
    {
        value.bad(
            "`client_pinned` names nobody",
            "name at least one file, or a client_ca",
        );
    }
    if ca.is_some() && table.get("client_crl").is_none() {
        let what = "client_crl is not set: revoked certificates of callers are not refused";
        table.notes.warn(format!("listener {label}: {what}"));
    }
    let any = any.filter(|value| value.boolean() == Some(true));
    let names = match (&clients, &any) {
        (Some(value), Some(_)) => {
            let message = "`clients` and `danger_any_client` contradict each other";
            value.bad(message, "take one of them");
            None
        }
        (Some(value), None) => some_peer_names(value, pinned),
        (None, Some(value)) => {
            value.notes.warn(format!(
                "danger_any_client: listener {label} admits every certificate of its client CA"
            ));
            None
        }
        // exactly the pinned certificates can pass, so they are the names
        (None, None) if ca.is_none() => Some(every_pin(pinned)),
        (None, None) => {
            table.add(
                "`client_ca` needs `clients`: nobody is admitted without it",
                "which of them may enter: clients = [\"dns:*.staff.example\"]; to admit every \
                 certificate of the CA, write danger_any_client = true: it is said at every start",
            );
            None
        }
    };
    let modes = [
        ("require", ClientCert::Require),
        ("optional", ClientCert::Optional),
    ];
    let mode = mode
        .and_then(|v| v.word(&modes, &[]))
        .unwrap_or(ClientCert::Require);
    let ca = ca.and_then(|v| v.path());
    Some(ClientAuth {
        ca,
        pinned: pinned.to_vec(),
        revocation,
        mode,
        clients: names,
    })
}

fn every_pin(pinned: &[PathBuf]) -> PeerNames {
    let name = |path: &PathBuf| PeerName::Pinned {
        file: path.display().to_string(),
        fingerprint: None,
    };
    PeerNames(pinned.iter().map(name).collect())
}
