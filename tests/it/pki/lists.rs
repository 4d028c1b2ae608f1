//! Revocation lists of other makes: which are used, which are refused by name, and which never
//! make an older one good again.

use std::{path::PathBuf, process::Command};

use super::{openssl, text};
use crate::world::{BINARY, Running, World};
use portcullis::pki::Role;

/// `openssl ca`, without a serial file; each section is a kind of list.
const CONFIG: &str = "[ca]\ndefault_ca=numbered\n\
    [numbered]\ndatabase=index\ncrlnumber=number\ndefault_md=sha256\ncrl_extensions=plain\n\
    [nameless]\ndatabase=index\ndefault_md=sha256\ncrl_extensions=plain\n\
    [first]\ndatabase=index\ndefault_md=sha256\n\
    [plain]\nauthorityKeyIdentifier=keyid\n\
    [delta]\nauthorityKeyIdentifier=keyid\n2.5.29.27=critical,ASN1:INTEGER:1\n\
    [indirect]\nauthorityKeyIdentifier=keyid\nissuingDistributionPoint=critical,@idp\n\
    [idp]\nindirectCRL=TRUE\n\
    [some]\nauthorityKeyIdentifier=keyid\nissuingDistributionPoint=critical,@idps\n\
    [idps]\nonlysomereasons=keyCompromise\n\
    [critical]\nauthorityKeyIdentifier=keyid\n1.2.3.4=critical,ASN1:UTF8String:x\n";

/// An acceptor whose issuing CA's list OpenSSL writes.
struct Lists {
    world: World,
    config: PathBuf,
}

impl Lists {
    fn new() -> Self {
        let world = World::new();
        world.write("ca.cnf", CONFIG);
        world.write("index", "");
        world.write("list.pem", "");
        let folder = world.authority.folder();
        let lists = format!(
            "trust = {:?}\ncrl = [{:?}, {:?}]\n",
            world.authority.trust(),
            world.path("list.pem"),
            folder.join("root/crl.pem")
        );
        let text = world.identity(&world.leaf(Role::Acceptor, "legacy"), "acceptor", &lists)
            + &world.acceptor_text(
                world.address(),
                "127.0.0.1:9",
                &format!("trusted_ips = [{:?}]", world.near()),
            );
        let config = world.write("acceptor.toml", &text);
        Self { world, config }
    }

    /// Writes a list of this kind, in force from this day of the year on, to the end of `to`.
    fn write(&self, kind: &[&str], from: &str, to: &str) {
        let issuing = self.world.authority.folder().join("issuing");
        let (ca, key) = (issuing.join("ca.pem"), issuing.join("ca.key"));
        self.write_by([text(&ca), text(&key)], kind, from, to);
    }

    fn write_by(&self, [ca, key]: [&str; 2], kind: &[&str], from: &str, to: &str) {
        let done = Command::new("openssl")
            .current_dir(self.world.path(""))
            .args(["ca", "-config", "ca.cnf", "-gencrl", "-out", "list.pem"])
            .args(["-cert", ca, "-keyfile", key])
            .args(["-crl_lastupdate", from, "-crl_nextupdate", to, "-name"])
            .args(kind)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
    }

    fn ask(&self, arguments: &[&str]) -> (bool, String) {
        let done = Command::new(BINARY)
            .env("STATE_DIRECTORY", self.world.path("state"))
            .args(arguments)
            .output()
            .unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8(said).unwrap())
    }

    fn check(&self) -> (bool, String) {
        self.ask(&["check", text(&self.config)])
    }

    /// What becomes of our gateway.
    fn explain(&self) -> String {
        let leaf = self.world.leaf(Role::Gateway, "edge-1");
        let from = self.world.ip().to_string();
        let ask = ["explain", text(&self.config), "--from", &from, "--cert"];
        self.ask(&[&ask[..], &[text(&leaf.certificate)]].concat()).1
    }
}

const PAST: &str = "20200101000000Z";
const FUTURE: &str = "20490101000000Z";

#[test]
fn lists_that_can_not_be_used_are_refused_by_name() {
    let lists = Lists::new();
    lists.world.write("number", "10\n");
    for (kind, said) in [
        (&["first"][..], "it is a version 1 CRL"),
        (
            &["numbered", "-crlexts", "delta"],
            "delta CRLs are not supported",
        ),
        (
            &["numbered", "-crlexts", "indirect"],
            "indirect CRLs are not supported",
        ),
        (
            &["numbered", "-crlexts", "some"],
            "for some reasons only are not supported",
        ),
        (
            &["numbered", "-crlexts", "critical"],
            "extensions are known: 1.2.3.4",
        ),
    ] {
        lists.write(kind, PAST, FUTURE);
        let (ok, heard) = lists.check();
        assert!(!ok && heard.contains(said), "{kind:?}: {heard}");
        assert!(
            heard.contains("list.pem") && heard.contains("acceptor.toml:"),
            "{heard}"
        );
    }
    for kind in ["numbered", "nameless"] {
        lists.write(&[kind], PAST, FUTURE);
        let heard = lists.explain();
        assert!(heard.contains("admitted by"), "{kind}: {heard}");
    }
    // overdue: said by `check`, and nobody of that issuer enters
    lists.write(&["numbered"], PAST, "20200201000000Z");
    let (ok, heard) = lists.check();
    assert!(
        ok && heard.contains("due for renewal at 2020-02-01"),
        "{heard}"
    );
    let heard = lists.explain();
    assert!(heard.contains("refused: crl_expired"), "{heard}");
    assert!(heard.contains("due for renewal at 2020-02-01"), "{heard}");
    let policy = std::fs::read_to_string(&lists.config).unwrap();
    let tolerant = policy.replacen("crl = ", "crl_policy = \"tolerate\"\ncrl = ", 1);
    lists.world.write("acceptor.toml", &tolerant);
    assert!(lists.explain().contains("admitted by"));
    // another's list says nothing of ours
    let at = |name: &str| text(&lists.world.path(name)).to_owned();
    let (key, ca) = (at("other.key"), at("other.pem"));
    let new = ["-newkey", "ed25519", "-nodes", "-subj", "/CN=other"];
    openssl(&[&["req", "-x509", "-keyout", &key, "-out", &ca], &new[..]].concat());
    lists.write_by([&ca, &key], &["numbered"], PAST, FUTURE);
    let heard = lists.explain();
    assert!(heard.contains("refused: revocation_unknown"), "{heard}");
    assert!(
        heard.contains("issuing CA") && heard.contains("serial"),
        "{heard}"
    );
}

#[test]
fn a_list_without_a_number_lets_no_number_go_back() {
    let lists = Lists::new();
    lists.world.write("number", "30\n");
    lists.write(&["numbered"], "20200101000000Z", FUTURE);
    drop(Running::start("acceptor", &lists.config));
    lists.write(&["nameless"], "20200102000000Z", FUTURE);
    drop(Running::start("acceptor", &lists.config));
    lists.world.write("number", "05\n");
    lists.write(&["numbered"], "20200103000000Z", FUTURE);
    let (ok, heard) = lists.check();
    assert!(
        !ok && heard.contains("its number 0x05 is lower than 0x30"),
        "{heard}"
    );
    lists.world.write("number", "31\n");
    lists.write(&["numbered"], "20200104000000Z", FUTURE);
    drop(Running::start("acceptor", &lists.config));
}
