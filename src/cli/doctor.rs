//! `doctor`: walks each hop for real, from this host: resolve, connect, handshake, admission, ends
//! of certificates. What it finds is in order or a problem; problems end with exit code 3.

use std::{path::PathBuf, sync::Arc, time::Instant};

use clap::Args;
use serde_json::json;

use super::{
    check,
    report::{Failure, out},
};
use crate::{
    app::{self, Loaded},
    clock,
    config::{AcceptorConfig, Config, DialAddress},
    gateway::{BackendRuntime, ClientFacts},
    identity::UnixSeconds,
    net::{self, exposure},
};

/// Less life than this is a problem already: seven days.
const SOON: i64 = 7 * 86_400;

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// A configuration file
    file: PathBuf,
    /// This backend alone (gateway)
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// One hop.
struct Finding {
    hop: String,
    ok: bool,
    detail: String,
}

pub(super) fn run(ask: &Doctor) -> Result<(), Failure> {
    let config = check::read(&ask.file)?;
    let metrics = crate::telemetry::metrics::Metrics::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let svid = runtime
        .block_on(app::renew::spiffe::first(&config))
        .map_err(Failure::Failed)?;
    let drain = crate::drain::Drain::new();
    let loaded = app::load(
        config,
        (svid.as_deref(), &Arc::default()),
        &metrics,
        &drain,
        None,
    )
    .map_err(|problems| Failure::Wrong(problems.to_string()))?;
    if let Some(name) = &ask.backend
        && !loaded.backends.contains_key(name)
    {
        return Err(Failure::Wrong(format!(
            "{}: there is no backend {name}",
            ask.file.display()
        )));
    }
    let findings = runtime.block_on(examine(&loaded, ask.backend.as_deref()));
    let problems = findings.iter().filter(|finding| !finding.ok).count();
    if ask.json {
        let list: Vec<_> = findings
            .iter()
            .map(|f| json!({ "hop": f.hop, "ok": f.ok, "detail": f.detail }))
            .collect();
        out(&format!("{}\n", json!({ "schema": 1, "findings": list })));
    } else {
        for finding in &findings {
            let word = if finding.ok { "ok  " } else { "FAIL" };
            out(&format!("{word} {}: {}\n", finding.hop, finding.detail));
        }
    }
    match problems {
        0 => Ok(()),
        n => Err(Failure::Found(n)),
    }
}

async fn examine(loaded: &Loaded, only: Option<&str>) -> Vec<Finding> {
    let mut findings = vec![life(
        "identity",
        &loaded.identity.leaf.display_name(),
        Some(loaded.identity.not_after),
    )];
    for list in loaded
        .identity
        .verification
        .crls()
        .iter()
        .flat_map(|set| set.lists())
    {
        findings.push(life("crl", &list.issuer, Some(list.next_update)));
    }
    match &loaded.config {
        Config::Acceptor(config) => backends_of(config, &mut findings).await,
        Config::Authority(_) => {}
        Config::Gateway(_) => {
            let mut backends: Vec<_> = loaded.backends.iter().collect();
            backends.sort_by_key(|(name, _)| name.as_str());
            for (name, backend) in backends {
                if only.is_none_or(|only| only == name) {
                    acceptors_of(name, backend, &mut findings).await;
                }
            }
        }
    }
    findings
}

fn life(hop: &str, whose: &str, until: Option<UnixSeconds>) -> Finding {
    let now = clock::now();
    let left = until.map_or(i64::MAX, |until| until.0.saturating_sub(now.0));
    Finding {
        hop: hop.to_owned(),
        ok: left >= SOON,
        detail: match until {
            Some(until) => format!("{whose} ends {} ({until})", until.relative_to(now)),
            None => format!("{whose} has no end"),
        },
    }
}

async fn acceptors_of(name: &str, backend: &Arc<BackendRuntime>, findings: &mut Vec<Finding>) {
    for acceptor in backend.acceptors() {
        let hop = |step: &str| format!("backend {name} acceptor {} {step}", acceptor.name);
        let address = backend
            .config
            .acceptors
            .iter()
            .find(|address| address.to_string() == acceptor.name);
        if let Some(address) = address {
            let reached = reach(address, backend.config.bind, backend.config.connect_timeout).await;
            let ok = reached.is_ok();
            findings.push(Finding {
                hop: hop("connect"),
                ok,
                detail: reached.unwrap_or_else(|why| why),
            });
            if !ok {
                continue;
            }
        }
        match backend.connect_to(acceptor, &ClientFacts::ours()).await {
            Ok(link) => {
                let whose = link
                    .chain
                    .first()
                    .and_then(|der| crate::identity::CertFacts::read(der).ok())
                    .map_or_else(|| "its certificate".to_owned(), |leaf| leaf.display_name());
                findings.push(Finding {
                    hop: hop("handshake and admission"),
                    ok: true,
                    detail: format!("admitted in {:.1?}", link.connect),
                });
                findings.push(life(&hop("certificate"), &whose, link.until));
            }
            Err(denied) => findings.push(Finding {
                hop: hop("handshake and admission"),
                ok: false,
                detail: format!(
                    "{}: {denied}; {}",
                    denied.reason.code(),
                    denied.reason.hint()
                ),
            }),
        }
    }
}

async fn backends_of(config: &AcceptorConfig, findings: &mut Vec<Finding>) {
    for listener in &config.listeners {
        let hop = format!("listener {} backend {}", listener.name, listener.backend);
        let limit = crate::acceptor::BACKEND_CONNECT_TIMEOUT;
        let reached = reach(&listener.backend, listener.source_address, limit).await;
        findings.push(Finding {
            ok: reached.is_ok(),
            detail: reached.unwrap_or_else(|why| why),
            hop: format!("{hop} connect"),
        });
        let DialAddress::Ip(address) = &listener.backend else {
            continue;
        };
        if !address.ip().is_loopback() {
            continue;
        }
        let (ok, detail) = match exposure::look(address.port()) {
            exposure::Exposure::OnlyLoopback => (true, "listens on loopback alone".to_owned()),
            exposure::Exposure::NotListening => (false, "nobody listens".to_owned()),
            exposure::Exposure::Unknown(why) => (false, format!("unknown: {why}")),
            exposure::Exposure::Exposed(ways) => {
                let ways: Vec<_> = ways
                    .iter()
                    .map(|way| format!("{} {}", way.address, way.process))
                    .collect();
                (
                    false,
                    format!("can be reached round us: {}", ways.join(", ")),
                )
            }
        };
        findings.push(Finding {
            hop: format!("{hop} exposure"),
            ok,
            detail,
        });
    }
}

/// Resolves and connects, and says where it got to.
async fn reach(
    address: &DialAddress,
    bind: Option<std::net::IpAddr>,
    limit: std::time::Duration,
) -> Result<String, String> {
    let began = Instant::now();
    match tokio::time::timeout(limit, net::dial(address, bind)).await {
        Ok(Ok(socket)) => {
            let to = socket
                .peer_addr()
                .map_or_else(|| address.to_string(), |to| to.to_string());
            Ok(format!("{to} answers in {:.1?}", began.elapsed()))
        }
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Err(_) => Err(format!("{address}: no answer within {limit:?}")),
    }
}
