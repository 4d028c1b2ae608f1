//! `pki request`, `sign`, `renew`, `rotate` and `export`: a certificate's life after its first issue.

use std::{
    fmt::Write as _,
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Args;
use ipnet::IpNet;

use super::{
    Failure,
    show::{describe_issued, until},
};
use crate::{
    cli::report::err,
    config::networks,
    identity::UnixSeconds,
    pki::{
        Algorithm, Authority, CaKind, ExportFormat, ExportPassword, KeyRequest, RenewOptions,
        Renewal, Role, RotateOptions, SignRequest, install::Owner, store,
    },
};

/// Largest request that is read.
const MAX_REQUEST: u64 = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct Request {
    /// What the certificate is for
    role: Role,
    /// The last segment of the SPIFFE ID
    name: String,
    /// A DNS name or IP address to ask for; repeatable; acceptors and servers need one
    #[arg(long, value_name = "DNS-OR-IP")]
    san: Vec<String>,
    /// Of the key
    #[arg(long, default_value = "ecdsa-p256")]
    algorithm: Algorithm,
    /// Where key.pem, unless it is there, and NAME.csr go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// USER (key 0600) or USER:GROUP (key 0640)
    #[arg(long, value_name = "USER[:GROUP]")]
    owner: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Sign {
    /// The request, or - for standard input
    #[arg(value_name = "CSR")]
    request: PathBuf,
    /// What it is for, where the request does not say
    #[arg(long)]
    role: Option<Role>,
    /// The last segment of its SPIFFE ID, where the request does not say
    #[arg(long)]
    name: Option<String>,
    /// Life; default and limit: the role's profile
    #[arg(long)]
    days: Option<u32>,
    /// Replace the key and certificate of that name
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Renew {
    /// NAME or ROLE/NAME
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// Everything that is due, and the CRLs
    #[arg(long)]
    all: bool,
    /// Only what ends within so many days, such as 30d; default with --all: what has a third of its life left
    #[arg(long, value_name = "DAYS", value_parser = super::days)]
    within: Option<u32>,
    /// With a new key
    #[arg(long)]
    rekey: bool,
    /// Life; default: the one that it had
    #[arg(long)]
    days: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// The issuing CA, or the root, and the issuing CA with it
    what: Which,
    /// Put the new one into trust.pem and crl.pem, and let it sign later
    #[arg(long, conflicts_with = "finish")]
    prepare: bool,
    /// End the rotation: the old one is not trusted any more
    #[arg(long)]
    finish: bool,
    /// End it though valid certificates hang on the old one
    #[arg(long, requires = "finish")]
    force: bool,
    /// Of the new keys; default: as it was
    #[arg(long, conflicts_with = "finish")]
    algorithm: Option<Algorithm>,
    /// Life of the new one
    #[arg(long, default_value_t = 3650, conflicts_with = "finish")]
    days: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Which {
    Issuing,
    Root,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// NAME or ROLE/NAME; or `partner NAME`: what a partner with its own TLS has to know of it
    #[arg(required = true, num_args = 1..=2, value_name = "NAME")]
    name: Vec<String>,
    /// pkcs12: certificates and key; pem: the certificates; der: the leaf
    #[arg(long)]
    format: Option<Form>,
    /// partner: the networks that its connections come from, separated by commas
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',', value_parser = network)]
    egress: Vec<IpNet>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Where the password of a PKCS#12 file is: file=PATH, env=NAME or credential=NAME
    #[arg(long, value_name = "WHERE")]
    password: Option<String>,
    /// Replace the file
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    Pkcs12,
    Pem,
    Der,
}

pub(super) fn request(asked: Request) -> Result<String, Failure> {
    let owner = asked.owner.as_deref().map(Owner::look_up).transpose()?;
    let made = KeyRequest {
        role: asked.role,
        name: asked.name,
        sans: asked.san,
        algorithm: asked.algorithm,
        out: asked.out,
        owner,
    }
    .make()?;
    let kept = if made.key_kept { "kept" } else { "made" };
    Ok(format!(
        "{kept} {}: it stays on this host\n\
         made {}: bring it to the authority\n\
         spki:sha256:{}\n\
         next, there: portcullis pki sign {}\n",
        made.key.display(),
        made.request.display(),
        made.spki,
        made.request.file_name().unwrap_or_default().display(),
    ))
}

pub(super) fn sign(
    authority: &Authority,
    asked: Sign,
    now: UnixSeconds,
) -> Result<String, Failure> {
    let request = SignRequest {
        request: read(&asked.request)?,
        role: asked.role,
        name: asked.name,
        days: asked.days,
        force: asked.force,
    };
    let issued = authority.sign(&request).map_err(|error| {
        let failure = Failure::from(error);
        let at = asked.request.display();
        match failure {
            Failure::Failed(text) => Failure::Failed(format!("{at}: {text}")),
            Failure::Wrong(text) => Failure::Wrong(format!("{at}: {text}")),
            Failure::Found(n) => Failure::Found(n),
        }
    })?;
    for note in &issued.notes {
        err(&format!("note: {note}\n"));
    }
    let names: Vec<String> = issued
        .facts
        .uris
        .iter()
        .cloned()
        .chain(issued.facts.dns.iter().map(|name| format!("dns:{name}")))
        .chain(issued.facts.ips.iter().map(|ip| format!("ip:{ip}")))
        .collect();
    let spki = issued.facts.spki;
    Ok(format!(
        "{}names {}\nspki:sha256:{spki}\n",
        describe_issued(authority, &issued, now),
        names.join(", ")
    ))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let wrong = |e: std::io::Error| Failure::Wrong(format!("can't read {}: {e}", path.display()));
    let mut source: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(wrong)?)
    };
    let mut bytes = Vec::new();
    source
        .by_ref()
        .take(MAX_REQUEST)
        .read_to_end(&mut bytes)
        .map_err(wrong)?;
    Ok(bytes)
}

pub(super) fn renew(
    authority: &Authority,
    asked: Renew,
    now: UnixSeconds,
) -> Result<String, Failure> {
    let report = authority.renew(&RenewOptions {
        names: asked.names,
        within: asked.within,
        rekey: asked.rekey,
        days: asked.days,
    })?;
    let mut text = String::new();
    let mut failures = Vec::new();
    for (record, renewal) in &report.renewals {
        match renewal {
            Renewal::Done(issued) => {
                let _infallible = writeln!(
                    text,
                    "renewed {}/{}: serial {}, {}, in {}",
                    issued.role,
                    issued.name,
                    issued.facts.serial,
                    until(issued.facts.not_after, now),
                    issued.certificate.display(),
                );
                for note in &issued.notes {
                    err(&format!("note: {}/{}: {note}\n", issued.role, issued.name));
                }
            }
            Renewal::NotDue => {
                if !asked.all {
                    let end = until(UnixSeconds(record.not_after), now);
                    let _infallible = writeln!(text, "not due: {} {end}", record.title());
                }
            }
            Renewal::Skipped(why) => err(&format!("note: skipped {why}\n")),
            Renewal::Failed(error) => failures.push(format!("{}: {error}", record.title())),
        }
    }
    if let Some(crls) = &report.crls {
        let _infallible = writeln!(
            text,
            "wrote {}: number {}, {}",
            authority.crl().display(),
            crls.number,
            until(crls.next_update, now)
        );
    }
    if failures.is_empty() {
        if text.is_empty() {
            text += "nothing is due\n";
        }
        return Ok(text);
    }
    super::out(&text);
    Err(Failure::Failed(format!(
        "not renewed:\n{}",
        failures.join("\n")
    )))
}

pub(super) fn rotate(
    authority: &Authority,
    asked: &Rotate,
    now: UnixSeconds,
) -> Result<String, Failure> {
    let kind = match asked.what {
        Which::Issuing => CaKind::Issuing,
        Which::Root => CaKind::Root,
    };
    let bundle = format!(
        "{} and {}: hand both to every peer\n",
        authority.trust().display(),
        authority.crl().display()
    );
    let mut text = String::new();
    if asked.finish {
        for ca in authority.finish_rotation(kind, asked.force)? {
            let _infallible = writeln!(text, "ended the {}", ca.title());
        }
        return Ok(text + &bundle);
    }
    let rotated = authority.rotate(&RotateOptions {
        kind,
        prepare: asked.prepare,
        algorithm: asked.algorithm,
        days: asked.days,
    })?;
    for ca in &rotated.new {
        let end = until(UnixSeconds(ca.not_after), now);
        let what = if asked.prepare {
            "prepared"
        } else {
            "in force"
        };
        let _infallible = writeln!(text, "{what}: the {}, {end}", ca.title());
    }
    for ca in &rotated.old {
        let _infallible = writeln!(text, "trusted until the end: the {}", ca.title());
    }
    text += &bundle;
    text += &if asked.prepare {
        format!("next, when they have it: portcullis pki rotate {kind}\n")
    } else {
        format!(
            "next, when they have it: portcullis pki renew --all, install what it made, then\n\
             portcullis pki rotate {kind} --finish\n"
        )
    };
    Ok(text)
}

pub(super) fn export(authority: &Authority, asked: &Export) -> Result<String, Failure> {
    let out = asked.out.display();
    if asked.out.exists() && !asked.force {
        return Err(Failure::Wrong(format!(
            "{out} is there already: --force replaces it"
        )));
    }
    let (record, bytes, mode) = match asked.name.as_slice() {
        [name] => {
            let (format, mode) = form(asked)?;
            let (record, bytes) = authority.export(name, &format)?;
            (record, bytes, mode)
        }
        [kind, name] if kind == "partner" => {
            if asked.egress.is_empty() {
                return Err(Failure::Wrong(
                    "say where it connects from: --egress 203.0.113.4,198.51.100.0/28".to_owned(),
                ));
            }
            if networks::is_everybody(&asked.egress) {
                return Err(Failure::Wrong(
                    "--egress is everybody, and the partner would let everybody try: name the \
                     networks that it connects from"
                        .to_owned(),
                ));
            }
            if asked.format.is_some() || asked.password.is_some() {
                return Err(Failure::Wrong(
                    "`export partner` has a form of its own, without a key: leave --format and \
                     --password out"
                        .to_owned(),
                ));
            }
            let (record, text) = authority.partner_sheet(name, &asked.egress)?;
            (record, text.into_bytes().into(), store::PUBLIC)
        }
        words => {
            return Err(Failure::Wrong(format!(
                "{words:?}: one NAME, or `partner NAME`"
            )));
        }
    };
    store::write_file(&asked.out, &bytes, mode)
        .map_err(|e| Failure::Failed(format!("can't write {out}: {e}")))?;
    Ok(format!("exported {} to {out}\n", record.title()))
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let parsed = text.parse::<IpNet>().ok();
    parsed
        .or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
        .ok_or_else(|| "expected a network like 203.0.113.0/28, or an address".to_owned())
}

fn form(asked: &Export) -> Result<(ExportFormat, u32), Failure> {
    if !asked.egress.is_empty() {
        return Err(Failure::Wrong(
            "--egress is part of `export partner NAME` alone".to_owned(),
        ));
    }
    let Some(format) = asked.format else {
        return Err(Failure::Wrong(
            "say in which form: --format pkcs12, pem or der".to_owned(),
        ));
    };
    Ok(match (format, &asked.password) {
        (Form::Pkcs12, Some(place)) => {
            let password = ExportPassword::load(&super::secret(place)?)?;
            (ExportFormat::Pkcs12(password), store::PRIVATE)
        }
        (Form::Pkcs12, None) => {
            return Err(Failure::Wrong("a PKCS#12 file takes --password".to_owned()));
        }
        (Form::Pem, _) => (ExportFormat::Pem, store::PUBLIC),
        (Form::Der, _) => (ExportFormat::Der, store::PUBLIC),
    })
}
