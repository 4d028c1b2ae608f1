//! Gateway configurations: every problem has a place, and no open door goes without its word.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use portcullis::config::{Config, parse};

fuzz_target!(
    |text: &str| match parse(text, Path::new("/etc/portcullis/gateway.toml")) {
        Ok(config) => {
            assert!(!config.files().is_empty());
            let Config::Gateway(gateway) = config else {
                return;
            };
            for listener in &gateway.listeners {
                assert!(!listener.certificates.is_empty());
                if let Some(auth) = &listener.client_auth {
                    match &auth.clients {
                        Some(names) => assert!(!names.0.is_empty()),
                        None => assert!(text.contains("danger_any_client")),
                    }
                }
            }
        }
        Err(problems) => {
            assert!(!problems.list.is_empty());
            assert!(!problems.to_string().is_empty());
        }
    }
);
