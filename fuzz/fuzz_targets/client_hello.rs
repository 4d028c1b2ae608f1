//! A ClientHello looked at before rustls reads it: what rustls reads in one is seen the same here, for
//! it decides by what configuration rustls answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::wire::hello::{offers_early_data, offers_protocol, offers_tls_1_3};
use rustls::server::Acceptor;

fuzz_target!(|bytes: &[u8]| {
    // hostile octets break nothing
    let _offered = (offers_tls_1_3(bytes), offers_early_data(bytes));
    let mut acceptor = Acceptor::default();
    if acceptor.read_tls(&mut &*bytes).is_err() {
        return;
    }
    let Ok(Some(accepted)) = acceptor.accept() else {
        return;
    };
    let hello = accepted.client_hello();
    match hello.alpn() {
        Some(protocols) => {
            for protocol in protocols {
                assert!(offers_protocol(bytes, |name| name == protocol));
            }
        }
        None => assert!(!offers_protocol(bytes, |_any| true)),
    }
});
