//! Certificates and peer names: the reader of X.509 never panics, and what a name says of itself
//! reads as the same name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::{
    identity::{CertFacts, DnsName, PeerName},
    wire::client_cert::{client_cert, xfcc},
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(facts) = CertFacts::read(bytes) {
        let header = xfcc(&facts, None, None);
        assert!(header.to_str().is_ok());
        for name in &facts.dns {
            assert_eq!(*name, name.to_ascii_lowercase());
        }
        let pin = PeerName::parse(&format!("sha256:{}", facts.fingerprint)).expect("a pin");
        assert!(pin.matches(&facts));
    }
    assert!(client_cert(bytes).to_str().is_ok());
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(name) = PeerName::parse(text) {
            let again = name.to_string();
            assert_eq!(PeerName::parse(&again).as_ref(), Ok(&name), "{again}");
        }
        if let Some(name) = DnsName::parse(text) {
            assert_eq!(DnsName::parse(name.as_str()), Some(name));
        }
    }
});
