//! Digest access authentication (RFC 7616), the client's side: what a backend asks for in
//! `WWW-Authenticate`, and what is answered in `Authorization`. SHA-256 and MD5, both also as
//! `-sess`, qop `auth` and none (RFC 2069). Pure: the client's nonce is an argument.

mod md5;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue, header};
use zeroize::Zeroizing;

/// Parameters of one challenge, and challenges of one answer, that are looked at.
const MOST: usize = 32;

/// A hash, from weak to strong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hash {
    Md5,
    Sha256,
}

/// What a backend asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    hash: Hash,
    /// The algorithm as it was named, if it was.
    algorithm: Option<String>,
    /// `-sess`
    session: bool,
    /// qop `auth`; else none at all.
    qop: bool,
    /// The nonce that was used is too old; the rest was right.
    pub stale: bool,
}

impl Challenge {
    /// The strongest challenge of an answer that can be met.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|line| challenges(line.as_bytes()))
            .flatten()
            .take(MOST)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("digest"))
            .filter_map(|(_, parameters)| Self::read(&parameters))
            // of equals the first
            .reduce(|best, next| if next.hash > best.hash { next } else { best })
    }

    fn read(parameters: &[(String, String)]) -> Option<Self> {
        let get = |wanted: &str| {
            let mut all = parameters
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            let found = all.next().map(|(_, value)| value.clone());
            // twice is no answer
            found.filter(|_| all.next().is_none())
        };
        let algorithm = get("algorithm");
        let (hash, session) = match algorithm.as_deref().map(str::to_ascii_uppercase).as_deref() {
            None | Some("MD5") => (Hash::Md5, false),
            Some("MD5-SESS") => (Hash::Md5, true),
            Some("SHA-256") => (Hash::Sha256, false),
            Some("SHA-256-SESS") => (Hash::Sha256, true),
            Some(_) => return None,
        };
        let qop = get("qop");
        let auth = qop.as_ref().map(|qop| {
            let mut words = qop.split(',');
            words.any(|word| word.trim().eq_ignore_ascii_case("auth"))
        });
        if auth == Some(false) {
            return None;
        }
        Some(Self {
            realm: get("realm")?,
            nonce: get("nonce").filter(|nonce| !nonce.is_empty())?,
            opaque: get("opaque"),
            hash,
            algorithm,
            session,
            qop: auth == Some(true),
            stale: get("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        })
    }

    /// The same with the nonce that the backend wants next (`Authentication-Info`, section 3.5).
    #[must_use]
    pub fn with_next(&self, headers: &HeaderMap) -> Option<Self> {
        let info = headers.get("authentication-info")?;
        let whole = [b"Digest ".as_slice(), info.as_bytes()].concat();
        let (_, parameters) = challenges(&whole)?.into_iter().next()?;
        let next = parameters
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("nextnonce"))?;
        Some(Self {
            nonce: next.1.clone(),
            stale: false,
            ..self.clone()
        })
    }
}

/// What is known while one nonce lasts.
pub struct Session {
    /// What it answers.
    pub challenge: Challenge,
    username: String,
    cnonce: String,
    /// H(A1), in hex.
    secret: Zeroizing<String>,
}

impl Session {
    /// Answers a challenge as this user; `cnonce` is of our own choice, and has to be new.
    #[must_use]
    pub fn new(challenge: Challenge, username: &str, password: &[u8], cnonce: &str) -> Self {
        let mut whole = Zeroizing::new(Vec::with_capacity(
            username
                .len()
                .saturating_add(challenge.realm.len())
                .saturating_add(password.len())
                .saturating_add(2),
        ));
        for part in [
            username.as_bytes(),
            b":",
            challenge.realm.as_bytes(),
            b":",
            password,
        ] {
            whole.extend_from_slice(part);
        }
        let mut secret = Zeroizing::new(challenge.hash.hex(&[&whole]));
        if challenge.session {
            let parts = [
                secret.as_bytes(),
                challenge.nonce.as_bytes(),
                cnonce.as_bytes(),
            ];
            secret = Zeroizing::new(challenge.hash.joined(&parts));
        }
        Self {
            challenge,
            username: username.to_owned(),
            cnonce: cnonce.to_owned(),
            secret,
        }
    }

    /// `Authorization` for the request with this method and target; `count` is how often the
    /// nonce has been used, this time included.
    #[must_use]
    pub fn authorization(&self, method: &str, target: &str, count: u32) -> Option<HeaderValue> {
        let Challenge {
            realm,
            nonce,
            opaque,
            hash,
            algorithm,
            qop,
            ..
        } = &self.challenge;
        let request = hash.joined(&[method.as_bytes(), target.as_bytes()]);
        let count = format!("{count:08x}");
        let secret = self.secret.as_bytes();
        let response = if *qop {
            hash.joined(&[
                secret,
                nonce.as_bytes(),
                count.as_bytes(),
                self.cnonce.as_bytes(),
                b"auth",
                request.as_bytes(),
            ])
        } else {
            hash.joined(&[secret, nonce.as_bytes(), request.as_bytes()])
        };
        let mut text = String::with_capacity(320);
        text.push_str("Digest username=");
        quote(&mut text, &self.username);
        for (name, value) in [("realm", realm.as_str()), ("nonce", nonce), ("uri", target)] {
            // writing to a String can't fail
            let _infallible = write!(text, ", {name}=");
            quote(&mut text, value);
        }
        let _infallible = write!(text, ", response=\"{response}\"");
        if let Some(algorithm) = algorithm {
            let _infallible = write!(text, ", algorithm={algorithm}");
        }
        if *qop {
            let _infallible = write!(text, ", qop=auth, nc={count}, cnonce=");
            quote(&mut text, &self.cnonce);
        }
        if let Some(opaque) = opaque {
            text.push_str(", opaque=");
            quote(&mut text, opaque);
        }
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl Hash {
    fn hex(self, parts: &[&[u8]]) -> String {
        let whole = Zeroizing::new(parts.concat());
        let sha256;
        let md5;
        let octets: &[u8] = match self {
            Self::Sha256 => {
                sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &whole);
                sha256.as_ref()
            }
            Self::Md5 => {
                md5 = md5::md5(&whole);
                &md5
            }
        };
        let mut text = String::with_capacity(64);
        for octet in octets {
            let _infallible = write!(text, "{octet:02x}");
        }
        text
    }

    /// Of the parts with colons between.
    fn joined(self, parts: &[&[u8]]) -> String {
        let whole = Zeroizing::new(parts.join(b":".as_slice()));
        self.hex(&[&whole])
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// A scheme and its parameters.
type Asked = (String, Vec<(String, String)>);

/// The challenges of one line (RFC 9110 section 11.6.1): a comma may end a parameter or a
/// challenge. `None`: it is none.
fn challenges(line: &[u8]) -> Option<Vec<Asked>> {
    let mut reader = Reader(std::str::from_utf8(line).ok()?);
    let mut list: Vec<Asked> = Vec::new();
    loop {
        reader.skip(|c| c == ' ' || c == '\t' || c == ',');
        if reader.0.is_empty() || list.len() > MOST {
            return Some(list);
        }
        let word = reader.token()?;
        let before = reader.0;
        reader.skip(|c| c == ' ' || c == '\t');
        if reader.0.starts_with('=') && !list.is_empty() {
            reader.skip(|c| c == '=');
            reader.skip(|c| c == ' ' || c == '\t');
            let value = reader.value()?;
            let (_, parameters) = list.last_mut()?;
            if parameters.len() < MOST {
                parameters.push((word, value));
            }
            continue;
        }
        // a scheme; what follows may be a token68, which belongs to it alone
        reader.0 = before;
        list.push((word, Vec::new()));
        reader.skip(|c| c == ' ' || c == '\t');
        reader.token68();
    }
}

struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn skip(&mut self, blank: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(blank);
    }

    fn run(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !fits(c)).unwrap_or(self.0.len());
        let (run, rest) = self.0.split_at_checked(end).unwrap_or((self.0, ""));
        self.0 = rest;
        run
    }

    fn token(&mut self) -> Option<String> {
        let token = self.run(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c));
        (!token.is_empty()).then(|| token.to_owned())
    }

    fn value(&mut self) -> Option<String> {
        let Some(rest) = self.0.strip_prefix('"') else {
            return self.token();
        };
        let mut value = String::new();
        let mut letters = rest.chars();
        loop {
            match letters.next()? {
                '"' => break,
                '\\' => value.push(letters.next()?),
                c => value.push(c),
            }
        }
        self.0 = letters.as_str();
        Some(value)
    }

    /// Passes over a token68: up to a comma, and no parameter.
    fn token68(&mut self) {
        let mut ahead = Reader(self.0);
        let token = ahead.run(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        let _padding = ahead.run(|c| c == '=');
        ahead.skip(|c| c == ' ' || c == '\t');
        if !token.is_empty() && (ahead.0.is_empty() || ahead.0.starts_with(',')) {
            self.0 = ahead.0;
        }
    }
}
