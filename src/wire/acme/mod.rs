//! What an ACME CA says (RFC 8555): its resources as far as an order needs them, and its refusals
//! in words that can stand in a log. How we sign what we say is in `jws`.

pub mod jws;

use std::{fmt, time::Duration};

use serde::Deserialize;
use time::{PrimitiveDateTime, macros::format_description};

use crate::identity::UnixSeconds;

/// No refusal keeps us away for longer than this.
const LONGEST_WAIT: i64 = 86_400;

/// Where the CA takes what (section 7.1.1).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields of the RFC")]
pub struct Directory {
    pub new_nonce: String,
    pub new_account: String,
    pub new_order: String,
    #[serde(default)]
    pub meta: Meta,
}

/// What the CA says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// An account needs `external_account`.
    #[serde(default)]
    pub external_account_required: bool,
}

/// How far a resource has come (section 7.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words of the RFC")]
pub enum Status {
    Pending,
    Processing,
    Ready,
    Valid,
    Invalid,
    Deactivated,
    Expired,
    Revoked,
    #[serde(other)]
    Unknown,
}

/// What was ordered (section 7.1.3).
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the fields of the RFC")]
pub struct Order {
    pub status: Status,
    #[serde(default)]
    pub authorizations: Vec<String>,
    pub finalize: String,
    pub certificate: Option<String>,
    pub error: Option<Problem>,
}

/// The proof of one name (section 7.1.4).
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the fields of the RFC")]
pub struct Authorization {
    pub status: Status,
    pub identifier: Identifier,
    #[serde(default)]
    pub challenges: Vec<Challenge>,
}

/// A name.
#[derive(Clone, Debug, Deserialize)]
pub struct Identifier {
    /// A DNS name.
    pub value: String,
}

/// One way to prove it (section 7.1.5).
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the fields of the RFC")]
pub struct Challenge {
    #[serde(rename = "type")]
    pub kind: String,
    pub url: String,
    #[serde(default)]
    pub token: String,
    pub error: Option<Problem>,
}

/// Why the CA refuses (RFC 7807).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Problem {
    /// `urn:ietf:params:acme:error:…`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// For people.
    #[serde(default)]
    pub detail: String,
    /// One for each name.
    #[serde(default)]
    pub subproblems: Vec<Self>,
}

impl Problem {
    /// The last part of its type: `badNonce`.
    #[must_use]
    pub fn code(&self) -> &str {
        let start = "urn:ietf:params:acme:error:";
        self.kind.strip_prefix(start).unwrap_or(&self.kind)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = format!("{}: {}", self.code(), self.detail);
        for sub in &self.subproblems {
            said.push_str(&format!("; {}: {}", sub.code(), sub.detail));
        }
        f.write_str(&for_log(&said))
    }
}

/// Somebody else's words, as far as they can stand in a log.
#[must_use]
pub fn for_log(said: &str) -> String {
    said.chars().filter(|c| !c.is_control()).take(500).collect()
}

/// Whether a token is one (section 8.1): it becomes a part of a path and of an answer.
#[must_use]
pub fn is_token(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// The wait that `Retry-After` asks for (RFC 9110 section 10.2.3): seconds or a date, a day at
/// most.
#[must_use]
pub fn retry_after(value: &str, now: UnixSeconds) -> Option<Duration> {
    let value = value.trim();
    let seconds = match value.parse::<u32>() {
        Ok(seconds) => i64::from(seconds),
        Err(_not_a_number) => {
            let format = format_description!(
                "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
            );
            let at = PrimitiveDateTime::parse(value, format).ok()?;
            at.assume_utc().unix_timestamp().saturating_sub(now.0)
        }
    };
    let seconds = seconds.clamp(0, LONGEST_WAIT);
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_problem_says_what_and_of_which_name() {
        let problem: Problem = serde_json::from_str(
            r#"{"type":"urn:ietf:params:acme:error:malformed","detail":"Some of the names\u001b",
                "status":403,"subproblems":[{"type":"urn:ietf:params:acme:error:caa",
                "detail":"not for us","identifier":{"type":"dns","value":"a.example"}}]}"#,
        )
        .unwrap();
        assert_eq!(
            problem.to_string(),
            "malformed: Some of the names; caa: not for us"
        );
        assert_eq!(serde_json::from_str::<Problem>("{}").unwrap().code(), "");
    }

    #[test]
    fn resources_are_read_whatever_else_they_hold() {
        let order: Order = serde_json::from_str(
            r#"{"status":"ready","expires":"2016-01-05T14:09:07.99Z","identifiers":[],
                "authorizations":["https://a.example/1"],"finalize":"https://a.example/f"}"#,
        )
        .unwrap();
        assert_eq!(order.status, Status::Ready);
        let odd: Status = serde_json::from_str("\"zebra\"").unwrap();
        assert_eq!(odd, Status::Unknown);
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let now = UnixSeconds(784_111_777 - 30);
        let date = retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now);
        assert_eq!(date, Some(Duration::from_secs(30)));
        let wait = |text| retry_after(text, now).map(|wait| wait.as_secs());
        assert_eq!(wait(" 120 "), Some(120));
        assert_eq!(wait("4000000000"), Some(86_400));
        assert_eq!(wait("Sat, 06 Nov 1993 08:49:37 GMT"), Some(0));
        assert_eq!(wait("soon"), None);
    }

    proptest! {
        #[test]
        fn no_token_leaves_its_path(text in "\\PC{0,300}") {
            if is_token(&text) {
                prop_assert!(!text.contains(['/', '.', '%', '?', '#', ' ']));
            }
        }
    }
}
