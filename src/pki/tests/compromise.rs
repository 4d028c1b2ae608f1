//! A key that somebody else may have: what is revoked with it, and what renews itself no more.

use super::{super::*, store};
use crate::identity::UnixSeconds;

/// Three quarters of its 100 days are over.
fn aged(authority: &Authority, name: &str) -> Issued {
    let now = crate::clock::now().0;
    let mut request = IssueRequest::new(Role::Gateway, name);
    request.not_before = Some(UnixSeconds(now - 75 * 86_400));
    request.not_after = Some(UnixSeconds(now + 25 * 86_400));
    request.force = true;
    authority.issue(&request).unwrap()
}

fn renewed(authority: &Authority, shown: &crate::identity::CertFacts) -> Result<Renewed, String> {
    let (_key, request) = key_and_request(shown, None).unwrap();
    let done = authority.renew_held(shown, request.as_bytes());
    done.map_err(|refused| refused.to_string())
}

#[test]
fn what_a_lost_key_may_have_led_to_renews_no_more() {
    let (_folder, authority) = store();
    for revoke_first in [true, false] {
        let name = format!("edge-{revoke_first}");
        let first = aged(&authority, &name);
        let second = renewed(&authority, &first.facts).unwrap().facts;
        // the thief's, or the holder's: from the certificate alone nobody can tell
        let (revoked, other) = match revoke_first {
            true => (&first.facts, &second),
            false => (&second, &first.facts),
        };
        authority
            .revoke(&revoked.serial.to_string(), Reason::KeyCompromise)
            .unwrap();
        let said = renewed(&authority, revoked).unwrap_err();
        assert!(
            said.starts_with("revoked: ") && said.contains("revoked since"),
            "{said}"
        );
        let said = renewed(&authority, other).unwrap_err();
        let serial = revoked.serial.to_string();
        assert!(
            said.starts_with("revoked: ") && said.contains(&serial),
            "{said}"
        );
        assert!(
            said.contains(&format!("pki revoke gateway/{name}")),
            "{said}"
        );
        // other names are not touched, and neither is what is issued afterwards
        renewed(&authority, &aged(&authority, "edge-9").facts).unwrap();
        let mut fresh = IssueRequest::new(Role::Gateway, &name);
        fresh.force = true;
        let fresh = authority.issue(&fresh).unwrap();
        let said = renewed(&authority, &fresh.facts).unwrap_err();
        assert!(said.starts_with("too_early"), "{said}");
    }
}

#[test]
fn a_superseded_certificate_takes_nothing_from_its_successor() {
    let (_folder, authority) = store();
    let first = aged(&authority, "edge-1");
    authority
        .revoke(&first.facts.serial.to_string(), Reason::Superseded)
        .unwrap();
    renewed(&authority, &aged(&authority, "edge-1").facts).unwrap();
}

#[test]
fn every_certificate_for_a_lost_key_is_revoked() {
    let (_folder, authority) = store();
    let first = aged(&authority, "edge-1");
    let other = aged(&authority, "edge-2");
    // the timer's renewal keeps the key
    authority.renew(&RenewOptions::default()).unwrap();
    let serial = first.facts.serial.to_string();
    let done = authority.revoke(&serial, Reason::KeyCompromise).unwrap();
    let names: Vec<_> = done.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["edge-1", "edge-1"]);
    // for any other reason, the one alone
    let serial = other.facts.serial.to_string();
    let done = authority.revoke(&serial, Reason::Superseded).unwrap();
    assert_eq!(done.len(), 1);
}
