//! Acceptor configurations: every problem has a place, and no open door goes without its word.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use portcullis::config::{Config, Requirement, parse};

fuzz_target!(
    |text: &str| match parse(text, Path::new("/etc/portcullis/acceptor.toml")) {
        Ok(config) => {
            assert!(!config.files().is_empty());
            let Config::Acceptor(acceptor) = config else {
                return;
            };
            for listener in &acceptor.listeners {
                assert!(!listener.rules.is_empty());
                for rule in &listener.require {
                    match rule {
                        Requirement::Header(rule) => assert!(!rule.secrets.is_empty()),
                        Requirement::Signature(rule) => {
                            assert!(!rule.keys.is_empty() && !rule.components.is_empty());
                        }
                    }
                }
                for rule in &listener.rules {
                    assert!(!rule.gateways.0.is_empty());
                    match &rule.from {
                        Some(list) => assert!(!list.networks.is_empty() || !list.files.is_empty()),
                        None => assert!(text.contains("danger_any_source")),
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
