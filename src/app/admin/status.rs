//! What the admin listener says: readiness checks and the whole status as JSON.

use std::sync::PoisonError;

use serde_json::{Value, json};

use super::super::{exposure, reload::Process};
use crate::{clock, identity::UnixSeconds, net::exposure::Exposure, tls::Staple};

/// Whether the process is ready, and each check with its word.
pub(super) fn readiness(process: &Process, verbose: bool) -> (bool, String) {
    let checks = checks(process);
    let ready = checks.iter().all(|check| check.ok || check.warning);
    if !verbose {
        return (
            ready,
            if ready {
                "ready\n".to_owned()
            } else {
                "not ready\n".to_owned()
            },
        );
    }
    let mut text = String::new();
    for check in &checks {
        let word = match (check.ok, check.warning) {
            (true, _) => "ok  ",
            (false, true) => "warn",
            (false, false) => "fail",
        };
        text.push_str(&format!("{word} {}: {}\n", check.name, check.detail));
    }
    (ready, text)
}

struct Check {
    name: String,
    ok: bool,
    /// It has to be looked at, and traffic passes all the same.
    warning: bool,
    detail: String,
}

#[expect(clippy::too_many_lines, reason = "a list: one check after the other")]
fn checks(process: &Process) -> Vec<Check> {
    let now = clock::now();
    let mut list = Vec::new();
    for (name, address) in process.addresses() {
        list.push(Check {
            name: format!("listener {name}"),
            ok: true,
            warning: false,
            detail: address,
        });
    }
    process.with(|in_force| {
        let Some(in_force) = in_force else { return };
        let identity = &in_force.loaded.identity;
        list.push(Check {
            name: "identity".to_owned(),
            ok: now <= identity.not_after,
            warning: false,
            detail: format!(
                "{} ends {} ({})",
                identity.leaf.display_name(),
                identity.not_after.relative_to(now),
                identity.not_after
            ),
        });
        for crl in identity
            .verification
            .crls()
            .iter()
            .flat_map(|set| set.expired(now))
        {
            list.push(Check {
                name: "crl".to_owned(),
                ok: false,
                warning: true,
                detail: format!("the CRL of {} has expired: portcullis pki crl", crl.issuer),
            });
        }
        list.extend(in_force.loaded.staples.iter().map(|s| stapled(s, now)));
        list.push(Check {
            name: "reload".to_owned(),
            ok: in_force.refused.is_empty(),
            warning: true,
            detail: if in_force.refused.is_empty() {
                "what is on disk is in force".to_owned()
            } else {
                format!(
                    "the last good state stays in force: {}",
                    in_force.refused.join("; ")
                )
            },
        });
        for backend in in_force.loaded.backends.values() {
            let usable = backend.acceptors().iter().filter(|a| a.is_usable()).count();
            list.push(Check {
                name: format!("backend {}", backend.config.name),
                ok: usable > 0,
                warning: true,
                detail: format!("{usable} of {} acceptors usable", backend.acceptors().len()),
            });
        }
    });
    let renewal = process.renewal.get();
    let failures: Vec<&str> = [&renewal.failure, &renewal.refresh_failure]
        .into_iter()
        .map(String::as_str)
        .filter(|failure| !failure.is_empty())
        .collect();
    let workload =
        process.with(|f| f.is_some_and(|f| f.loaded.config.common().identity.workload().is_some()));
    if renewal.due.is_some() || workload {
        list.push(Check {
            name: "renewal".to_owned(),
            ok: failures.is_empty(),
            warning: true,
            detail: match renewal.due {
                _ if !failures.is_empty() => failures.join("; "),
                Some(due) => format!("due {} ({due})", due.relative_to(now)),
                None => "the Workload API decides when".to_owned(),
            },
        });
    }
    list.extend(ordered(process, now));
    for (name, seen) in exposure::seen(process) {
        let (ok, detail) = match seen {
            Exposure::OnlyLoopback => (true, "listens on loopback alone".to_owned()),
            Exposure::NotListening => (false, "nobody listens".to_owned()),
            Exposure::Unknown(reason) => (
                false,
                format!("unknown whether it can be reached round us: {reason}"),
            ),
            Exposure::Exposed(ways) => {
                let ways: Vec<String> = ways
                    .iter()
                    .map(|w| format!("{} {}", w.address, w.process))
                    .collect();
                (
                    false,
                    format!("can be reached round us: {}", ways.join(", ")),
                )
            }
        };
        list.push(Check {
            name: format!("backend of {name}"),
            ok,
            warning: true,
            detail,
        });
    }
    list
}

/// The certificates that are ordered for clients.
fn ordered(process: &Process, now: UnixSeconds) -> Vec<Check> {
    let all = process
        .ordered
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    all.iter()
        .map(|(key, report)| Check {
            name: format!("certificate {}", key.with_extension("pem").display()),
            ok: report.failure.is_empty(),
            warning: true,
            detail: match report.due {
                _ if !report.failure.is_empty() => report.failure.clone(),
                Some(due) => format!("due {} ({due})", due.relative_to(now)),
                None => "not looked at yet".to_owned(),
            },
        })
        .collect()
}

/// The same as JSON.
fn certificates(process: &Process) -> Value {
    let all = process
        .ordered
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    all.iter()
        .map(|(key, report)| {
            json!({ "file": key.with_extension("pem"), "due": report.due.map(|at| at.0),
                    "last_success": report.renewed.map(|at| at.0), "failure": report.failure })
        })
        .collect()
}

/// What is said with a certificate. Without an answer it is shown as if nobody had asked.
fn stapled(staple: &Staple, now: UnixSeconds) -> Check {
    let known = staple.known(now);
    let failed = known.failed.map(|why| {
        format!(
            "the last attempt: {why} ({})",
            staple.question.responder.url
        )
    });
    let (ok, warning, detail) = match (known.revoked, known.stapled, failed) {
        (Some(since), _, _) => (
            false,
            false,
            format!("REVOKED since {since}: replace the certificate"),
        ),
        (None, Some((_, until)), None) => (true, false, format!("good, stapled until {until}")),
        (None, Some((_, until)), Some(failed)) => (
            false,
            true,
            format!("good, stapled until {until}; {failed}"),
        ),
        (None, None, failed) => {
            let failed = failed.unwrap_or_else(|| "not answered yet".to_owned());
            let demand = if staple.must {
                "; the certificate demands a staple, and clients that know the extension refuse it"
            } else {
                ""
            };
            (false, true, format!("nothing is stapled: {failed}{demand}"))
        }
    };
    Check {
        name: format!("ocsp {}", staple.file.display()),
        ok,
        warning,
        detail,
    }
}

/// The whole status; `schema` grows when a field changes its meaning.
pub(super) fn json(process: &Process) -> String {
    let checks: Vec<Value> = checks(process)
        .into_iter()
        .map(|c| json!({ "name": c.name, "ok": c.ok, "warning": c.warning, "detail": c.detail }))
        .collect();
    let listeners: Vec<Value> = process
        .addresses()
        .into_iter()
        .map(|(name, address)| {
            let metrics = process.metrics.listener(&name);
            let [accepted, admitted, active, denied] = metrics.counts();
            let reasons: serde_json::Map<String, Value> = metrics
                .denials()
                .into_iter()
                .map(|(code, n)| (code.to_owned(), n.into()))
                .collect();
            json!({ "name": *name, "address": address, "accepted": accepted, "admitted": admitted,
                    "active": active, "denied": denied, "denied_by_reason": reasons })
        })
        .collect();
    let mut status = json!({
        "schema": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "listeners": listeners,
        "checks": checks,
    });
    process.with(|in_force| {
        let (Some(in_force), Some(map)) = (in_force, status.as_object_mut()) else { return };
        let identity = &in_force.loaded.identity;
        map.insert("role".to_owned(), in_force.loaded.config.role().into());
        let secrets = in_force.loaded.config.required_secrets();
        let secrets: Vec<Value> = secrets
            .iter()
            .map(|(listener, rule, place)| {
                let used = process.metrics.secret(listener, rule, place).get();
                json!({ "listener": listener, "rule": rule, "secret": place,
                        "last_used": Some(used).filter(|used| *used != 0) })
            })
            .collect();
        map.insert("secrets".to_owned(), secrets.into());
        map.insert("loaded_at".to_owned(), in_force.since.into());
        map.insert("last_reload_refused".to_owned(), in_force.refused.clone().into());
        map.insert("warnings".to_owned(), in_force.loaded.warnings.clone().into());
        map.insert(
            "identity".to_owned(),
            json!({ "name": identity.leaf.display_name(), "serial": identity.leaf.serial.to_string(),
                    "fingerprint": identity.leaf.fingerprint.to_string(), "not_after": identity.not_after.0 }),
        );
        map.insert("certificates".to_owned(), certificates(process));
        let renewal = process.renewal.get();
        map.insert(
            "renewal".to_owned(),
            json!({ "source": in_force.loaded.config.common().identity.source(),
                    "due": renewal.due.map(|at| at.0), "last_success": renewal.renewed.map(|at| at.0),
                    "failure": renewal.failure, "refresh_failure": renewal.refresh_failure }),
        );
        let backends: Vec<Value> = in_force
            .loaded
            .backends
            .values()
            .map(|b| {
                let acceptors: Vec<Value> = b
                    .acceptors()
                    .iter()
                    .map(|a| json!({ "address": a.name, "usable": a.is_usable(), "healthy": a.is_healthy(), "active": a.active() }))
                    .collect();
                json!({ "name": b.config.name, "acceptors": acceptors })
            })
            .collect();
        map.insert("backends".to_owned(), backends.into());
    });
    status.to_string()
}
