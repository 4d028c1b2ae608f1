//! Whether a TCP port also listens beyond loopback: a way round us. Reads `/proc/net/tcp` and
//! `/proc/net/tcp6` (`proc(5)`).

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// What can be seen of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// It listens on loopback alone.
    OnlyLoopback,
    /// It listens elsewhere too.
    Exposed(Vec<Way>),
    /// Nobody listens.
    NotListening,
    /// It can't be seen, for this reason.
    Unknown(String),
}

/// A way to the backend that does not lead through us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where it listens.
    pub address: SocketAddr,
    /// Who: name and process id, or "unknown process".
    pub process: String,
}

/// A listening socket of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    address: SocketAddr,
    inode: u64,
}

/// Looks at a port of this host.
#[must_use]
pub fn look(port: u16) -> Exposure {
    let mut entries = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => entries.extend(parse(&text)),
            // a kernel without IPv6 has no second table
            Err(error)
                if table == "/proc/net/tcp6" && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Exposure::Unknown(format!("{table}: {error}")),
        }
    }
    entries.retain(|entry| entry.address.port() == port);
    if entries.is_empty() {
        return Exposure::NotListening;
    }
    entries.retain(|entry| !entry.address.ip().to_canonical().is_loopback());
    if entries.is_empty() {
        return Exposure::OnlyLoopback;
    }
    let way = |entry: &Entry| Way {
        address: entry.address,
        process: holder(entry.inode),
    };
    Exposure::Exposed(entries.iter().map(way).collect())
}

/// Listening sockets (state 0A) of one table; lines that don't parse are none.
fn parse(text: &str) -> Vec<Entry> {
    text.lines().skip(1).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Entry> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    if *fields.get(3)? != "0A" {
        return None;
    }
    let (ip, port) = fields.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // four octets at a time, each group in the host's byte order
    let words: Option<Vec<u32>> = ip
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok())
        .collect();
    let ip = match *words?.as_slice() {
        [v4] => IpAddr::V4(Ipv4Addr::from(v4.to_ne_bytes())),
        [a, b, c, d] => {
            let mut octets = [0; 16];
            let bytes = [a, b, c, d].into_iter().flat_map(u32::to_ne_bytes);
            octets
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = from);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(Entry {
        address: SocketAddr::new(ip, port),
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// The process that holds a socket, as far as we may look.
fn holder(inode: u64) -> String {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let pid = process.file_name();
        if !pid.to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let holds = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| {
                fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())
            });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return format!("{} (pid {})", name.trim(), pid.to_string_lossy());
        }
    }
    "unknown process".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0\n\
            1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 100 0 0 10 0\n\
            2: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 7 1\nnonsense\n";
        let seen: Vec<String> = parse(text)
            .iter()
            .map(|e| format!("{} {}", e.address, e.inode))
            .collect();
        assert_eq!(seen, ["127.0.0.1:8080 4242", "[::1]:80 7"]);
    }

    #[test]
    fn a_port_that_listens_everywhere_is_seen_with_its_process() {
        let everywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let Exposure::Exposed(ways) = look(everywhere.local_addr().unwrap().port()) else {
            panic!()
        };
        assert!(
            ways[0]
                .process
                .contains(&format!("pid {}", std::process::id())),
            "{ways:?}"
        );
        let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(
            look(here.local_addr().unwrap().port()),
            Exposure::OnlyLoopback
        );
    }
}
