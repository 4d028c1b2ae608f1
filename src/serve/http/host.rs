//! The host that a request names, judged once for all requests that name the same.

use std::sync::{Arc, PoisonError};

use http::{Request, Version, header, uri};

use super::{Client, Connection};
use crate::wire::{
    forwarded::{Hop, Scheme, Stamp},
    host::{self, Authority, Host, HostError},
};

/// A host that was asked for.
pub(crate) struct AskedHost {
    /// The one text that says it; `None`: other parts of the request have a say.
    said: Option<Box<[u8]>>,
    /// `None`: HTTP/1.0 may name none.
    authority: Option<Authority>,
    /// In one spelling; empty where there is none.
    pub(crate) text: String,
    pub(crate) stamp: Stamp,
    /// By whose rules the next is answered.
    judged_by: u64,
    /// A request for it came the wrong way.
    pub(crate) misdirected: bool,
}

/// The text that says alone which host a request names: the one Host line in origin form, or
/// `:authority` without such a line. Both are read alike ([`host::effective_host`]).
fn said<B>(request: &Request<B>) -> Option<&[u8]> {
    let (target, mut lines) = (
        request.uri(),
        request.headers().get_all(header::HOST).iter(),
    );
    match (request.version(), lines.next(), lines.next()) {
        (Version::HTTP_11, Some(line), None) if target.authority().is_none() => {
            Some(line.as_bytes())
        }
        (Version::HTTP_2, None, None) if target.scheme_str() != Some("") => {
            target.authority().map(|text| text.as_str().as_bytes())
        }
        _ => None,
    }
}

impl AskedHost {
    /// The name, where it is one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.authority.as_ref()?.host.name()
    }
}

impl<C: Client> Connection<C> {
    /// The host that a request names, judged, with the headers that follow from it.
    pub(crate) fn asked_host<B>(
        &self,
        request: &Request<B>,
        judged_by: u64,
        is_misdirected: impl FnOnce(&Host) -> bool,
    ) -> Result<Arc<AskedHost>, HostError> {
        // it is mostly the same as the last one
        let said = said(request);
        let mut kept = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = &*kept
            && said.is_some()
            && same.said.as_deref() == said
            && same.judged_by == judged_by
        {
            return Ok(Arc::clone(same));
        }
        let authority = host::effective_host(
            request.version(),
            request.uri(),
            request.headers(),
            &uri::Scheme::HTTPS,
        )?;
        let text = authority.as_ref().map(ToString::to_string);
        let text = text.unwrap_or_default();
        let stamp = Stamp::new(&Hop {
            client: self.client.behind().unwrap_or_else(|| self.source.ip()),
            by: Some(self.client.local()).filter(|ip| !ip.is_unspecified()),
            scheme: Scheme::Https,
            host: &text,
        });
        let asked = Arc::new(AskedHost {
            // octets of its own: a request's hold on to the buffer that its head was read into
            said: said.map(Box::from),
            judged_by,
            misdirected: authority
                .as_ref()
                .is_some_and(|authority| is_misdirected(&authority.host)),
            authority,
            text,
            stamp,
        });
        *kept = Some(Arc::clone(&asked));
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(Version::HTTP_11, "/", &["site.test"], Some("site.test"))]
    #[case(Version::HTTP_11, "/", &["site.test", "site.test"], None)]
    #[case(Version::HTTP_11, "https://site.test/", &["site.test"], None)]
    #[case(Version::HTTP_11, "https://site.test/", &[], None)]
    #[case(Version::HTTP_10, "/", &["site.test"], None)]
    #[case(Version::HTTP_2, "https://site.test:1/", &[], Some("site.test:1"))]
    #[case(Version::HTTP_2, "site.test:1", &[], Some("site.test:1"))]
    #[case(Version::HTTP_2, "https://site.test/", &["site.test"], None)]
    #[case(Version::HTTP_2, "/", &["site.test"], None)]
    #[case(Version::HTTP_2, "/", &[], None)]
    fn one_text_says_it_or_more_is_asked(
        #[case] version: Version,
        #[case] target: &str,
        #[case] hosts: &[&str],
        #[case] expected: Option<&str>,
    ) {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(header::HOST, host.as_bytes());
        }
        let request = request.body(()).unwrap();
        assert_eq!(said(&request), expected.map(str::as_bytes));
        // what it says is what all of the request says
        if let Some(text) = expected {
            let (target, scheme) = (request.uri(), &uri::Scheme::HTTPS);
            let whole = host::effective_host(version, target, request.headers(), scheme);
            let alone = Authority::parse(text).unwrap().without_default_port(scheme);
            assert_eq!(whole, Ok(Some(alone)));
        }
    }
}
