//! The pages in docs/reference say what the code does: neither knows a word that the other lacks.

use std::{collections::BTreeSet, path::Path};

use portcullis::{
    admit::{Blame, Denial, Level},
    pki::Role,
    tls::ocsp::Reason,
};

use crate::{
    managed::{Served, on_its_host},
    world::{BINARY, Backend, World, run, until},
};

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
    let second = second_listener(&world, &backend);
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), &second);
    let health = "health = { interval = \"100ms\" }\n";
    let stapled = crate::ocsp::leaf_with_responder(&world, world.address());
    let more = format!(
        "[[listener.tls_certificate]]\ncertificate = {:?}\nkey = {:?}\n",
        stapled.certificate, stapled.key
    );
    // nobody is there to issue it
    let more = format!(
        "{more}\n[[listener]]\nname = \"ordered\"\naddress = \"{}\"\nmode = \"tcp\"\n\
         certificate = {{ acme = \"https://{}/dir\", domains = [\"a.test\"], trust = {:?} }}\n",
        world.address(),
        world.address(),
        world.authority.trust()
    );
    let (gateway, edge) = world.plain_gateway("tcp", link, &more, health);
    until("an order", || {
        (gateway.metric("portcullis_certificate_orders_total") > 0.0).then_some(())
    });
    drop(world.client().connect(edge, "site.test").unwrap());
    until("a check", || {
        (gateway.metric("portcullis_acceptor_healthy") > 0.0).then_some(())
    });
    gateway.reload();
    let served = Served::start(&world, "");
    let host = on_its_host(&world, Role::Gateway, "edge-2", &[], 90);
    let renewing = host.common(&world, "renewing", &served.source())
        + &world.gateway_text("tcp", world.address(), link, "", "");
    let renewing = world.start_as("gateway", "renewing", &renewing);
    until("a renewal and a look at the lists", || {
        let of = |what: &str| {
            renewing.metric(&format!(
                "portcullis_identity_{what}_total{{result=\"success\"}}"
            ))
        };
        (of("renewals") > 0.0 && of("refreshes") > 0.0).then_some(())
    });
    let mut code = BTreeSet::new();
    for role in [&gateway, &acceptor, &renewing, &served.process] {
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

/// A listener that asks requests for a secret.
fn second_listener(world: &World, backend: &Backend) -> String {
    world.write("secret", "correct-horse-battery");
    let second = world.acceptor_text_in(
        "http",
        world.address(),
        &backend.address.to_string(),
        "danger_any_source = true\n[[listener.require]]\nkind = \"header\"\nheader = \"X-S\"\n\
         secrets = [{ file = \"secret\" }]",
    );
    second.replace("\"legacy\"", "\"second\"")
}

#[test]
fn every_reason_of_an_ocsp_failure_is_described() {
    let page = rows(&page("configuration.md"), "reason")
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    let code = Reason::ALL.map(|reason| reason.code().to_owned());
    same("configuration.md", &page, &BTreeSet::from(code));
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

/// A configuration of a role whose only interesting line is this one, in this table.
fn one_line(role: &str, table: &str, line: &str) -> String {
    let (listener, rest) = match table {
        "[[listener]]" => (line, String::new()),
        _ => ("", format!("{table}\n{line}\n")),
    };
    let rest = rest.replace("[backend.NAME]", "[backend.x]");
    let (before, rest) = if table.is_empty() {
        (rest, String::new())
    } else {
        (String::new(), rest)
    };
    if role == "acceptor" {
        let backend = if listener.starts_with("backend =") {
            ""
        } else {
            "backend = \"127.0.0.1:1\"\n"
        };
        format!("{before}\n[[listener]]\n{backend}{listener}\n{rest}")
    } else {
        format!("{before}\n[[listener]]\n{listener}\n{rest}\n[[route]]\n")
    }
}

/// What the reader says of it.
fn judged(text: &str) -> String {
    portcullis::config::parse(text, Path::new("x.toml"))
        .err()
        .map_or_else(String::new, |problems| problems.to_string())
}

/// Role, table and keys of each section of the page.
fn sections(page: &str) -> Vec<(String, String, Vec<String>)> {
    page.split("\n#")
        .filter_map(|section| {
            let (head, _) = section.split_once('\n')?;
            let (role, table) = head.trim_start_matches('#').trim().split_once(": `")?;
            let keys = rows(section, "key").into_iter().map(|row| row[0].clone());
            Some((
                role.to_lowercase(),
                table.trim_end_matches('`').to_owned(),
                keys.collect(),
            ))
        })
        .collect()
}

#[test]
fn every_key_of_the_complete_examples_is_described() {
    let sections = sections(&page("configuration.md"));
    for (role, text) in [
        ("gateway", include_str!("../../config/gateway-full.toml")),
        ("acceptor", include_str!("../../config/acceptor-full.toml")),
    ] {
        let mut keys = Vec::new();
        collect("", &text.parse().unwrap(), &mut keys);
        assert!(keys.len() > 30, "{keys:?}");
        for (table, key) in keys {
            let described = sections.iter().any(|(of, name, described)| {
                (of == role || of == "both roles") && *name == table && described.contains(&key)
            });
            assert!(
                described,
                "{role}: `{key}` of {table} is not in configuration.md"
            );
        }
    }
}

/// Every key of a table with the heading that it belongs under.
fn collect(table: &str, keys: &toml::Table, into: &mut Vec<(String, String)>) {
    for (key, value) in keys {
        let list = value.as_array().into_iter().flatten();
        let tables: Vec<_> = list
            .chain([value])
            .filter_map(toml::Value::as_table)
            .collect();
        let heading = match (table, key.as_str()) {
            ("", "backend") => {
                for backend in tables[0].values().filter_map(toml::Value::as_table) {
                    collect("[backend.NAME]", backend, into);
                }
                continue;
            }
            ("", "listener" | "route") => format!("[[{key}]]"),
            ("[identity]", "trust_bundle") => "[[identity.trust_bundle]]".to_owned(),
            ("[[listener]]", "rule" | "require" | "tls_certificate") => {
                format!("[[listener.{key}]]")
            }
            ("" | "[[listener]]" | "[backend.NAME]", "tls" | "limits" | "identity") | ("", _) => {
                format!("[{key}]")
            }
            (_, "pool" | "health" | "backend_tls" | "proxy_protocol") if !tables.is_empty() => {
                for inner in tables[0].keys() {
                    into.push((table.to_owned(), format!("{key}.{inner}")));
                }
                continue;
            }
            _ => {
                into.push((table.to_owned(), key.clone()));
                continue;
            }
        };
        for inner in tables {
            collect(&heading, inner, into);
        }
    }
}

#[test]
fn every_described_key_is_known() {
    let sections = sections(&page("configuration.md"));
    assert!(sections.len() > 10);
    for (role, table, keys) in sections {
        let unknown = judged(&one_line(&role, &table, "zebra = 0"));
        assert!(
            unknown.contains("unknown key `zebra`"),
            "{table}: {unknown}"
        );
        for key in keys {
            let said = judged(&one_line(&role, &table, &format!("{key} = 0")));
            assert!(
                !said.contains("unknown key"),
                "{role} {table} {key}: {said}"
            );
        }
    }
}

#[test]
fn every_key_that_the_reader_asks_for_is_described() {
    let page = page("configuration.md");
    let sources = [
        include_str!("../../src/config/acceptor.rs"),
        include_str!("../../src/config/acme.rs"),
        include_str!("../../src/config/bound.rs"),
        include_str!("../../src/config/common.rs"),
        include_str!("../../src/config/identity.rs"),
        include_str!("../../src/config/proof.rs"),
        include_str!("../../src/config/require.rs"),
        include_str!("../../src/config/values.rs"),
        include_str!("../../src/config/gateway/mod.rs"),
        include_str!("../../src/config/gateway/backend.rs"),
        include_str!("../../src/config/gateway/credentials.rs"),
        include_str!("../../src/config/gateway/listener.rs"),
        include_str!("../../src/config/gateway/redirect.rs"),
        include_str!("../../src/config/gateway/route.rs"),
    ];
    let mut asked = BTreeSet::new();
    for source in sources {
        let source = source.split_whitespace().collect::<Vec<_>>().join(" ");
        for call in [
            ".get(", ".need(", ".flag(", "count(", "wait(", "bytes(", "later(&[",
        ] {
            for rest in source.split(call).skip(1) {
                let rest = rest.trim_start().trim_start_matches("&table, ");
                if let Some((key, _)) = rest.strip_prefix('"').and_then(|r| r.split_once('"')) {
                    asked.insert(key.to_owned());
                }
            }
        }
    }
    assert!(asked.len() > 80, "{asked:?}");
    let described = |key: &str| {
        [format!("`{key}`"), format!(".{key}`"), format!("{key} = ")]
            .iter()
            .any(|form| page.contains(form))
            || page.contains(&format!("`[{key}]`"))
            || page.contains(&format!("`[[{key}]]`"))
            || page.contains(&format!("`{key}."))
    };
    let missing: Vec<_> = asked.iter().filter(|key| !described(key)).collect();
    assert!(missing.is_empty(), "configuration.md lacks {missing:?}");
}

#[test]
fn what_is_not_supported_yet_says_so() {
    let rows = rows(&page("configuration.md"), "table");
    assert!(rows.len() > 5);
    for row in rows {
        let place = row[0].replace('`', "");
        let (role, table) = match place.strip_prefix("acceptor") {
            Some(table) => ("acceptor", table),
            None => ("gateway", place.trim_start_matches("gateway")),
        };
        let said = judged(&one_line(role, table.trim(), &row[1]));
        assert!(
            said.contains("not supported yet"),
            "{place} {}: {said}",
            row[1]
        );
    }
}

#[test]
fn every_command_and_option_is_described() {
    let page = page("cli.md");
    let (_, help) = run(BINARY, &["--help"]);
    let commands = commands(&help);
    let described = rows(&page, "command")
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    same("cli.md", &described, &commands);
    for command in &commands {
        let section = page
            .split("\n### ")
            .find(|section| {
                let head = section.lines().next().unwrap();
                head.split(", ").any(|name| name == command)
            })
            .unwrap_or_default();
        let (own, subcommands) = section.split_once("\n**").unwrap_or((section, ""));
        let help = run(BINARY, &[command, "--help"]).1;
        same_options(command, own, &help, &[]);
        if command != "pki" {
            continue;
        }
        for name in self::commands(&help) {
            let help = run(BINARY, &["pki", &name, "--help"]).1;
            if help.contains("(not supported yet)") {
                assert!(page.contains(&format!("`pki {name}`")), "pki {name}");
                continue;
            }
            let own = subcommands
                .split("\n**")
                .find(|part| {
                    let part = part.trim_start_matches('\n');
                    part.starts_with(&format!("pki {name}**"))
                        || part.starts_with(&format!("pki {name} "))
                })
                .unwrap_or_else(|| panic!("cli.md lacks pki {name}"));
            same_options(
                &format!("pki {name}"),
                own,
                &help,
                &["--dir", "--passphrase", "--passphrase-file"],
            );
        }
    }
}

/// The names under `Commands:`.
fn commands(help: &str) -> BTreeSet<String> {
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    list.lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

/// The options of a section of the page are those of the help.
fn same_options(command: &str, section: &str, help: &str, common: &[&str]) {
    let described: BTreeSet<String> = rows(section, "option")
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    let known: BTreeSet<String> = help
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with("--"))
        .filter_map(|line| line.split([' ', '\n']).next())
        .filter(|name| !common.contains(name))
        .map(str::to_owned)
        .collect();
    assert_eq!(described, known, "{command}: cli.md, then --help");
}

#[test]
fn every_field_of_the_status_is_described() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let second = second_listener(&world, &backend);
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), &second);
    let (gateway, _edge) = world.plain_gateway("tcp", link, "", "");
    let mut code = BTreeSet::new();
    for role in [&gateway, &acceptor] {
        let (_, text) = role.admin("/status.json").unwrap();
        fields("", &serde_json::from_str(&text).unwrap(), &mut code);
    }
    let page = rows(&page("status.md"), "field")
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    same("status.md", &page, &code);
}

/// The paths to every value; what is keyed by reasons is one value.
fn fields(path: &str, value: &serde_json::Value, into: &mut BTreeSet<String>) {
    if let (Some(map), false) = (value.as_object(), path.ends_with("denied_by_reason")) {
        for (key, value) in map {
            let dot = if path.is_empty() { "" } else { "." };
            fields(&format!("{path}{dot}{key}"), value, into);
        }
        return;
    }
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    if list.iter().any(serde_json::Value::is_object) {
        for value in list {
            fields(&format!("{path}[]"), value, into);
        }
    } else if !matches!(path, "backends" | "secrets") {
        // each belongs to one role
        into.insert(path.to_owned());
    }
}
