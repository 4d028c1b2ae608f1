//! Configuration: what the user typed (`reader`, `values`) becomes validated types or a list of
//! problems, all of a file at once. Types hold paths and rules, never loaded keys; files that a
//! configuration names are loaded elsewhere, except secrets and networks, whose rules are here.

mod acceptor;
mod acme;
mod authority;
mod bound;
mod common;
mod defaults;
mod gateway;
mod homes;
mod identity;
pub mod networks;
mod notes;
mod problem;
mod proof;
mod reader;
mod require;
pub mod secret;
pub mod types;
mod values;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::de::DeTable;

pub use problem::{Problem, Problems, Source};
pub use require::{RequiredHeader, RequiredKey, RequiredSignature, Requirement};
pub use types::*;
pub use values::{Endpoint, judge_endpoint as endpoint};

use reader::{Notes, Table};

/// A configuration is written by hand: what is larger is another file.
const LARGEST: u64 = 4 << 20;

/// Reads and validates a configuration file. The role is told by its shape.
///
/// # Errors
/// Every problem of the file.
pub fn load(path: &Path) -> Result<Config, Problems> {
    match read(path) {
        Ok(text) => parse(&text, path).map_err(with_missing_files),
        Err(error) => {
            let source = Arc::new(Source {
                file: path.to_owned(),
                ..Source::default()
            });
            let message = format!("the configuration can't be read: {error}");
            let kind = error.kind();
            let help = if kind == std::io::ErrorKind::InvalidData {
                "a configuration is TOML in UTF-8"
            } else if kind == std::io::ErrorKind::IsADirectory {
                "it is a folder: name the file in it"
            } else {
                "check the path and its permissions"
            };
            let problem = source.problem(None, message, help);
            Err(Problems {
                source,
                list: vec![problem],
                half: false,
            })
        }
    }
}

/// Adds the named files that can't be opened, so that one run tells it all: a configuration
/// without problems has its files loaded, and judged, elsewhere.
fn with_missing_files(mut problems: Problems) -> Problems {
    for (path, span) in &problems.source.named {
        if let Err(error) = std::fs::File::open(path) {
            let message = format!("{}: {error}", path.display());
            let help = "check the path and its permissions";
            let problem = problems.source.problem(Some(span.clone()), message, help);
            problems.list.push(problem);
        }
    }
    problems
        .list
        .sort_by_key(|problem| (problem.line, problem.column));
    problems
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read};
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let size = file
        .take(LARGEST.saturating_add(1))
        .read_to_string(&mut text)?;
    if u64::try_from(size).is_ok_and(|size| size > LARGEST) {
        return Err(Error::new(ErrorKind::FileTooLarge, "larger than 4 MiB"));
    }
    Ok(text)
}

/// Validates a configuration's text; `path` is where it stands: relative paths start there.
///
/// # Errors
/// Every problem of the text.
pub fn parse(text: &str, path: &Path) -> Result<Config, Problems> {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let notes = Notes::new(folder);
    let config = read_document(text, &notes);
    let (source, found) = notes.into_parts(path, text);
    let source = Arc::new(source);
    let list: Vec<Problem> = found
        .into_iter()
        .map(|note| Problem {
            suggestion: note.suggestion,
            ..source.problem(note.span, note.message, note.help)
        })
        .collect();
    match config {
        Some(mut config) if list.is_empty() => {
            let common = config.common_mut();
            common.file = path.to_owned();
            common.source = source;
            Ok(config)
        }
        _ if list.is_empty() => {
            // a reader that gives up has to say why
            let problem = source.problem(None, "the configuration can't be used", "");
            Err(Problems {
                source,
                list: vec![problem],
                half: false,
            })
        }
        _ => Err(Problems {
            source,
            list,
            half: false,
        }),
    }
}

fn read_document(text: &str, notes: &Notes) -> Option<Config> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let root = Table::new("", document.span(), document.get_ref(), notes);
    root.entries()
        .iter()
        .for_each(|(.., value)| value.hide_secrets());
    if !errors.is_empty() {
        // what the keys mean is not judged: after a slip of syntax they may stand anywhere
        for error in errors {
            notes.add(Some(error.span().unwrap_or(0..0)), error.message(), "");
        }
        return None;
    }
    match shape(&root) {
        Shape::Gateway => gateway::read(root).map(Config::Gateway),
        Shape::Acceptor => acceptor::read(root).map(Config::Acceptor),
        Shape::Authority => authority::read(root).map(Config::Authority),
        Shape::Both(gateway, acceptor) => {
            let help = "a gateway and an acceptor have a file each";
            let [ours, theirs] = ["this makes it a gateway", "this makes it an acceptor"];
            notes.add(
                Some(gateway),
                format!("both roles in one file: {ours}"),
                help,
            );
            notes.add(
                Some(acceptor),
                format!("both roles in one file: {theirs}"),
                help,
            );
            None
        }
        Shape::Neither => {
            // what both roles have is judged all the same: one run tells it all
            drop(common::head(&root, defaults::GATEWAY_CONNECTIONS_PER_IP));
            notes.add(
                None,
                "neither a gateway nor an acceptor",
                "a gateway has [[route]] and [backend.NAME]; an acceptor has `backend` in each \
                 [[listener]]",
            );
            None
        }
    }
}

/// Whose file it is, with the places that say so.
enum Shape {
    Gateway,
    Acceptor,
    Authority,
    Both(Range<usize>, Range<usize>),
    Neither,
}

fn shape(root: &Table<'_>) -> Shape {
    let entries = root.entries();
    if entries.iter().any(|(key, ..)| *key == "pki") {
        return Shape::Authority;
    }
    let gateway = entries
        .iter()
        .find(|(key, ..)| matches!(*key, "route" | "backend"));
    let acceptor = entries
        .iter()
        .filter(|(key, ..)| *key == "listener")
        .flat_map(|(.., value)| value.tables_quietly())
        .find_map(|listener| listener.keys().find(|key| key.get_ref() == "backend"));
    match (gateway, acceptor) {
        (Some(_), None) => Shape::Gateway,
        (None, Some(_)) => Shape::Acceptor,
        (Some((_, _, value)), Some(backend)) => Shape::Both(value.span.clone(), backend.span()),
        (None, None) => Shape::Neither,
    }
}

impl Config {
    /// Which role it is, as logs and reports call it.
    #[must_use]
    pub fn role(&self) -> &'static str {
        match self {
            Self::Gateway(_) => "gateway",
            Self::Acceptor(_) => "acceptor",
            Self::Authority(_) => "pki",
        }
    }

    /// What both roles have.
    #[must_use]
    pub fn common(&self) -> &Common {
        match self {
            Self::Gateway(gateway) => &gateway.common,
            Self::Acceptor(acceptor) => &acceptor.common,
            Self::Authority(authority) => &authority.common,
        }
    }

    fn common_mut(&mut self) -> &mut Common {
        match self {
            Self::Gateway(gateway) => &mut gateway.common,
            Self::Acceptor(acceptor) => &mut acceptor.common,
            Self::Authority(authority) => &mut authority.common,
        }
    }

    /// Every file that it names, itself included: what has to be watched.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.common().files()
    }

    /// The secrets and keys that requests are asked for: listener, rule, and where it is kept.
    #[must_use]
    pub fn required_secrets(&self) -> Vec<(&str, &str, String)> {
        let Self::Acceptor(acceptor) = self else {
            return Vec::new();
        };
        let mut list = Vec::new();
        for listener in &acceptor.listeners {
            for rule in &listener.require {
                let places = rule.places();
                list.extend(places.map(|place| (&*listener.name, rule.name(), place.to_string())));
            }
        }
        list
    }
}

impl Common {
    /// Every file that the configuration names, itself included: what has to be watched.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let named = self.source.named.iter().map(|(path, _)| path.clone());
        let mut files: Vec<PathBuf> = named.chain([self.file.clone()]).collect();
        files.sort();
        files.dedup();
        files
    }
}

#[cfg(test)]
mod tests;
