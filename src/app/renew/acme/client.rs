//! Talking to an ACME CA: signed requests, each with a fresh nonce (RFC 8555 sections 6.4 and 6.5),
//! and what it refuses.

use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode, header};
use serde::de::DeserializeOwned;

use super::super::fetch::{Place, Session};
use crate::{
    clock, config,
    tls::{ClientTls, client::server_name},
    wire::acme::{
        Directory, Problem, for_log,
        jws::{AccountKey, Signer},
        retry_after,
    },
};

/// A nonce may be refused for no fault of ours (section 6.5).
const TRIES: usize = 6;

/// Why there is no certificate.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// For the operator.
    pub(super) said: String,
    /// The code of the CA's problem; `None`: it was not asked, or did not answer.
    pub(super) code: Option<String>,
    /// No sooner than after this.
    pub(super) wait: Option<Duration>,
}

impl From<String> for Refusal {
    fn from(said: String) -> Self {
        Self {
            said,
            code: None,
            wait: None,
        }
    }
}

impl Refusal {
    /// The CA says no.
    pub(super) fn by_ca(what: &str, problem: &Problem) -> Self {
        Self {
            said: format!("the CA refuses {what}: {problem}"),
            code: Some(problem.code().to_owned()),
            wait: None,
        }
    }
}

/// An answer of the CA.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How long it asks us to wait.
    pub(super) fn wait(&self) -> Option<Duration> {
        retry_after(self.header(header::RETRY_AFTER)?, clock::now())
    }

    pub(super) fn read<T: DeserializeOwned>(&self, what: &str) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("the CA's {what} can't be read: {error}").into())
    }
}

/// A CA, and what it said last.
pub(super) struct Client {
    tls: ClientTls,
    /// A kept connection, and whose it is.
    session: Option<(String, Session)>,
    nonce: Option<String>,
    pub(super) directory: Directory,
}

impl Client {
    /// Reads the CA's directory.
    pub(super) async fn open(url: &str, tls: ClientTls) -> Result<Self, Refusal> {
        let mut client = Self {
            tls,
            session: None,
            nonce: None,
            directory: Directory {
                new_nonce: String::new(),
                new_account: String::new(),
                new_order: String::new(),
                meta: Default::default(),
            },
        };
        let reply = client.exchange(&Method::GET, url, "").await?;
        if reply.status != StatusCode::OK {
            return Err(refused(&reply, "its directory"));
        }
        client.directory = reply.read("directory")?;
        Ok(client)
    }

    /// What is signed by an account, or by a key that has none yet. `payload` is empty where
    /// something is read (section 6.3).
    pub(super) async fn post(
        &mut self,
        (key, signer): (&AccountKey, Signer<'_>),
        url: &str,
        payload: &str,
        what: &str,
    ) -> Result<Reply, Refusal> {
        for _ in 0..TRIES {
            let nonce = match self.nonce.take() {
                Some(nonce) => nonce,
                None => self.fresh_nonce().await?,
            };
            let body = key.sign(signer, &nonce, url, payload)?;
            let reply = self.exchange(&Method::POST, url, &body).await?;
            if reply.status.is_success() {
                return Ok(reply);
            }
            let refusal = refused(&reply, what);
            if refusal.code.as_deref() != Some("badNonce") {
                return Err(refusal);
            }
        }
        Err(format!("the CA took none of {TRIES} nonces").into())
    }

    async fn fresh_nonce(&mut self) -> Result<String, Refusal> {
        let url = self.directory.new_nonce.clone();
        let reply = self.exchange(&Method::HEAD, &url, "").await?;
        if !reply.status.is_success() {
            return Err(refused(&reply, "a nonce"));
        }
        self.nonce
            .take()
            .ok_or_else(|| "the CA's answer has no Replay-Nonce".to_owned().into())
    }

    /// One request, on the kept connection or on a new one.
    async fn exchange(&mut self, method: &Method, url: &str, body: &str) -> Result<Reply, Refusal> {
        let (address, name, host, target) =
            config::endpoint(url).map_err(|why| format!("{}: {why}", for_log(url)))?;
        let asked = || {
            let asked = Request::builder().method(method).uri(&target);
            match *method {
                Method::POST => asked.header(header::CONTENT_TYPE, "application/jose+json"),
                _ => asked,
            }
        };
        if let Some((of, mut session)) = self.session.take()
            && of == host
            && let Ok((parts, body)) = session.send(asked(), body.to_owned()).await
        {
            self.session = Some((host, session));
            return Ok(self.noted(parts, body));
        }
        // there was none, or it has ended meanwhile: a nonce that is spent by this is no loss
        let name = server_name(&name).ok_or_else(|| format!("{host}: no name to ask for"))?;
        let place = Place {
            address: &address,
            name,
            host: &host,
            bind: None,
        };
        let of = |error| format!("{address}: {error}");
        let mut session = Session::open(place, &self.tls).await.map_err(of)?;
        let sent = session.send(asked(), body.to_owned()).await;
        let (parts, body) = sent.map_err(of)?;
        self.session = Some((host, session));
        Ok(self.noted(parts, body))
    }

    fn noted(&mut self, parts: http::response::Parts, body: Vec<u8>) -> Reply {
        let nonce = parts.headers.get("replay-nonce");
        if let Some(nonce) = nonce.and_then(|nonce| nonce.to_str().ok()) {
            self.nonce = Some(nonce.to_owned());
        }
        Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }
}

fn refused(reply: &Reply, what: &str) -> Refusal {
    let mut problem: Problem = serde_json::from_slice(&reply.body).unwrap_or_default();
    if problem.kind.is_empty() {
        problem.kind = format!("it answered {}", reply.status.as_u16());
        let text = String::from_utf8_lossy(&reply.body);
        problem.detail = text.chars().take(300).collect();
    }
    Refusal {
        wait: reply.wait(),
        ..Refusal::by_ca(what, &problem)
    }
}
