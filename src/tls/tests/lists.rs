//! What a load finds wrong with revocation lists.

use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{loading::*, mint::*};
use crate::{
    config::Identity,
    tls::{Generation, LinkRole, Usage},
};

#[test]
fn crls_never_go_backwards() {
    let folder = Folder::new();
    let (ca, mut identity) = good(&folder);
    let load_after = |identity: &Identity, previous: Option<&Generation>| {
        Generation::load(identity, &options(), LinkRole::Gateway, previous, now())
    };
    identity.revocation = Some(folder.revocation(&[ca.crl(300, &[])]));
    let first = load_after(&identity, None).unwrap();
    identity.revocation = Some(folder.revocation(&[ca.crl(299, &[])]));
    let found = load_after(&identity, Some(&first)).unwrap_err();
    assert_error(&found, &["0.crl", "0x012b is lower than 0x012c"]);
    for number in [300, 301, 70_000] {
        identity.revocation = Some(folder.revocation(&[ca.crl(number, &[])]));
        assert!(load_after(&identity, Some(&first)).is_ok());
    }
    // the old file beside the new one is fine
    identity.revocation = Some(folder.revocation(&[ca.crl(1, &[]), ca.crl(300, &[])]));
    assert!(load_after(&identity, Some(&first)).is_ok());

    // the same number does not make an older list a newer one
    let issued = |days: i64| {
        let mut params = ca.crl_params(300, &[], 7);
        params.this_update += time::Duration::days(days);
        let list = params.signed_by(&ca.issuer).unwrap();
        list.pem().unwrap()
    };
    identity.revocation = Some(folder.revocation(&[issued(-1)]));
    let found = load_after(&identity, Some(&first)).unwrap_err();
    assert_error(&found, &["0.crl", "issued before", "0x012c"]);
    for order in [[-1, 1], [1, -1]] {
        identity.revocation = Some(folder.revocation(&order.map(issued)));
        let newest = load_after(&identity, Some(&first)).unwrap();
        let lists = newest.verification.crls().unwrap().lists();
        let dates: Vec<_> = lists.iter().map(|list| list.this_update).collect();
        assert_eq!(dates, [in_days(-6)]);
    }
}

/// A list with a high number that names the key of `ca`, signed by another.
fn forged(folder: &Folder, ca: &Ca, name: &str) -> String {
    let real = crate::tls::crl::read(&folder.write("real.crl", ca.crl(1, &[]))).unwrap();
    let impostor = Ca::root(name);
    let mut params = impostor.crl_params(1 << 40, &[], 7);
    let id = real[0].line.key().unwrap().clone();
    params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(id);
    params.signed_by(&impostor.issuer).unwrap().pem().unwrap()
}

#[test]
fn of_two_roots_with_one_name_and_key_identifier_either_may_sign() {
    let folder = Folder::new();
    let above = Ca::root("above");
    let same_id = |p: &mut rcgen::CertificateParams| {
        p.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![7; 20]);
    };
    let [old, new, stranger] = [(); 3].map(|()| above.below_with("root", same_id));
    let own = old.leaf(client("edge.internal"));
    let mut identity = folder.identity("own", &own, &[&old], &[&old, &new]);
    let mut load_after = |ca: &Ca, number: u64, previous: Option<&Generation>| {
        let mut params = ca.crl_params(number, &[], 7);
        params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![7; 20]);
        let list = params.signed_by(&ca.issuer).unwrap().pem().unwrap();
        identity.revocation = Some(folder.revocation(&[list]));
        Generation::load(&identity, &options(), LinkRole::Gateway, previous, now())
    };
    let first = load_after(&old, 1, None).unwrap();
    // the key was changed, and its identifier was not
    let second = load_after(&new, 2, Some(&first)).unwrap();
    assert!(load_after(&stranger, 3, Some(&second)).is_err());
    load_after(&old, 3, Some(&second)).unwrap();
}

#[test]
fn a_list_that_anybody_wrote_takes_nothing_out_of_force() {
    let folder = Folder::new();
    let root = Ca::root("root");
    let (ours, theirs) = (root.below("ours"), root.below("theirs"));
    let own = ours.leaf(client("edge.internal"));
    let mut identity = folder.identity("own", &own, &[&ours], &[&root]);
    let mut load_after = |lists: &[String], previous: Option<&Generation>| {
        identity.revocation = Some(folder.revocation(lists));
        Generation::load(&identity, &options(), LinkRole::Gateway, previous, now())
    };
    let real = |number: u64| [&root, &ours, &theirs].map(|ca| ca.crl(number, &[]));
    // of the CAs above us it is told at once
    for (at, name) in [(0, "root"), (1, "ours")] {
        let mut lists = real(7);
        lists[at] = forged(&folder, [&root, &ours][at], name);
        let found = load_after(&lists, None).unwrap_err();
        let said = found.iter().map(ToString::to_string).collect::<String>();
        assert!(said.contains("not signed by"), "{said}");
    }
    // of another once a peer has come with its chain, reloads in between included
    let first = load_after(&real(7), None).unwrap();
    let above = CertificateDer::from_pem_slice(theirs.pem.as_bytes()).unwrap();
    let peer = CertificateDer::from(theirs.leaf(server("legacy.internal")).der);
    let proven = (first.verification).prove(&peer, &[above], Usage::ServerAuth, now());
    assert!(proven.is_ok(), "{proven:?}");
    let second = load_after(&real(8), Some(&first)).unwrap();
    let mut lists = real(9);
    lists[2] = forged(&folder, &theirs, "theirs");
    let found = load_after(&lists, Some(&second)).unwrap_err();
    assert_error(&found, &["2.crl", "CN=theirs", "not signed by"]);
    assert!(load_after(&real(9), Some(&second)).is_ok());
}

#[test]
fn crls_that_are_no_help_are_refused() {
    let folder = Folder::new();
    let (ca, mut identity) = good(&folder);
    let mut check = |content: &str, words: &[&str]| {
        identity.revocation = Some(folder.revocation(&[content.to_owned()]));
        assert_error(&errors(&identity), words);
    };
    check("", &["0.crl", "CRL"]);
    check(&ca.pem, &["0.crl", "no CRL in it"]);
    check(
        "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n",
        &["0.crl", "can't be used"],
    );
    // a root's list that is not signed by it
    let impostor = Ca::root("root");
    check(&impostor.crl(5, &[]), &["CN=root", "not signed by its key"]);
}

#[test]
fn der_crls_and_several_in_a_file_load() {
    use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject};
    let folder = Folder::new();
    let (ca, mut identity) = good(&folder);
    let pem = ca.crl(4, &[]);
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut revocation =
        folder.revocation(&[format!("{}{}", Ca::root("x").crl(1, &[]), ca.crl(3, &[]))]);
    revocation.files.push(folder.write("der.crl", &der));
    identity.revocation = Some(revocation);
    let generation = load(&identity, LinkRole::Gateway).unwrap();
    let lists = generation.verification.crls().unwrap().lists();
    let mut numbers: Vec<_> = lists
        .iter()
        .map(|l| (l.issuer.as_str(), l.numbered()))
        .collect();
    numbers.sort();
    assert_eq!(
        numbers,
        [("CN=root", "0x04".to_owned()), ("CN=x", "0x01".to_owned())]
    );
}
