//! A list of 100,000 revoked certificates, from `pki serve` to a live acceptor.

use std::time::{Duration, Instant};

use portcullis::pki::{IssueRequest, Role};
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{Host, Served};
use crate::world::{Backend, Leaf, World, answers, until};

const ENTRIES: u64 = 100_000;
/// In MiB: what it may cost beyond what the process has without it, with allocators' leftovers.
const MEMORY: u64 = 200;

fn serial(leaf: &Leaf) -> SerialNumber {
    let der = CertificateDer::from_pem_file(&leaf.certificate).unwrap();
    let facts = portcullis::identity::CertFacts::read(&der).unwrap();
    SerialNumber::from(facts.serial.0)
}

/// The issuing CA's list with so many strangers and one of ours; the root's as it is.
fn publish(world: &World, ours: &Leaf) {
    let folder = world.authority.folder();
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let key = KeyPair::from_pem(&read("issuing/ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("issuing/ca.pem"), key).unwrap();
    let now = time::OffsetDateTime::from_unix_timestamp(super::now()).unwrap();
    let strangers = (0..ENTRIES).map(|at| {
        let mut serial = [0x11; 20];
        serial[12..].copy_from_slice(&at.to_be_bytes());
        SerialNumber::from_slice(&serial)
    });
    let revoked_certs = strangers
        .chain([serial(ours)])
        .map(|serial_number| RevokedCertParams {
            serial_number,
            revocation_time: now,
            reason_code: Some(rcgen::RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
    let list = CertificateRevocationListParams {
        this_update: now,
        next_update: now + time::Duration::days(30),
        crl_number: SerialNumber::from(1_000_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&issuer).unwrap().pem().unwrap();
    let both = list + &read("root/crl.pem");
    portcullis::pki::store::write_file(&world.authority.crl(), both.as_bytes(), 0o644).unwrap();
}

#[test]
fn a_list_of_100_000_arrives_and_stalls_nobody() {
    let world = World::new();
    let served = Served::start(&world, "");
    let host = Host::new(
        &world,
        "acceptor-host",
        &world.leaf(Role::Acceptor, "legacy"),
    );
    let bad = world.issue_as(&IssueRequest::new(Role::Gateway, "edge-2"));
    let backend = Backend::echo(world.address());
    let link = world.address();
    let text = host.common(&world, "acceptor", &served.source())
        + &world.acceptor_text_in(
            "tcp",
            link,
            &backend.address.to_string(),
            &format!("trusted_ips = [{:?}]\n", world.near()),
        );
    let acceptor = world.start("acceptor", &text);
    let before = acceptor.resident();
    let connect = |leaf: &Leaf| {
        let client = world.client().certificate(leaf).source(world.ip());
        let mut stream = client.connect(link, "legacy.internal").ok()?;
        answers(&mut stream).then_some(stream)
    };
    let good = world.leaf(Role::Gateway, "edge-1");
    let mut goes_on = connect(&good).unwrap();
    let mut ends = connect(&bad).unwrap();

    publish(&world, &bad);
    // while it comes, is read and comes into force, every word is answered
    let (mut words, mut longest) = (0, Duration::ZERO);
    until("the list in force", || {
        let asked = Instant::now();
        assert!(answers(&mut goes_on));
        longest = longest.max(asked.elapsed());
        words += 1;
        let cut =
            acceptor.count(|line| line["decision"] == "ended" && line["reason"] == "rules_changed");
        (cut > 0).then_some(())
    });
    assert!(!answers(&mut ends));
    assert!(
        words > 5 && longest < Duration::from_secs(5),
        "{words} {longest:?}"
    );
    let published = std::fs::read(world.authority.crl()).unwrap();
    assert!(published.len() > 4 << 20, "{}", published.len());
    assert_eq!(std::fs::read(&host.crl).unwrap(), published);

    assert!(connect(&good).is_some() && answers(&mut goes_on));
    assert!(connect(&bad).is_none());
    acceptor.refused("legacy", "certificate_revoked");
    let grown = acceptor.resident().saturating_sub(before);
    assert!(grown < MEMORY, "{grown} MiB");
    // and the next one too, while it has this
    let (_, ready) = served.process.admin("/readyz?verbose").unwrap();
    assert!(!ready.contains("fail"), "{ready}");
}
