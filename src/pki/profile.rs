//! Roles, and the profile of each: what its certificates may hold. Profiles live in the store
//! (`profiles/ROLE.toml`), so that they are an operator's to change; none can make a CA.

use std::{net::IpAddr, path::Path};

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};

use super::{PkiError, store};
use crate::identity::{CertFacts, DnsPattern, SpiffeId, TrustDomain, UnixSeconds};

/// Who a certificate is for.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The client of the link.
    Gateway,
    /// The server of the link.
    Acceptor,
    /// A plain TLS server.
    Server,
    /// A caller at the public side.
    Client,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Gateway, Self::Acceptor, Self::Server, Self::Client];

    /// As it stands in SPIFFE IDs, folders and commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Acceptor => "acceptor",
            Self::Server => "server",
            Self::Client => "client",
        }
    }

    /// The role that a word means.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// The profile that a new store starts with.
    #[must_use]
    pub fn default_profile(self) -> &'static str {
        match self {
            Self::Gateway => include_str!("../../pki/profiles/gateway.toml"),
            Self::Acceptor => include_str!("../../pki/profiles/acceptor.toml"),
            Self::Server => include_str!("../../pki/profiles/server.toml"),
            Self::Client => include_str!("../../pki/profiles/client.toml"),
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Key usages that a leaf may have. Those that sign certificates and CRLs have no word here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KeyUsage {
    DigitalSignature,
    KeyEncipherment,
    KeyAgreement,
}

/// Purposes that a leaf may have; "any" has no word here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Purpose {
    ServerAuth,
    ClientAuth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SanKind {
    Dns,
    Ip,
}

/// `profiles/ROLE.toml`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    key_usage: Vec<KeyUsage>,
    extended_key_usage: Vec<Purpose>,
    spiffe_id: bool,
    san_kinds: Vec<SanKind>,
    san_required: bool,
    pub(super) default_days: u32,
    pub(super) max_days: u32,
}

impl Profile {
    /// Reads a role's profile from the store.
    pub(super) fn load(profiles: &Path, role: Role) -> Result<Self, PkiError> {
        let path = profiles.join(format!("{role}.toml"));
        let text = store::read_text(&path)?;
        Self::parse(&text).map_err(|e| PkiError::invalid(format!("{}: {e}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let profile: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        if profile.key_usage.is_empty() || profile.extended_key_usage.is_empty() {
            // absent usages would permit every use
            return Err("key_usage and extended_key_usage need at least one entry each".into());
        }
        if !profile.key_usage.contains(&KeyUsage::DigitalSignature) {
            // a peer refuses a key that may not sign its handshake
            return Err("key_usage needs \"digital-signature\"".into());
        }
        if profile.default_days == 0 || profile.default_days > profile.max_days {
            return Err("default_days must be at least 1 and at most max_days".into());
        }
        if profile.san_required && profile.san_kinds.is_empty() {
            return Err("san_required = true needs at least one of san_kinds".into());
        }
        Ok(profile)
    }

    pub(super) fn key_usages(&self) -> Vec<KeyUsagePurpose> {
        let usage = |u: &KeyUsage| match u {
            KeyUsage::DigitalSignature => KeyUsagePurpose::DigitalSignature,
            KeyUsage::KeyEncipherment => KeyUsagePurpose::KeyEncipherment,
            KeyUsage::KeyAgreement => KeyUsagePurpose::KeyAgreement,
        };
        self.key_usage.iter().map(usage).collect()
    }

    pub(super) fn purposes(&self) -> Vec<ExtendedKeyUsagePurpose> {
        let purpose = |p: &Purpose| match p {
            Purpose::ServerAuth => ExtendedKeyUsagePurpose::ServerAuth,
            Purpose::ClientAuth => ExtendedKeyUsagePurpose::ClientAuth,
        };
        self.extended_key_usage.iter().map(purpose).collect()
    }

    /// All SANs of a certificate: the SPIFFE ID, then what was asked for.
    pub(super) fn names(
        &self,
        role: Role,
        id: &SpiffeId,
        sans: &[San],
    ) -> Result<Vec<SanType>, PkiError> {
        if self.san_required && sans.is_empty() {
            return Err(PkiError::invalid(format!(
                "a certificate for {role} needs at least one --san: the DNS name or IP address that peers connect to"
            )));
        }
        let mut names = Vec::with_capacity(sans.len() + 1);
        if self.spiffe_id {
            names.push(SanType::URI(ia5(&id.to_string())?));
        }
        for san in sans {
            let kind = match san {
                San::Dns(_) => SanKind::Dns,
                San::Ip(_) => SanKind::Ip,
            };
            if !self.san_kinds.contains(&kind) {
                return Err(PkiError::invalid(format!(
                    "the profile of {role} does not allow the SAN {san}"
                )));
            }
            names.push(san.general_name()?);
        }
        if names.is_empty() {
            return Err(PkiError::invalid(format!(
                "a certificate for {role} would carry no name: give a --san"
            )));
        }
        Ok(names)
    }
}

impl Profile {
    /// Reads a leaf back before anybody gets it: whatever the way here, it is no CA, ends with its
    /// issuer, and has the role and names that it was to have, and no other.
    pub(super) fn inspect(
        &self,
        facts: &CertFacts,
        id: &SpiffeId,
        sans: &[San],
        issuer_ends: Option<UnixSeconds>,
    ) -> Result<(), PkiError> {
        let broken = |rule: &str| {
            Err(PkiError::Refused(format!(
                "{} was not issued: {rule}",
                facts.display_name()
            )))
        };
        if facts.is_ca {
            return broken("it would be a CA");
        }
        if issuer_ends.is_some_and(|end| facts.not_after > end) {
            return broken("it would outlive its issuer");
        }
        let wanted = |purpose| self.extended_key_usage.contains(&purpose);
        if !facts.usage.present
            || !facts.usage.other.is_empty()
            || facts.usage.client_auth != wanted(Purpose::ClientAuth)
            || facts.usage.server_auth != wanted(Purpose::ServerAuth)
        {
            return broken("its extended key usage would not be its profile's");
        }
        let ids = if self.spiffe_id {
            vec![id.to_string()]
        } else {
            Vec::new()
        };
        let dns = sans.iter().filter_map(|san| match san {
            San::Dns(name) => Some(name.as_str()),
            San::Ip(_) => None,
        });
        let ips = sans.iter().filter_map(|san| match san {
            San::Dns(_) => None,
            San::Ip(ip) => Some(ip),
        });
        if facts.uris != ids || !dns.eq(&facts.dns) || !ips.eq(&facts.ips) {
            return broken("its names would not be those that were asked for");
        }
        Ok(())
    }
}

/// One `--san`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum San {
    Dns(String),
    Ip(IpAddr),
}

impl San {
    pub(super) fn parse(text: &str) -> Result<Self, PkiError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(ip.to_canonical()));
        }
        match DnsPattern::parse(text) {
            Some(DnsPattern::Exact(name)) => Ok(Self::Dns(name.as_str().to_owned())),
            Some(DnsPattern::Wildcard(suffix)) => Ok(Self::Dns(format!("*.{}", suffix.as_str()))),
            None => Err(PkiError::invalid(format!(
                "{text:?} is neither a DNS name nor an IP address"
            ))),
        }
    }
}

impl San {
    pub(super) fn general_name(&self) -> Result<SanType, PkiError> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(ia5(name)?),
            Self::Ip(ip) => SanType::IpAddress(*ip),
        })
    }

    /// 4 or 16 octets, as certificates and requests hold an address.
    pub(super) fn ip(octets: &[u8]) -> Option<Self> {
        let ip = match octets.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
            16 => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
            _ => return None,
        };
        Some(Self::Ip(ip.to_canonical()))
    }
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, PkiError> {
    rcgen::string::Ia5String::try_from(text)
        .map_err(|e| PkiError::invalid(format!("{text:?} is not ASCII: {e}")))
}

impl std::fmt::Display for San {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(ip) => write!(f, "{ip}"),
        }
    }
}

/// `spiffe://DOMAIN/ROLE/NAME`, where NAME is one path segment.
pub(super) fn spiffe_id(
    domain: &TrustDomain,
    role: Role,
    name: &str,
) -> Result<SpiffeId, PkiError> {
    let wrong = |why: &str| {
        PkiError::invalid(format!(
            "{name:?} can't be a name: {why}; expected letters, digits, '-', '_' and '.'"
        ))
    };
    if name.contains('/') {
        return Err(wrong("it has a slash"));
    }
    if name.len() > 128 {
        return Err(wrong("it is longer than 128 bytes"));
    }
    SpiffeId::parse(&format!("spiffe://{}/{role}/{name}", domain.as_str()))
        .map_err(|e| wrong(e.reason))
}

/// Whether a new name could be one in any trust domain.
pub(super) fn check_name(name: &str) -> Result<(), PkiError> {
    let any = TrustDomain::parse("name").map_err(|e| PkiError::invalid(e.to_string()))?;
    spiffe_id(&any, Role::Gateway, name)?;
    if name.starts_with('.') {
        return Err(PkiError::invalid(format!(
            "{name:?} can't be a name: its folder would be hidden; expected one that does not begin \
             with a dot"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn default_profiles_parse_and_none_signs() {
        for role in Role::ALL {
            let profile = Profile::parse(role.default_profile()).unwrap();
            assert_eq!(profile.key_usages(), [KeyUsagePurpose::DigitalSignature]);
            assert_eq!(profile.purposes().len(), 1);
        }
    }

    #[test]
    fn profiles_refuse_what_they_do_not_know() {
        let text = Role::Gateway.default_profile();
        for (from, to) in [
            ("key_usage ", "key_usages "),
            ("\"digital-signature\"", "\"key-cert-sign\""),
            ("\"digital-signature\"", "\"crl-sign\""),
            ("[\"digital-signature\"]", "[]"),
            ("\"digital-signature\"", "\"key-encipherment\""),
            ("\"client-auth\"", "\"any\""),
            ("[\"client-auth\"]", "[]"),
            ("= 397", "= 10"),
            ("= 90", "= 0"),
            ("spiffe_id ", "is_ca = true\nspiffe_id "),
        ] {
            assert!(text.contains(from), "{from}");
            assert!(Profile::parse(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_one_segment_or_refused(name in "\\PC{0,40}|[a-z./]{0,6}") {
            let domain = TrustDomain::parse("example.internal").unwrap();
            if let Ok(id) = spiffe_id(&domain, Role::Gateway, &name) {
                prop_assert_eq!(id.path(), format!("/gateway/{name}"));
                prop_assert_eq!(id.path().matches('/').count(), 2);
                // it becomes a folder
                prop_assert!(name != "." && name != ".." && !name.is_empty());
            }
        }
    }
}
