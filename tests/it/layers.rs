//! The folders are levels: a lower one never imports a higher one.

use std::{
    fs,
    path::{Path, PathBuf},
};

const LEVELS: [&[&str]; 7] = [
    &["admit", "identity", "wire"],
    &["config", "telemetry"],
    &["clock", "drain", "net", "tls", "workers"],
    &["serve"],
    &["acceptor", "gateway", "pki"],
    &["app"],
    &["cli"],
];

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|modules| modules.contains(&module))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every module that a file names by `crate::`, in trees of `use` too.
fn imported(text: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for part in text.split("crate::").skip(1) {
        let Some(tree) = part.strip_prefix('{') else {
            modules.push(word(part));
            continue;
        };
        let mut depth = 1;
        let mut start = true;
        for (at, c) in tree.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                c if start && c.is_alphabetic() => {
                    modules.push(word(&tree[at..]));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    modules
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn trees_of_use_are_read() {
    let text = "use crate::{\n    admit::{Denial, Denied},\n    net::relay,\n};\nuse crate::tls;";
    assert_eq!(imported(text), ["admit", "net", "tls"]);
}

#[test]
fn a_lower_level_never_imports_a_higher_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 100);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let first = inside.iter().next().unwrap().to_str().unwrap();
        let own = level(first.trim_end_matches(".rs"));
        // tests may reach for whatever helps them
        let is_test = inside
            .iter()
            .any(|part| part == "tests" || part == "tests.rs");
        let (Some(own), false) = (own, is_test) else {
            continue;
        };
        let text = fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for module in imported(text) {
            if level(&module).is_some_and(|other| other > own) {
                wrong.push(format!("{} imports crate::{module}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
