//! The newcomer's first command.

use std::process::Command;

use crate::world::run;

#[test]
fn every_proof_holds() {
    let (ok, said) = run(
        env!("CARGO_BIN_EXE_portcullis"),
        &["demo", "--once", "--address", "127.0.0.1:0"],
    );
    assert!(ok, "{said}");
    assert!(said.contains("7 of 7 proofs are as they must be"), "{said}");
    for reason in [
        "certificate_missing",
        "certificate_unknown_issuer",
        "certificate_wrong_role",
        "certificate_revoked",
        "certificate_expired",
        "source_untrusted",
    ] {
        assert!(said.contains(reason), "{reason} is missing in {said}");
    }
    assert_eq!(
        said.matches("the backend saw no connection").count(),
        6,
        "{said}"
    );
}

#[test]
fn an_address_in_use_is_one_clear_error() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let done = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["demo", "--once", "--address", &address])
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(1));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        said.contains(&address) && said.contains("--address"),
        "{said}"
    );
    assert!(done.stdout.is_empty());
}
