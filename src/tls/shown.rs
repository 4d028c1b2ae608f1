//! Which certificate is shown to whom, by the name that is asked for.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    edge::{EdgeCertificate, EdgeMaterial},
    pending::Pending,
    staple::Staple,
};
use crate::{identity::DnsPattern, wire::host::Host};

/// Certificates by server name; the first answers everybody else, those without SNI too.
#[derive(Debug)]
pub(super) struct BySni<T> {
    /// `None`: all are awaited.
    first: Option<T>,
    exact: HashMap<String, T>,
    wildcard: Vec<(DnsPattern, T)>,
    awaited: Arc<[String]>,
}

impl<T: Clone> BySni<T> {
    /// One, whoever asks.
    pub(super) fn only(shown: T) -> Self {
        Self {
            first: Some(shown),
            exact: HashMap::new(),
            wildcard: Vec::new(),
            awaited: Arc::default(),
        }
    }

    pub(super) fn new(material: &EdgeMaterial, of: impl Fn(&EdgeCertificate) -> T) -> Self {
        let mut certificates = material.certificates.iter().map(|c| (c, of(c))).peekable();
        let first = certificates.peek().map(|(_, first)| first.clone());
        let mut exact = HashMap::new();
        let mut wildcard = Vec::new();
        for (certificate, shown) in certificates {
            for name in &certificate.leaf.dns {
                match DnsPattern::parse(name) {
                    Some(DnsPattern::Exact(name)) => {
                        // of two certificates with one name the first is shown
                        let _kept = exact
                            .entry(name.as_str().to_owned())
                            .or_insert_with(|| shown.clone());
                    }
                    Some(pattern @ DnsPattern::Wildcard(_)) => {
                        wildcard.push((pattern, shown.clone()));
                    }
                    None => {}
                }
            }
        }
        Self {
            first,
            exact,
            wildcard,
            awaited: Arc::clone(&material.awaited),
        }
    }

    /// `None`: what is asked for has not come yet.
    fn find(&self, asked: Option<&str>) -> Option<&T> {
        let same = |name: &String| asked.is_some_and(|asked| asked.eq_ignore_ascii_case(name));
        if self.awaited.iter().any(same) {
            return None;
        }
        let found = asked.and_then(|name| {
            self.exact.get(&name.to_ascii_lowercase()).or_else(|| {
                self.wildcard
                    .iter()
                    .find(|(pattern, _)| pattern.matches(name))
                    .map(|(_, shown)| shown)
            })
        });
        found.or(self.first.as_ref())
    }
}

/// A certificate, and where its staple is.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) plain: Arc<CertifiedKey>,
    pub(super) staple: Option<Arc<Staple>>,
}

impl ResolvesServerCert for BySni<Shown> {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        Pending::current(|pending| pending.asked(name));
        let shown = self.find(name)?;
        let stapled = shown.staple.as_ref();
        let stapled = stapled.and_then(|staple| staple.shown(crate::clock::now()));
        Some(stapled.unwrap_or_else(|| shown.plain.clone()))
    }
}

/// For which hosts the certificates of a listener are.
#[derive(Debug)]
pub struct ShownNames(BySni<Arc<Names>>);

/// The names of one certificate.
#[derive(Debug)]
struct Names {
    dns: Vec<DnsPattern>,
    ips: Vec<IpAddr>,
}

impl ShownNames {
    /// Those of a client-facing listener.
    #[must_use]
    pub fn new(material: &EdgeMaterial) -> Self {
        let names = |certificate: &EdgeCertificate| {
            let dns = certificate.leaf.dns.iter();
            Arc::new(Names {
                dns: dns.filter_map(|name| DnsPattern::parse(name)).collect(),
                ips: certificate.leaf.ips.clone(),
            })
        };
        Self(BySni::new(material, names))
    }

    /// Whether the certificate that is shown to who asks for `sni` is for this host too.
    #[must_use]
    pub fn cover(&self, sni: Option<&str>, host: &Host) -> bool {
        let Some(shown) = self.0.find(sni) else {
            return false;
        };
        match host {
            Host::Name(name) => shown.dns.iter().any(|pattern| pattern.matches(name)),
            Host::Address(ip) => shown.ips.contains(ip),
        }
    }
}
