//! The part of RFC 8941 (structured fields) that signatures need: dictionaries of inner lists and
//! of byte sequences, read strictly, and written back in the one canonical way.

use std::fmt::Write as _;

use crate::wire::base64;

/// No field of ours or of a decent peer has more members, items or parameters.
const MOST: usize = 64;
/// Digits of an integer (RFC 8941 section 3.3.1).
const MOST_DIGITS: usize = 15;

/// A bare item (RFC 8941 section 3.3), without decimals, which nothing here uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// `42`
    Integer(i64),
    /// `"text"`
    Text(String),
    /// `token`
    Token(String),
    /// `:YmFzZTY0:`
    Octets(Vec<u8>),
    /// `?1`
    Boolean(bool),
}

/// Parameters in their order; no key twice.
pub type Parameters = Vec<(String, Item)>;

/// An inner list of texts, as `Signature-Input` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InnerList {
    /// Each with its parameters.
    pub items: Vec<(String, Parameters)>,
    /// Of the list.
    pub parameters: Parameters,
}

/// Why a field can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no structured field (RFC 8941): {0}")]
pub struct Malformed(pub(super) &'static str);

type Read<T> = Result<T, Malformed>;

/// Reads a dictionary of inner lists. A name that stands twice is refused: two readers could
/// believe different ones.
///
/// # Errors
/// It is none.
pub fn lists(field: &[u8]) -> Read<Vec<(String, InnerList)>> {
    dictionary(field, Reader::inner_list)
}

/// Reads a dictionary of byte sequences, as `Signature` and `Content-Digest` are.
///
/// # Errors
/// It is none.
pub fn octets(field: &[u8]) -> Read<Vec<(String, Vec<u8>)>> {
    dictionary(field, |reader| {
        let item = reader.item()?;
        reader.parameters()?;
        match item {
            Item::Octets(octets) => Ok(octets),
            Item::Integer(_) | Item::Text(_) | Item::Token(_) | Item::Boolean(_) => {
                Err(Malformed("expected a byte sequence"))
            }
        }
    })
}

/// Reads a component identifier: a text with parameters.
///
/// # Errors
/// It is none.
pub fn identifier(text: &[u8]) -> Read<(String, Parameters)> {
    let mut reader = Reader(text);
    let name = reader.text()?;
    let parameters = reader.parameters()?;
    if reader.0.is_empty() {
        Ok((name, parameters))
    } else {
        Err(Malformed("more behind the end"))
    }
}

fn dictionary<'a, T>(
    field: &'a [u8],
    mut member: impl FnMut(&mut Reader<'a>) -> Read<T>,
) -> Read<Vec<(String, T)>> {
    let mut reader = Reader(field);
    let mut members: Vec<(String, T)> = Vec::new();
    reader.skip(b" ");
    while !reader.0.is_empty() {
        let key = reader.key()?;
        reader.expect(b'=', "a member without a value")?;
        let value = member(&mut reader)?;
        if members.len() >= MOST {
            return Err(Malformed("too many members"));
        }
        if members.iter().any(|(other, _)| *other == key) {
            return Err(Malformed("a member stands twice"));
        }
        members.push((key, value));
        reader.skip(b" \t");
        if reader.0.is_empty() {
            break;
        }
        reader.expect(b',', "expected a comma")?;
        reader.skip(b" \t");
        if reader.0.is_empty() {
            return Err(Malformed("a comma at the end"));
        }
    }
    Ok(members)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn eat(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, wanted: u8, otherwise: &'static str) -> Read<()> {
        if self.eat(wanted) {
            Ok(())
        } else {
            Err(Malformed(otherwise))
        }
    }

    fn skip(&mut self, blanks: &[u8]) {
        while self.peek().is_some_and(|byte| blanks.contains(&byte)) {
            self.next();
        }
    }

    /// As long as they fit.
    fn run(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let length = self.0.iter().take_while(|byte| fits(**byte)).count();
        let (run, rest) = self.0.split_at_checked(length).unwrap_or((self.0, &[]));
        self.0 = rest;
        run
    }

    fn key(&mut self) -> Read<String> {
        let first = |byte: u8| byte.is_ascii_lowercase() || byte == b'*';
        if !self.peek().is_some_and(first) {
            return Err(Malformed("a name begins with a lower-case letter"));
        }
        let rest = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
        };
        Ok(plain(self.run(rest)))
    }

    fn inner_list(&mut self) -> Read<InnerList> {
        self.expect(b'(', "expected a list in parentheses")?;
        let mut list = InnerList::default();
        loop {
            self.skip(b" ");
            if self.eat(b')') {
                break;
            }
            if list.items.len() >= MOST {
                return Err(Malformed("too many items"));
            }
            let text = self.text()?;
            list.items.push((text, self.parameters()?));
            if !matches!(self.peek(), Some(b' ' | b')')) {
                return Err(Malformed("a list without an end"));
            }
        }
        list.parameters = self.parameters()?;
        Ok(list)
    }

    fn parameters(&mut self) -> Read<Parameters> {
        let mut parameters = Parameters::new();
        while self.eat(b';') {
            self.skip(b" ");
            let key = self.key()?;
            let value = if self.eat(b'=') {
                self.item()?
            } else {
                Item::Boolean(true)
            };
            if parameters.len() >= MOST {
                return Err(Malformed("too many parameters"));
            }
            if parameters.iter().any(|(other, _)| *other == key) {
                return Err(Malformed("a parameter stands twice"));
            }
            parameters.push((key, value));
        }
        Ok(parameters)
    }

    fn item(&mut self) -> Read<Item> {
        match self.peek() {
            Some(b'"') => self.text().map(Item::Text),
            Some(b'-' | b'0'..=b'9') => self.integer().map(Item::Integer),
            Some(b':') => {
                self.next();
                let inside = self.run(|byte| byte != b':');
                self.expect(b':', "a byte sequence without an end")?;
                base64::decode(inside)
                    .map(Item::Octets)
                    .ok_or(Malformed("no base64"))
            }
            Some(b'?') => {
                self.next();
                match self.next() {
                    Some(b'0') => Ok(Item::Boolean(false)),
                    Some(b'1') => Ok(Item::Boolean(true)),
                    _ => Err(Malformed("no boolean")),
                }
            }
            Some(byte) if byte.is_ascii_alphabetic() || byte == b'*' => {
                let fits =
                    |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte);
                Ok(Item::Token(plain(self.run(fits))))
            }
            _ => Err(Malformed("expected a value")),
        }
    }

    fn text(&mut self) -> Read<String> {
        self.expect(b'"', "expected a text in quotes")?;
        let mut text = String::new();
        loop {
            match self.next() {
                Some(b'"') => return Ok(text),
                Some(b'\\') => match self.next() {
                    Some(byte @ (b'"' | b'\\')) => text.push(char::from(byte)),
                    _ => return Err(Malformed("a wrong escape")),
                },
                Some(byte @ b' '..=b'~') => text.push(char::from(byte)),
                _ => return Err(Malformed("a text without an end")),
            }
        }
    }

    fn integer(&mut self) -> Read<i64> {
        let negative = self.eat(b'-');
        let digits = self.run(|byte| byte.is_ascii_digit());
        if digits.len() > MOST_DIGITS || self.peek() == Some(b'.') {
            return Err(Malformed("no integer"));
        }
        let number: i64 = plain(digits)
            .parse()
            .map_err(|_not_a_number| Malformed("no integer"))?;
        Ok(if negative { -number } else { number })
    }
}

/// Of octets that are known to be ASCII.
fn plain(octets: &[u8]) -> String {
    octets.iter().copied().map(char::from).collect()
}

impl InnerList {
    /// The canonical text (RFC 8941 section 4.1.1.1).
    #[must_use]
    pub fn write(&self) -> String {
        let mut out = String::from("(");
        for (at, (text, parameters)) in self.items.iter().enumerate() {
            if at > 0 {
                out.push(' ');
            }
            write_text(&mut out, text);
            write_parameters(&mut out, parameters);
        }
        out.push(')');
        write_parameters(&mut out, &self.parameters);
        out
    }
}

/// A text in quotes; what can't stand in one is left out.
pub(super) fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars().filter(|c| matches!(c, ' '..='~')) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

pub(super) fn write_parameters(out: &mut String, parameters: &Parameters) {
    for (key, value) in parameters {
        out.push(';');
        out.push_str(key);
        if *value == Item::Boolean(true) {
            continue;
        }
        out.push('=');
        match value {
            // writing to a String can't fail
            Item::Integer(number) => {
                let _infallible = write!(out, "{number}");
            }
            Item::Text(text) => write_text(out, text),
            Item::Token(token) => out.push_str(token),
            Item::Octets(octets) => out.push_str(&byte_sequence(octets)),
            Item::Boolean(_) => out.push_str("?0"),
        }
    }
}

/// Base64 between colons (RFC 8941 section 4.1.8).
#[must_use]
pub fn byte_sequence(octets: &[u8]) -> String {
    [":", &base64::encode(octets), ":"].concat()
}
