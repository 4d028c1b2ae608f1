//! Networks: in the configuration, and in files with one on each line.

use std::{
    fs,
    io::{self, Read},
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use super::NetworkList;
use crate::admit::SourceRanges;

/// A million of the longest prefixes are 44 MB; what is larger is no range file.
const LARGEST_FILE: u64 = 256 << 20;

/// A file of networks that can't be used: as a whole, because one bad line may be the one that
/// was meant to keep somebody out.
#[derive(Debug, thiserror::Error)]
pub enum NetworksError {
    /// The file can't be read.
    #[error("{}: the file of networks can't be read: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file's text is no list of networks.
    #[error("{}{error}", file.display())]
    Text {
        /// The file.
        file: PathBuf,
        /// Which line, and why.
        error: TextError,
    },
}

/// A text that is no list of networks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A line is no network.
    #[error(":{line}: {text:?} is not a network: {expected}")]
    Line {
        /// From 1.
        line: usize,
        /// What stands there, shortened.
        text: String,
        /// What was expected.
        expected: String,
    },
    /// Its lines together.
    #[error(
        ": its networks together are everybody, and a file never opens to everybody: name those who are meant"
    )]
    Everybody,
    /// No line is a network.
    #[error(": holds no network: expected one a line, such as 203.0.113.0/28")]
    Empty,
}

impl NetworksError {
    /// The file that it is about.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Read { file, .. } | Self::Text { file, .. } => file,
        }
    }
}

/// Parses an address or a prefix. Bits behind the prefix length must be zero: who writes
/// 10.1.2.3/8 may have meant something else.
///
/// # Errors
/// What was expected.
pub fn parse(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let Ok(net) = text.parse::<IpNet>() else {
        return Err(expected(text));
    };
    if net.addr() != net.network() {
        let (address, whole) = (net.addr(), net.trunc());
        return Err(format!(
            "bits are set behind the prefix: write {whole} for the network, {address} for the host"
        ));
    }
    Ok(net)
}

fn expected(text: &str) -> String {
    let form = "expected an address or a prefix such as 203.0.113.0/28 or 2001:db8::/48";
    match text.split_once('-') {
        Some((from, to)) if from.trim().parse::<IpAddr>().is_ok() => {
            let to = to.trim();
            format!(
                "a range is written as prefixes ({} to {to} may need several); {form}",
                from.trim()
            )
        }
        _ => form.to_owned(),
    }
}

/// Whether networks together hold all of IPv4 or all of IPv6.
#[must_use]
pub fn is_everybody(networks: &[IpNet]) -> bool {
    // a list of a million is not sorted for this: mostly it has far too few addresses
    let size = |prefix: u8, bits: u8| 1_u128.checked_shl(u32::from(bits.saturating_sub(prefix)));
    let all = |size: Option<u128>| size.unwrap_or(u128::MAX);
    let (mut v4, mut v6) = (0_u128, 0_u128);
    for network in networks {
        match network {
            IpNet::V4(net) => v4 = v4.saturating_add(all(size(net.prefix_len(), 32))),
            IpNet::V6(net) => {
                let size = all(size(net.prefix_len(), 128));
                v6 = v6.saturating_add(size);
                // what may be mapped counts as IPv4
                if net.prefix_len() >= 96 {
                    v4 = v4.saturating_add(size);
                }
            }
        }
    }
    (v4 >= 1 << 32 || v6 == u128::MAX) && SourceRanges::new(networks.iter().copied()).is_everybody()
}

/// Parses a file's text: one network a line, `#` begins a comment.
///
/// # Errors
/// The first bad line; a text without a network; a network that is everybody.
pub fn parse_text(text: &str) -> Result<Vec<IpNet>, TextError> {
    let mut list = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        let network = parse(entry).and_then(|network| match network.prefix_len() {
            0 => Err("this is everybody, and a file never opens to everybody".to_owned()),
            _ => Ok(network),
        });
        list.push(network.map_err(|expected| TextError::Line {
            line: at.saturating_add(1),
            text: entry.chars().take(80).collect(),
            expected,
        })?);
    }
    if is_everybody(&list) {
        Err(TextError::Everybody)
    } else if list.is_empty() {
        Err(TextError::Empty)
    } else {
        Ok(list)
    }
}

/// The networks written in place and those of every file.
///
/// # Errors
/// A file that can't be read or is empty, or one bad line, refuses the whole.
pub fn load(list: &NetworkList) -> Result<Vec<IpNet>, NetworksError> {
    let mut all = list.networks.clone();
    for file in &list.files {
        let read = |error| NetworksError::Read {
            file: file.clone(),
            error,
        };
        let mut text = String::new();
        let opened = fs::File::open(file).map_err(read)?;
        let size = opened
            .take(LARGEST_FILE)
            .read_to_string(&mut text)
            .map_err(read)?;
        if u64::try_from(size).is_ok_and(|size| size >= LARGEST_FILE) {
            return Err(read(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "larger than 256 MiB",
            )));
        }
        let text_error = |error| NetworksError::Text {
            file: file.clone(),
            error,
        };
        let found = parse_text(&text).map_err(text_error)?;
        let open = is_everybody(&all);
        all.extend(found);
        if !open && is_everybody(&all) {
            return Err(text_error(TextError::Everybody));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_bad_line_refuses_the_file() {
        let text = "# ours\n10.0.0.0/8\n\n::1 # us\n";
        assert_eq!(parse_text(text).unwrap().len(), 2);
        for (text, start) in [
            ("10.0.0.0/8\n10.0.0.0/33\n", ":2: "),
            ("10.0.0.1/8", ":1: "),
            ("10.0.0.1-10.0.0.9", ":1: "),
            ("host", ":1: "),
            ("::1\n0.0.0.0/0", ":2: "),
            ("", ": holds no network"),
            ("# none\n", ": holds no network"),
            (
                "0.0.0.0/1\n10.0.0.0/8\n128.0.0.0/1",
                ": its networks together",
            ),
            ("::/1\n8000::/1", ": its networks together"),
            ("::ffff:0:0/96", ": its networks together"),
        ] {
            let error = parse_text(text).unwrap_err().to_string();
            assert!(error.starts_with(start), "{text}: {error}");
        }
    }

    #[test]
    fn a_missing_file_refuses_what_is_written_in_place_too() {
        let list = NetworkList {
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            files: vec!["/nowhere/ranges.txt".into()],
        };
        assert!(
            load(&list)
                .unwrap_err()
                .to_string()
                .contains("/nowhere/ranges.txt")
        );
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(text in "\\PC*", lines in "([0-9a-f:./# \n-]{0,12}\n){0,9}") {
            let _either = parse_text(&text);
            if let Ok(list) = parse_text(&lines) {
                prop_assert!(list.iter().all(|net| net.prefix_len() > 0 && net.addr() == net.network()));
            }
        }
    }
}
