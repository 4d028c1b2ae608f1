//! `portcullis pki`: the authority's commands and their options.

mod lifecycle;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::report::{Failure, err, out};
use crate::{
    clock,
    config::{Config, SecretRef},
    identity::UnixSeconds,
    pki::{
        Algorithm, Authority, CrlOptions, InitOptions, IssueRequest, Passphrase, PkiError, Reason,
        Record, Role,
        install::{Owner, install},
    },
};
use show::{describe_init, describe_issued, list, show, until};

/// Make and keep the certificates of gateways and acceptors
#[derive(Debug, Args)]
pub(super) struct PkiArgs {
    /// The authority's folder
    #[arg(long, global = true, value_name = "DIR", default_value = "pki")]
    dir: PathBuf,
    /// A file with the passphrase of the CA keys
    #[arg(long, global = true, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Where the passphrase of the CA keys is: file=PATH, env=NAME or credential=NAME
    #[arg(
        long,
        global = true,
        value_name = "WHERE",
        conflicts_with = "passphrase_file"
    )]
    passphrase: Option<String>,
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
    /// Show certificates: an issued NAME or ROLE/NAME, a PEM file, - for standard input, or what a server at HOST:PORT shows
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
    /// Make a key and a request on the host that will use them
    Request(lifecycle::Request),
    /// Sign a request: of it the key is taken, and the names that its role may have
    Sign(lifecycle::Sign),
    /// Renew certificates; with --all those that are due, and the CRLs
    Renew(lifecycle::Renew),
    /// Make a new CA beside the old one; both are trusted until --finish
    Rotate(lifecycle::Rotate),
    /// Write a certificate and its key in the form that others' TLS reads
    Export(lifecycle::Export),
    /// Renew certificates in force over mutual TLS, and hand out trust and CRLs
    Serve(super::Run),
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
        passphrase,
        command,
    } = args;
    let passphrase = passphrase.as_deref().map(secret).transpose()?;
    let passphrase = passphrase_file
        .map(SecretRef::File)
        .or(passphrase)
        .map(|place| Passphrase::load(&place))
        .transpose()?;
    let open = || {
        let authority = Authority::open(&dir)?.with_passphrase(passphrase.clone());
        for warning in authority.warnings()? {
            err(&format!("warning: {warning}\n"));
        }
        Ok::<_, PkiError>(authority)
    };
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
            Ok(describe_issued(&authority, &issued, now))
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
        PkiCommand::Request(asked) => lifecycle::request(asked),
        PkiCommand::Sign(asked) => lifecycle::sign(&open()?, asked, now),
        PkiCommand::Renew(asked) => lifecycle::renew(&open()?, asked, now),
        PkiCommand::Rotate(asked) => lifecycle::rotate(&open()?, &asked, now),
        PkiCommand::Export(asked) => lifecycle::export(&open()?, &asked),
        PkiCommand::Serve(run) => {
            let ours = |config: &Config| matches!(config, Config::Authority(_));
            super::role(&run, "pki serve", ours).map(|()| String::new())
        }
    }
}

fn revoke(authority: &Authority, target: &str, reason: Reason) -> Result<String, Failure> {
    let lines: Vec<String> = if authority.authority_of(target)?.is_some() {
        let ca = authority.revoke_authority(target, reason)?;
        vec![format!("revoked the {}\n", ca.title())]
    } else {
        let done = authority.revoke(target, reason)?;
        let line = |r: &Record| format!("revoked {}/{} serial {}\n", r.role, r.name, r.serial);
        let mut lines: Vec<String> = done.iter().map(line).collect();
        if reason == Reason::KeyCompromise {
            lines.extend(left_of(authority, &done)?);
        }
        lines
    };
    let crl = authority.crl();
    Ok(format!(
        "{}{}: hand it to every peer\n",
        lines.concat(),
        crl.display()
    ))
}

/// What whoever has a revoked key may have renewed it to.
fn left_of(authority: &Authority, done: &[Record]) -> Result<Vec<String>, Failure> {
    let now = clock::now();
    let records = authority.records()?;
    let same = |r: &&Record| done.iter().any(|d| d.role == r.role && d.name == r.name);
    let left = records.iter().filter(same).filter(|r| {
        let over = matches!(r.standing(now), "revoked" | "expired");
        !over && !r.self_signed && r.not_after >= now.0
    });
    Ok(left
        .map(|r| {
            format!(
                "still in force: {}: it renews itself no more; if it is not known to be the \
                 holder's, `portcullis pki revoke {}/{}`\n",
                r.title(),
                r.role,
                r.name
            )
        })
        .collect())
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

fn days(text: &str) -> Result<u32, String> {
    text.strip_suffix('d')
        .unwrap_or(text)
        .parse()
        .map_err(|e| format!("{text:?} is not a number of days such as 30d: {e}"))
}

/// `file=PATH`, `env=NAME` or `credential=NAME`. Not clap's to parse: it says again what was typed,
/// which may be the secret itself.
fn secret(text: &str) -> Result<SecretRef, Failure> {
    match text.split_once('=') {
        Some(("file", path)) if !path.is_empty() => Ok(SecretRef::File(path.into())),
        Some(("env", name)) if !name.is_empty() => Ok(SecretRef::Env(name.to_owned())),
        Some(("credential", name)) if !name.is_empty() => {
            Ok(SecretRef::Credential(name.to_owned()))
        }
        _ => Err(Failure::Wrong(
            "a secret is said by where it is: file=PATH, env=NAME or credential=NAME".to_owned(),
        )),
    }
}
