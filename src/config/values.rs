//! Values that are strings with a meaning: durations, sizes, addresses, names, networks, secrets.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    CertificateFiles, DialAddress, ListenAddress, NetworkList, SecretRef, ServerName, networks,
    reader::{Table, Value},
};
use crate::identity::{DnsName, PeerName, PeerNames};

const DURATION: &str = "a duration with a unit: \"250ms\", \"10s\", \"5m\", \"1h\", \"30d\"";
const SIZE: &str = "a size with a unit: \"512B\", \"64KiB\", \"1MiB\"";
const SECRET: &str = "{ file = \"…\" }, { env = \"…\" } or { credential = \"…\" }";
/// `sun_path` has 108 octets, one of them the final NUL (unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;
/// Ten years: what is longer is a slip of the pen, and timers overflow.
const LONGEST: Duration = Duration::from_secs(315_360_000);

/// A wait. Zero is refused: it would be no limit where there has to be one.
pub(super) fn duration(value: &Value<'_>) -> Option<Duration> {
    if let Some(digits) = value.digits() {
        let message = format!("`{}` has no unit", value.key);
        value.bad(
            message,
            format!("write \"{digits}s\" for seconds: expected {DURATION}"),
        );
        return None;
    }
    value.judged(DURATION, |text| {
        let duration = parse_duration(text).ok_or_else(|| format!("expected {DURATION}"))?;
        match duration {
            Duration::ZERO => Err("a wait that a stranger controls needs an end".to_owned()),
            _ if duration > LONGEST => Err("expected at most ten years: \"3650d\"".to_owned()),
            _ => Ok(duration),
        }
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(factor).map(Duration::from_secs)
}

/// A size: a string with a unit, or 0 alone.
pub(super) fn size(value: &Value<'_>) -> Option<u64> {
    if value.is_zero() {
        return Some(0);
    }
    if let Some(digits) = value.digits() {
        let message = format!("`{}` has no unit", value.key);
        value.bad(
            message,
            format!("write \"{digits}B\" for bytes: expected {SIZE}"),
        );
        return None;
    }
    value.judged(SIZE, |text| {
        let expected = || format!("expected {SIZE}");
        let (number, unit) = number_and_unit(text).ok_or_else(expected)?;
        let factor: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "K" | "KB" | "k" | "kB" | "M" | "MB" | "G" | "GB" => {
                let letter = unit.get(..1).unwrap_or_default().to_ascii_uppercase();
                return Err(format!("units are powers of 1024: \"{number}{letter}iB\""));
            }
            _ => return Err(expected()),
        };
        number
            .checked_mul(factor)
            .ok_or_else(|| "expected fewer than 16 EiB".to_owned())
    })
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    Some((number.parse().ok()?, unit))
}

/// Where to listen.
pub(super) fn listen_address(value: &Value<'_>) -> Option<ListenAddress> {
    const EXPECTED: &str = "\"IP:PORT\", \"[IPv6]:PORT\", \"unix:/path\" or \"systemd:NAME\"";
    value.judged(EXPECTED, |text| {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(ListenAddress::Unix);
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            // sd_listen_fds(3): FileDescriptorName= holds no colon and no control characters
            let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
            return if fits {
                Ok(ListenAddress::Systemd(name.to_owned()))
            } else {
                Err("expected the FileDescriptorName= of a socket unit: \"systemd:edge\"".into())
            };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(ListenAddress::Tcp(address));
        }
        Err(match text.rsplit_once(':') {
            Some(("", port)) => format!("for every address of this host: \"[::]:{port}\""),
            Some(("localhost", port)) => {
                format!("expected an IP address, not a name: \"127.0.0.1:{port}\"")
            }
            Some((host, _)) if DnsName::parse(host).is_some() => {
                format!("expected an IP address of this host, not a name: {EXPECTED}")
            }
            _ => address_help(text, EXPECTED),
        })
    })
}

/// Where to connect.
pub(super) fn dial_address(value: &Value<'_>) -> Option<DialAddress> {
    const EXPECTED: &str = "\"IP:PORT\", \"[IPv6]:PORT\", \"HOST:PORT\" or \"unix:/path\"";
    value.judged(EXPECTED, |text| {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(DialAddress::Unix);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err("nobody listens on port 0".to_owned()),
                _ if address.ip().is_unspecified() => {
                    Err("no host has this address: for this host write 127.0.0.1".to_owned())
                }
                _ => Ok(DialAddress::Ip(address)),
            };
        }
        let expected = || address_help(text, EXPECTED);
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(expected)?;
        let host = DnsName::parse(host).ok_or_else(expected)?;
        Ok(DialAddress::Host(host.as_str().to_owned(), port))
    })
}

fn address_help(text: &str, expected: &str) -> String {
    if text.contains("://") {
        return format!("expected an address, not a URL: {expected}");
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => format!("a port is missing: \"{ip}:9443\""),
        Ok(IpAddr::V6(ip)) => format!("a port is missing: \"[{ip}]:9443\""),
        Err(_) => format!("expected {expected}"),
    }
}

fn socket_path(path: &str) -> Result<PathBuf, String> {
    if !path.starts_with('/') || path.contains('\0') {
        Err("expected an absolute path: \"unix:/run/legacy.sock\"".to_owned())
    } else if path.len() > LONGEST_SOCKET_PATH {
        Err(format!(
            "a socket's path has at most {LONGEST_SOCKET_PATH} bytes"
        ))
    } else {
        Ok(PathBuf::from(path))
    }
}

/// Our own address on a connection that we open.
pub(super) fn own_address(value: &Value<'_>) -> Option<IpAddr> {
    value.judged("an IP address of this host", |text| {
        match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => Err("leave it out: any address is the default".into()),
            Ok(ip) if ip.is_multicast() => Err("expected an IP address of this host".into()),
            Ok(ip) => Ok(ip.to_canonical()),
            Err(_) if text.parse::<SocketAddr>().is_ok() => {
                Err("expected an IP address without a port".into())
            }
            Err(_) => Err("expected an IP address of this host".into()),
        }
    })
}

pub(super) fn server_name(value: &Value<'_>) -> Option<ServerName> {
    value.parsed("a DNS name or an IP address", |text| {
        match text.parse::<IpAddr>() {
            Ok(ip) => Some(ServerName::Ip(ip.to_canonical())),
            Err(_) => DnsName::parse(text).map(ServerName::Dns),
        }
    })
}

/// Peer names. `pinned:FILE` becomes the file's whole path, and must be one of `pinned`.
pub(super) fn peer_names(value: &Value<'_>, pinned: &[PathBuf]) -> Option<PeerNames> {
    let mut names = Vec::new();
    for item in value.list()? {
        let Some(text) = item.string() else { continue };
        match PeerName::parse(text) {
            Ok(PeerName::Pinned { file, .. }) => {
                let path = item.joined(&file);
                if pinned.contains(&path) {
                    let file = path.display().to_string();
                    names.push(PeerName::Pinned {
                        file,
                        fingerprint: None,
                    });
                } else {
                    item.bad(
                        format!("{file:?} is not one of the pinned certificates"),
                        "add the file to `pinned` (`client_pinned` for callers of a gateway)",
                    );
                }
            }
            Ok(name) if names.contains(&name) => {
                item.bad(format!("{text:?} stands here twice"), "remove one");
            }
            Ok(name) => names.push(name),
            Err(error) => item.bad(format!("{text:?} is not a peer name"), error.reason),
        }
    }
    Some(PeerNames(names))
}

/// The same where somebody must be named.
pub(super) fn some_peer_names(value: &Value<'_>, pinned: &[PathBuf]) -> Option<PeerNames> {
    if value.list()?.is_empty() {
        let message = format!("`{}` names nobody", value.key);
        value.bad(
            message,
            "absence is never permission: name at least one peer",
        );
        return None;
    }
    peer_names(value, pinned)
}

/// A list of networks, which may be empty.
pub(super) fn networks(value: &Value<'_>) -> Option<NetworkList> {
    let mut list = NetworkList::default();
    for item in value.list()? {
        if item.is_table() {
            let Some(table) = item.table("a file of networks") else {
                continue;
            };
            table.later(&["url", "refresh", "max_addresses"]);
            if table.get("url").is_none()
                && let Some(file) = table.need("file", "{ file = \"ranges.txt\" }")
            {
                list.files.extend(file.path());
            }
            table.finish();
        } else if let Some(text) = item.string() {
            match networks::parse(text) {
                Ok(network) => list.networks.push(network),
                Err(reason) => item.bad(format!("{text:?} is not a network"), reason),
            }
        }
    }
    Some(list)
}

/// A list of networks that must name somebody, and must not name everybody.
pub(super) fn some_networks(value: &Value<'_>, open: &str) -> Option<NetworkList> {
    let items = value.list()?;
    if items.is_empty() {
        value.bad(
            format!("`{}` admits nobody", value.key),
            "name at least one network",
        );
        return None;
    }
    limited_networks(value, open)
}

/// A list of networks that must not name everybody, in one entry or in several.
pub(super) fn limited_networks(value: &Value<'_>, open: &str) -> Option<NetworkList> {
    let mut whole = false;
    for item in value.list()?.iter().filter(|item| item.is_string()) {
        let network = item.string().and_then(|text| networks::parse(text).ok());
        if let Some(network) = network.filter(|network| network.prefix_len() == 0) {
            item.bad(format!("{network} is everybody"), open);
            whole = true;
        }
    }
    let list = networks(value)?;
    if !whole && networks::is_everybody(&list.networks) {
        let message = format!("the networks of `{}` together are everybody", value.key);
        value.bad(message, open);
    }
    Some(list)
}

/// A reference to a secret. `short`: the table that it stands in has `danger_short_secret = true`.
pub(super) fn secret(value: &Value<'_>, short: bool) -> Option<SecretRef> {
    if !value.is_table() {
        value.hide();
        let message = format!("`{}` is no reference to a secret", value.key);
        value.bad(
            message,
            format!("a secret is never written here: expected {SECRET}"),
        );
        return None;
    }
    let table = value.table(format!("`{}`", value.key))?;
    for (key, _, value) in table.entries() {
        // the secret itself, most likely
        if !matches!(key, "file" | "env" | "credential" | "danger_short_secret") {
            value.hide();
        }
    }
    let (file, env) = (table.get("file"), table.get("env"));
    let credential = table.get("credential");
    let short = table.flag("danger_short_secret").is_some() || short;
    table.finish();
    if [&file, &env, &credential].into_iter().flatten().count() != 1 {
        value.bad(
            format!("`{}` needs exactly one place", value.key),
            format!("expected {SECRET}"),
        );
        return None;
    }
    let file = file.and_then(|v| v.path()).map(SecretRef::File);
    let env = env.and_then(|v| {
        let fits = |text: &str| !text.is_empty() && !text.contains(['=', '\0']);
        v.parsed("the name of an environment variable", |text| {
            fits(text).then(|| SecretRef::Env(text.to_owned()))
        })
    });
    let credential = credential.and_then(|v| {
        // a name with a slash would leave the service manager's folder
        let fits = |text: &str| !matches!(text, "" | "." | "..") && !text.contains(['/', '\0']);
        v.parsed("the name of a credential, without a slash", |text| {
            fits(text).then(|| SecretRef::Credential(text.to_owned()))
        })
    });
    let found = file.or(env).or(credential)?;
    if !matches!(found, SecretRef::File(_)) {
        value.notes.refer(found.to_string(), value.span.clone());
    }
    if short {
        value.notes.warn(format!(
            "danger_short_secret: {found} may be shorter than 16 bytes"
        ));
        return Some(SecretRef::AllowShort(Box::new(found)));
    }
    Some(found)
}

/// `certificate`, `key` and `key_passphrase` of a table, where all must be there.
pub(super) fn certificate_files(table: &Table<'_>) -> Option<CertificateFiles> {
    let certificate = table.need("certificate", "the chain: leaf first, then intermediates");
    let key = table.need("key", "the private key of the certificate");
    let key_passphrase = key_passphrase(table);
    // both are read before either can end this, so that both are checked
    let (certificate, key) = (
        certificate.and_then(|v| v.path()),
        key.and_then(|v| v.path()),
    );
    Some(CertificateFiles {
        certificate: certificate?,
        key: key?,
        key_passphrase,
        acme: None,
    })
}

/// `key_passphrase`, with `danger_short_secret` beside it.
pub(super) fn key_passphrase(table: &Table<'_>) -> Option<SecretRef> {
    let short = table.flag("danger_short_secret").is_some();
    table.get("key_passphrase").and_then(|v| secret(&v, short))
}

/// Where to connect, what its certificate must carry, `Host`, and the target.
pub type Endpoint = (DialAddress, ServerName, String, String);

/// An `https://` URL.
///
/// # Errors
/// What was expected.
pub fn judge_endpoint(text: &str) -> Result<Endpoint, String> {
    let uri: http::Uri = text
        .parse()
        .map_err(|_invalid| "expected such as \"https://ids.example/token\"".to_owned())?;
    if uri.scheme_str() != Some("https") {
        return Err("a secret goes there: expected https://".to_owned());
    }
    let authority = uri
        .authority()
        .filter(|authority| !authority.as_str().contains('@'))
        .ok_or("expected a host, and no user name")?;
    if text.contains('#') {
        return Err("expected no fragment (RFC 6749 section 3.2)".to_owned());
    }
    let port = match (authority.port_u16(), authority.port()) {
        (Some(0), _) | (None, Some(_)) => return Err("expected a port from 1 to 65535".to_owned()),
        (port, _) => port.unwrap_or(443),
    };
    let host = authority.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let (address, name) = if let Ok(ip) = bare.parse::<IpAddr>() {
        (
            DialAddress::Ip((ip, port).into()),
            ServerName::Ip(ip.to_canonical()),
        )
    } else {
        let name = DnsName::parse(host).ok_or("expected a DNS name or an IP address")?;
        let address = DialAddress::Host(name.as_str().to_owned(), port);
        (address, ServerName::Dns(name))
    };
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    Ok((
        address,
        name,
        authority.as_str().to_owned(),
        target.to_owned(),
    ))
}
