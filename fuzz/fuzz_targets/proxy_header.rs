//! PROXY headers: what is accepted fits its bytes, and comes back when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::wire::proxy::{
    Extras, MAX_UNIQUE_ID, Parsed, Tlv, V2_MAX_LEN, encode_v1, encode_v2, looks_like_proxy, parse,
};

fuzz_target!(|bytes: &[u8]| match parse(bytes) {
    Ok(Parsed::Complete { header, len }) => {
        assert!(len <= bytes.len() && looks_like_proxy(bytes));
        let (Some(source), Some(destination)) = (header.source(), header.destination()) else {
            return;
        };
        let extras = Extras {
            unique_id: header.tlv(Tlv::UNIQUE_ID),
            authority: None,
        };
        assert!(extras.unique_id.is_none_or(|id| id.len() <= MAX_UNIQUE_ID));
        for again in [
            encode_v1(source, destination),
            encode_v2(source, destination, extras),
        ] {
            let Ok(Parsed::Complete { header, len }) = parse(&again) else {
                panic!("what we wrote we do not read: {again:?}")
            };
            assert_eq!(len, again.len());
            assert_eq!(
                (header.source(), header.destination()),
                (Some(source), Some(destination))
            );
        }
    }
    Ok(Parsed::Incomplete { need }) => assert!(need > bytes.len() && need <= V2_MAX_LEN),
    Err(error) => assert!(!error.to_string().is_empty()),
});
