//! What is found while a document is read: problems, warnings, named files, and what to hide.

use std::{
    cell::RefCell,
    ops::Range,
    path::{Path, PathBuf},
};

use super::problem::Source;

type Span = Range<usize>;

/// Something to say about a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) span: Option<Span>,
    pub(super) message: String,
    pub(super) help: String,
    pub(super) suggestion: Option<String>,
}

/// Collects what is found in one document.
#[derive(Default)]
pub(super) struct Notes {
    folder: PathBuf,
    problems: RefCell<Vec<Note>>,
    warnings: RefCell<Vec<String>>,
    named: RefCell<Vec<(PathBuf, Span)>>,
    references: RefCell<Vec<(String, Span)>>,
    secrets: RefCell<Vec<Span>>,
}

impl Notes {
    /// For a document whose relative paths start at `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            ..Self::default()
        }
    }

    /// A problem; `span: None` is the whole file.
    pub(super) fn add(
        &self,
        span: Option<Span>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(span, message.into(), help.into(), None);
    }

    /// A word that is none of `names`: the nearest is suggested, else all are listed.
    pub(super) fn add_unknown<'n>(
        &self,
        span: Span,
        message: impl Into<String>,
        word: &str,
        names: impl IntoIterator<Item = &'n str>,
    ) {
        let names: Vec<&str> = names.into_iter().collect();
        let near = nearest(word, &names).map(str::to_owned);
        let help = match (&near, names.is_empty()) {
            (Some(_), _) => String::new(),
            (None, true) => "there is none".to_owned(),
            (None, false) => format!("expected one of {}", names.join(", ")),
        };
        self.push(Some(span), message.into(), help, near);
    }

    pub(super) fn push(
        &self,
        span: Option<Span>,
        message: String,
        help: String,
        suggestion: Option<String>,
    ) {
        self.problems.borrow_mut().push(Note {
            span,
            message,
            help,
            suggestion,
        });
    }

    /// Something that the operator has to hear at every start.
    pub(super) fn warn(&self, text: impl Into<String>) {
        self.warnings.borrow_mut().push(text.into());
    }

    /// Where relative paths start.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file that the configuration names.
    pub(super) fn name(&self, path: &Path, span: Span) {
        self.named.borrow_mut().push((path.to_owned(), span));
    }

    /// A secret that is in no file of ours, as messages call it.
    pub(super) fn refer(&self, name: String, span: Span) {
        self.references.borrow_mut().push((name, span));
    }

    /// A place whose text is never shown.
    pub(super) fn hide(&self, span: Span) {
        self.secrets.borrow_mut().push(span);
    }

    pub(super) fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.borrow_mut())
    }

    /// Which files are named, and the problems in the order of the text.
    pub(super) fn into_parts(self, file: &Path, text: &str) -> (Source, Vec<Note>) {
        let mut list = self.problems.into_inner();
        list.sort_by_key(|note| {
            note.span
                .as_ref()
                .map_or((0, 0), |span| (span.start, span.end))
        });
        list.dedup();
        let source = Source {
            file: file.to_owned(),
            text: masked(text, &self.secrets.into_inner()),
            named: self.named.into_inner(),
            references: self.references.into_inner(),
        };
        (source, list)
    }
}

/// The text with what may be a secret made unreadable; every place stays where it is.
fn masked(text: &str, secrets: &[Span]) -> String {
    let hidden = |at: usize| secrets.iter().any(|span| span.contains(&at));
    let mask = |(at, byte): (usize, u8)| match byte {
        b'\n' | b'\r' => byte,
        _ if hidden(at) => b'*',
        _ => byte,
    };
    if secrets.is_empty() {
        return text.to_owned();
    }
    // a span begins and ends between characters, so that what is left is text
    let bytes: Vec<u8> = text.bytes().enumerate().map(mask).collect();
    String::from_utf8(bytes).unwrap_or_default()
}

/// The name that was most likely meant.
pub(super) fn nearest<'n>(word: &str, names: &[&'n str]) -> Option<&'n str> {
    let word = word.to_ascii_lowercase();
    names
        .iter()
        .map(|name| {
            let longer = name.len() > word.len();
            // `cert` for `certificate`, `x25519mlkem` for the whole
            let part = word.len() > 2 && (longer && name.starts_with(&word));
            let distance = if part {
                1
            } else {
                strsim::damerau_levenshtein(&word, &name.to_ascii_lowercase())
            };
            (distance, *name)
        })
        .filter(|(distance, name)| {
            *distance
                <= name
                    .len()
                    .max(word.len())
                    .checked_div(3)
                    .unwrap_or(0)
                    .max(1)
        })
        .min()
        .map(|(_, name)| name)
}
