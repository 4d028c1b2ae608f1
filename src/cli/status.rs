//! `status`: a running process, asked over its admin listener.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde_json::Value;

use super::report::{Failure, out};
use crate::{clock, identity::UnixSeconds};

/// Where the units' configurations put it.
const USUAL: [&str; 2] = [
    "/run/portcullis/gateway.sock",
    "/run/portcullis/acceptor.sock",
];
/// Nothing here takes long.
const PATIENCE: Duration = Duration::from_secs(5);
/// No status is longer.
const LONGEST: u64 = 4 << 20;
const WATCH_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Status {
    /// The admin listener: unix:/path or IP:PORT; absent: the usual sockets in /run/portcullis
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// A file with the admin token, over TCP
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the status as JSON
    #[arg(long)]
    json: bool,
    /// Print it again every two seconds
    #[arg(long)]
    watch: bool,
}

pub(super) fn run(ask: &Status) -> Result<(), Failure> {
    let addresses = match &ask.admin {
        Some(address) => vec![address.clone()],
        None => USUAL
            .iter()
            .filter(|path| Path::new(path).exists())
            .map(|path| format!("unix:{path}"))
            .collect(),
    };
    if let Some(wrong) = addresses
        .iter()
        .find(|address| !address.starts_with("unix:") && address.parse::<SocketAddr>().is_err())
    {
        return Err(Failure::Wrong(format!(
            "--admin {wrong}: expected unix:/path or IP:PORT"
        )));
    }
    if addresses.is_empty() {
        return Err(Failure::Failed(format!(
            "no admin socket at {}: name it with --admin, as in [admin] address",
            USUAL.join(" or ")
        )));
    }
    let token = match &ask.token_file {
        None => None,
        Some(file) => Some(
            std::fs::read_to_string(file)
                .map_err(|error| Failure::Wrong(format!("{}: {error}", file.display())))?,
        ),
    };
    loop {
        for address in &addresses {
            let text = fetch(address, token.as_deref().map(str::trim_end))
                .map_err(|why| Failure::Failed(format!("{address}: {why}")))?;
            if ask.json {
                out(&format!("{text}\n"));
            } else {
                let status: Value = serde_json::from_str(&text)
                    .map_err(|error| Failure::Failed(format!("{address}: no status: {error}")))?;
                out(&shown(&status));
            }
        }
        if !ask.watch {
            return Ok(());
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

fn fetch(address: &str, token: Option<&str>) -> Result<String, String> {
    let error = |error: std::io::Error| error.to_string();
    if let Some(path) = address.strip_prefix("unix:") {
        let stream = UnixStream::connect(path).map_err(error)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(error)?;
        return exchange(stream, "localhost", token);
    }
    let target = address
        .parse()
        .map_err(|_not_one| "expected unix:/path or IP:PORT".to_owned())?;
    let stream = TcpStream::connect_timeout(&target, PATIENCE).map_err(error)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(error)?;
    exchange(stream, address, token)
}

fn exchange(
    mut stream: impl Read + Write,
    host: &str,
    token: Option<&str>,
) -> Result<String, String> {
    let token = match token {
        Some(token) if token.bytes().any(|b| b.is_ascii_control()) => {
            return Err("the token has control characters".to_owned());
        }
        Some(token) => format!("Authorization: Bearer {token}\r\n"),
        None => String::new(),
    };
    let asked =
        format!("GET /status.json HTTP/1.1\r\nHost: {host}\r\n{token}Connection: close\r\n\r\n");
    stream
        .write_all(asked.as_bytes())
        .map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream
        .take(LONGEST)
        .read_to_string(&mut answer)
        .map_err(|error| error.to_string())?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or("no HTTP answer; with [admin.tls] ask with curl")?;
    let code = head.split(' ').nth(1).unwrap_or_default();
    match code {
        "200" => Ok(body.to_owned()),
        "401" => Err("the admin listener wants its token: --token-file".to_owned()),
        _ => Err(format!("answered {code}, expected 200")),
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or("-")
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn shown(status: &Value) -> String {
    let identity = status.get("identity").unwrap_or(&Value::Null);
    let mut shown = format!(
        "{} {} as {}\n",
        text(status, "role"),
        text(status, "version"),
        text(identity, "name")
    );
    for listener in list(status, "listeners") {
        shown.push_str(&format!(
            "  listener {} {}: {} active, {} admitted, {} refused\n",
            text(listener, "name"),
            text(listener, "address"),
            number(listener, "active"),
            number(listener, "admitted"),
            number(listener, "denied")
        ));
        let reasons = listener.get("denied_by_reason").and_then(Value::as_object);
        for (reason, count) in reasons.into_iter().flatten() {
            shown.push_str(&format!("    {count} {reason}\n"));
        }
    }
    for secret in list(status, "secrets") {
        let used = secret.get("last_used").and_then(Value::as_i64);
        let now = clock::now();
        shown.push_str(&format!(
            "  secret {} of {} in {}: {}\n",
            text(secret, "rule"),
            text(secret, "listener"),
            text(secret, "secret"),
            used.map_or_else(
                || "not used since the start".to_owned(),
                |at| match at < now.0 {
                    true => format!("last used {}", UnixSeconds(at).relative_to(now)),
                    false => "last used now".to_owned(),
                }
            )
        ));
    }
    for check in list(status, "checks") {
        let flag = |key| check.get(key).and_then(Value::as_bool).unwrap_or(false);
        let word = match (flag("ok"), flag("warning")) {
            (true, _) => "ok  ",
            (false, true) => "warn",
            (false, false) => "FAIL",
        };
        shown.push_str(&format!(
            "  {word} {}: {}\n",
            text(check, "name"),
            text(check, "detail")
        ));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_a_dash_and_nothing_panics() {
        assert_eq!(shown(&Value::Null), "- - as -\n");
        let status = serde_json::json!({
            "role": "acceptor", "version": "1", "identity": { "name": "x" },
            "listeners": [{ "name": "l", "address": "a", "active": 1, "admitted": 2, "denied": 3,
                            "denied_by_reason": { "not_tls": 3 } }],
            "secrets": [{ "listener": "l", "rule": "x-s", "secret": "/s", "last_used": null },
                        { "listener": "l", "rule": "x-s", "secret": "/t",
                          "last_used": clock::now().0 - 7_200 }],
            "checks": [{ "name": "crl", "ok": false, "warning": true, "detail": "old" }],
        });
        assert_eq!(
            shown(&status),
            "acceptor 1 as x\n  listener l a: 1 active, 2 admitted, 3 refused\n    3 not_tls\n  \
             secret x-s of l in /s: not used since the start\n  \
             secret x-s of l in /t: last used 2 hours ago\n  \
             warn crl: old\n"
        );
    }
}
