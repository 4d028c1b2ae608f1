//! The pages in docs/reference say what the code does: neither knows a word that the other lacks.

use std::{collections::BTreeSet, path::Path};

use portcullis::admit::{Blame, Denial, Level};

use crate::world::{Backend, World, until};

/// A page of the reference.
fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/reference")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the tables whose head begins with this column; cells without backticks.
fn rows(page: &str, first: &str) -> Vec<Vec<String>> {
    let mut list = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        let Some(cells) = line.strip_prefix("| ") else {
            inside &= line.starts_with("|---");
            continue;
        };
        let cells: Vec<String> = cells
            .trim_end_matches(" |")
            .split('|')
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect();
        if inside {
            list.push(cells);
        } else {
            inside = cells[0] == first;
        }
    }
    list
}

/// Both sides hold the same words.
fn same(what: &str, page: &BTreeSet<String>, code: &BTreeSet<String>) {
    assert!(!code.is_empty(), "{what}: none was found in the code");
    let missing: Vec<_> = code.difference(page).collect();
    let stale: Vec<_> = page.difference(code).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "{what}: missing in the page: {missing:?}; only in the page: {stale:?}"
    );
}

#[test]
fn every_reason_is_described_as_it_is() {
    let page: BTreeSet<Vec<String>> = rows(&page("denials.md"), "code").into_iter().collect();
    let code: BTreeSet<Vec<String>> = Denial::ALL.iter().map(|denial| row(*denial)).collect();
    let missing: Vec<_> = code.difference(&page).collect();
    let stale: Vec<_> = page.difference(&code).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "denials.md lacks {missing:#?}\nand says {stale:#?}"
    );
}

/// A reason as a row of the page.
fn row(denial: Denial) -> Vec<String> {
    let blame = match denial.blame() {
        Blame::Peer => "peer",
        Blame::Upstream => "upstream",
        Blame::Local => "local",
    };
    let level = match denial.level() {
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    let status = match denial.http_status() {
        0 => "-".to_owned(),
        status => status.to_string(),
    };
    [
        denial.code(),
        blame,
        &status,
        level,
        denial.meaning(),
        denial.hint(),
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn every_metric_is_described_with_its_type_and_labels() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let health = "health = { interval = \"100ms\" }\n";
    let (gateway, edge) = world.plain_gateway("tcp", link, "", health);
    drop(world.client().connect(edge, "site.test").unwrap());
    until("a check", || {
        (gateway.metric("portcullis_acceptor_healthy") > 0.0).then_some(())
    });
    gateway.reload();
    let mut code = BTreeSet::new();
    for role in [&gateway, &acceptor] {
        let (_, text) = role.admin("/metrics").unwrap();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                code.insert(format!("{name} {kind}: {}", labels(&text, name)));
            }
        }
    }
    let page = rows(&page("metrics.md"), "name")
        .into_iter()
        .map(|row| format!("{} {}: {}", row[0], row[1], row[3].replace('`', "")))
        .collect();
    same("metrics.md", &page, &code);
}

/// The labels of a family's first sample, in order, without a histogram's `le`.
fn labels(text: &str, family: &str) -> String {
    let sample = text
        .lines()
        .find(|line| {
            line.strip_prefix(family)
                .is_some_and(|rest| rest.starts_with(['{', ' ', '_']))
        })
        .unwrap_or_else(|| panic!("{family} has no sample"));
    let Some((_, inner)) = sample.split_once('{') else {
        return String::new();
    };
    let names: Vec<&str> = inner
        .split("=\"")
        .filter_map(|part| part.rsplit(['"', ',', '{']).next())
        .filter(|name| !name.is_empty() && !name.contains(['}', ' ']) && *name != "le")
        .collect();
    names.join(", ")
}

#[test]
fn every_field_of_the_access_line_is_described() {
    let source = include_str!("../../src/telemetry/access.rs");
    let (_, fields) = source.split_once("tracing::Level::$level,").unwrap();
    let (fields, _) = fields.split_once("\"access\"").unwrap();
    let code = fields
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.trim().to_owned())
        .collect();
    let page = page("log.md");
    let described: BTreeSet<String> = rows(&page, "field")
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    same("log.md", &described, &code);
    // the examples are real lines
    let examples = page
        .lines()
        .filter_map(|line| line.strip_prefix("    {"))
        .map(|line| serde_json::from_str::<serde_json::Value>(&format!("{{{line}")).unwrap());
    let mut shown = 0;
    for example in examples {
        for name in example.as_object().unwrap().keys() {
            let common = ["timestamp", "level", "message", "target"].contains(&name.as_str());
            assert!(
                common || described.contains(name),
                "the example has `{name}`"
            );
        }
        shown += 1;
    }
    assert!(shown >= 3, "an example of each role");
}
