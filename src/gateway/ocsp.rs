//! Asks responders for the status of the certificates that clients see, and asks again before an
//! answer ends. Nothing waits for it: without an answer a certificate is shown without.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    drain::Drain,
    identity::UnixSeconds,
    net,
    telemetry::metrics::OcspMetrics,
    tls::{
        Staple,
        ocsp::{Answer, LARGEST, Question, Reason, Refused, Sent, Status},
        staple,
    },
};

/// Of one attempt, all in all.
const WITHIN: Duration = Duration::from_secs(15);
/// However long the wait, the wall clock is looked at: a machine that slept finds out.
const LOOK: Duration = Duration::from_secs(60);

/// Keeps a certificate's staple fresh until told to stop.
pub fn start(staple: Arc<Staple>, metrics: OcspMetrics, drain: &Drain, stop: CancellationToken) {
    drain.spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = follow(&staple, &metrics) => {}
        }
    });
}

async fn follow(staple: &Staple, metrics: &OcspMetrics) {
    let mut failures = 0_u32;
    loop {
        let asked = tokio::time::timeout(WITHIN, Box::pin(ask(&staple.question))).await;
        let asked = asked.unwrap_or_else(|_elapsed| {
            Err(Refused::new(
                Reason::Unreachable,
                format!("no answer in {WITHIN:?}"),
            ))
        });
        let now = clock::now();
        let taken = asked.and_then(|der| staple.take(&der, now));
        let wait = match taken {
            Ok(answer) => {
                failures = 0;
                staple.tried(None);
                metrics.next_update(answer.until.0);
                said(staple, &answer);
                staple::after(&answer, now, luck())
            }
            Err(why) => {
                failures = failures.saturating_add(1);
                metrics.failed(why.reason.code());
                complain(staple, &why, now);
                staple.tried(Some(why));
                staple::pause(failures, luck())
            }
        };
        until(now.0.saturating_add_unsigned(wait.as_secs()), wait).await;
    }
}

/// Waits by the wall clock, and no longer than `wait`: a clock that was set back must not leave a
/// certificate without.
async fn until(due: i64, wait: Duration) {
    let end = Instant::now() + wait;
    loop {
        let left = u64::try_from(due.saturating_sub(clock::now().0)).unwrap_or_default();
        let left = Duration::from_secs(left).min(end.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

/// A number that other gateways do not have.
fn luck() -> u8 {
    let mut byte = [0];
    // without randomness all ask at once, which is bad luck and no more
    let _drawn = aws_lc_rs::rand::fill(&mut byte);
    let [luck] = byte;
    luck
}

fn said(staple: &Staple, answer: &Answer) {
    let (certificate, responder) = (&staple.subject, &staple.question.responder.url);
    match answer.status {
        Status::Good => tracing::info!(
            %certificate, %responder, next_update = %answer.until,
            "OCSP answer: good, it is stapled"
        ),
        Status::Revoked(since) => tracing::error!(
            %certificate, %responder, %since,
            "OCSP answer: this certificate is REVOKED, and clients are shown so: replace it"
        ),
    }
}

fn complain(staple: &Staple, why: &Refused, now: UnixSeconds) {
    let (certificate, responder) = (&staple.subject, &staple.question.responder.url);
    let (reason, detail) = (why.reason.code(), &why.detail);
    match staple.known(now).stapled {
        Some((_, until)) => tracing::warn!(
            %certificate, %responder, reason, %detail, stapled_until = %until,
            "no new OCSP answer: the last one is stapled until it ends"
        ),
        None if staple.must => tracing::error!(
            %certificate, %responder, reason, %detail,
            "no OCSP answer to staple, and the certificate demands one: clients that know the extension refuse it"
        ),
        None => tracing::warn!(
            %certificate, %responder, reason, %detail,
            "no OCSP answer to staple"
        ),
    }
}

/// One question over one connection; redirects are not followed.
async fn ask(question: &Question) -> Result<Vec<u8>, Refused> {
    let responder = &question.responder;
    let unreachable = |why: String| Refused::new(Reason::Unreachable, why);
    let socket = net::dial(&responder.address, None)
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(LARGEST)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let request = Request::builder()
        .header(header::HOST, &responder.host)
        .header(header::ACCEPT, "application/ocsp-response")
        .header(header::CONNECTION, "close");
    let request = match question.sent() {
        Sent::Get(target) => request
            .method(Method::GET)
            .uri(target)
            .body(Full::default()),
        Sent::Post(target, body) => request
            .method(Method::POST)
            .uri(target)
            .header(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/ocsp-request"),
            )
            .body(Full::new(Bytes::copy_from_slice(body))),
    };
    let request = request.map_err(|error| unreachable(error.to_string()))?;
    let asked = async {
        let sent = sender.send_request(request).await;
        let (parts, body) = sent
            .map_err(|error| unreachable(error.to_string()))?
            .into_parts();
        if parts.status != StatusCode::OK {
            return Err(unreachable(format!("it answered {}", parts.status)));
        }
        let read = Limited::new(body, LARGEST).collect().await;
        let read = read
            .map_err(|error| unreachable(format!("its answer broke, or is too large: {error}")))?;
        Ok(read.to_bytes().to_vec())
    };
    let mut connection = std::pin::pin!(connection);
    let mut asked = std::pin::pin!(asked);
    tokio::select! {
        biased;
        answer = &mut asked => answer,
        // what came before its end is still there
        _ended = &mut connection => asked.await,
    }
}
