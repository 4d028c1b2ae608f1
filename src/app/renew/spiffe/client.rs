//! A call of `FetchX509SVID` over a Unix socket: gRPC (HTTP/2, RFC 9113) with the one metadata entry
//! that the SPIFFE Workload Endpoint asks for. Every step is bounded in time, every message in size.

use std::{future::Future, path::Path, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, future::Fuse};
use h2::{RecvStream, client};
use http::{HeaderMap, Method, Request, StatusCode, header};
use tokio::net::UnixStream;

use crate::wire::svid::{LARGEST, Response, message, parse};

/// Of each step until the answer begins.
const WITHIN: Duration = Duration::from_secs(10);
/// `PERMISSION_DENIED` (gRPC status codes).
const DENIED: &str = "7";
/// No entry of the metadata says what its body is.
const REQUEST: &[u8] = &[0; 5];

/// An open call: what is new comes as a message.
pub(super) struct Call {
    body: RecvStream,
    arrived: BytesMut,
    /// Fused: it may end before what came with it is read.
    connection: Fuse<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Call {
    pub(super) async fn open(socket: &Path) -> Result<Self, String> {
        tokio::time::timeout(WITHIN, Box::pin(Self::begin(socket)))
            .await
            .map_err(|_elapsed| format!("no answer in {WITHIN:?}"))?
    }

    async fn begin(socket: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(socket).await.map_err(|error| {
            format!("{error}: is the agent running, and may we open its socket?")
        })?;
        let (sender, connection) = client::handshake(stream).await.map_err(said)?;
        let driven: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the Workload API");
            }
        });
        let mut connection = driven.fuse();
        let request = Request::builder()
            .method(Method::POST)
            .uri("http://localhost/SpiffeWorkloadAPI/FetchX509SVID")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header("workload.spiffe.io", "true")
            .header(
                header::USER_AGENT,
                concat!("portcullis/", env!("CARGO_PKG_VERSION")),
            )
            .body(())
            .map_err(|error| error.to_string())?;
        let asked = async {
            let mut sender = sender.ready().await.map_err(said)?;
            let (response, mut stream) = sender.send_request(request, false).map_err(said)?;
            stream
                .send_data(Bytes::from_static(REQUEST), true)
                .map_err(said)?;
            response.await.map_err(said)
        };
        let (parts, body) = driving(&mut connection, asked).await?.into_parts();
        if parts.status != StatusCode::OK {
            return Err(format!("it answered {}", parts.status.as_u16()));
        }
        // an answer without messages is its headers alone
        if parts.headers.contains_key("grpc-status") {
            return Err(refusal(&parts.headers));
        }
        Ok(Self {
            body,
            arrived: BytesMut::new(),
            connection,
        })
    }

    /// The next message.
    pub(super) async fn next(&mut self) -> Result<Response, String> {
        loop {
            if let Some((body, length)) = message(&self.arrived).map_err(|e| e.to_string())? {
                let read = parse(body).map_err(|e| e.to_string())?;
                let _message = self.arrived.split_to(length);
                return Ok(read);
            }
            match driving(&mut self.connection, self.body.data()).await {
                Some(part) => {
                    let part = part.map_err(said)?;
                    self.body
                        .flow_control()
                        .release_capacity(part.len())
                        .map_err(said)?;
                    // one message is all that waits, with the beginning of another
                    if self.arrived.len().saturating_add(part.len()) > 2 * LARGEST {
                        return Err("its messages are larger than 4 MiB".to_owned());
                    }
                    self.arrived.extend_from_slice(&part);
                }
                None => {
                    let ended = driving(&mut self.connection, self.body.trailers()).await;
                    return Err(match ended.map_err(said)? {
                        Some(trailers) => refusal(&trailers),
                        None => "it ended without a status".to_owned(),
                    });
                }
            }
        }
    }
}

/// Work on a connection that has to be driven meanwhile.
async fn driving<T>(
    connection: &mut Fuse<Pin<Box<dyn Future<Output = ()> + Send>>>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done,
        // what came before its end is still there
        () = connection => work.await,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: h2::Error) -> String {
    error.to_string()
}

/// The end of a call, in its own words as far as they can stand in a log.
fn refusal(trailers: &HeaderMap) -> String {
    let text = |name: &str| {
        let value = trailers
            .get(name)
            .map_or(&b""[..], |value| value.as_bytes());
        let text: String = String::from_utf8_lossy(value)
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect();
        text
    };
    let status = text("grpc-status");
    let message = text("grpc-message");
    if status == DENIED {
        format!(
            "permission denied: the agent has no entry for this process (uid, path or unit; see docs/operate/spiffe.md): {message}"
        )
    } else {
        format!("the call ended with gRPC status {status}: {message}")
    }
}
