//! A list of 100,000 entries: no lookup walks through it.

use std::time::{Duration, Instant};

use rcgen::{RevokedCertParams, SerialNumber};
use rustls_pki_types::CertificateDer;

use super::mint::*;
use crate::{
    admit::Denial,
    identity::UnixSeconds,
    tls::{Generation, LinkRole, Usage},
};

const LARGE: usize = 100_000;
/// A list that is walked through costs a hundred times as much as one of a hundredth.
const SMALL: usize = LARGE / 100;
const GENEROUS: u32 = 20;

/// The list, with one serial number of ours at its end.
fn list(ca: &Ca, entries: usize, ours: &[u8]) -> String {
    let mut params = ca.crl_params(9, &[], 7);
    let serials = (1..entries).map(|at| {
        // 20 octets, as authorities make them
        let mut serial = [0x5a; 20];
        serial[12..].copy_from_slice(&(at as u64).to_be_bytes());
        SerialNumber::from_slice(&serial)
    });
    params.revoked_certs = serials
        .chain([SerialNumber::from_slice(ours)])
        .map(|serial_number| RevokedCertParams {
            serial_number,
            revocation_time: params.this_update,
            reason_code: None,
            invalidity_date: None,
        })
        .collect();
    params.signed_by(&ca.issuer).unwrap().pem().unwrap()
}

/// The least of three rounds: the machine may be busy.
fn least(mut round: impl FnMut()) -> Duration {
    let rounds = (0..3).map(|_| {
        let begun = Instant::now();
        round();
        begun.elapsed()
    });
    rounds.min().unwrap()
}

#[test]
fn a_lookup_costs_the_same_in_a_list_of_100_000() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    let own = ca.leaf(server("own.internal"));
    let (good, bad) = (
        ca.leaf(client("good.internal")),
        ca.leaf(client("bad.internal")),
    );
    let load = |entries: usize| {
        let mut identity = folder.identity("own", &own, &[], &[&ca]);
        identity.revocation = Some(folder.revocation(&[list(&ca, entries, &bad.serial)]));
        let load = || Generation::load(&identity, &options(), LinkRole::Acceptor, None, now());
        let begun = Instant::now();
        let generation = load().unwrap();
        (generation, begun.elapsed())
    };
    let (large, took) = load(LARGE);
    let (small, _) = load(SMALL);
    // seconds, not minutes: parsing is linear
    assert!(took < Duration::from_secs(30), "{took:?}");
    let crl = |generation: &Generation| generation.verification.crls().unwrap().lists()[0].revoked;
    assert_eq!((crl(&large), crl(&small)), (LARGE, SMALL));

    let lookups = |generation: &Generation| {
        let list = &generation.verification.crls().unwrap().lists()[0].list;
        least(|| {
            for _ in 0..2_000 {
                assert!(list.find_serial(&good.serial).unwrap().is_none());
                assert!(list.find_serial(&bad.serial).unwrap().is_some());
            }
        })
    };
    let (many, few) = (lookups(&large), lookups(&small));
    assert!(
        many < few * GENEROUS,
        "{many:?} for {LARGE}, {few:?} for {SMALL}"
    );

    // as a reload does with every live connection
    let chain = [CertificateDer::from(good.der.clone())];
    let revoked = [CertificateDer::from(bad.der.clone())];
    let judged = |generation: &Generation, now: UnixSeconds| {
        least(|| {
            for _ in 0..100 {
                let prove = |chain: &[CertificateDer<'_>]| {
                    generation
                        .verification
                        .prove_again(chain, Usage::ClientAuth, now)
                };
                prove(&chain).unwrap();
                let denied = prove(&revoked).unwrap_err();
                assert_eq!(denied.reason, Denial::CertificateRevoked);
            }
        })
    };
    let (many, few) = (judged(&large, now()), judged(&small, now()));
    assert!(
        many < few * GENEROUS,
        "{many:?} for {LARGE}, {few:?} for {SMALL}"
    );
}
