//! Requests whose proof is made anew each time: a token, an answer to a challenge, a signature
//! over head and body.

use std::{sync::Arc, time::Duration};

use http::{Method, Request, StatusCode, header, request::Parts};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::pool::{PoolFor, Sender};
use crate::{
    admit::{Denial, Denied},
    clock,
    gateway::credentials::{Credentials, Digest},
    serve::http::{
        Upstream as _,
        body::RequestBody,
        kept::Kept,
        received::Received,
        send::{Patience, Sent, send},
    },
    wire::signature::content_digest::{self, CONTENT_DIGEST, Expected, NoDigest},
};

/// So much of an answer that nobody gets is read, so that its connection can be kept.
const DRAINED: usize = 64 << 10;
const DRAINED_WITHIN: Duration = Duration::from_secs(1);

/// What a request is sent with.
pub(super) struct Dispatch<'a> {
    /// Where something is made anew for each request.
    pub(super) proof: Option<&'a Arc<Credentials>>,
    pub(super) ways: &'a PoolFor<'a>,
    pub(super) patience: Patience<'a>,
    /// What follows the head is no body.
    pub(super) upgrade: bool,
}

impl Dispatch<'_> {
    /// Sends a request; `received` is then how far what was sent for a body has come.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
        received: &mut Arc<Received>,
    ) -> Result<Sent<Sender>, Denied> {
        let Some(credentials) = self.proof else {
            return send(self.ways, self.patience, request, received).await;
        };
        let proven = Proven {
            credentials,
            dispatch: self,
        };
        // boxed: other requests need not have room for it
        let sending = Box::pin(proven.send(request, Arc::clone(received)));
        let (sent, by) = sending.await?;
        *received = by;
        Ok(sent)
    }
}

struct Proven<'a> {
    credentials: &'a Credentials,
    dispatch: &'a Dispatch<'a>,
}

/// A body, as it is to be sent.
enum Body {
    /// As it comes.
    Streamed(RequestBody, Arc<Received>),
    /// Read whole.
    Kept(Kept),
}

impl Proven<'_> {
    /// Sends a request; with its answer comes how far what was sent for a body has come.
    async fn send(
        &self,
        request: Request<RequestBody>,
        received: Arc<Received>,
    ) -> Result<(Sent<Sender>, Arc<Received>), Denied> {
        let (mut parts, body) = request.into_parts();
        let mut body = self.hash_body(&mut parts, body, received).await?;
        if let Some(tokens) = self.credentials.tokens() {
            let token = tokens.get().await?;
            parts.headers.insert(header::AUTHORIZATION, token.value());
            let (sent, received) = self.attempt(parts, body).await?;
            if sent.1.status() == StatusCode::UNAUTHORIZED {
                tokens.refused(&token);
            }
            return Ok((sent, received));
        }
        let Some(digest) = self.credentials.digest() else {
            return self.attempt(parts, body).await;
        };
        body = self.make_repeatable(&mut parts, body, digest).await?;
        if matches!(body, Body::Streamed(..)) && !digest.is_fresh() {
            self.ask_for_nonce(&parts, digest).await?;
        }
        let kept = match &body {
            Body::Kept(kept) => Some((parts.clone(), kept.clone())),
            Body::Streamed(..) => None,
        };
        let used = digest.authorize(&mut parts);
        let (mut sent, received) = self.attempt(parts, body).await?;
        let again = digest.learn(used.as_ref(), sent.1.status(), sent.1.headers());
        if again && let Some((mut parts, kept)) = kept {
            drain(sent, &received).await;
            let used = digest.authorize(&mut parts);
            let (sent, received) = self.attempt(parts, Body::Kept(kept)).await?;
            digest.learn(used.as_ref(), sent.1.status(), sent.1.headers());
            return Ok((without_info(sent), received));
        }
        sent = without_info(sent);
        Ok((sent, received))
    }

    /// Sends it once, signed where it is to be.
    async fn attempt(
        &self,
        mut parts: Parts,
        body: Body,
    ) -> Result<(Sent<Sender>, Arc<Received>), Denied> {
        if let Some(signing) = self.credentials.signing() {
            signing
                .sign(&mut parts, clock::now())
                .map_err(|error| Denied::new(Denial::RequestInvalid, error.to_string()))?;
        }
        let (body, received) = match body {
            Body::Streamed(body, received) => (body, received),
            Body::Kept(kept) => RequestBody::of(&kept),
        };
        let request = Request::from_parts(parts, body);
        let dispatch = self.dispatch;
        let sent = send(dispatch.ways, dispatch.patience, request, &received).await?;
        Ok((sent, received))
    }

    /// A short body is read whole, so that it can be sent once more.
    async fn make_repeatable(
        &self,
        parts: &mut Parts,
        body: Body,
        digest: &Digest,
    ) -> Result<Body, Denied> {
        let Body::Streamed(body, received) = body else {
            return Ok(body);
        };
        let length = body.size_hint().exact();
        let short = length.is_some_and(|length| {
            usize::try_from(length).is_ok_and(|length| length <= digest.body_bytes)
        });
        if body.is_end_stream() {
            return Ok(Body::Kept(Kept::default()));
        }
        if !short || self.dispatch.upgrade {
            return Ok(Body::Streamed(body, received));
        }
        let kept = body.keep(digest.body_bytes).await;
        let kept = kept.map_err(|error| error.denied())?;
        if !kept.has_trailers() {
            parts
                .headers
                .insert(header::CONTENT_LENGTH, kept.len().into());
        }
        Ok(Body::Kept(kept))
    }

    /// A body that can't be sent twice is not sent before a nonce is at hand: the backend is asked
    /// for one by a request without a body, which is safe.
    async fn ask_for_nonce(&self, parts: &Parts, digest: &Digest) -> Result<(), Denied> {
        let mut asking = parts.clone();
        asking.method = Method::HEAD;
        for name in [
            header::CONTENT_LENGTH,
            header::TRAILER,
            header::UPGRADE,
            header::CONNECTION,
        ] {
            asking.headers.remove(name);
        }
        let (sent, received) = self.attempt(asking, Body::Kept(Kept::default())).await?;
        digest.learn(None, sent.1.status(), sent.1.headers());
        drain(sent, &received).await;
        Ok(())
    }

    /// Sees to it that a body whose hash is signed has its hash in the head. What a client says
    /// of it is checked while it passes; else the body has to be read before a byte of it is sent.
    async fn hash_body(
        &self,
        parts: &mut Parts,
        body: RequestBody,
        received: Arc<Received>,
    ) -> Result<Body, Denied> {
        let signing = self.credentials.signing().filter(|s| s.covers_body());
        let Some(signing) = signing else {
            return Ok(Body::Streamed(body, received));
        };
        if self.dispatch.upgrade {
            // what follows the head is no body, and its hash is that of none
            if body.is_end_stream() {
                let hash = content_digest::of_body([]);
                parts.headers.insert(CONTENT_DIGEST, hash);
            }
            return Ok(Body::Streamed(body, received));
        }
        match Expected::of(&parts.headers) {
            Ok(expected) if !body.is_end_stream() => {
                return Ok(Body::Streamed(body.hashed(expected), received));
            }
            Err(error @ NoDigest::Malformed) => {
                return Err(Denied::new(Denial::RequestInvalid, error.to_string()));
            }
            Ok(_) | Err(NoDigest::Absent | NoDigest::Unknown) => {}
        }
        let limit = signing.body_bytes;
        let had_one = !body.is_end_stream();
        let kept = body.keep(limit).await.map_err(|error| {
            let mut denied = error.denied();
            if denied.reason == Denial::BodyTooLarge {
                denied.detail = format!(
                    "its hash is signed: a body is kept up to signature.body_bytes = {limit}, or \
                     the client sends Content-Digest"
                );
            }
            denied
        })?;
        let hash = content_digest::of_body(kept.parts());
        parts.headers.insert(CONTENT_DIGEST, hash);
        if had_one && !kept.has_trailers() {
            // signed where it is asked for, and what is sent in any case
            parts
                .headers
                .insert(header::CONTENT_LENGTH, kept.len().into());
        }
        Ok(Body::Kept(kept))
    }
}

/// Reads what is left of an answer that nobody gets, and keeps its connection.
async fn drain(sent: Sent<Sender>, received: &Received) {
    let (sender, response) = sent;
    let mut body = response.into_body();
    let reading = &mut body;
    let read = async move {
        let mut left = DRAINED;
        while let Some(frame) = reading.frame().await {
            let length = frame.ok()?.data_ref().map_or(0, |data| data.len());
            left = left.checked_sub(length)?;
        }
        Some(())
    };
    let whole = tokio::time::timeout(DRAINED_WITHIN, read).await;
    if matches!(whole, Ok(Some(()))) && received.is_done() {
        sender.keep(body);
    }
}

/// What a backend says of our answer to its challenge is not the client's to hear.
fn without_info(mut sent: Sent<Sender>) -> Sent<Sender> {
    sent.1.headers_mut().remove("authentication-info");
    sent
}
