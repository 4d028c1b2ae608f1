use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::identity::PeerName;

const IDENTITY: &str =
    "[identity]\ncertificate = \"a.pem\"\nkey = \"a.key\"\ntrust = \"trust.pem\"\n";
const GATEWAY: &str = "[[listener]]\nname = \"public\"\naddress = \"0.0.0.0:8443\"\nmode = \"http\"\n\
    certificate = \"site.pem\"\nkey = \"site.key\"\n\
    [[route]]\nbackend = \"legacy\"\n[backend.legacy]\nacceptors = [\"10.0.4.7:9443\"]\n";
const ACCEPTOR: &str = "[[listener]]\naddress = \"0.0.0.0:9443\"\nmode = \"tcp\"\n\
    backend = \"127.0.0.1:8080\"\ntrusted_ips = [\"203.0.113.0/28\"]\n\
    gateways = [\"spiffe://example.internal/gateway/*\"]\n";

fn check(text: &str) -> Result<Config, Problems> {
    parse(text, Path::new("/etc/portcullis/x.toml"))
}

fn acceptor(text: &str) -> AcceptorConfig {
    match check(&format!("{IDENTITY}{text}")) {
        Ok(Config::Acceptor(config)) => config,
        Ok(other) => panic!("read as {}:\n{text}", other.role()),
        Err(problems) => panic!("{problems}"),
    }
}

fn gateway(text: &str) -> GatewayConfig {
    match check(&format!("{IDENTITY}{text}")) {
        Ok(Config::Gateway(config)) => config,
        Ok(other) => panic!("read as {}:\n{text}", other.role()),
        Err(problems) => panic!("{problems}"),
    }
}

/// The problems of a text that goes on after `[identity]`.
fn refused(text: &str) -> String {
    check(&format!("{IDENTITY}{text}"))
        .expect_err(text)
        .to_string()
}

fn here(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = std::fs::read_dir(here(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    list.sort();
    list
}

#[test]
fn every_example_is_valid_and_silent() {
    let list = files("config");
    assert!(list.len() >= 4);
    for path in list {
        let config = load(&path).unwrap_or_else(|problems| panic!("{problems}"));
        let gateway = path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("gateway");
        assert_eq!(
            matches!(config, Config::Gateway(_)),
            gateway,
            "{}",
            path.display()
        );
        assert_eq!(config.common().warnings, [""; 0], "{}", path.display());
        assert!(config.files().contains(&path));
    }
}

#[test]
fn what_no_request_can_be_is_an_error() {
    let swap = |from: &str, to: &str| refused(&GATEWAY.replace(from, to));
    let methods = swap("[[route]]\n", "[[route]]\nmethods = [\"*\"]\n");
    assert!(methods.contains("leave `methods` out"), "{methods}");
    for host in ["a.b:99999", "a b", "a.b:", "u@a.b", ""] {
        let to = format!("host_header = {host:?}\nacceptors =");
        let error = swap("acceptors =", &to);
        assert!(error.contains("or a host such as"), "{host}: {error}");
    }
    for host in ["a.b:8080", "[::1]:80", "10.0.0.1", "preserve"] {
        let to = format!("host_header = {host:?}\nacceptors =");
        gateway(&GATEWAY.replace("acceptors =", &to));
    }
}

/// Each file under `tests/fixtures/config` has its rendered problems beside it. To write them
/// anew after a change of words: `UPDATE_EXPECTED=1 cargo test`, then read the difference.
#[test]
fn every_invalid_file_is_refused_in_the_expected_words() {
    let list = files("tests/fixtures/config");
    assert!(list.len() >= 10);
    let mut wrong = String::new();
    for path in list {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap();
        let found = match parse(&text, Path::new(name)) {
            Ok(_) => "no problem\n".to_owned(),
            Err(problems) => format!("{problems}\n"),
        };
        let expected = path.with_extension("expected");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            #[expect(clippy::disallowed_methods, reason = "a fixture of the source tree")]
            std::fs::write(&expected, &found).unwrap();
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        if found != wanted {
            write!(wrong, "{}:\n{found}\n", name.display()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_smallest_files_of_both_roles_are_enough() {
    let config = gateway(GATEWAY);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].alpn, ["h2", "http/1.1"]);
    assert_eq!(config.listeners[0].limits.connections_per_ip, 1_000);
    let config = acceptor(ACCEPTOR);
    assert_eq!(config.listeners[0].limits.connections_per_ip, 0);
    assert_eq!(&*config.listeners[0].name, "0.0.0.0:9443");
    let common = &config.common;
    assert_eq!(
        common.identity.trust.as_deref(),
        Some(Path::new("/etc/portcullis/trust.pem"))
    );
    assert_eq!(
        common.warnings.len(),
        1,
        "that there is no CRL is said: {:?}",
        common.warnings
    );
    let names = ["a.key", "a.pem", "trust.pem", "x.toml"];
    let all: Vec<PathBuf> = names
        .iter()
        .map(|name| here("/etc/portcullis").join(name))
        .collect();
    assert_eq!(common.files(), all);
}

#[test]
fn a_problem_has_its_place_and_the_nearest_word() {
    let error = check(&format!("{IDENTITY}{ACCEPTOR}untrusted_ip = []\n")).unwrap_err();
    let [problem] = error.list.as_slice() else {
        panic!("{error}")
    };
    assert_eq!((problem.line, problem.column), (11, 1));
    assert_eq!(problem.suggestion.as_deref(), Some("untrusted_ips"));
    let shown = error.to_string();
    assert!(shown.contains("--> /etc/portcullis/x.toml:11:1"), "{shown}");
    assert!(shown.contains("^^^^^^^^^^^^\n"), "{shown}");
    assert!(
        error.render(true).contains("\u{1b}["),
        "colour where it is asked for"
    );
    assert!(!shown.contains('\u{1b}'));
}

#[test]
fn a_file_that_is_named_has_a_place_for_later_problems() {
    let config = acceptor(ACCEPTOR);
    let source = &config.common.source;
    let key = Path::new("/etc/portcullis/a.key");
    let problem = source.problem_with(key, "no such file", "");
    assert_eq!((problem.line, problem.column), (3, 7));
    assert!(problem.render(source, false).contains("key = \"a.key\""));
}

#[test]
fn what_is_absent_or_empty_admits_nobody() {
    let swap = |from: &str, to: &str| refused(&ACCEPTOR.replace(from, to));
    let trusted = "trusted_ips = [\"203.0.113.0/28\"]\n";
    let gateways = "gateways = [\"spiffe://example.internal/gateway/*\"]\n";
    for (error, part) in [
        (swap(trusted, ""), "`trusted_ips` is missing"),
        (
            swap(trusted, "trusted_ips = []\n"),
            "`trusted_ips` admits nobody",
        ),
        (
            swap(trusted, "trusted_ips = [\"0.0.0.0/0\"]\n"),
            "0.0.0.0/0 is everybody",
        ),
        (
            swap(trusted, "trusted_ips = [\"::/0\"]\n"),
            "::/0 is everybody",
        ),
        (
            swap(trusted, "trusted_ips = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\n"),
            "the networks of `trusted_ips` together are everybody",
        ),
        (
            swap(trusted, "trusted_ips = [\"::ffff:0:0/96\"]\n"),
            "the networks of `trusted_ips` together are everybody",
        ),
        (
            swap(trusted, "danger_any_source = false\n"),
            "`trusted_ips` is missing",
        ),
        (swap(gateways, ""), "needs `gateways`"),
        (swap(gateways, "gateways = []\n"), "`gateways` names nobody"),
        (swap("127.0.0.1:8080", "10.0.0.1:8080"), "another host"),
        (
            swap("127.0.0.1:8080", "backend.internal:8080"),
            "another host",
        ),
        (swap(trusted, "rule = []\n"), "beside [[listener.rule]]"),
    ] {
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    for (list, part) in [
        ("\"0.0.0.0/0\"", "0.0.0.0/0 is everybody"),
        ("\"::/0\"", "::/0 is everybody"),
        (
            "\"10.0.0.0/8\", \"0.0.0.0/1\", \"128.0.0.0/1\"",
            "together are everybody",
        ),
    ] {
        for key in [
            "trusted_proxies = [LIST]",
            "proxy_protocol = { from = [LIST] }",
        ] {
            let line = format!("{}\nmode =", key.replace("LIST", list));
            let error = refused(&GATEWAY.replace("mode =", &line));
            assert!(error.contains(part), "{part} is not in\n{error}");
            assert!(error.contains("x.toml:8:"), "{error}");
        }
    }
    let clients = GATEWAY.replace("mode =", "client_ca = \"c.pem\"\nmode =");
    assert!(refused(&clients).contains("`client_ca` needs `clients`"));
    let empty = clients.replace("mode =", "clients = []\nmode =");
    assert!(refused(&empty).contains("`clients` names nobody"));
    let alone = IDENTITY.replace("trust = \"trust.pem\"\n", "pinned = []\n");
    let error = check(&format!("{alone}{ACCEPTOR}"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("trusts nobody"), "{error}");
}

#[test]
fn what_opens_a_door_is_said_at_every_start() {
    let text = ACCEPTOR
        .replace(
            "trusted_ips = [\"203.0.113.0/28\"]",
            "danger_any_source = true",
        )
        .replace("127.0.0.1:8080", "10.0.0.1:8080")
        .replace("mode =", "danger_plaintext_backend = true\nmode =");
    let admin = "[admin]\naddress = \"127.0.0.1:9\"\ndanger_short_secret = true\n\
        token = { env = \"T\" }\n";
    let warnings = acceptor(&format!("{text}{admin}")).common.warnings;
    for key in [
        "danger_any_source",
        "danger_plaintext_backend",
        "danger_short_secret",
        "identity.crl",
    ] {
        assert_eq!(
            warnings.iter().filter(|w| w.contains(key)).count(),
            1,
            "{key}: {warnings:?}"
        );
    }
    let text = GATEWAY
        .replace(
            "mode =",
            "client_ca = \"c.pem\"\ndanger_any_client = true\nallow = []\nmode =",
        )
        .replace("acceptors =", "acceptor_ids = []\nacceptors =");
    let config = gateway(&text);
    for key in ["danger_any_client", "client_crl", "`allow`", "acceptor_ids"] {
        let all = &config.common.warnings;
        assert_eq!(
            all.iter().filter(|w| w.contains(key)).count(),
            1,
            "{key}: {all:?}"
        );
    }
    // written and empty: nobody, not everybody
    assert_eq!(config.listeners[0].allow, Some(NetworkList::default()));
    assert_eq!(
        config.backends["legacy"].acceptor_ids,
        Some(Default::default())
    );
}

#[test]
fn a_nearer_table_wins_key_by_key() {
    let text = format!(
        "{}[listener.limits]\nconnections = 5\n[listener.tls]\nciphers = [\"aes256-gcm\"]\n\
         [limits]\nconnections = 7\nhandshakes = 3\n[tls]\nmin_version = \"1.2\"\n",
        ACCEPTOR
    );
    let listener = &acceptor(&text).listeners[0];
    assert_eq!(
        (listener.limits.connections, listener.limits.handshakes),
        (5, 3)
    );
    assert_eq!(listener.tls.min_version, Some(TlsVersion::V1_2));
    assert_eq!(listener.tls.ciphers, [Cipher::Aes256Gcm]);
    assert_eq!(listener.tls.key_exchange.len(), 3);
}

#[test]
fn a_pin_is_named_by_its_file() {
    let text = GATEWAY.replace("mode =", "client_pinned = [\"p.pem\"]\nmode =");
    let config = gateway(&text);
    let auth = config.listeners[0].client_auth.as_ref().unwrap();
    let pin = PeerName::Pinned {
        file: "/etc/portcullis/p.pem".into(),
        fingerprint: None,
    };
    assert_eq!(
        auth.clients.as_ref().unwrap().0,
        [pin],
        "pins alone say who may enter"
    );
    let other = text.replace("mode =", "clients = [\"pinned:q.pem\"]\nmode =");
    assert!(refused(&other).contains("not one of the pinned certificates"));
}

#[test]
fn later_routes_that_are_left_something_are_fine() {
    for more in [
        "host = \"a.example\"\n[[route]]\nbackend = \"legacy\"\n",
        "path = \"/a/\"\n[[route]]\nbackend = \"legacy\"\npath = \"/ab\"\n",
        "methods = [\"GET\"]\n[[route]]\nbackend = \"legacy\"\nmethods = [\"GET\", \"POST\"]\n",
        "host = \"*.a.example\"\n[[route]]\nbackend = \"legacy\"\nhost = \"a.example\"\n",
        "host = \"a.example\"\n[[route]]\nbackend = \"legacy\"\nhost = [\"a.example\", \"b\"]\n",
    ] {
        let route = "[[route]]\nbackend = \"legacy\"\n";
        let text = GATEWAY.replace(route, &format!("{route}{more}"));
        assert_eq!(gateway(&text).routes.len(), 2, "{text}");
    }
}

#[test]
fn what_may_be_a_secret_is_never_shown() {
    for line in [
        "key_passphrase = \"hunter2 éé\"\nmod",
        "passwd = \"hunter2\"\nmod",
        "key_passphrase = { value = \"hunter2\" }\nmod",
        "credentials = { bearer = \"hunter2\" }\nmod",
        "tokens = [\"hunter2\"]\nmod",
    ] {
        let text = format!("{IDENTITY}{}", GATEWAY.replace("mod", line));
        let error = check(&text).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(error.to_string().contains("****"), "{error}");
        assert_eq!(error.source.text.len(), text.len());
    }
}

#[test]
fn a_file_that_is_not_there_or_no_text_is_one_problem() {
    let problems = load(Path::new("/nowhere/x.toml")).unwrap_err();
    assert_eq!(problems.list.len(), 1);
    assert!(
        problems.to_string().contains("/nowhere/x.toml"),
        "{problems}"
    );
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(
        text in "(\\PC|\n|\r|\t){0,60}", at in 0usize..900, bite in 0usize..40, role in any::<bool>(),
    ) {
        drop(check(&text).map_err(|problems| problems.to_string()));
        let mut whole = format!("{IDENTITY}{}", if role { GATEWAY } else { ACCEPTOR });
        let at = at.min(whole.len());
        let end = (at + bite).min(whole.len());
        whole.replace_range(at..end, &text);
        drop(check(&whole).map_err(|problems| problems.render(true)));
    }

    #[test]
    fn any_value_in_any_key_is_taken_or_explained(
        line in 0usize..18, value in "(\"[a-z0-9:/.*-]{0,12}\"|-?[0-9]{1,20}|true|\\[\\]|\\{\\}|\\[1, \"a\"\\]|1.5|1979-05-27)",
    ) {
        for role in [GATEWAY, ACCEPTOR] {
            let whole = format!("{IDENTITY}{role}");
            let lines: Vec<String> = whole
                .lines()
                .enumerate()
                .map(|(at, text)| match text.split_once(" = ") {
                    Some((key, _)) if at == line => format!("{key} = {value}"),
                    _ => text.to_owned(),
                })
                .collect();
            if let Err(problems) = check(&lines.join("\n")) {
                prop_assert!(problems.list.iter().all(|p| p.line > 0), "{}", problems);
            }
        }
    }
}
