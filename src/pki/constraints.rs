//! Name constraints of the root (RFC 5280 section 4.2.1.10), checked here before anything is
//! signed: a certificate that no peer would accept is not worth a serial number.

use std::net::IpAddr;

use ipnet::IpNet;
use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};

use super::{PkiError, profile::San};
use crate::identity::DnsName;

/// What the root permits. An empty list leaves that kind of name unrestricted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Permitted {
    /// `internal` (itself and below) or `.internal` (below only).
    pub(super) dns: Vec<String>,
    pub(super) ip: Vec<IpNet>,
}

impl Permitted {
    pub(super) fn parse(dns: &[String], ip: &[String]) -> Result<Self, PkiError> {
        let dns_subtree = |text: &String| {
            let (dot, bare) = match text.strip_prefix('.') {
                Some(bare) => (".", bare),
                None => ("", text.as_str()),
            };
            DnsName::parse(bare)
                .map(|name| format!("{dot}{}", name.as_str()))
                .ok_or_else(|| {
                    PkiError::invalid(format!("--permit-dns {text:?} is not a DNS name"))
                })
        };
        let network = |text: &String| {
            let net = text
                .parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            net.map(|n| n.trunc()).map_err(|_not_a_prefix| {
                PkiError::invalid(format!(
                    "--permit-ip {text:?} is not a network such as 10.0.0.0/8"
                ))
            })
        };
        Ok(Self {
            dns: dns.iter().map(dns_subtree).collect::<Result<_, _>>()?,
            ip: ip.iter().map(network).collect::<Result<_, _>>()?,
        })
    }

    /// Nothing when nothing is restricted: an empty extension is forbidden.
    pub(super) fn extension(&self) -> Option<NameConstraints> {
        let dns = self.dns.iter().cloned().map(GeneralSubtree::DnsName);
        let ip = self
            .ip
            .iter()
            .map(|net| CidrSubnet::from_addr_prefix(net.addr(), net.prefix_len()))
            .map(GeneralSubtree::IpAddress);
        let permitted_subtrees: Vec<_> = dns.chain(ip).collect();
        (!permitted_subtrees.is_empty()).then_some(NameConstraints {
            permitted_subtrees,
            excluded_subtrees: Vec::new(),
        })
    }

    pub(super) fn check(&self, san: &San) -> Result<(), PkiError> {
        let (allowed, list) = match san {
            San::Dns(name) => (
                self.dns.is_empty() || self.dns.iter().any(|tree| dns_within(name, tree)),
                self.dns.join(", "),
            ),
            San::Ip(ip) => (
                self.ip.is_empty() || self.ip.iter().any(|net| ip_within(*ip, net)),
                self.ip
                    .iter()
                    .map(IpNet::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        };
        if let San::Dns(name) = san
            && !self.dns.is_empty()
            && name
                .strip_prefix("*.")
                .is_some_and(|below| !below.contains('.'))
        {
            // no engine compares it with a constraint
            return Err(PkiError::invalid(format!(
                "peers refuse {san} below a CA with name constraints for DNS names ({list}): \
                 give each host's name as a --san, or a wildcard of two labels such as {}",
                name.replacen("*.", "*.site.", 1)
            )));
        }
        if allowed {
            return Ok(());
        }
        Err(PkiError::invalid(format!(
            "the root's name constraints do not permit {san}; permitted: {list}"
        )))
    }
}

fn dns_within(name: &str, tree: &str) -> bool {
    // a wildcard is within when its suffix is, or is the tree: it can only stand for more labels
    let bare = tree.strip_prefix('.').unwrap_or(tree);
    let below = name
        .strip_suffix(bare)
        .is_some_and(|left| left.len() > 1 && left.ends_with('.'));
    below || (name == tree)
}

fn ip_within(ip: IpAddr, net: &IpNet) -> bool {
    // new() fails where the prefix is longer than the address: another family
    ip.is_ipv4() == net.addr().is_ipv4()
        && IpNet::new(ip, net.prefix_len()).is_ok_and(|own| own.trunc() == *net)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(permitted: &Permitted, san: &str) -> bool {
        permitted.check(&San::parse(san).unwrap()).is_ok()
    }

    #[test]
    fn subtrees_hold_at_label_and_prefix_boundaries() {
        let all = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let both = Permitted::parse(
            &all(&[".internal", "example.org"]),
            &all(&["10.0.0.0/8", "2001:db8::/32"]),
        )
        .unwrap();
        for yes in [
            "a.internal",
            "a.b.INTERNAL",
            "*.shop.internal",
            "example.org",
            "x.example.org",
            "*.example.org",
            "10.255.0.1",
            "::ffff:10.0.0.1",
            "2001:db8::1",
        ] {
            assert!(permits(&both, yes), "{yes}");
        }
        for no in [
            "internal",
            "*.internal",
            "ainternal",
            "example.com",
            "xexample.org",
            "*.org",
            "11.0.0.1",
            "2001:db9::1",
            "::1",
        ] {
            assert!(!permits(&both, no), "{no}");
        }
        let advice = both.check(&San::parse("*.internal").unwrap()).unwrap_err();
        assert!(advice.to_string().contains("*.site.internal"), "{advice}");
        let ip_only = Permitted::parse(&[], &all(&["10.0.0.0/8"])).unwrap();
        assert!(permits(&ip_only, "*.internal"));
        let dns_only = Permitted::parse(&all(&["internal"]), &[]).unwrap();
        assert!(permits(&dns_only, "192.0.2.1") && !permits(&dns_only, "example.org"));
        assert!(Permitted::default().extension().is_none());
    }

    #[test]
    fn malformed_subtrees_are_refused() {
        assert!(Permitted::parse(&["*.internal".to_owned()], &[]).is_err());
        assert!(Permitted::parse(&[".".to_owned()], &[]).is_err());
        assert!(Permitted::parse(&[], &["10.0.0.0/33".to_owned()]).is_err());
    }
}
