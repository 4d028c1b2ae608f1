use proptest::prelude::*;

use super::*;

const IDENTITY: &str =
    "[identity]\ncertificate = \"a.pem\"\nkey = \"a.key\"\ntrust = \"trust.pem\"\n";
const GATEWAY: &str = "[[listener]]\nname = \"public\"\naddress = \"0.0.0.0:8443\"\nmode = \"http\"\ncertificate = \"site.pem\"\nkey = \"site.key\"\n\
    [[route]]\nbackend = \"legacy\"\n[backend.legacy]\nacceptors = [\"10.0.4.7:9443\"]\n";
const ACCEPTOR: &str = "[[listener]]\naddress = \"0.0.0.0:9443\"\nmode = \"tcp\"\nbackend = \"127.0.0.1:8080\"\n\
    trusted_ips = [\"203.0.113.0/28\"]\ngateways = [\"spiffe://example.internal/gateway/*\"]\n";

fn check(text: &str) -> Result<Config, String> {
    parse(text, Path::new("/etc/portcullis/x.toml")).map_err(|problems| problems.to_string())
}

fn gateway(more: &str) -> Result<Config, String> {
    check(&format!("{IDENTITY}{GATEWAY}{more}"))
}

fn acceptor(more: &str) -> Result<Config, String> {
    check(&format!("{IDENTITY}{ACCEPTOR}{more}"))
}

#[test]
fn the_smallest_files_of_both_roles_are_enough() {
    assert!(
        matches!(gateway(""), Ok(Config::Gateway(_))),
        "{:?}",
        gateway("")
    );
    let Ok(Config::Acceptor(config)) = acceptor("") else {
        panic!("{:?}", acceptor(""))
    };
    assert_eq!(
        config.common.identity.trust.as_deref(),
        Some(Path::new("/etc/portcullis/trust.pem"))
    );
    assert_eq!(config.common.warnings.len(), 1, "no CRL is said");
}

#[test]
fn an_unknown_key_names_the_nearest_and_its_place() {
    let error = acceptor("trusted_ip = []\n").unwrap_err();
    assert!(
        error.starts_with("/etc/portcullis/x.toml:11:1: unknown key `trusted_ip` in [[listener]]"),
        "{error}"
    );
    assert!(
        error.contains("^^^^^^^^^^\n") && error.contains("did you mean `trusted_ips`?"),
        "{error}"
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let error = check(
        "[identity]\ncertificate = 1\nkey = \"a.key\"\ntrust = \"t\"\nfoo = 1\n[limits]\nidle_timeout = \"1\"\n\
         [[listener]]\naddress = \"nowhere\"\nmode = \"udp\"\nbackend = \"127.0.0.1:8080\"\n",
    )
    .unwrap_err();
    for part in [
        "`certificate` is an integer",
        "unknown key `foo`",
        "`idle_timeout` can't be \"1\"",
        "`address` can't be",
        "`mode` can't be \"udp\"",
        "needs `trusted_ips`",
    ] {
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
}

#[test]
fn what_would_open_a_door_is_refused() {
    for (text, part) in [
        (
            ACCEPTOR.replace("[\"203.0.113.0/28\"]", "[]"),
            "`trusted_ips` admits nobody",
        ),
        (
            ACCEPTOR.replace("trusted_ips = [\"203.0.113.0/28\"]\n", ""),
            "needs `trusted_ips`",
        ),
        (
            ACCEPTOR.replace("[\"spiffe://example.internal/gateway/*\"]", "[]"),
            "`gateways` names nobody",
        ),
        (
            ACCEPTOR.replace("gateways = [\"spiffe://example.internal/gateway/*\"]\n", ""),
            "needs `gateways`",
        ),
        (
            ACCEPTOR.replace("127.0.0.1:8080", "10.0.0.1:8080"),
            "another host",
        ),
        (
            ACCEPTOR.replace("203.0.113.0/28", "203.0.113.1/28"),
            "is no network",
        ),
        (
            GATEWAY.replace(
                "key = \"site.key\"\n",
                "key = \"site.key\"\nclient_ca = \"c.pem\"\n",
            ),
            "`client_ca` needs `clients`",
        ),
        (
            format!("{GATEWAY}[admin]\naddress = \"0.0.0.0:9\"\n"),
            "beyond loopback",
        ),
    ] {
        let error = check(&format!("{IDENTITY}{text}")).unwrap_err();
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    let untrusting = IDENTITY.replace("trust = \"trust.pem\"\n", "");
    assert!(
        check(&format!("{untrusting}{ACCEPTOR}"))
            .unwrap_err()
            .contains("trusts nobody")
    );
}

#[test]
fn what_opens_a_door_is_said() {
    let text = ACCEPTOR
        .replace(
            "trusted_ips = [\"203.0.113.0/28\"]",
            "danger_any_source = true\ndanger_plaintext_backend = true",
        )
        .replace("127.0.0.1:8080", "10.0.0.1:8080");
    let Ok(Config::Acceptor(config)) = check(&format!("{IDENTITY}{text}")) else {
        panic!()
    };
    for danger in ["danger_any_source", "danger_plaintext_backend", "crl"] {
        assert!(
            config.common.warnings.iter().any(|w| w.contains(danger)),
            "{danger}"
        );
    }
}

#[test]
fn routes_that_can_never_match_or_lead_nowhere_are_errors() {
    for (more, part) in [
        (
            "[[route]]\nbackend = \"legacy\"\npath = \"/a\"\n",
            "can never match",
        ),
        ("[[route]]\nbackend = \"legcy\"\n", "did you mean `legacy`?"),
        (
            "[[route]]\nbackend = \"legacy\"\nlistener = \"pubic\"\n",
            "did you mean `public`?",
        ),
    ] {
        let error = gateway(more).unwrap_err();
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
    let tcp = GATEWAY
        .replace("\"http\"", "\"tcp\"")
        .replace("[[route]]\n", "[[route]]\npath = \"/x\"\n");
    assert!(
        check(&format!("{IDENTITY}{tcp}"))
            .unwrap_err()
            .contains("on a route of a tcp listener")
    );
}

#[test]
fn clashing_addresses_are_found() {
    let second = ACCEPTOR.replace("0.0.0.0:9443", "127.0.0.1:9443");
    let error = acceptor(&second).unwrap_err();
    assert!(
        error.contains("127.0.0.1:9443 clashes with 0.0.0.0:9443"),
        "{error}"
    );
}

#[test]
fn what_comes_later_is_refused_by_name() {
    for (text, part) in [
        (
            GATEWAY.replace("acceptors =", "tunnel = \"mux\"\nacceptors ="),
            "`tunnel = \"mux\"` is not supported yet",
        ),
        (
            format!("{GATEWAY}[backend.legacy.credentials]\n"),
            "`credentials` is not supported yet",
        ),
        (ACCEPTOR.replace("\"tcp\"", "\"http\""), "not supported yet"),
    ] {
        let error = check(&format!("{IDENTITY}{text}")).unwrap_err();
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
}

#[test]
fn a_file_with_the_marks_of_both_roles_or_none_is_refused() {
    assert!(
        check(&format!("{IDENTITY}{ACCEPTOR}[[route]]\nbackend = \"x\"\n"))
            .unwrap_err()
            .contains("both")
    );
    assert!(check("").unwrap_err().contains("neither"));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*", at in 0usize..600, bite in 0usize..40) {
        drop(check(&text));
        let mut whole = format!("{IDENTITY}{GATEWAY}");
        let at = at.min(whole.len());
        let end = (at + bite).min(whole.len());
        whole.replace_range(at..end, &text);
        drop(check(&whole));
    }
}
