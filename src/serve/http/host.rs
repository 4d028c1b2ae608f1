//! The host that a request names, judged once for all requests that name the same.

use std::sync::{Arc, PoisonError};

use http::{HeaderValue, Request, Version, header, uri};

use super::{Client, Connection};
use crate::wire::{
    forwarded::{Hop, Scheme, Stamp},
    host::{self, Authority, Host, HostError},
};

/// A host that was asked for.
pub(crate) struct AskedHost {
    /// The one Host line that says it; `None`: other parts of the request have a say.
    line: Option<HeaderValue>,
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

/// A value with octets of its own: one from a request holds on to the buffer that the whole head
/// was read into.
fn own(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

impl AskedHost {
    /// The name, where it is one.
    pub(crate) fn name(&self) -> Option<&str> {
        match &self.authority.as_ref()?.host {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        }
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
        let mut lines = request.headers().get_all(header::HOST).iter();
        // one line in origin form says all of it, and is mostly the same as the last one
        let line = lines.next().filter(|_| {
            lines.next().is_none()
                && request.version() == Version::HTTP_11
                && request.uri().authority().is_none()
        });
        let mut kept = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = &*kept
            && line.is_some()
            && same.line.as_ref() == line
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
            line: line.and_then(own),
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
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_is_kept_of_a_head_does_not_keep_its_buffer() {
        let head = Bytes::from(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n".to_vec());
        let value = HeaderValue::from_maybe_shared(head.slice(22..31)).unwrap();
        let kept = own(&value);
        drop(value);
        assert!(head.is_unique());
        assert_eq!(kept.unwrap(), "site.test");
    }
}
