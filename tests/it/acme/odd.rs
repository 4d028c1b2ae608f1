//! A CA that does what Pebble does not: it issues with dates and names of its own, forgets what it
//! has to say, and refuses without words.

use std::{
    io::{BufReader, Write as _},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use portcullis::{pki::Role, wire::base64};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer,
    KeyPair,
};
use serde_json::{Value, json};

use crate::world::{Backend, World};

/// What it answers: a status, one more header, a body.
pub(super) type Said = (u16, String, String);

/// Which dates its certificates get, in seconds from now.
pub(super) type Life = (i64, i64);

/// What it has in hand.
pub(super) struct Desk {
    pub(super) at: SocketAddr,
    issuer: Issuer<'static, KeyPair>,
    root: String,
    life: Life,
    asked: Mutex<Vec<String>>,
    issued: Mutex<String>,
}

/// A CA on this world's address.
pub(super) struct OddCa {
    pub(super) desk: Arc<Desk>,
}

impl Desk {
    pub(super) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.at)
    }

    /// As a CA without a whim would answer: nothing has to be proven.
    pub(super) fn usual(&self, path: &str, payload: &[u8]) -> Said {
        let order = |status: &str| {
            json!({ "status": status, "authorizations": [], "finalize": self.url("/finalize"),
                    "certificate": self.url("/certificate") })
            .to_string()
        };
        match path {
            "/dir" => {
                let body = json!({ "newNonce": self.url("/nonce"), "newAccount": self.url("/account"),
                                   "newOrder": self.url("/order") });
                (200, String::new(), body.to_string())
            }
            "/nonce" => (200, String::new(), String::new()),
            "/account" => (201, self.url("/account/1"), "{}".to_owned()),
            "/order" => (201, self.url("/order/1"), order("ready")),
            "/finalize" => {
                let payload: Value = serde_json::from_slice(payload).unwrap();
                let request = base64::decode_url(payload["csr"].as_str().unwrap()).unwrap();
                *self.issued.lock().unwrap() = self.issue(request);
                (200, String::new(), order("processing"))
            }
            "/order/1" => (200, String::new(), order("valid")),
            "/certificate" => (200, String::new(), self.issued.lock().unwrap().clone()),
            _ => (404, String::new(), String::new()),
        }
    }

    pub(super) fn issue(&self, request: Vec<u8>) -> String {
        let mut request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        let now = time::OffsetDateTime::now_utc();
        let at = |seconds| now + time::Duration::seconds(seconds);
        (request.params.not_before, request.params.not_after) = (at(self.life.0), at(self.life.1));
        request.params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        request.signed_by(&self.issuer).unwrap().pem() + &self.root
    }

    /// What its certificates chain to.
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// How often this path was asked for.
    pub(super) fn asked(&self, path: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| *asked == path).count()
    }
}

impl OddCa {
    /// One that answers by `answers`, and else as is usual.
    pub(super) fn start(
        world: &World,
        life: Life,
        answers: impl Fn(&Desk, &str, &[u8]) -> Option<Said> + Send + Sync + 'static,
    ) -> Self {
        let at = world.address();
        let leaf = world.issue(Role::Server, "ca", &["ca.test", &at.ip().to_string()]);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "an odd root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        let desk = Arc::new(Desk {
            at,
            issuer: Issuer::new(params, key),
            root,
            life,
            asked: Mutex::default(),
            issued: Mutex::default(),
        });
        let served = Arc::clone(&desk);
        Backend::tls(at, &leaf, move |stream| {
            let mut stream = BufReader::new(stream);
            while let Some((method, path, body)) = request(&mut stream) {
                served.asked.lock().unwrap().push(path.clone());
                let signed: Value = serde_json::from_slice(&body).unwrap_or_default();
                let payload = signed["payload"].as_str().and_then(base64::decode_url);
                let payload = payload.unwrap_or_default();
                let said = answers(&served, &path, &payload);
                let (status, more, body) = said.unwrap_or_else(|| served.usual(&path, &payload));
                let more = match more.is_empty() {
                    true => more,
                    false => format!("Location: {more}\r\n"),
                };
                let head = format!(
                    "HTTP/1.1 {status} x\r\nReplay-Nonce: n\r\n{more}Content-Length: {}\r\n\r\n",
                    body.len()
                );
                let body = if method == "HEAD" { "" } else { &body };
                let stream = stream.get_mut();
                if stream.write_all((head + body).as_bytes()).is_err() || stream.flush().is_err() {
                    return;
                }
            }
        });
        Self { desk }
    }

    pub(super) fn url(&self) -> String {
        self.desk.url("/dir")
    }
}

fn request(stream: &mut impl std::io::BufRead) -> Option<(String, String, Vec<u8>)> {
    let mut head = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push(line.to_owned());
    }
    let mut first = head.first()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((method, path, body))
}
