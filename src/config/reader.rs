//! Walks a TOML document with its places and notes every problem on the way: unknown keys with the
//! nearest known one, wrong types, missing keys. Nothing here knows what a key means.

use std::{cell::RefCell, ops::Range, path::PathBuf};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

pub(super) use super::notes::Notes;
use super::{homes, notes::nearest};

type Span = Range<usize>;

/// A value and its place.
#[derive(Clone)]
pub(super) struct Value<'a> {
    pub(super) key: &'a str,
    pub(super) span: Span,
    value: &'a DeValue<'a>,
    pub(super) notes: &'a Notes,
}

/// A table whose keys are taken one by one; what is left in the end is unknown.
pub(super) struct Table<'a> {
    /// Its name for messages: `[[listener]]`.
    name: String,
    pub(super) span: Span,
    table: &'a DeTable<'a>,
    known: RefCell<Vec<&'static str>>,
    pub(super) notes: &'a Notes,
}

impl<'a> Table<'a> {
    pub(super) fn new(
        name: impl Into<String>,
        span: Span,
        table: &'a DeTable<'a>,
        notes: &'a Notes,
    ) -> Self {
        Self {
            name: name.into(),
            span,
            table,
            known: RefCell::default(),
            notes,
        }
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.known.borrow_mut().push(key);
        let (_, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Value {
            key,
            span: value.span(),
            value: value.get_ref(),
            notes: self.notes,
        })
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, key: &'static str, why: &str) -> Option<Value<'a>> {
        let found = self.get(key);
        if found.is_none() {
            let whose = match self.name.is_empty() {
                true => "the file",
                false => &self.name,
            };
            self.add(format!("{whose} needs `{key}`"), why);
        }
        found
    }

    /// Whether a key that opens or closes something is there and true.
    pub(super) fn flag(&self, key: &'static str) -> Option<Value<'a>> {
        self.get(key).filter(|value| value.boolean() == Some(true))
    }

    /// Keys that belong to this table and are not supported by this release.
    pub(super) fn later(&self, keys: &[&'static str]) {
        for key in keys {
            if let Some(value) = self.get(key) {
                value.bad(format!("`{key}` is not supported yet"), "remove it");
            }
        }
    }

    /// A problem of the table as a whole.
    pub(super) fn add(&self, message: impl Into<String>, help: impl Into<String>) {
        // the table of the whole file has no place of its own
        let span = Some(self.span.clone()).filter(|_| !self.name.is_empty());
        self.notes.add(span, message, help);
    }

    /// All keys with their values: for tables whose keys are names.
    pub(super) fn entries(&self) -> Vec<(&'a str, Span, Value<'a>)> {
        self.table
            .iter()
            .map(|(name, value)| {
                let key: &'a str = name.get_ref();
                let (span, inner) = (value.span(), value.get_ref());
                (
                    key,
                    name.span(),
                    Value {
                        key,
                        span,
                        value: inner,
                        notes: self.notes,
                    },
                )
            })
            .collect()
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (name, _) in self.table {
            let key: &str = name.get_ref();
            if known.contains(&key) {
                continue;
            }
            let place = if self.name.is_empty() {
                "the file"
            } else {
                &self.name
            };
            let message = format!("unknown key `{key}` in {place}");
            match homes::of(key) {
                Some(home) => {
                    let help = format!("`{key}` belongs in {home}");
                    self.notes.add(Some(name.span()), message, help);
                }
                None => {
                    self.notes
                        .add_unknown(name.span(), message, key, known.iter().copied());
                }
            }
        }
    }
}

impl<'a> Value<'a> {
    fn wrong(&self, expected: &str) {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.bad(
            format!("`{}` is {found}", self.key),
            format!("expected {expected}"),
        );
    }

    /// Notes a problem with this value.
    pub(super) fn bad(&self, message: impl Into<String>, help: impl Into<String>) {
        self.notes.add(Some(self.span.clone()), message, help);
    }

    /// From now on its text is shown nowhere: it may be a secret.
    pub(super) fn hide(&self) {
        self.notes.hide(self.span.clone());
    }

    /// Hides whatever is called like a secret and written out, wherever it stands: a problem shows
    /// its line, and logs are read by many.
    pub(super) fn hide_secrets(&self) {
        const WORDS: [&str; 5] = ["pass", "secret", "token", "bearer", "credential"];
        // `credential` alone names one, in the service manager's folder; a URL is an address
        let suspect = !matches!(self.key, "credential" | "token_url")
            && WORDS.iter().any(|word| self.key.contains(word));
        match self.value {
            DeValue::String(_) if suspect => self.hide(),
            DeValue::Array(array) => array.iter().for_each(|item| self.item(item).hide_secrets()),
            DeValue::Table(table) => {
                let inner = Table::new("", self.span.clone(), table, self.notes);
                inner
                    .entries()
                    .iter()
                    .for_each(|(.., value)| value.hide_secrets());
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    pub(super) fn is_string(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    pub(super) fn string(&self) -> Option<&'a str> {
        self.text("a string")
    }

    fn text(&self, expected: &str) -> Option<&'a str> {
        if let DeValue::String(text) = self.value {
            return Some(text);
        }
        self.wrong(expected);
        None
    }

    /// A string that `parse` understands.
    pub(super) fn parsed<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.judged(expected, |text| {
            parse(text).ok_or_else(|| format!("expected {expected}"))
        })
    }

    /// A string that `parse` understands, or says why not and what to write.
    pub(super) fn judged<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(expected)?;
        parse(text)
            .map_err(|help| self.bad(format!("`{}` can't be {text:?}", self.key), help))
            .ok()
    }

    /// One of a few words; `later` are those that this release knows and does not support.
    pub(super) fn word<T: Copy>(
        &self,
        words: &[(&'static str, T)],
        later: &[&'static str],
    ) -> Option<T> {
        let names = || words.iter().map(|(word, _)| *word);
        let all: Vec<String> = names().map(|word| format!("{word:?}")).collect();
        let expected = all.join(" or ");
        let text = self.text(&expected)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        if later.contains(&text) {
            let message = format!("`{} = {text:?}` is not supported yet", self.key);
            self.bad(message, format!("expected {expected}"));
        } else {
            let message = format!("`{}` can't be {text:?}", self.key);
            let all: Vec<&str> = names().collect();
            let near = nearest(text, &all).map(str::to_owned);
            let help = format!("expected {expected}");
            self.notes
                .push(Some(self.span.clone()), message, help, near);
        }
        None
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        if let DeValue::Boolean(value) = self.value {
            return Some(*value);
        }
        self.wrong("true or false");
        None
    }

    /// A whole number within bounds.
    pub(super) fn number(&self, bounds: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let (low, high) = (bounds.start(), bounds.end());
        let DeValue::Integer(number) = self.value else {
            self.wrong(&format!("a whole number from {low} to {high}"));
            return None;
        };
        let value = u64::from_str_radix(number.as_str(), number.radix()).ok();
        let fits = value.filter(|value| bounds.contains(value));
        if fits.is_none() {
            let message = format!("`{}` can't be {number}", self.key);
            self.bad(
                message,
                format!("expected a whole number from {low} to {high}"),
            );
        }
        fits
    }

    /// The integer 0, which means "off" or "no limit" where it is allowed.
    pub(super) fn is_zero(&self) -> bool {
        matches!(self.value, DeValue::Integer(number) if number.as_str() == "0")
    }

    /// An integer as it is written, for "write it with a unit".
    pub(super) fn digits(&self) -> Option<&'a str> {
        if let DeValue::Integer(number) = self.value {
            Some(number.as_str())
        } else {
            None
        }
    }

    pub(super) fn list(&self) -> Option<Vec<Self>> {
        let DeValue::Array(array) = self.value else {
            self.wrong("a list");
            return None;
        };
        Some(array.iter().map(|item| self.item(item)).collect())
    }

    pub(super) fn is_empty_list(&self) -> bool {
        matches!(self.value, DeValue::Array(array) if array.is_empty())
    }

    /// Whether any string of a list starts with this.
    pub(super) fn mentions(&self, start: &str) -> bool {
        let DeValue::Array(array) = self.value else {
            return false;
        };
        array.iter().any(|item| {
            item.get_ref()
                .as_str()
                .is_some_and(|text| text.starts_with(start))
        })
    }

    /// A list, or one string that stands for a list of one.
    pub(super) fn list_or_one(&self) -> Option<Vec<Self>> {
        if self.is_string() {
            Some(vec![self.clone()])
        } else {
            self.list()
        }
    }

    /// The tables of a list, or those that there are, without a word.
    pub(super) fn tables_quietly(&self) -> Vec<&'a DeTable<'a>> {
        let DeValue::Array(array) = self.value else {
            return Vec::new();
        };
        array
            .iter()
            .filter_map(|item| item.get_ref().as_table())
            .collect()
    }

    fn item(&self, item: &'a Spanned<DeValue<'a>>) -> Self {
        Self {
            key: self.key,
            span: item.span(),
            value: item.get_ref(),
            notes: self.notes,
        }
    }

    pub(super) fn table(&self, name: impl Into<String>) -> Option<Table<'a>> {
        let DeValue::Table(table) = self.value else {
            self.wrong("a table");
            return None;
        };
        Some(Table::new(name, self.span.clone(), table, self.notes))
    }

    /// Where a path points, relative to the file's folder.
    pub(super) fn joined(&self, path: &str) -> PathBuf {
        self.notes.folder().join(path)
    }

    /// A file; from now on it counts as named.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let path = self.folder()?;
        self.notes.name(&path, self.span.clone());
        Some(path)
    }

    /// A folder: it is not watched.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        self.judged("a path", |text| match text {
            "" => Err("expected a path".to_owned()),
            _ if text.contains('\0') => Err("a path has no NUL".to_owned()),
            _ => Ok(self.joined(text)),
        })
    }
}
