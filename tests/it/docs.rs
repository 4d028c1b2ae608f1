//! The pages for people: their links lead somewhere, their commands are commands, and the words
//! that they take for granted are in the reference. What the reference says is held to the code
//! by `reference.rs`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::world::{BINARY, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every page, by its path from the root.
fn pages() -> Vec<(PathBuf, String)> {
    let mut list = Vec::new();
    let mut folders = vec![PathBuf::from("docs")];
    let mut files: Vec<PathBuf> = [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "pki/README.md",
    ]
    .map(PathBuf::from)
    .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(Path::new(ROOT).join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    for file in files {
        let text = fs::read_to_string(Path::new(ROOT).join(&file)).unwrap();
        list.push((file, text));
    }
    assert!(list.len() > 20, "{}", list.len());
    list
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c if c.is_alphanumeric() => Some(c),
            _ => None,
        })
        .collect()
}

#[test]
fn every_link_leads_to_a_page_and_a_heading() {
    let mut seen = 0;
    let mut dead = Vec::new();
    for (page, text) in pages() {
        for part in text.split("](").skip(1) {
            let target = part.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            seen += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() {
                Path::new(ROOT).join(&page)
            } else {
                Path::new(ROOT).join(page.parent().unwrap()).join(file)
            };
            let found = heading.is_empty()
                || fs::read_to_string(&path).is_ok_and(|text| {
                    text.lines()
                        .any(|line| line.starts_with('#') && anchor(line) == heading)
                });
            if !path.exists() || !found {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(dead.is_empty(), "{dead:#?}");
}

/// The commands of a page: lines that are indented or fenced and begin with the program.
fn commands(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut list = Vec::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let indented = line.starts_with("    ");
        if let Some(command) = line.trim_start().strip_prefix("portcullis ")
            && (fenced || indented)
            // the reference's own notation, and what a shell would do
            && !command.contains(['[', '$', '|'])
            && !command.contains("...")
        {
            list.push(command.to_owned());
        }
    }
    list
}

#[test]
fn every_command_is_one() {
    let mut seen = 0;
    for (page, text) in pages() {
        for command in commands(&text) {
            // names and options are judged before the help is shown
            let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
            let (ok, said) = run(BINARY, &words);
            assert!(ok, "{}: portcullis {command}: {said}", page.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
    // the check itself can fail
    assert!(!run(BINARY, &["pki", "issue", "--zebra", "--help"]).0);
}

/// TLS alerts (RFC 8446 section 6) and a lint: words of others.
const OTHERS: [&str; 4] = [
    "access_denied",
    "unknown_ca",
    "unsupported_certificate",
    "unsafe_code",
];

/// The words with an underscore in backticks: keys, codes, fields, metrics.
fn words(text: &str) -> BTreeSet<String> {
    let mut list = BTreeSet::new();
    for line in text.lines() {
        for quoted in line.split('`').skip(1).step_by(2) {
            for word in quoted.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
                let plain = word
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                if plain && word.contains('_') && !word.ends_with('_') && !word.starts_with('_') {
                    list.insert(word.to_owned());
                }
            }
        }
    }
    list
}

#[test]
fn no_page_takes_a_word_for_granted_that_the_reference_lacks() {
    let (reference, others): (Vec<_>, Vec<_>) = pages()
        .into_iter()
        .partition(|(page, _)| page.starts_with("docs/reference"));
    let mut known = BTreeSet::new();
    for (_, text) in &reference {
        for word in words(text) {
            // samples of a counter end in `_total`
            if word.starts_with("portcullis_") {
                known.insert(format!("{word}_total"));
            }
            known.insert(word);
        }
    }
    assert!(known.len() > 100, "{known:?}");
    let mut seen = 0;
    let mut unknown = Vec::new();
    for (page, text) in &others {
        for word in words(text) {
            seen += 1;
            if !known.contains(&word) && !OTHERS.contains(&word.as_str()) {
                unknown.push(format!("{}: {word}", page.display()));
            }
        }
    }
    assert!(seen > 60, "{seen}");
    assert!(unknown.is_empty(), "{unknown:#?}");
}

/// Runs a command in a folder.
fn portcullis(folder: &Path, command: &str) -> (bool, String) {
    let done = Command::new(BINARY)
        .args(command.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [done.stdout, done.stderr].concat();
    (
        done.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// The first serial number in a certificate's description.
fn serial(folder: &Path, certificate: &str) -> String {
    let (_, said) = portcullis(folder, &format!("pki show {certificate}"));
    let line = said
        .lines()
        .find(|line| line.starts_with("serial"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn a_certificate_is_rotated_and_the_old_one_revoked_as_the_pages_say() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let must = |command: &str| {
        let (ok, said) = portcullis(folder, command);
        assert!(ok, "portcullis {command}: {said}");
    };
    must("pki init");
    must("pki issue gateway edge-1");
    must("pki issue acceptor legacy --san legacy.internal");
    let new = "pki/certs/gateway/edge-1/cert.pem";
    let old = serial(folder, new);
    fs::copy(folder.join(new), folder.join("old.pem")).unwrap();

    let page = fs::read_to_string(Path::new(ROOT).join("docs/operate/rotate.md")).unwrap();
    let mut seen = 0;
    for command in commands(&page) {
        if command.starts_with("pki") {
            // the service's user need not be there
            let here = command
                .replace("/etc/portcullis", "etc")
                .replace(" --owner root:portcullis", "");
            must(&here);
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen}");
    assert_ne!(serial(folder, new), old);
    assert_eq!(serial(folder, "etc/cert.pem"), serial(folder, new));

    // both are good until the old one is revoked by its serial number
    must("pki verify old.pem --as gateway");
    must(&format!("pki revoke {old} --reason superseded"));
    must(&format!("pki verify {new} --as gateway"));
    let (ok, said) = portcullis(folder, "pki verify old.pem --as gateway");
    assert!(!ok && said.contains("revoked"), "{said}");
    // by name, the new one goes too
    must("pki revoke gateway/edge-1 --reason key-compromise");
    assert!(!portcullis(folder, &format!("pki verify {new} --as gateway")).0);
}
