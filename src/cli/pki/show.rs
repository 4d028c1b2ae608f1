//! What `pki` commands print: for a person, except `list --json`, whose shape is
//! docs/reference/pki-list.md.

use std::{
    fmt::Write as _,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf, absolute},
};

use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{super::report::err, Failure};
use crate::{
    config::{DialAddress, ServerName},
    identity::{CertFacts, DnsName, UnixSeconds},
    pki::{Authority, CaRecord, CrlOptions, Issued, Record, Revoked, Role},
    tls::unverified,
};

/// Largest PEM that `show -` reads.
const MAX_STDIN: u64 = 1 << 20;

/// "ends in 89 days (2027-02-21T…)".
pub(super) fn until(at: UnixSeconds, now: UnixSeconds) -> String {
    let verb = if at < now { "ended" } else { "ends" };
    format!("{verb} {} ({at})", at.relative_to(now))
}

/// A path as a configuration can name it from anywhere.
fn quoted(path: &Path) -> String {
    let path = absolute(path).unwrap_or_else(|_| path.to_owned());
    toml::Value::String(path.display().to_string()).to_string()
}

pub(super) fn describe_init(authority: &Authority) -> String {
    let folder = authority.folder().display();
    format!(
        "made an authority in {folder}\n\
         \x20 {folder}/root/ca.key     the root's key: take it offline, it is needed for `pki crl` once a year\n\
         \x20 {folder}/issuing/ca.key  signs certificates\n\
         \x20 {}      for `trust =`\n\
         \x20 {}        for `crl =`; `pki crl` writes it anew, at least every {} days\n\
         next: portcullis pki issue gateway edge-1 --dir {folder}\n",
        authority.trust().display(),
        authority.crl().display(),
        CrlOptions::default().days,
    )
}

pub(super) fn describe_issued(authority: &Authority, issued: &Issued, now: UnixSeconds) -> String {
    let facts = &issued.facts;
    let certificate = quoted(&issued.certificate);
    let mut text = format!(
        "issued {}\n{}, serial {}\nsha256:{}\n\n",
        facts.display_name(),
        until(facts.not_after, now),
        facts.serial,
        facts.fingerprint,
    );
    let role = issued.role;
    let table = match role {
        Role::Gateway | Role::Acceptor => "[identity]\n",
        Role::Server => "# in a [[listener]]\n",
        Role::Client => "# for a client; the gateway's listener takes client_ca and client_crl\n",
    };
    text += table;
    if issued.key.exists() {
        let key = quoted(&issued.key);
        let _infallible = write!(text, "certificate = {certificate}\nkey         = {key}\n");
    } else {
        let _infallible = writeln!(
            text,
            "certificate = {certificate}\n# the key is where the request was made"
        );
    }
    let self_signed = facts.subject == facts.issuer;
    if self_signed {
        let _infallible = writeln!(text, "# at the other side: pinned = [{certificate}]");
        return text;
    }
    let (trust, crl) = match role {
        Role::Gateway | Role::Acceptor => ("trust       =", "crl         ="),
        Role::Client => ("client_ca   =", "client_crl  ="),
        Role::Server => return text,
    };
    for (field, path) in [(trust, authority.trust()), (crl, authority.crl())] {
        let _infallible = writeln!(text, "{field} {}", quoted(&path));
    }
    text
}

pub(super) fn list(
    authority: &Authority,
    expiring: Option<u32>,
    json: bool,
    now: UnixSeconds,
) -> Result<String, Failure> {
    let mut records = authority.records()?;
    if let Some(days) = expiring {
        // one that is revoked or has a successor is not to be renewed
        records
            .retain(|r| r.revoked.is_none() && r.superseded.is_none() && r.ends_within(days, now));
    }
    if json {
        let certificates: Vec<_> = records.iter().map(|r| as_json(r, now)).collect();
        let authorities: Vec<_> = authority.authorities()?.iter().map(ca_as_json).collect();
        let all = serde_json::json!({
            "schema": 1,
            "authorities": authorities,
            "certificates": certificates,
        });
        return Ok(format!("{all:#}\n"));
    }
    if records.is_empty() {
        return Ok("nothing\n".to_owned());
    }
    let name = |r: &Record| format!("{}/{}", r.role, r.name);
    let wide = records.iter().map(|r| name(r).len()).max().unwrap_or(0);
    let mut text = String::new();
    for record in &records {
        let _infallible = writeln!(
            text,
            "{:wide$}  {:13}  {}  {}",
            name(record),
            record.standing(now),
            record.serial,
            until(UnixSeconds(record.not_after), now),
        );
    }
    Ok(text)
}

fn as_json(record: &Record, now: UnixSeconds) -> serde_json::Value {
    serde_json::json!({
        "role": record.role,
        "name": record.name,
        "serial": record.serial,
        "fingerprint": format!("sha256:{}", record.fingerprint),
        "sans": record.sans,
        "algorithm": record.algorithm,
        "self_signed": record.self_signed,
        "requested": record.requested,
        "issuer": record.issuer,
        "not_before": UnixSeconds(record.not_before).to_string(),
        "not_after": UnixSeconds(record.not_after).to_string(),
        "standing": record.standing(now),
        "superseded": record.superseded.map(|at| UnixSeconds(at).to_string()),
        "revoked": record.revoked.map(revoked_as_json),
    })
}

fn revoked_as_json(revoked: Revoked) -> serde_json::Value {
    serde_json::json!({
        "at": UnixSeconds(revoked.at).to_string(),
        "reason": revoked.reason,
    })
}

fn ca_as_json(ca: &CaRecord) -> serde_json::Value {
    serde_json::json!({
        "kind": ca.kind,
        "standing": ca.standing,
        "subject": ca.subject,
        "serial": ca.serial,
        "fingerprint": format!("sha256:{}", ca.fingerprint),
        "root": ca.root,
        "not_before": UnixSeconds(ca.not_before).to_string(),
        "not_after": UnixSeconds(ca.not_after).to_string(),
        "revoked": ca.revoked.map(revoked_as_json),
    })
}

pub(super) fn show(dir: &Path, target: &str, now: UnixSeconds) -> Result<String, Failure> {
    let named = |bytes: std::io::Result<Vec<u8>>| {
        bytes.map_err(|e| Failure::Wrong(format!("can't read {target}: {e}")))
    };
    let bytes = if target == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().take(MAX_STDIN).read_to_end(&mut bytes);
        named(read.map(|_| bytes))?
    } else if Path::new(target).is_file() {
        named(std::fs::read(target))?
    } else if let Some(file) = issued_file(dir, target)? {
        named(std::fs::read(file))?
    } else if let Some((address, name)) = server(target) {
        return seen(target, &address, &name, now);
    } else {
        return Err(Failure::Wrong(format!(
            "{target:?} is no file and no HOST:PORT, and nothing of that name was issued in {}",
            dir.display()
        )));
    };
    let chain = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Failure::Wrong(format!("{target}: {e}")))?;
    let text = describe_all(target, &chain, now)?;
    if text.is_empty() {
        return Err(Failure::Wrong(format!(
            "{target} holds no certificate in PEM form"
        )));
    }
    Ok(text)
}

fn describe_all(
    target: &str,
    chain: &[CertificateDer<'_>],
    now: UnixSeconds,
) -> Result<String, Failure> {
    let described = chain.iter().map(|der| {
        CertFacts::read(der)
            .map(|facts| describe(&facts, now))
            .map_err(|e| Failure::Wrong(format!("{target}: {e}")))
    });
    Ok(described.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// HOST:PORT, and the name that is asked for there.
fn server(target: &str) -> Option<(DialAddress, ServerName)> {
    if let Ok(address) = target.parse::<SocketAddr>() {
        let name = ServerName::Ip(address.ip().to_canonical());
        return (address.port() != 0).then_some((DialAddress::Ip(address), name));
    }
    let (host, port) = target.rsplit_once(':')?;
    let host = DnsName::parse(host)?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let address = DialAddress::Host(host.as_str().to_owned(), port);
    Some((address, ServerName::Dns(host)))
}

/// What a server shows of itself.
fn seen(
    target: &str,
    address: &DialAddress,
    name: &ServerName,
    now: UnixSeconds,
) -> Result<String, Failure> {
    let failed = |why: String| Failure::Failed(format!("{target}: {why}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let looked = runtime.block_on(unverified::look(address, name));
    // a resolver that hangs in its thread is not waited for
    runtime.shutdown_background();
    let seen = looked.map_err(failed)?;
    err(&format!(
        "note: this is what {target} shows; nothing of it was verified\n"
    ));
    if let Some(ended) = &seen.ended {
        err(&format!(
            "note: {ended}, after these certificates had come: a server that asks for ours ends so\n"
        ));
    }
    describe_all(target, &seen.chain, now)
}

/// The file of an issued NAME or ROLE/NAME.
fn issued_file(dir: &Path, target: &str) -> Result<Option<PathBuf>, Failure> {
    let found: Vec<(Role, PathBuf)> = Role::ALL
        .into_iter()
        .map(|role| {
            let own = format!("{role}/");
            let name = target.strip_prefix(&own).unwrap_or(target);
            (role, dir.join("certs").join(role.as_str()).join(name))
        })
        .map(|(role, folder)| (role, folder.join("cert.pem")))
        .filter(|(_, file)| file.is_file())
        .collect();
    match found.as_slice() {
        [] => Ok(None),
        [(_, file)] => Ok(Some(file.clone())),
        [(one, _), (two, _), ..] => Err(Failure::Wrong(format!(
            "{target:?} was issued to a {one} and to a {two}: say {one}/{target} or {two}/{target}"
        ))),
    }
}

fn describe(facts: &CertFacts, now: UnixSeconds) -> String {
    let names: Vec<String> = facts
        .uris
        .iter()
        .cloned()
        .chain(facts.dns.iter().map(|n| format!("dns:{n}")))
        .chain(facts.ips.iter().map(|ip| format!("ip:{ip}")))
        .collect();
    let mut usage: Vec<&str> = Vec::new();
    usage.extend(facts.usage.client_auth.then_some("client"));
    usage.extend(facts.usage.server_auth.then_some("server"));
    usage.extend(facts.usage.other.iter().map(String::as_str));
    usage.extend(facts.is_ca.then_some("certificate authority"));
    let rows = [
        ("subject", facts.subject.clone()),
        ("issuer", facts.issuer.clone()),
        ("serial", facts.serial.to_string()),
        ("names", names.join(", ")),
        ("usage", usage.join(", ")),
        ("key", facts.key.clone()),
        ("begins", facts.not_before.to_string()),
        ("", until(facts.not_after, now)),
        ("sha256", facts.fingerprint.to_string()),
        ("spki", format!("sha256:{}", facts.spki)),
    ];
    let mut text = String::new();
    for (key, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let _infallible = writeln!(text, "{key:8} {value}");
    }
    text
}
