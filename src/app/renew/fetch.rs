//! Asking a `pki serve`, or an ACME CA: one connection for a few requests of HTTP/1.1, each bounded
//! in time and size.

use std::{future::Future, net::IpAddr, pin::Pin, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::Fuse};
use http::{Method, Request, StatusCode, header, response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;

use crate::{
    admit::Grant,
    config::DialAddress,
    identity::Sha256,
    net::{self, Buffered},
    tls::{ClientTls, Judge, connect},
};

/// Of each step.
const WITHIN: Duration = Duration::from_secs(15);
/// A list of 100,000 entries has some 4 MiB.
const LARGEST: usize = 16 << 20;

/// Where the authority is.
pub(super) struct Place<'a> {
    pub(super) address: &'a DialAddress,
    pub(super) name: ServerName<'static>,
    pub(super) host: &'a str,
    pub(super) bind: Option<IpAddr>,
}

/// A connection to it.
pub(super) struct Session {
    sender: SendRequest<Full<Bytes>>,
    /// Fused: it may end between two requests.
    connection: Fuse<Pin<Box<dyn Future<Output = ()> + Send>>>,
    host: String,
}

impl Session {
    pub(super) async fn open(place: Place<'_>, tls: &ClientTls) -> Result<Self, String> {
        let opening = async {
            let socket = net::dial(place.address, place.bind)
                .await
                .map_err(|error| error.to_string())?;
            // its chain and the name in the URL are all that is asked of it
            let judge: Judge = std::sync::Arc::new(|peer| {
                Ok(Grant {
                    rule: "pki".to_owned(),
                    identity: String::new(),
                    until: peer.map(|peer| peer.chain_not_after),
                })
            });
            let stream = connect(Buffered::new(socket), tls, place.name, judge)
                .await
                .map_err(|denied| format!("{}: {denied}", denied.reason.code()))?
                .stream;
            http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())
        };
        let opened = tokio::time::timeout(WITHIN, Box::pin(opening)).await;
        let (sender, connection) =
            opened.map_err(|_elapsed| format!("no connection in {WITHIN:?}"))??;
        let driven: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to pki serve");
            }
        });
        Ok(Self {
            sender,
            connection: driven.fuse(),
            host: place.host.to_owned(),
        })
    }

    /// The body of a 200.
    pub(super) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Vec<u8>, String> {
        let asked = Request::builder().method(method).uri(path);
        match self.send(asked, body).await? {
            (parts, body) if parts.status == StatusCode::OK => Ok(body),
            (parts, body) => Err(refused(parts.status, &body)),
        }
    }

    /// A file of the store; `held` is what we have of it: a large one comes when it is another.
    pub(super) async fn file(
        &mut self,
        path: &str,
        held: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, String> {
        let mut asked = Request::builder().method(Method::GET).uri(path);
        if let Some(held) = &held {
            asked = asked.header(header::IF_NONE_MATCH, format!("\"{}\"", Sha256::of(held)));
        }
        let (parts, body) = self.send(asked, String::new()).await?;
        match (parts.status, held) {
            (StatusCode::NOT_MODIFIED, Some(held)) => Ok(held),
            (StatusCode::OK, _) => Ok(body),
            (status, _) => Err(refused(status, &body)),
        }
    }

    /// One request, and whatever is answered.
    pub(super) async fn send(
        &mut self,
        asked: http::request::Builder,
        body: String,
    ) -> Result<(response::Parts, Vec<u8>), String> {
        let request = asked
            .header(header::HOST, &self.host)
            .header(
                header::USER_AGENT,
                concat!("portcullis/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let asked = async {
            let sent = self.sender.send_request(request).await;
            let (parts, body) = sent.map_err(|error| error.to_string())?.into_parts();
            let read = Limited::new(body, LARGEST).collect().await;
            let body = read.map_err(|_error| "its answer broke, or is too large".to_owned())?;
            Ok::<_, String>((parts, body.to_bytes().to_vec()))
        };
        let mut asked = std::pin::pin!(tokio::time::timeout(WITHIN, asked));
        let answered = tokio::select! {
            biased;
            answer = &mut asked => answer,
            // what came before its end is still there
            () = &mut self.connection => asked.await,
        };
        answered.map_err(|_elapsed| format!("no answer in {WITHIN:?}"))?
    }
}

/// Its own words, as far as they can stand in a log.
fn refused(status: StatusCode, body: &[u8]) -> String {
    let said: String = String::from_utf8_lossy(body)
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect();
    format!("it answered {}: {said}", status.as_u16())
}
