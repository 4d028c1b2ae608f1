//! `portcullis pki`: the authority's commands. What they print is meant for a person, except
//! `list --json`, whose shape is `{"schema": 1, "certificates": [...]}`.

use std::{
    fmt::Write as _,
    io::Read as _,
    path::{Path, PathBuf, absolute},
};

use clap::{Args, Subcommand};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::report::{Failure, err, out};
use crate::{
    clock,
    identity::{CertFacts, UnixSeconds},
    pki::{
        Algorithm, Authority, CrlOptions, InitOptions, IssueRequest, Issued, Passphrase, PkiError,
        Reason, Record, Role,
        install::{Owner, install},
    },
};

/// Largest PEM that `show -` reads.
const MAX_STDIN: u64 = 1 << 20;

/// Make and keep the certificates of gateways and acceptors
#[derive(Debug, Args)]
pub(super) struct PkiArgs {
    /// The authority's folder
    #[arg(long, global = true, value_name = "DIR", default_value = "pki")]
    dir: PathBuf,
    /// A file with the passphrase of the CA keys
    #[arg(long, global = true, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Debug, Subcommand)]
enum PkiCommand {
    /// Make a root, an issuing CA, their CRLs and the role profiles
    Init(Init),
    /// Issue a certificate with a new key
    Issue(Issue),
    /// List what was issued
    List {
        /// Only what ends within so many days, such as 30d
        #[arg(long, value_name = "DAYS", value_parser = days)]
        expiring: Option<u32>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show certificates: an issued NAME or ROLE/NAME, a PEM file, or - for standard input
    Show {
        /// NAME, FILE, HOST:PORT or -
        target: String,
    },
    /// Say whether a peer with our trust.pem and crl.pem would accept a certificate
    Verify {
        /// PEM file, leaf first
        file: PathBuf,
        /// The role that it must have; default: the one that it names
        #[arg(long = "as", value_name = "ROLE")]
        role: Option<Role>,
    },
    /// Revoke what was issued to NAME, ROLE/NAME or with a serial number, and write the CRL
    Revoke {
        /// NAME, ROLE/NAME or hex serial number
        target: String,
        /// Why, as the CRL says it
        #[arg(long, default_value = "unspecified")]
        reason: Reason,
    },
    /// Write both CRLs anew
    Crl {
        /// Life of the issuing CA's
        #[arg(long, default_value_t = CrlOptions::default().days)]
        days: u32,
        /// Life of the root's
        #[arg(long, default_value_t = CrlOptions::default().root_days)]
        root_days: u32,
    },
    /// Place certificate, key, trust and CRL where a service reads them
    Install {
        /// pki/certs/ROLE/NAME
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// The service's folder
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// USER (keys 0600) or USER:GROUP (keys 0640)
        #[arg(long, value_name = "USER[:GROUP]")]
        owner: Option<String>,
    },
    /// Make a key and a CSR on the host that will use them (not supported yet)
    Request(Later),
    /// Sign a CSR (not supported yet)
    Sign(Later),
    /// Renew certificates that are due (not supported yet)
    Renew(Later),
    /// Change to a new CA (not supported yet)
    Rotate(Later),
    /// Export for others' TLS (not supported yet)
    Export(Later),
    /// Serve renewals over mutual TLS (not supported yet)
    Serve(Later),
}

#[derive(Debug, Args)]
struct Init {
    /// The trust domain of every SPIFFE ID
    #[arg(long, default_value = "example.internal")]
    trust_domain: String,
    /// Of both CA keys
    #[arg(long, default_value = "ecdsa-p256")]
    algorithm: Algorithm,
    /// Life of both CAs
    #[arg(long, default_value_t = 3650)]
    days: u32,
    /// A DNS subtree that certificates may name; repeatable; absent: any
    #[arg(long, value_name = "DOMAIN")]
    permit_dns: Vec<String>,
    /// A network that certificates may name; repeatable; absent: any
    #[arg(long, value_name = "NETWORK")]
    permit_ip: Vec<String>,
    /// Replace the authority that is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Issue {
    /// Decides the profile
    role: Role,
    /// The last segment of the SPIFFE ID
    name: String,
    /// A DNS name or IP address; repeatable; acceptors and servers need one
    #[arg(long, value_name = "DNS-OR-IP")]
    san: Vec<String>,
    /// Life; default and limit: the role's profile
    #[arg(long)]
    days: Option<u32>,
    /// Of the key
    #[arg(long, default_value = "ecdsa-p256")]
    algorithm: Algorithm,
    /// Signed by its own key, to be pinned by the other side
    #[arg(long)]
    self_signed: bool,
    /// Replace the key and certificate of that name
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

/// Runs one command.
///
/// # Errors
/// What went wrong, with its exit code.
pub(super) fn run(args: PkiArgs) -> Result<(), Failure> {
    out(&answer(args)?);
    Ok(())
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        match error.exit_code() {
            2 => Self::Wrong(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

fn answer(args: PkiArgs) -> Result<String, Failure> {
    let PkiArgs {
        dir,
        passphrase_file,
        command,
    } = args;
    let passphrase = passphrase_file
        .as_deref()
        .map(Passphrase::read)
        .transpose()?;
    let open = || Authority::open(&dir).map(|a| a.with_passphrase(passphrase.clone()));
    let now = clock::now();
    match command {
        PkiCommand::Init(init) => {
            let options = InitOptions {
                trust_domain: init.trust_domain,
                algorithm: init.algorithm,
                days: init.days,
                permit_dns: init.permit_dns,
                permit_ip: init.permit_ip,
                passphrase: passphrase.clone(),
                force: init.force,
            };
            Ok(describe_init(&Authority::init(&dir, options)?))
        }
        PkiCommand::Issue(issue) => {
            let authority = open()?;
            let issued = authority.issue(&IssueRequest {
                sans: issue.san,
                days: issue.days,
                algorithm: issue.algorithm,
                self_signed: issue.self_signed,
                force: issue.force,
                ..IssueRequest::new(issue.role, &issue.name)
            })?;
            for note in &issued.notes {
                err(&format!("note: {note}\n"));
            }
            Ok(describe_issued(&authority, issue.role, &issued, now))
        }
        PkiCommand::List { expiring, json } => list(&open()?, expiring, json, now),
        PkiCommand::Show { target } => show(&dir, &target, now),
        PkiCommand::Verify { file, role } => {
            let verified = open()?.verify(&file, role)?;
            Ok(format!(
                "ok: {} is accepted as {}, {}\n",
                verified.facts.display_name(),
                verified.role,
                until(verified.not_after, now)
            ))
        }
        PkiCommand::Revoke { target, reason } => revoke(&open()?, &target, reason),
        PkiCommand::Crl { days, root_days } => crl(&open()?, CrlOptions { days, root_days }, now),
        PkiCommand::Install { from, to, owner } => {
            let owner = owner.as_deref().map(Owner::look_up).transpose()?;
            let written = install(&from, &to, owner)?;
            Ok(written
                .iter()
                .map(|path| format!("{}\n", path.display()))
                .collect())
        }
        PkiCommand::Request(_) => later("request"),
        PkiCommand::Sign(_) => later("sign"),
        PkiCommand::Renew(_) => later("renew"),
        PkiCommand::Rotate(_) => later("rotate"),
        PkiCommand::Export(_) => later("export"),
        PkiCommand::Serve(_) => later("serve"),
    }
}

fn revoke(authority: &Authority, target: &str, reason: Reason) -> Result<String, Failure> {
    let mut text = String::new();
    for record in authority.revoke(target, reason)? {
        let _infallible = writeln!(
            text,
            "revoked {}/{} serial {}",
            record.role, record.name, record.serial
        );
    }
    let crl = authority.crl();
    let _infallible = writeln!(text, "{}: hand it to every peer", crl.display());
    Ok(text)
}

fn crl(authority: &Authority, options: CrlOptions, now: UnixSeconds) -> Result<String, Failure> {
    let report = authority.write_crls(options)?;
    let root = match report.root_next_update {
        Some(at) => format!("the root's {}", until(at, now)),
        None => "the root's is kept: its key is not here".to_owned(),
    };
    Ok(format!(
        "{}: number {}, {} revoked; {}; {root}\n",
        authority.crl().display(),
        report.number,
        report.revoked,
        until(report.next_update, now)
    ))
}

fn later(command: &str) -> Result<String, Failure> {
    Err(Failure::Wrong(format!("pki {command}: not supported yet")))
}

fn days(text: &str) -> Result<u32, String> {
    text.strip_suffix('d')
        .unwrap_or(text)
        .parse()
        .map_err(|e| format!("{text:?} is not a number of days such as 30d: {e}"))
}

/// "ends in 89 days (2027-02-21T…)".
fn until(at: UnixSeconds, now: UnixSeconds) -> String {
    let verb = if at < now { "ended" } else { "ends" };
    format!("{verb} {} ({at})", at.relative_to(now))
}

/// A path as a configuration can name it from anywhere.
fn quoted(path: &Path) -> String {
    let path = absolute(path).unwrap_or_else(|_| path.to_owned());
    toml::Value::String(path.display().to_string()).to_string()
}

fn describe_init(authority: &Authority) -> String {
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

fn describe_issued(authority: &Authority, role: Role, issued: &Issued, now: UnixSeconds) -> String {
    let facts = &issued.facts;
    let certificate = quoted(&issued.certificate);
    let mut text = format!(
        "issued {}\n{}, serial {}\nsha256:{}\n\n",
        facts.display_name(),
        until(facts.not_after, now),
        facts.serial,
        facts.fingerprint,
    );
    let table = match role {
        Role::Gateway | Role::Acceptor => "[identity]\n",
        Role::Server => "# in a [[listener]]\n",
        Role::Client => "# for a client; the gateway's listener takes client_ca and client_crl\n",
    };
    text += table;
    let key = quoted(&issued.key);
    let _infallible = write!(text, "certificate = {certificate}\nkey         = {key}\n");
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

fn list(
    authority: &Authority,
    expiring: Option<u32>,
    json: bool,
    now: UnixSeconds,
) -> Result<String, Failure> {
    let mut records = authority.records()?;
    if let Some(days) = expiring {
        // a revoked one is not to be renewed
        records.retain(|r| r.revoked.is_none() && r.ends_within(days, now));
    }
    if json {
        let certificates: Vec<_> = records.iter().map(|r| as_json(r, now)).collect();
        let all = serde_json::json!({ "schema": 1, "certificates": certificates });
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
        "not_before": UnixSeconds(record.not_before).to_string(),
        "not_after": UnixSeconds(record.not_after).to_string(),
        "standing": record.standing(now),
        "revoked": record.revoked.map(|r| serde_json::json!({
            "at": UnixSeconds(r.at).to_string(),
            "reason": r.reason,
        })),
    })
}

fn show(dir: &Path, target: &str, now: UnixSeconds) -> Result<String, Failure> {
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
    } else if target
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    {
        return Err(Failure::Wrong(
            "pki show HOST:PORT: not supported yet".to_owned(),
        ));
    } else {
        return Err(Failure::Wrong(format!(
            "{target:?} is no file, and nothing of that name was issued in {}",
            dir.display()
        )));
    };
    let mut text = String::new();
    for der in CertificateDer::pem_slice_iter(&bytes) {
        let facts = der
            .map_err(|e| e.to_string())
            .and_then(|der| CertFacts::read(&der).map_err(|e| e.to_string()))
            .map_err(|e| Failure::Wrong(format!("{target}: {e}")))?;
        if !text.is_empty() {
            text.push('\n');
        }
        text += &describe(&facts, now);
    }
    if text.is_empty() {
        return Err(Failure::Wrong(format!(
            "{target} holds no certificate in PEM form"
        )));
    }
    Ok(text)
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
