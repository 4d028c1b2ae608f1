//! Networks: in the configuration, and in files with one on each line.

use std::{fs, net::IpAddr};

use ipnet::IpNet;

use super::NetworkList;

/// A list that can't be used: file, line, what was expected.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct NetworksError(pub String);

/// Parses an address or a prefix. Bits behind the prefix length must be zero: who writes
/// 10.1.2.3/8 may have meant something else.
///
/// # Errors
/// What was expected.
pub fn parse(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let net: IpNet = text
        .parse()
        .map_err(|_expected| "expected an address or a prefix like 10.0.0.0/8".to_owned())?;
    if net.addr() != net.network() {
        return Err(format!(
            "bits are set behind the prefix: expected {}",
            net.trunc()
        ));
    }
    Ok(net)
}

/// Parses a file's text: one network a line, `#` begins a comment.
///
/// # Errors
/// The first bad line, with its number; a text without a network.
pub fn parse_text(text: &str) -> Result<Vec<IpNet>, String> {
    let mut list = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if !entry.is_empty() {
            let net = parse(entry).map_err(|reason| {
                format!(
                    "{}: {entry:?} is no network: {reason}",
                    at.saturating_add(1)
                )
            })?;
            list.push(net);
        }
    }
    if list.is_empty() {
        return Err(
            "1: holds no network: an empty list admits nobody, which is never meant".to_owned(),
        );
    }
    Ok(list)
}

/// The networks written in place and those of every file.
///
/// # Errors
/// A file that can't be read, or one bad line, refuses the whole.
pub fn load(list: &NetworkList) -> Result<Vec<IpNet>, NetworksError> {
    let mut all = list.networks.clone();
    for file in &list.files {
        let text = fs::read_to_string(file)
            .map_err(|error| NetworksError(format!("{}: {error}", file.display())))?;
        let found = parse_text(&text)
            .map_err(|reason| NetworksError(format!("{}:{reason}", file.display())))?;
        all.extend(found);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_line_refuses_the_file() {
        assert_eq!(
            parse_text("# ours\n10.0.0.0/8\n\n::1 # us\n")
                .unwrap()
                .len(),
            2
        );
        for (text, line) in [
            ("10.0.0.0/8\n10.0.0.0/33\n", "2:"),
            ("10.0.0.1/8", "1:"),
            ("", "1:"),
            ("# none\n", "1:"),
            ("host", "1:"),
        ] {
            assert!(parse_text(text).unwrap_err().starts_with(line), "{text}");
        }
    }
}
