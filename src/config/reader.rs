//! Walks a TOML document with spans and notes every problem on the way: unknown keys with the
//! nearest known one, wrong types, missing keys.

use std::{
    cell::RefCell,
    ops::Range,
    path::{Path, PathBuf},
    rc::Rc,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::problem::Problem;

type Span = Range<usize>;

/// Collects problems of one document.
#[derive(Clone, Default)]
pub(super) struct Notes(Rc<RefCell<Vec<Problem>>>);

impl Notes {
    pub(super) fn add(&self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        let help = Some(help.into()).filter(|text: &String| !text.is_empty());
        self.0.borrow_mut().push(Problem {
            span,
            message: message.into(),
            help,
        });
    }

    pub(super) fn take(&self) -> Vec<Problem> {
        let mut list = std::mem::take(&mut *self.0.borrow_mut());
        list.sort_by_key(|problem| problem.span.start);
        list.dedup();
        list
    }
}

/// A value and its place.
pub(super) struct Value<'a> {
    pub(super) key: String,
    pub(super) span: Span,
    value: &'a DeValue<'a>,
    log: Notes,
}

/// A table whose keys are taken one by one; what is left in the end is unknown.
pub(super) struct Table<'a> {
    /// Its name for messages: `[listener]`.
    name: String,
    pub(super) span: Span,
    table: &'a DeTable<'a>,
    known: RefCell<Vec<&'static str>>,
    pub(super) log: Notes,
}

impl<'a> Table<'a> {
    pub(super) fn new(
        name: impl Into<String>,
        span: Span,
        table: &'a DeTable<'a>,
        log: Notes,
    ) -> Self {
        Self {
            name: name.into(),
            span,
            table,
            known: RefCell::default(),
            log,
        }
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.known.borrow_mut().push(key);
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Value {
            key: name.get_ref().to_string(),
            span: value.span(),
            value: value.get_ref(),
            log: self.log.clone(),
        })
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, key: &'static str, why: &str) -> Option<Value<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.log
                .add(self.head(), format!("{} needs `{key}`", self.name), why);
        }
        found
    }

    /// A key that this release knows and does not support.
    pub(super) fn later(&self, key: &'static str) {
        if let Some(value) = self.get(key) {
            self.log.add(
                value.span,
                format!("`{key}` is not supported yet"),
                "remove it",
            );
        }
    }

    /// Only the first octets: a caret under a whole table helps nobody.
    pub(super) fn head(&self) -> Span {
        self.span.start..self.span.start.saturating_add(1)
    }

    /// All keys with their values: for tables whose keys are names.
    pub(super) fn entries(&self) -> Vec<(String, Value<'a>)> {
        self.table
            .iter()
            .map(|(name, value)| {
                let key = name.get_ref().to_string();
                (
                    key.clone(),
                    Value {
                        key,
                        span: value.span(),
                        value: value.get_ref(),
                        log: self.log.clone(),
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
            if !known.contains(&key) {
                self.log.add(
                    name.span(),
                    format!("unknown key `{key}` in {}", self.name),
                    suggest(key, known.iter().copied()),
                );
            }
        }
    }
}

/// "did you mean", or the list of what there is.
pub(super) fn suggest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    let near = names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(word.len()) / 3 + 1)
        .min();
    match near {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None => format!("there are: {}", names.join(", ")),
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
        self.log.add(
            self.span.clone(),
            format!("`{}` is {found}", self.key),
            format!("expected {expected}"),
        );
    }

    /// Notes a problem with this value.
    pub(super) fn bad(&self, message: impl Into<String>, help: impl Into<String>) {
        self.log.add(self.span.clone(), message, help);
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    pub(super) fn is_string(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    pub(super) fn string(&self) -> Option<String> {
        if let DeValue::String(text) = self.value {
            Some(text.to_string())
        } else {
            self.wrong("a string");
            None
        }
    }

    /// A string that `parse` understands.
    pub(super) fn parsed<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let DeValue::String(text) = self.value else {
            self.wrong(expected);
            return None;
        };
        let parsed = parse(text);
        if parsed.is_none() {
            self.bad(
                format!("`{}` can't be {text:?}", self.key),
                format!("expected {expected}"),
            );
        }
        parsed
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.string()?;
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            self.bad(
                format!("`{}` can't be {text:?}", self.key),
                suggest(&text, words.iter().map(|(word, _)| *word)),
            );
        }
        found
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        if let DeValue::Boolean(value) = self.value {
            Some(*value)
        } else {
            self.wrong("true or false");
            None
        }
    }

    pub(super) fn number(&self) -> Option<u64> {
        if let DeValue::Integer(number) = self.value
            && let Ok(value) = u64::from_str_radix(number.as_str(), number.radix())
        {
            return Some(value);
        }
        self.wrong("a whole number, 0 or above");
        None
    }

    pub(super) fn list(&self) -> Option<Vec<Self>> {
        let DeValue::Array(array) = self.value else {
            self.wrong("a list");
            return None;
        };
        Some(
            array
                .iter()
                .map(|item: &'a Spanned<DeValue<'a>>| self.item(item))
                .collect(),
        )
    }

    /// The items of a list; none where it is no list, without a word.
    pub(super) fn list_quietly(&self) -> Vec<Self> {
        let DeValue::Array(array) = self.value else {
            return Vec::new();
        };
        array.iter().map(|item| self.item(item)).collect()
    }

    /// A table whose problems go elsewhere; `None` where it is none, without a word.
    pub(super) fn table_with(&self, name: &str, log: Notes) -> Option<Table<'a>> {
        let DeValue::Table(table) = self.value else {
            return None;
        };
        Some(Table::new(name, self.span.clone(), table, log))
    }

    /// A list, or one value that stands for a list of one.
    pub(super) fn list_or_one(&self) -> Option<Vec<Self>> {
        if self.is_string() {
            let one = Value {
                key: self.key.clone(),
                span: self.span.clone(),
                value: self.value,
                log: self.log.clone(),
            };
            return Some(vec![one]);
        }
        self.list()
    }

    fn item(&self, item: &'a Spanned<DeValue<'a>>) -> Self {
        Self {
            key: self.key.clone(),
            span: item.span(),
            value: item.get_ref(),
            log: self.log.clone(),
        }
    }

    pub(super) fn table(&self, name: impl Into<String>) -> Option<Table<'a>> {
        let DeValue::Table(table) = self.value else {
            self.wrong("a table");
            return None;
        };
        Some(Table::new(name, self.span.clone(), table, self.log.clone()))
    }

    /// A path, relative to the file's folder.
    pub(super) fn path(&self, folder: &Path) -> Option<PathBuf> {
        let text = self.string()?;
        if text.is_empty() || text.contains('\0') {
            self.bad(format!("`{}` names no file", self.key), "expected a path");
            return None;
        }
        Some(folder.join(text))
    }
}
