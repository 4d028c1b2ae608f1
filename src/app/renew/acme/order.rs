//! One order (RFC 8555 section 7.4): names are proven, a key is made, its certificate fetched.

use std::{sync::Arc, time::Duration};

use http::header;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::de::DeserializeOwned;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    account::Account,
    client::{Client, Refusal},
};
use crate::{
    config::{Acme, Challenge},
    tls::challenge::{Challenges, Offered},
    wire::{
        acme::{self, Authorization, Order, Status},
        base64,
    },
};

/// The first pause between two looks, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];

/// A new key and the chain of its certificate, both in PEM.
pub(super) struct Issued {
    pub(super) key: Zeroizing<String>,
    pub(super) chain: String,
}

/// Everything that an order needs.
pub(super) struct Desk<'a> {
    pub(super) client: Client,
    pub(super) account: Account,
    pub(super) acme: &'a Acme,
    pub(super) challenges: &'a Arc<Challenges>,
}

impl Desk<'_> {
    /// Orders a certificate. The caller sets the deadline.
    pub(super) async fn order(&mut self) -> Result<Issued, Refusal> {
        let names = self.acme.domains.iter();
        let names: Vec<_> = names
            .map(|name| json!({ "type": "dns", "value": name }))
            .collect();
        let url = self.client.directory.new_order.clone();
        let payload = json!({ "identifiers": names }).to_string();
        let reply = self.post(&url, &payload, "the order").await?;
        let at = reply.header(header::LOCATION).map(str::to_owned);
        let at = at.ok_or("the CA names no order").map_err(str::to_owned)?;
        let order: Order = reply.read("order")?;
        for authorization in &order.authorizations {
            self.prove(authorization).await?;
        }
        let (key, request) = key_and_request(&self.acme.domains)?;
        let payload = json!({ "csr": base64::encode_url(&request) }).to_string();
        let _order = self.post(&order.finalize, &payload, "our request").await?;
        let order = self
            .until(&at, "the order", |order: &Order| match order.status {
                Status::Valid => Some(Ok(())),
                Status::Pending | Status::Ready | Status::Processing => None,
                Status::Invalid
                | Status::Deactivated
                | Status::Expired
                | Status::Revoked
                | Status::Unknown => Some(Err(why(order.status, order.error.clone()))),
            })
            .await?;
        let url = order.certificate.ok_or("the order has no certificate");
        let url = url.map_err(str::to_owned)?;
        let reply = self.post(&url, "", "the certificate").await?;
        let chain = String::from_utf8(reply.body)
            .map_err(|error| format!("the certificate that came is no PEM: {error}"))?;
        Ok(Issued { key, chain })
    }

    /// Proves one name.
    async fn prove(&mut self, url: &str) -> Result<(), Refusal> {
        let reply = self.post(url, "", "an authorization").await?;
        let authorization: Authorization = reply.read("authorization")?;
        let name = acme::for_log(&authorization.identifier.value);
        let way = self.acme.challenge;
        let what = format!("{name} by {}", way.name());
        match proven(&authorization) {
            Some(Ok(())) => return Ok(()),
            Some(Err(problem)) => return Err(Refusal::by_ca(&what, &problem)),
            None => {}
        }
        let offered = authorization.challenges.iter();
        let challenge = offered
            .clone()
            .find(|challenge| challenge.kind == way.name());
        let Some(challenge) = challenge else {
            let kinds: Vec<&str> = offered.map(|challenge| challenge.kind.as_str()).collect();
            let kinds = acme::for_log(&kinds.join(", "));
            let way = way.name();
            return Err(format!("the CA offers no {way} for {name}, but: {kinds}").into());
        };
        if !acme::is_token(&challenge.token) {
            let token = acme::for_log(&challenge.token);
            return Err(format!(
                "the CA's token for {what} is none (RFC 8555 section 8.1): {token:?}"
            )
            .into());
        }
        let text = self.account.key.authorization(&challenge.token);
        if !self.acme.domains.contains(&authorization.identifier.value) {
            return Err(
                format!("the CA asks for the proof of {name}, which was not ordered").into(),
            );
        }
        let _offered: Offered = match way {
            Challenge::Http01 => self.challenges.offer(&challenge.token, text),
            Challenge::TlsAlpn01 => self.challenges.offer_tls(&name, &text)?,
        };
        let _begun = self.post(&challenge.url, "{}", &what).await?;
        self.until(url, &what, proven).await.map(drop)
    }

    async fn post(
        &mut self,
        url: &str,
        payload: &str,
        what: &str,
    ) -> Result<super::client::Reply, Refusal> {
        let (client, acme) = (&mut self.client, self.acme);
        self.account.post(client, acme, url, payload, what).await
    }

    /// Looks at a resource until it is done.
    async fn until<T: DeserializeOwned>(
        &mut self,
        url: &str,
        what: &str,
        done: impl Fn(&T) -> Option<Result<(), acme::Problem>>,
    ) -> Result<T, Refusal> {
        let [first, longest] = PAUSES;
        let mut pause = first;
        loop {
            let reply = self.post(url, "", what).await?;
            let resource: T = reply.read(what)?;
            match done(&resource) {
                Some(Ok(())) => return Ok(resource),
                Some(Err(problem)) => return Err(Refusal::by_ca(what, &problem)),
                None => {}
            }
            tokio::time::sleep(reply.wait().unwrap_or(pause).clamp(first, longest)).await;
            pause = pause.saturating_mul(2);
        }
    }
}

/// Whether a name is proven; `None`: not yet.
fn proven(now: &Authorization) -> Option<Result<(), acme::Problem>> {
    match now.status {
        Status::Valid => Some(Ok(())),
        Status::Pending | Status::Processing => None,
        Status::Ready
        | Status::Invalid
        | Status::Deactivated
        | Status::Expired
        | Status::Revoked
        | Status::Unknown => {
            let mut errors = now.challenges.iter().filter_map(|c| c.error.clone());
            Some(Err(why(now.status, errors.next())))
        }
    }
}

/// What a resource has come to, where the CA has no words for it.
fn why(status: Status, problem: Option<acme::Problem>) -> acme::Problem {
    problem.unwrap_or_else(|| acme::Problem {
        kind: format!("it is {}", format!("{status:?}").to_lowercase()),
        detail: "the CA says no more".to_owned(),
        subproblems: Vec::new(),
    })
}

/// A new key in PEM, and a request for a certificate of it (PKCS#10) in DER.
fn key_and_request(domains: &[String]) -> Result<(Zeroizing<String>, Vec<u8>), String> {
    let failed = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new(domains).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(failed)?;
    let der = request.der().to_vec();
    Ok((Zeroizing::new(key.serialize_pem()), der))
}
