//! Matching: a rule's prefix, its replacement, a request's path and a host pattern, one a line.
//! What a rule decides must not depend on the spelling that a backend would undo.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::{
    identity::DnsPattern,
    wire::{
        host::{Authority, Host},
        path::{self, PathPrefix},
    },
};

/// A path as the most lenient backend reads it: decoded once, no parameters, no empty segments.
fn lenient(path: &str) -> Vec<Vec<u8>> {
    let hex = |pair: Option<&[u8]>| {
        pair.and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    path.split('/')
        .map(|segment| {
            let bytes = segment.as_bytes();
            let (mut out, mut at) = (Vec::new(), 0);
            while at < bytes.len() {
                match (bytes[at], hex(bytes.get(at + 1..at + 3))) {
                    (b'%', Some(byte)) => {
                        out.push(byte);
                        at += 3;
                    }
                    (byte, _) => {
                        out.push(byte);
                        at += 1;
                    }
                }
            }
            let end = out.iter().position(|byte| *byte == b';');
            out.truncate(end.unwrap_or(out.len()));
            out
        })
        .filter(|segment| !segment.is_empty())
        .collect()
}

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (written, replacement, raw, pattern, host) = (next(), next(), next(), next(), next());

    if let Ok(Some(resolved)) = path::normalise(raw) {
        path::check(&resolved).expect("what is resolved passes");
        assert_eq!(path::normalise(&resolved), Ok(None), "once is enough");
    }
    if let (Ok(prefix), Ok(())) = (PathPrefix::parse(written), path::check(raw)) {
        assert!(prefix.covers(&prefix));
        let own = lenient(raw);
        if raw != "*" {
            assert_eq!(
                prefix.matches(raw),
                own.starts_with(&lenient(written)),
                "{raw}"
            );
        }
        if let Some(rest) = prefix.strip(raw) {
            assert!(raw.ends_with(rest));
        }
        // as the configuration has it
        if replacement.starts_with('/')
            && path::check(replacement).is_ok()
            && raw != "*"
            && let Some(path) = prefix.rewrite(raw, replacement)
        {
            path::check(&path).expect("what is rewritten passes too");
        }
    }
    if let (Some(pattern), Ok(authority)) = (DnsPattern::parse(pattern), Authority::parse(host))
        && let Host::Name(name) = &authority.host
        && let Some(exact) = DnsPattern::parse(name)
    {
        // a wildcard stands for one label, and case and a last dot mean nothing
        let shouted = DnsPattern::parse(&name.to_ascii_uppercase()).expect("the same name");
        assert_eq!(pattern.covers(&exact), pattern.covers(&shouted));
        if pattern.covers(&exact) {
            let labels = |text: &str| text.split('.').count();
            assert_eq!(labels(&pattern.to_string()), labels(name));
        }
    }
});
