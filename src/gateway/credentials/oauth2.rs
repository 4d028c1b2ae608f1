//! Access tokens of a token endpoint (RFC 6749 section 4.4): one for all requests, renewed before
//! it ends by one request at a time. Of what the endpoint says, only an error's code is told on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::{CredentialError, joined, value_of};
use crate::{
    admit::{Denial, Denied, Grant},
    config::{
        self, ClientAuthentication, OAuth2,
        secret::{self, SecretError},
    },
    net::{self, Buffered},
    tls::{ClientTls, Judge, connect},
    wire::base64,
};

/// Of one renewal, all in all: requests wait for the first.
const WITHIN: Duration = Duration::from_secs(10);
/// An answer is a token and a few words.
const LARGEST: usize = 64 << 10;
/// Where the endpoint does not say how long a token lasts.
const LIFE: Duration = Duration::from_secs(300);
/// No token is believed for longer.
const LONGEST_LIFE: Duration = Duration::from_secs(86_400);
/// After a failure the endpoint is left alone for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// While an old token still holds, for so long.
const EARLY_PAUSE: Duration = Duration::from_secs(10);
/// A token that a backend refuses is replaced when it is not younger.
const YOUNG: Duration = Duration::from_secs(5);

/// The tokens of one client at one endpoint.
pub(crate) struct Tokens {
    config: OAuth2,
    tls: ClientTls,
    name: ServerName<'static>,
    /// `Authorization` for the endpoint, where the secret stands there.
    authorization: Option<HeaderValue>,
    /// The whole form.
    form: Bytes,
    token: ArcSwapOption<Token>,
    /// Held by whoever asks; what the last one heard.
    asking: Mutex<Option<(Instant, String)>>,
}

/// A token.
pub(crate) struct Token {
    /// `Bearer …`
    value: HeaderValue,
    since: Instant,
    renew: Instant,
    end: Instant,
}

impl Tokens {
    pub(super) fn load(wanted: &OAuth2) -> Result<Self, Vec<CredentialError>> {
        let tls = ClientTls::plain(&wanted.trust, &wanted.tls).map_err(|all| {
            all.into_iter()
                .map(CredentialError::Trust)
                .collect::<Vec<_>>()
        });
        let sent = Self::prepared(wanted).map_err(CredentialError::Secret);
        let (tls, (authorization, form)) = match (tls, sent) {
            (Ok(tls), Ok(sent)) => (tls, sent),
            (tls, sent) => {
                let mut problems = tls.err().unwrap_or_default();
                problems.extend(sent.err());
                return Err(problems);
            }
        };
        let name = match &wanted.server_name {
            config::ServerName::Ip(ip) => ServerName::IpAddress((*ip).into()),
            config::ServerName::Dns(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|_no_name| {
                    vec![CredentialError::Secret(SecretError::Unfit {
                        place: wanted.client_secret.to_string(),
                        reason: "the token endpoint's host is no DNS name",
                    })]
                })?,
        };
        Ok(Self {
            config: wanted.clone(),
            tls,
            name,
            authorization,
            form,
            token: ArcSwapOption::empty(),
            asking: Mutex::default(),
        })
    }

    /// `Authorization` and the form, as RFC 6749 section 2.3.1 has them.
    fn prepared(wanted: &OAuth2) -> Result<(Option<HeaderValue>, Bytes), SecretError> {
        let secret = secret::load(&wanted.client_secret, false)?;
        let id = percent(wanted.client_id.as_bytes());
        let secret = percent(&secret);
        let mut form = Zeroizing::new(Vec::with_capacity(512));
        form.extend_from_slice(b"grant_type=client_credentials");
        if !wanted.scopes.is_empty() {
            form.extend_from_slice(b"&scope=");
            form.extend_from_slice(&percent(wanted.scopes.join(" ").as_bytes()));
        }
        if wanted.authentication == ClientAuthentication::Basic {
            let pair = joined(&[id.as_slice(), b":"].concat(), &secret);
            let text = Zeroizing::new(base64::encode(&pair));
            let value = value_of(&wanted.client_secret, joined(b"Basic ", text.as_bytes()))?;
            return Ok((Some(value), Bytes::from_owner(form)));
        }
        let secret = joined(b"&client_secret=", &secret);
        let tail = joined(&[b"&client_id=".as_slice(), &id].concat(), &secret);
        Ok((None, Bytes::from_owner(joined(&form, &tail))))
    }

    /// Goes on with the token that is at hand, where it would be asked for in the same words.
    pub(super) fn take_over(&self, before: &Self) {
        let same = self.config == before.config
            && self.form == before.form
            && self.authorization == before.authorization;
        if same {
            self.token.store(before.token.load_full());
        }
    }

    /// A token that holds now.
    pub(crate) async fn get(&self) -> Result<Arc<Token>, Denied> {
        let now = Instant::now();
        if let Some(token) = self.token.load_full().filter(|token| now < token.end) {
            if now < token.renew {
                return Ok(token);
            }
            // one renews, the others take what holds a little longer
            let Ok(mut last) = self.asking.try_lock() else {
                return Ok(token);
            };
            if paused(last.as_ref(), EARLY_PAUSE).is_some() {
                return Ok(token);
            }
            return Ok(self.renew(&mut last).await.unwrap_or(token));
        }
        let mut last = self.asking.lock().await;
        let now = Instant::now();
        if let Some(token) = self.token.load_full().filter(|token| now < token.end) {
            return Ok(token);
        }
        if let Some(why) = paused(last.as_ref(), PAUSE) {
            return Err(unavailable(why));
        }
        self.renew(&mut last).await
    }

    /// The backend did not take it: the next request asks for another.
    pub(crate) fn refused(&self, token: &Arc<Token>) {
        let held = self.token.load();
        let same = held.as_ref().is_some_and(|held| Arc::ptr_eq(held, token));
        if same && token.since.elapsed() > YOUNG {
            self.token.store(None);
        }
    }

    async fn renew(&self, last: &mut Option<(Instant, String)>) -> Result<Arc<Token>, Denied> {
        let asked = tokio::time::timeout(WITHIN, Box::pin(self.ask())).await;
        let asked = asked.unwrap_or_else(|_elapsed| Err(format!("no answer in {WITHIN:?}")));
        match asked {
            Ok(token) => {
                *last = None;
                let token = Arc::new(token);
                self.token.store(Some(Arc::clone(&token)));
                Ok(token)
            }
            Err(why) => {
                tracing::warn!(endpoint = %self.config.address, %why, "no token from the token endpoint");
                *last = Some((Instant::now(), why.clone()));
                Err(unavailable(&why))
            }
        }
    }

    async fn ask(&self) -> Result<Token, String> {
        let socket = net::dial(&self.config.address, None)
            .await
            .map_err(|error| error.to_string())?;
        // nobody's rules name the endpoint: its chain and name are all that is asked
        let judge: Judge = Arc::new(|_| {
            Ok(Grant {
                rule: "oauth2".to_owned(),
                identity: String::new(),
                until: None,
            })
        });
        let connected = connect(Buffered::new(socket), &self.tls, self.name.clone(), judge);
        let stream = connected.await.map_err(|denied| denied.to_string())?.stream;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let mut request = Request::post(&self.config.target)
            .header(header::HOST, &self.config.host)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(self.form.clone()))
            .map_err(|error| error.to_string())?;
        if let Some(authorization) = &self.authorization {
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, authorization.clone());
        }
        let asked = async {
            let sent = sender.send_request(request).await;
            let (parts, body) = sent.map_err(|error| error.to_string())?.into_parts();
            let read = Limited::new(body, LARGEST).collect().await;
            let body =
                read.map_err(|_error| "its answer broke, or is larger than 64 KiB".to_owned())?;
            Ok::<_, String>((parts.status, Zeroizing::new(body.to_bytes().to_vec())))
        };
        let mut connection = std::pin::pin!(connection);
        let mut asked = std::pin::pin!(asked);
        let (status, body) = tokio::select! {
            biased;
            answer = &mut asked => answer,
            // what came before its end is still there
            _ended = &mut connection => asked.await,
        }?;
        read(status, &body)
    }
}

impl Token {
    /// `Authorization` for a backend.
    pub(crate) fn value(&self) -> HeaderValue {
        self.value.clone()
    }
}

/// The answer of the last one that asked, while it is not asked again.
fn paused(last: Option<&(Instant, String)>, pause: Duration) -> Option<&str> {
    let (at, why) = last?;
    (at.elapsed() < pause).then_some(why.as_str())
}

fn unavailable(why: &str) -> Denied {
    Denied::new(
        Denial::CredentialUnavailable,
        format!("token endpoint: {why}"),
    )
}

/// The fields of an answer that count (RFC 6749 section 5).
#[derive(serde::Deserialize)]
struct Answer {
    access_token: Option<String>,
    token_type: Option<String>,
    expires_in: Option<serde_json::Value>,
    error: Option<String>,
}

fn read(status: StatusCode, body: &[u8]) -> Result<Token, String> {
    let answer: Option<Answer> = serde_json::from_slice(body).ok();
    if status != StatusCode::OK {
        // a code of the RFC, and never what else it says: that may be what we sent
        let code = answer.and_then(|answer| answer.error).filter(|code| {
            code.len() <= 40 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        });
        let code = code.unwrap_or_else(|| "no code".to_owned());
        return Err(format!("it answered {}: {code}", status.as_u16()));
    }
    let answer = answer.ok_or("its answer is no JSON object of a token")?;
    let kind = answer.token_type.as_deref();
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err("its token is none of type Bearer".to_owned());
    }
    let token = answer
        .access_token
        .ok_or("its answer has no access_token")?;
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    if token.is_empty() || !token.as_bytes().iter().all(fits) {
        return Err("its token can't stand in a header (RFC 6750)".to_owned());
    }
    // some write the number as a text
    let seconds = answer.expires_in.and_then(|life| match life.as_str() {
        Some(text) => text.parse().ok(),
        None => life.as_u64(),
    });
    let life = seconds.map_or(LIFE, Duration::from_secs).min(LONGEST_LIFE);
    let whole = joined(b"Bearer ", token.as_bytes());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(whole))
        .map_err(|_invalid| "its token can't stand in a header")?;
    value.set_sensitive(true);
    let since = Instant::now();
    Ok(Token {
        value,
        since,
        // four fifths of its life, and what the backend's clock may be ahead
        renew: since + life.mul_f32(0.8),
        end: since
            + life
                .saturating_sub(Duration::from_secs(5))
                .max(life.mul_f32(0.9)),
    })
}

/// `application/x-www-form-urlencoded`.
fn percent(octets: &[u8]) -> Zeroizing<Vec<u8>> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    // with room for all, so that growing leaves no copy behind
    let mut out = Zeroizing::new(Vec::with_capacity(octets.len().saturating_mul(3)));
    for octet in octets {
        if octet.is_ascii_alphanumeric() || b"-_.*".contains(octet) {
            out.push(*octet);
        } else {
            let digit = |value: u8| HEX.get(usize::from(value & 15)).copied().unwrap_or(b'0');
            out.extend([b'%', digit(octet >> 4), digit(*octet)]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        match read(status, body.as_bytes()) {
            Ok(_) => panic!("{body} was taken"),
            Err(why) => why,
        }
    }

    #[test]
    fn an_answer_is_read_and_kept_for_less_than_its_life() {
        // RFC 6749 section 4.4.3
        let body = br#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"example"}"#;
        assert!(read(StatusCode::OK, body).is_err());
        let body =
            br#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"bearer","expires_in":3600}"#;
        let token = read(StatusCode::OK, body).unwrap();
        assert_eq!(token.value(), "Bearer 2YotnFZFEjr1zCsicMWpAA");
        assert!(token.value().is_sensitive());
        let lasts = |until: Instant| until.duration_since(token.since).as_secs();
        assert_eq!((lasts(token.renew), lasts(token.end)), (2880, 3595));
        let text = br#"{"access_token":"a","token_type":"Bearer","expires_in":"10"}"#;
        let token = read(StatusCode::OK, text).unwrap();
        assert_eq!(token.renew.duration_since(token.since).as_secs(), 8);
        assert!(token.end > token.renew);
        let huge =
            br#"{"access_token":"a","token_type":"Bearer","expires_in":18446744073709551615}"#;
        let token = read(StatusCode::OK, huge).unwrap();
        assert!(token.end.duration_since(token.since) <= LONGEST_LIFE);
    }

    #[test]
    fn what_an_endpoint_says_is_not_told_on() {
        let secret = "hunter2-hunter2-hunter2";
        for (status, body) in [
            (
                401,
                format!("{{\"error\":\"invalid_client\",\"error_description\":\"{secret}\"}}"),
            ),
            (400, format!("{{\"error\":\"Wrong {secret}\"}}")),
            (
                200,
                format!("{{\"access_token\":\"{secret} x\",\"token_type\":\"Bearer\"}}"),
            ),
            (
                200,
                format!("{{\"access_token\":\"{secret}\",\"token_type\":\"mac\"}}"),
            ),
            (
                200,
                format!("{{\"token\":\"{secret}\",\"token_type\":\"Bearer\"}}"),
            ),
            (200, secret.to_owned()),
            (302, secret.to_owned()),
        ] {
            let why = refused(status, &body);
            assert!(!why.contains("hunter2"), "{why}");
        }
        assert_eq!(
            refused(401, "{\"error\":\"invalid_client\"}"),
            "it answered 401: invalid_client"
        );
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(&**percent("a b&c=é*".as_bytes()), b"a%20b%26c%3D%C3%A9*");
    }
}
