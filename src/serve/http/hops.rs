//! How many hops a request may still take (RFC 9110 section 7.6.2), and who answers it after the last.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};

use super::{
    Answer, Client, Connection, Upstream,
    body::{Account, ResponseBody},
    errors::FORWARDED,
    exchange::Answered,
};
use crate::admit::{Denial, Denied};

const MAX_FORWARDS: HeaderName = HeaderName::from_static("max-forwards");

/// What becomes of a request that was let in.
pub(crate) enum Outcome<K: Upstream> {
    /// The backend answered.
    Answered(Answered<K>),
    /// It was to go no further: we say which methods pass here.
    Last(HeaderValue),
}

/// Takes a hop off what a request says, before it goes on; `false`: it goes no further. Other methods
/// than OPTIONS may say what they like; TRACE is let in nowhere.
///
/// # Errors
/// It says something else than one number.
pub(crate) fn take(method: &Method, headers: &mut HeaderMap) -> Result<bool, Denied> {
    if method != Method::OPTIONS {
        return Ok(true);
    }
    let mut lines = headers.get_all(MAX_FORWARDS).iter();
    let Some(line) = lines.next() else {
        return Ok(true);
    };
    let digits = line.as_bytes().trim_ascii();
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if !plain || lines.next().is_some() {
        return Err(Denied::new(
            Denial::RequestInvalid,
            "Max-Forwards is not one number",
        ));
    }
    let text = str::from_utf8(digits).unwrap_or_default();
    // section 7.6.2: the lesser of one less and the most that we know
    let left = text.parse().unwrap_or(u64::MAX);
    let Some(left) = left.checked_sub(1) else {
        return Ok(false);
    };
    headers.insert(MAX_FORWARDS, HeaderValue::from(left));
    Ok(true)
}

/// The methods that pass: those of a route, where it names them.
pub(crate) fn allowed(methods: Option<&[String]>) -> HeaderValue {
    let list = methods.and_then(|methods| HeaderValue::try_from(methods.join(", ")).ok());
    list.unwrap_or(HeaderValue::from_static(FORWARDED))
}

impl<K: Upstream> Outcome<K> {
    /// Passes the answer on, or is it.
    pub(crate) fn respond<C: Client>(
        self,
        connection: &Arc<Connection<C>>,
        mut account: Account,
    ) -> Answer<K> {
        match self {
            Self::Answered(answered) => answered.respond(connection, account),
            Self::Last(methods) => {
                account.status = 200;
                // it has no body that would be taken
                account.complete = true;
                let mut answer = Response::new(ResponseBody::own(None, account));
                answer.headers_mut().insert(header::ALLOW, methods);
                answer
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(method: &Method, lines: &[&'static str]) -> Result<(bool, Vec<String>), Denied> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(MAX_FORWARDS, HeaderValue::from_static(line));
        }
        let on = take(method, &mut headers)?;
        let left = headers.get_all(MAX_FORWARDS).iter();
        let left = left.map(|value| value.to_str().unwrap().to_owned());
        Ok((on, left.collect()))
    }

    #[rstest::rstest]
    #[case(&[], true, &[])]
    #[case(&["5"], true, &["4"])]
    #[case(&["1"], true, &["0"])]
    #[case(&["010"], true, &["9"])]
    #[case(&["99999999999999999999999"], true, &["18446744073709551614"])]
    #[case(&["0"], false, &["0"])]
    #[case(&["00"], false, &["00"])]
    fn a_hop_is_taken_off(#[case] lines: &[&'static str], #[case] on: bool, #[case] left: &[&str]) {
        let taken = taken(&Method::OPTIONS, lines).unwrap();
        assert_eq!(taken, (on, left.iter().map(ToString::to_string).collect()));
    }

    #[rstest::rstest]
    #[case(&["x"])]
    #[case(&[""])]
    #[case(&["-1"])]
    #[case(&["1, 0"])]
    #[case(&["1", "0"])]
    fn what_is_no_number_is_no_bound(#[case] lines: &[&'static str]) {
        assert!(taken(&Method::OPTIONS, lines).is_err());
        assert!(taken(&Method::GET, lines).unwrap().0, "nobody asks");
    }

    #[test]
    fn a_route_says_what_passes() {
        let methods = ["GET".to_owned(), "OPTIONS".to_owned()];
        assert_eq!(allowed(Some(&methods)), "GET, OPTIONS");
        assert_eq!(allowed(None), FORWARDED);
    }
}
