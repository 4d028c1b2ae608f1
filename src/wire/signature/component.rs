//! What of a request is signed (RFC 9421 section 2): derived components and header fields, each
//! with its one value, and the signature base made of them.

use std::fmt;

use http::{HeaderMap, HeaderName};

use super::{
    SignatureError,
    structured::{self, InnerList, Item, Parameters, write_parameters, write_text},
};

/// A request as both ends see it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// In its own case.
    pub method: &'a str,
    /// `https` or `http`.
    pub scheme: &'a str,
    /// The host, with a port where one is named: `Host` or `:authority`.
    pub authority: &'a str,
    /// As sent, without the query.
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
    /// As sent.
    pub headers: &'a HeaderMap,
}

/// A part of a request that a signature covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// `@method`
    Method,
    /// `@target-uri`
    TargetUri,
    /// `@authority`
    Authority,
    /// `@scheme`
    Scheme,
    /// `@request-target`
    RequestTarget,
    /// `@path`
    Path,
    /// `@query`
    Query,
    /// `@query-param` with this name, as it is encoded in identifiers
    QueryParam(String),
    /// A header field: all of its lines.
    Field(HeaderName),
    /// A header field with `;bs`: each of its lines as octets.
    Octets(HeaderName),
}

impl Component {
    /// A component as a configuration names it: `@method`, `content-type`,
    /// `@query-param;name="Pet"`.
    ///
    /// # Errors
    /// There is no such component, or it is one of those that are not supported.
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let (name, parameters) = text
            .split_once(';')
            .map_or((text, ""), |(name, rest)| (name, rest));
        let mut whole = String::new();
        write_text(&mut whole, &name.to_ascii_lowercase());
        if !parameters.is_empty() {
            whole.push(';');
            whole.push_str(parameters);
        }
        let (name, parameters) = structured::identifier(whole.as_bytes())
            .map_err(|_malformed| SignatureError::Component(text.to_owned()))?;
        Self::of(&name, &parameters)
    }

    /// A component as `Signature-Input` names it.
    ///
    /// # Errors
    /// There is no such component, or it is one of those that are not supported.
    pub fn of(name: &str, parameters: &Parameters) -> Result<Self, SignatureError> {
        let unknown = || SignatureError::Component(shown(name, parameters));
        match (name, parameters.as_slice()) {
            ("@method", []) => Ok(Self::Method),
            ("@target-uri", []) => Ok(Self::TargetUri),
            ("@authority", []) => Ok(Self::Authority),
            ("@scheme", []) => Ok(Self::Scheme),
            ("@request-target", []) => Ok(Self::RequestTarget),
            ("@path", []) => Ok(Self::Path),
            ("@query", []) => Ok(Self::Query),
            ("@query-param", [(key, Item::Text(value))]) if key == "name" => {
                Ok(Self::QueryParam(value.clone()))
            }
            (field, []) => field_name(field).map(Self::Field).ok_or_else(unknown),
            (field, [(key, Item::Boolean(true))]) if key == "bs" => {
                field_name(field).map(Self::Octets).ok_or_else(unknown)
            }
            _ => Err(unknown()),
        }
    }

    /// The field that it is, or whose lines it is.
    #[must_use]
    pub const fn field(&self) -> Option<&HeaderName> {
        match self {
            Self::Field(name) | Self::Octets(name) => Some(name),
            Self::Method
            | Self::TargetUri
            | Self::Authority
            | Self::Scheme
            | Self::RequestTarget
            | Self::Path
            | Self::Query
            | Self::QueryParam(_) => None,
        }
    }

    /// Its name and parameters in an inner list.
    #[must_use]
    pub fn identifier(&self) -> (String, Parameters) {
        let plain = |name: &str| (name.to_owned(), Parameters::new());
        match self {
            Self::Method => plain("@method"),
            Self::TargetUri => plain("@target-uri"),
            Self::Authority => plain("@authority"),
            Self::Scheme => plain("@scheme"),
            Self::RequestTarget => plain("@request-target"),
            Self::Path => plain("@path"),
            Self::Query => plain("@query"),
            Self::QueryParam(name) => (
                "@query-param".to_owned(),
                vec![("name".to_owned(), Item::Text(name.clone()))],
            ),
            Self::Field(name) => plain(name.as_str()),
            Self::Octets(name) => (
                name.as_str().to_owned(),
                vec![("bs".to_owned(), Item::Boolean(true))],
            ),
        }
    }

    /// Whether a request has it.
    #[must_use]
    pub fn is_in(&self, message: &Message<'_>) -> bool {
        match self {
            Self::Field(name) | Self::Octets(name) => message.headers.contains_key(name),
            Self::QueryParam(name) => {
                query_param(message.query.unwrap_or_default(), name).is_some()
            }
            Self::Method
            | Self::TargetUri
            | Self::Authority
            | Self::Scheme
            | Self::RequestTarget
            | Self::Path
            | Self::Query => true,
        }
    }

    /// Its value in a request (RFC 9421 sections 2.1 and 2.2).
    fn write(&self, message: &Message<'_>, out: &mut Vec<u8>) -> Result<(), SignatureError> {
        let path = if message.path.is_empty() {
            "/"
        } else {
            message.path
        };
        match self {
            Self::Method => out.extend(message.method.as_bytes()),
            Self::Scheme => out.extend(message.scheme.to_ascii_lowercase().as_bytes()),
            Self::Authority => out.extend(authority(message).as_bytes()),
            Self::Path => out.extend(path.as_bytes()),
            Self::Query => {
                out.push(b'?');
                out.extend(message.query.unwrap_or_default().as_bytes());
            }
            Self::RequestTarget | Self::TargetUri => {
                if *self == Self::TargetUri {
                    out.extend(message.scheme.to_ascii_lowercase().as_bytes());
                    out.extend(b"://");
                    out.extend(authority(message).as_bytes());
                }
                out.extend(path.as_bytes());
                if let Some(query) = message.query {
                    out.push(b'?');
                    out.extend(query.as_bytes());
                }
            }
            Self::QueryParam(name) => {
                let value = query_param(message.query.unwrap_or_default(), name)
                    .ok_or_else(|| SignatureError::Missing(self.to_string()))?;
                out.extend(value.as_bytes());
            }
            Self::Field(name) => self.lines(message, name, out, |line, out| out.extend(line))?,
            Self::Octets(name) => self.lines(message, name, out, |line, out| {
                out.extend(structured::byte_sequence(line).as_bytes());
            })?,
        }
        Ok(())
    }

    fn lines(
        &self,
        message: &Message<'_>,
        name: &HeaderName,
        out: &mut Vec<u8>,
        write: impl Fn(&[u8], &mut Vec<u8>),
    ) -> Result<(), SignatureError> {
        let mut lines = message.headers.get_all(name).iter();
        let first = lines
            .next()
            .ok_or_else(|| SignatureError::Missing(self.to_string()))?;
        write(first.as_bytes().trim_ascii(), out);
        for line in lines {
            out.extend(b", ");
            write(line.as_bytes().trim_ascii(), out);
        }
        Ok(())
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, parameters) = self.identifier();
        f.write_str(&shown(&name, &parameters))
    }
}

fn shown(name: &str, parameters: &Parameters) -> String {
    let mut text = String::new();
    write_text(&mut text, name);
    write_parameters(&mut text, parameters);
    text
}

/// Names stand in lower case alone.
fn field_name(text: &str) -> Option<HeaderName> {
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    // what carries the signature can't be covered by it
    let own = matches!(text, "signature" | "signature-input");
    HeaderName::from_bytes(text.as_bytes())
        .ok()
        .filter(|_| lower && !own)
}

/// In lower case, without the scheme's own port (RFC 9421 section 2.2.3).
fn authority(message: &Message<'_>) -> String {
    let port = if message.scheme.eq_ignore_ascii_case("https") {
        ":443"
    } else {
        ":80"
    };
    let authority = message.authority.to_ascii_lowercase();
    match authority.strip_suffix(port) {
        Some(host) => host.to_owned(),
        None => authority,
    }
}

/// The value of the one parameter with this name, written anew (RFC 9421 section 2.2.8); `None`
/// where there is none, or more than one.
fn query_param(query: &str, name: &str) -> Option<String> {
    let mut found = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(key, _)| form_encode(&form_decode(key)) == name);
    let (_, value) = found.next()?;
    match found.next() {
        Some(_) => None,
        None => Some(form_encode(&form_decode(value))),
    }
}

/// `application/x-www-form-urlencoded`, decoded.
fn form_decode(text: &str) -> Vec<u8> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        let escaped = match (first, more) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                digit(high)
                    .zip(digit(low))
                    .and_then(|(high, low)| u8::try_from(high << 4 | low).ok())
                    .map(|octet| (octet, after))
            }
            _ => None,
        };
        match escaped {
            Some((octet, after)) => {
                octets.push(octet);
                rest = after;
            }
            None if *first == b'+' => octets.push(b' '),
            None => octets.push(*first),
        }
    }
    // what is no UTF-8 is read as everybody's form parser reads it
    String::from_utf8_lossy(&octets).into_owned().into_bytes()
}

/// Percent-encoded as the URL standard writes a component: spaces as `%20`.
fn form_encode(octets: &[u8]) -> String {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let mut text = String::with_capacity(octets.len());
    for octet in octets {
        if octet.is_ascii_alphanumeric() || b"-_.*".contains(octet) {
            text.push(char::from(*octet));
        } else {
            let digit = |value: u8| HEX.get(usize::from(value & 15)).copied().unwrap_or('0');
            text.push('%');
            text.push(digit(octet >> 4));
            text.push(digit(*octet));
        }
    }
    text
}

/// The signature base (RFC 9421 section 2.5). `input` are the parameters as they are, or will be,
/// in `Signature-Input`.
///
/// # Errors
/// A component is not in the request.
pub fn base(
    message: &Message<'_>,
    components: &[Component],
    input: &str,
) -> Result<Vec<u8>, SignatureError> {
    let mut out = Vec::with_capacity(512);
    for component in components {
        out.extend(component.to_string().as_bytes());
        out.extend(b": ");
        component.write(message, &mut out)?;
        out.push(b'\n');
    }
    out.extend(b"\"@signature-params\": ");
    out.extend(input.as_bytes());
    Ok(out)
}

/// The components of an inner list: none twice.
pub(super) fn covered(list: &InnerList) -> Result<Vec<Component>, SignatureError> {
    let mut components = Vec::with_capacity(list.items.len());
    for (name, parameters) in &list.items {
        let component = Component::of(name, parameters)?;
        if components.contains(&component) {
            return Err(SignatureError::Twice(component.to_string()));
        }
        components.push(component);
    }
    Ok(components)
}
