//! Values that are strings with a meaning: durations, sizes, addresses, names, networks, secrets.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    CertificateFiles, DialAddress, ListenAddress, NetworkList, SecretRef, ServerName,
    reader::{Table, Value},
};
use crate::identity::{DnsName, PeerName, PeerNames};

const DURATION: &str = "a duration with a unit: \"250ms\", \"10s\", \"5m\", \"1h\", \"30d\"";
const SIZE: &str = "a size with a unit: \"512B\", \"64KiB\", \"1MiB\"";

pub(super) fn duration(value: &Value<'_>) -> Option<Duration> {
    value.parsed(DURATION, |text| {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        let seconds = match unit {
            "ms" => return Some(Duration::from_millis(number)),
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        // ten years: what is longer is a slip of the pen, and timers overflow
        number
            .checked_mul(seconds)
            .filter(|s| *s <= 315_360_000)
            .map(Duration::from_secs)
    })
}

/// A duration that must not be zero: zero would be no limit where there has to be one.
pub(super) fn some_duration(value: &Value<'_>) -> Option<Duration> {
    let duration = duration(value)?;
    if duration.is_zero() {
        value.bad(
            format!("`{}` can't be 0", value.key),
            "a wait that a stranger controls needs an end",
        );
        return None;
    }
    Some(duration)
}

/// A size: a string with a unit, or 0 alone.
pub(super) fn size(value: &Value<'_>) -> Option<u64> {
    if !value.is_string() {
        let number = value.number()?;
        if number != 0 {
            value.bad(
                format!("`{}` has no unit", value.key),
                format!("expected {SIZE}"),
            );
            return None;
        }
        return Some(0);
    }
    value.parsed(SIZE, |text| {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        let factor: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.checked_mul(factor)
    })
}

pub(super) fn listen_address(value: &Value<'_>) -> Option<ListenAddress> {
    value.parsed(
        "\"IP:PORT\", \"[IPv6]:PORT\", \"unix:/path\" or \"systemd:NAME\"",
        |text| {
            if let Some(path) = text.strip_prefix("unix:") {
                return Some(PathBuf::from(path))
                    .filter(|p| p.is_absolute())
                    .map(ListenAddress::Unix);
            }
            if let Some(name) = text.strip_prefix("systemd:") {
                let fits =
                    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
                return fits.then(|| ListenAddress::Systemd(name.to_owned()));
            }
            text.parse::<SocketAddr>().ok().map(ListenAddress::Tcp)
        },
    )
}

pub(super) fn dial_address(value: &Value<'_>) -> Option<DialAddress> {
    value.parsed(
        "\"IP:PORT\", \"[IPv6]:PORT\", \"HOST:PORT\" or \"unix:/path\"",
        |text| {
            if let Some(path) = text.strip_prefix("unix:") {
                return Some(PathBuf::from(path))
                    .filter(|p| p.is_absolute())
                    .map(DialAddress::Unix);
            }
            if let Ok(address) = text.parse::<SocketAddr>() {
                return (address.port() != 0).then_some(DialAddress::Ip(address));
            }
            let (host, port) = text.rsplit_once(':')?;
            let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
            DnsName::parse(host).map(|host| DialAddress::Host(host.as_str().to_owned(), port))
        },
    )
}

pub(super) fn server_name(value: &Value<'_>) -> Option<ServerName> {
    value.parsed("a DNS name or an IP address", |text| match text.parse() {
        Ok(ip) => Some(ServerName::Ip(ip)),
        Err(_) => DnsName::parse(text).map(ServerName::Dns),
    })
}

/// Peer names. `pinned:FILE` becomes the file's whole path, and must be one of `pinned`.
pub(super) fn peer_names(
    value: &Value<'_>,
    folder: &Path,
    pinned: &[PathBuf],
) -> Option<PeerNames> {
    let mut names = Vec::new();
    for item in value.list()? {
        let Some(text) = item.string() else { continue };
        match PeerName::parse(&text) {
            Ok(PeerName::Pinned { file, .. }) => {
                let whole = folder.join(&file);
                if pinned.contains(&whole) {
                    names.push(PeerName::Pinned {
                        file: whole.display().to_string(),
                        fingerprint: None,
                    });
                } else {
                    item.bad(
                        format!("{file} is not one of `pinned`"),
                        "add the file to pinned",
                    );
                }
            }
            Ok(name) => names.push(name),
            Err(error) => item.bad(format!("{text:?} is no peer name"), error.reason),
        }
    }
    Some(PeerNames(names))
}

/// The same, where an empty list makes no sense.
pub(super) fn some_peer_names(
    value: &Value<'_>,
    folder: &Path,
    pinned: &[PathBuf],
) -> Option<PeerNames> {
    let names = peer_names(value, folder, pinned)?;
    if names.0.is_empty() {
        value.bad(
            format!("`{}` names nobody", value.key),
            "absence is never permission: name at least one peer",
        );
        return None;
    }
    Some(names)
}

pub(super) fn networks(value: &Value<'_>, folder: &Path) -> Option<NetworkList> {
    let mut list = NetworkList::default();
    for item in value.list()? {
        if item.is_table() {
            let Some(table) = item.table("a network list's file") else {
                continue;
            };
            table.later("url");
            if let Some(file) = table.get("file").and_then(|v| v.path(folder)) {
                list.files.push(file);
            }
            table.finish();
        } else if let Some(text) = item.string() {
            match super::networks::parse(&text) {
                Ok(network) => list.networks.push(network),
                Err(reason) => item.bad(format!("{text:?} is no network"), reason),
            }
        }
    }
    Some(list)
}

/// The same, where an empty list makes no sense.
pub(super) fn some_networks(value: &Value<'_>, folder: &Path) -> Option<NetworkList> {
    let list = networks(value, folder)?;
    if list.networks.is_empty() && list.files.is_empty() {
        value.bad(
            format!("`{}` admits nobody", value.key),
            "name at least one network",
        );
        return None;
    }
    Some(list)
}

pub(super) fn secret(value: &Value<'_>, folder: &Path) -> Option<SecretRef> {
    const EXPECTED: &str = "expected { file = \"…\" }, { env = \"…\" } or { credential = \"…\" }";
    if !value.is_table() {
        value.bad(
            format!("`{}` is no reference to a secret", value.key),
            EXPECTED,
        );
        return None;
    }
    let table = value.table("a secret")?;
    let file = table
        .get("file")
        .and_then(|v| v.path(folder))
        .map(SecretRef::File);
    let env = table
        .get("env")
        .and_then(|v| v.string())
        .map(SecretRef::Env);
    let credential = table
        .get("credential")
        .and_then(|v| v.string())
        .map(SecretRef::Credential);
    table.finish();
    let mut given = [file, env, credential].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(secret), None) => Some(secret),
        _ => {
            value.bad(format!("`{}` needs exactly one place", value.key), EXPECTED);
            None
        }
    }
}

/// `certificate`, `key` and `key_passphrase` of a table.
pub(super) fn certificate_files(table: &Table<'_>, folder: &Path) -> Option<CertificateFiles> {
    let certificate = table.need(
        "certificate",
        "the chain that is shown: leaf first, then intermediates",
    );
    let key = table.need("key", "the private key of the certificate");
    let passphrase = table.get("key_passphrase").and_then(|v| secret(&v, folder));
    Some(CertificateFiles {
        certificate: certificate?.path(folder)?,
        key: key?.path(folder)?,
        key_passphrase: passphrase,
    })
}
