//! `explain`: the rules that the accept loop asks, asked by hand.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use http::{HeaderMap, Request, uri};

use super::{
    check,
    report::{Failure, out},
};
use crate::{
    admit::{Denial, Denied, PeerFacts, decide_source},
    app, clock,
    config::{Config, GatewayConfig, GatewayListener, Mode, PathNormalisation, Requirement, Route},
    gateway::routes,
    identity::UnixSeconds,
    serve::ListenerRules,
    tls::{Usage, material},
    wire::{framing::Head, host},
};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// A configuration file, or a reason's code
    file: String,
    /// The peer's address
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// The peer's certificate: leaf first, then intermediates
    #[arg(long, value_name = "PEM")]
    cert: Option<PathBuf>,
    /// The host that it asks for (gateway)
    #[arg(long)]
    host: Option<String>,
    /// The path that it asks for (gateway, http mode)
    #[arg(long, default_value = "/")]
    path: String,
    /// When, in RFC 3339; now where absent
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

pub(super) fn run(ask: &Explain) -> Result<(), Failure> {
    if let Some(denial) = Denial::from_code(&ask.file) {
        out(&format!(
            "{}: {}\nnext: {}\n",
            denial.code(),
            denial.meaning(),
            denial.hint()
        ));
        return Ok(());
    }
    let Some(from) = ask.from else {
        return Err(Failure::Wrong(format!(
            "{}: is no reason's code; with a configuration, --from IP says who asks",
            ask.file
        )));
    };
    let now = time_of(ask.at.as_deref())?;
    let config = check::read(Path::new(&ask.file))?;
    let gateway = match &config {
        Config::Gateway(gateway) => Some(gateway.clone()),
        Config::Acceptor(_) | Config::Authority(_) => None,
    };
    let metrics = crate::telemetry::metrics::Metrics::new();
    let loaded = app::load(
        config,
        (None, &Arc::default()),
        &metrics,
        &crate::drain::Drain::new(),
        None,
    )
    .map_err(|problems| Failure::Wrong(problems.to_string()))?;
    for listener in &loaded.listeners {
        let rules = &listener.snapshot.rules;
        out(&format!(
            "listener {} ({})\n",
            listener.name, listener.address
        ));
        match judge(rules, from, ask.cert.as_deref(), now)? {
            Err(denied) => {
                out(&format!(
                    "  refused: {}: {denied}\n  next: {}\n",
                    denied.reason.code(),
                    denied.reason.hint()
                ));
                continue;
            }
            Ok((said, peer)) => {
                out(&said);
                out(&required(&loaded.config, &listener.name));
                if let Some(gateway) = &gateway {
                    out(&route(gateway, &listener.name, ask, peer.as_deref()));
                }
            }
        }
    }
    Ok(())
}

type Judged = Result<(String, Option<Arc<PeerFacts>>), Denied>;

fn judge(
    rules: &ListenerRules,
    from: IpAddr,
    cert: Option<&Path>,
    now: UnixSeconds,
) -> Result<Judged, Failure> {
    if let Err(denied) = decide_source(from, &rules.source) {
        return Ok(Err(denied));
    }
    let mut said = format!("  source {from}: admitted\n");
    let peer = match (cert, &rules.verification) {
        (Some(file), Some(verification)) => {
            let chain =
                material::load_chain(file).map_err(|error| Failure::Wrong(error.to_string()))?;
            let Some((leaf, rest)) = chain.split_first() else {
                return Err(Failure::Wrong(format!(
                    "{}: holds no certificate",
                    file.display()
                )));
            };
            match verification.prove(leaf, rest, Usage::ClientAuth, now) {
                Ok(peer) => Some(peer),
                Err(denied) => return Ok(Err(denied)),
            }
        }
        (Some(_), None) => {
            said.push_str("  certificate: none is asked for here\n");
            None
        }
        (None, _) => None,
    };
    Ok(rules.judge(from, peer.as_deref(), now).map(|grant| {
        said.push_str(&format!(
            "  peer {}: admitted by {}\n",
            grant.identity, grant.rule
        ));
        (said, peer)
    }))
}

/// What each request of an admitted gateway has to prove.
fn required(config: &Config, listener: &str) -> String {
    let Config::Acceptor(acceptor) = config else {
        return String::new();
    };
    let listener = acceptor.listeners.iter().find(|l| *l.name == *listener);
    let rules = listener.map_or(&[][..], |listener| listener.require.as_slice());
    let line = |rule: &Requirement| {
        let places: Vec<String> = rule.places().map(ToString::to_string).collect();
        let places = places.join(" or ");
        match rule {
            Requirement::Header(rule) => {
                format!("  each request needs: {} as in {places}\n", rule.name)
            }
            Requirement::Signature(_) => {
                format!("  each request needs: a signature by the key in {places}\n")
            }
        }
    };
    rules.iter().map(line).collect()
}

fn route(
    gateway: &GatewayConfig,
    listener: &str,
    ask: &Explain,
    peer: Option<&PeerFacts>,
) -> String {
    if gateway.redirects.iter().any(|l| *l.name == *listener) {
        return "  each request is sent to https, on the host that it names\n".to_owned();
    }
    let found = match gateway.listeners.iter().find(|l| *l.name == *listener) {
        Some(listener) if listener.mode == Mode::Http => {
            http_route(gateway, listener, ask.host.as_deref(), &ask.path)
        }
        _ => tcp_route(gateway, listener, ask.host.as_deref()),
    };
    let found = found.and_then(|route| routes::check_clients(route, peer).map(|()| route));
    match found {
        Ok(route) => format!("  {} leads to backend {}\n", route.label, route.backend),
        Err(denied) => format!("  refused: {}: {denied}\n", denied.reason.code()),
    }
}

fn tcp_route<'c>(
    gateway: &'c GatewayConfig,
    listener: &str,
    sni: Option<&str>,
) -> Result<&'c Arc<Route>, Denied> {
    routes::match_tcp(&gateway.routes, listener, sni).ok_or_else(|| {
        let name = sni.unwrap_or("absent");
        Denied::new(Denial::NoRoute, format!("SNI {name}"))
    })
}

/// The route of a request, from its first byte on as the process reads it. The connection is taken
/// to be for the host that is asked for.
fn http_route<'c>(
    gateway: &'c GatewayConfig,
    listener: &GatewayListener,
    host: Option<&str>,
    path: &str,
) -> Result<&'c Arc<Route>, Denied> {
    let invalid =
        |error: &dyn std::fmt::Display| Denied::new(Denial::RequestInvalid, error.to_string());
    // HTTP/1.0 alone may name no host
    let head = match host {
        Some(host) => format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        None => format!("GET {path} HTTP/1.0\r\n\r\n"),
    };
    let (bytes, mut reader) = (head.as_bytes(), Head::default());
    let end = reader
        .read(bytes, listener.limits.header_bytes)
        .map_err(|fault| invalid(&fault))?;
    if end != Some(bytes.len()) {
        return Err(invalid(&"host and path are lines of their own"));
    }
    let arrived = reader
        .take(bytes, HeaderMap::new())
        .map_err(|fault| invalid(&fault))?;
    let mut request = Request::from_parts(arrived.parts, ());
    if listener.path_normalisation == PathNormalisation::Normalise {
        routes::normalise(&mut request)?;
    }
    let (version, scheme) = (request.version(), &uri::Scheme::HTTPS);
    let host = host::effective_host(version, request.uri(), request.headers(), scheme)
        .map_err(|error| invalid(&error))?;
    let name = host.as_ref().and_then(|authority| authority.host.name());
    let path = routes::path_of(&request)?;
    routes::find_http(&gateway.routes, &listener.name, name, path, "GET")
}

fn time_of(text: Option<&str>) -> Result<UnixSeconds, Failure> {
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};
    let Some(text) = text else {
        return Ok(clock::now());
    };
    OffsetDateTime::parse(text, &Rfc3339)
        .map(|time| UnixSeconds(time.unix_timestamp()))
        .map_err(|error| {
            Failure::Wrong(format!(
                "--at {text}: {error}: expected 2027-01-22T12:00:00Z"
            ))
        })
}
