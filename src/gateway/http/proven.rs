//! Requests whose proof is made anew each time: a signature over head and body.

use std::sync::Arc;

use http::{Request, header, request::Parts};
use hyper::body::Body as _;

use super::pool::{PoolFor, Sender};
use crate::{
    admit::{Denial, Denied},
    clock,
    gateway::credentials::Credentials,
    serve::http::{
        body::{Kept, Received, RequestBody},
        send::{Patience, Sent, send},
    },
    wire::signature::content_digest::{self, CONTENT_DIGEST, Expected, NoDigest},
};

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
        let body = self.hash_body(&mut parts, body, received).await?;
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
        let sent = send(
            self.dispatch.ways,
            self.dispatch.patience,
            request,
            &received,
        )
        .await?;
        Ok((sent, received))
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
        let Some(signing) = signing.filter(|_| !self.dispatch.upgrade) else {
            return Ok(Body::Streamed(body, received));
        };
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
