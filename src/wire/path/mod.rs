//! Paths: which are refused because a backend may read another path than we do, and whether one
//! lies below a prefix (RFC 3986 sections 3.3 and 6.2.2).
//!
//! The path that is forwarded is the raw one. It is compared as the most lenient backend would
//! read it: percent-decoded once, without path parameters (`;…`) and empty segments, so that
//! `/%61dmin`, `//admin` and `/admin;x` fall under the rule for `/admin`.

use std::borrow::Cow;

#[cfg(test)]
mod tests;

/// Why a path is refused. Two servers would read it as two paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not in origin form.
    #[error("the path does not start with \"/\"")]
    NotAbsolute,
    /// `.` or `..` as a segment, plain, encoded or with parameters (`..;/`).
    #[error("the path has a segment \".\" or \"..\"")]
    DotSegment,
    /// `%2f` or `%5c`.
    #[error("the path has an encoded slash or backslash")]
    EncodedSlash,
    /// A backslash, which some servers take for a slash.
    #[error("the path has a backslash")]
    Backslash,
    /// NUL or another control character, plain or encoded.
    #[error("the path has a control character")]
    Control,
    /// `%` without two hex digits.
    #[error("the path has a \"%\" that no two hex digits follow")]
    Percent,
    /// Not UTF-8 after decoding, overlong forms of `/` and `.` included.
    #[error("the path is not UTF-8 once it is percent-decoded")]
    NotUtf8,
}

/// Judges a raw path, without its query. `*` alone (of OPTIONS) is a path here.
///
/// # Errors
/// See [`PathError`].
pub fn check(raw: &str) -> Result<(), PathError> {
    if raw == "*" {
        return Ok(());
    }
    let inside = raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    for segment in inside.split('/') {
        if segment.contains('\\') {
            return Err(PathError::Backslash);
        }
        let decoded = decode(segment).ok_or(PathError::Percent)?;
        // What the split left in is encoded.
        if decoded.contains(&b'/') || decoded.contains(&b'\\') {
            return Err(PathError::EncodedSlash);
        }
        if decoded.iter().any(u8::is_ascii_control) {
            return Err(PathError::Control);
        }
        if str::from_utf8(&decoded).is_err() {
            return Err(PathError::NotUtf8);
        }
        if matches!(without_parameters(&decoded), b"." | b"..") {
            return Err(PathError::DotSegment);
        }
    }
    Ok(())
}

/// Resolves what [`check`] refuses and what has one meaning all the same: `%2f` becomes a slash
/// and `%2e` a dot, then segments `.` and `..` go (RFC 3986 section 5.2.4). All else stays as it
/// came, other percent-encoding too. `None`: there is nothing to resolve.
///
/// # Errors
/// [`PathError::DotSegment`] where `..` climbs above the root, or stands with parameters (`..;`);
/// whatever else [`check`] refuses of the outcome.
pub fn normalise(raw: &str) -> Result<Option<String>, PathError> {
    let decoded = raw.contains('%').then(|| unescape(raw));
    let path = decoded.as_deref().unwrap_or(raw);
    let dots = |segment: &str| matches!(segment, "." | "..");
    if raw == "*" || decoded.is_none() && !path.split('/').any(dots) {
        return Ok(None);
    }
    let inside = path.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = inside.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop().ok_or(PathError::DotSegment)?;
            }
            other => {
                kept.push(other);
                continue;
            }
        }
        // a folder stays a folder
        if last {
            kept.push("");
        }
    }
    let path = format!("/{}", kept.join("/"));
    check(&path)?;
    Ok((path != raw).then_some(path))
}

/// Decodes `%2f` and `%2e`, in either case, and nothing else.
fn unescape(raw: &str) -> String {
    let mut parts = raw.split('%');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        match code.to_ascii_lowercase().as_str() {
            "2f" => path.push('/'),
            "2e" => path.push('.'),
            _ => {
                path.push('%');
                path.push_str(code);
            }
        }
        path.push_str(rest);
    }
    path
}

/// A path prefix of a rule. `/orders/` and `/orders` are one: both hold `/orders` and everything
/// below it, and neither holds `/orders2`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix {
    segments: Vec<Vec<u8>>,
}

impl PathPrefix {
    /// Takes a prefix as it is written in a configuration.
    ///
    /// # Errors
    /// It is no path that [`check`] lets through.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text == "*" {
            return Err(PathError::NotAbsolute);
        }
        check(text)?;
        let segments = segments(text)
            .map(|(_, segment)| segment.into_owned())
            .collect();
        Ok(Self { segments })
    }

    /// Whether a raw path that passed [`check`] lies below: the rest of the path, raw, from the
    /// slash behind the prefix on; empty where nothing is left.
    #[must_use]
    pub fn strip<'a>(&self, raw: &'a str) -> Option<&'a str> {
        if !raw.starts_with('/') {
            // `*` lies below no prefix but `/`.
            return self.segments.is_empty().then_some(raw);
        }
        let mut found = segments(raw);
        let mut end = 0;
        for wanted in &self.segments {
            let (behind, segment) = found.next()?;
            if segment != wanted.as_slice() {
                return None;
            }
            end = behind;
        }
        raw.get(end..)
    }

    /// Whether a raw path that passed [`check`] lies below.
    #[must_use]
    pub fn matches(&self, raw: &str) -> bool {
        self.strip(raw).is_some()
    }

    /// Whether every path below `other` lies below this one too: a rule with `other` behind one
    /// with this prefix is never reached.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.segments.starts_with(&self.segments)
    }

    /// The path with this prefix replaced (`rewrite_prefix`), raw; `None` where it does not lie
    /// below. `replacement` starts with a slash.
    #[must_use]
    pub fn rewrite(&self, raw: &str, replacement: &str) -> Option<String> {
        let rest = self.strip(raw)?;
        let base = replacement.strip_suffix('/').unwrap_or(replacement);
        let slash = if rest.starts_with('/') || (rest.is_empty() && !base.is_empty()) {
            ""
        } else {
            "/"
        };
        Some(format!("{base}{slash}{rest}"))
    }
}

/// The segments that count, each with the offset behind it in the raw path.
fn segments(raw: &str) -> impl Iterator<Item = (usize, Cow<'_, [u8]>)> {
    let mut offset = 0_usize;
    raw.split('/').filter_map(move |segment| {
        let behind = offset.saturating_add(segment.len());
        offset = behind.saturating_add(1);
        // A path that passed `check` decodes; the raw bytes match no rule by accident.
        let decoded = decode(segment).unwrap_or(Cow::Borrowed(segment.as_bytes()));
        let kept = match decoded {
            Cow::Borrowed(bytes) => Cow::Borrowed(without_parameters(bytes)),
            Cow::Owned(bytes) => Cow::Owned(without_parameters(&bytes).to_vec()),
        };
        // A segment of parameters alone vanishes as an empty one does.
        (!kept.is_empty()).then_some((behind, kept))
    })
}

fn without_parameters(segment: &[u8]) -> &[u8] {
    segment
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
}

/// Percent-decodes once; `None` where a `%` is not followed by two hex digits.
fn decode(segment: &str) -> Option<Cow<'_, [u8]>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment.as_bytes()));
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            other => other,
        });
    }
    Some(Cow::Owned(decoded))
}
