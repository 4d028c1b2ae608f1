//! HTTP/1 requests: the same judgement however the bytes come, and no head or body that a parser
//! reads otherwise.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use libfuzzer_sys::fuzz_target;
use portcullis::wire::framing::{
    Head,
    guard::{Guard, Stop},
};

const LIMIT: usize = 4 << 10;

/// What passes, and what ends it, when the bytes come in pieces of these sizes by turns.
fn judged(bytes: &[u8], sizes: &[u8]) -> (usize, Option<Stop>) {
    let mut guard = Guard::new(LIMIT);
    let mut sizes = sizes.iter().cycle().map(|size| usize::from(*size) + 1);
    let (mut passed, mut come) = (0, 0);
    while come < bytes.len() {
        come = bytes.len().min(come + sizes.next().unwrap_or(bytes.len()));
        let verdict = guard.judge(&bytes[passed..come]);
        assert!(verdict.pass <= come - passed);
        passed += verdict.pass;
        if verdict.stop.is_some() {
            return (passed, verdict.stop);
        }
        assert!(come - passed <= LIMIT, "held without bound");
    }
    (passed, None)
}

/// What is read of a head is what another parser reads.
fn agreed(bytes: &[u8]) {
    let mut head = Head::default();
    let Ok(Some(end)) = head.read(bytes, LIMIT) else {
        return;
    };
    let Ok(arrived) = head.take(&bytes[..end], HeaderMap::new()) else {
        return;
    };
    let mut table = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut table);
    assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(end)));
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes());
    assert_eq!(Some(&arrived.parts.method), method.ok().as_ref());
    let target = Uri::try_from(request.path.unwrap_or_default());
    assert_eq!(Some(&arrived.parts.uri), target.ok().as_ref());
    let mut headers = HeaderMap::new();
    for header in request.headers.iter() {
        headers.append(
            HeaderName::from_bytes(header.name.as_bytes()).expect("it was read"),
            HeaderValue::from_bytes(header.value).expect("it was read"),
        );
    }
    assert_eq!(arrived.parts.headers, headers);
}

fuzz_target!(|input: (&[u8], [u8; 4])| {
    let (bytes, sizes) = input;
    let mut guard = Guard::new(LIMIT);
    let whole = guard.judge(bytes);
    let (passed, stop) = judged(bytes, &sizes);
    // which rule is seen first may depend on how much is there
    assert_eq!(
        stop.as_ref().map(std::mem::discriminant),
        whole.stop.as_ref().map(std::mem::discriminant)
    );
    assert_eq!(passed, whole.pass);
    agreed(bytes);

    let mut first = Guard::new(LIMIT);
    let mut table = [httparse::EMPTY_HEADER; 512];
    let mut request = httparse::Request::new(&mut table);
    if guard.heads() > 0
        && let Ok(httparse::Status::Complete(end)) = request.parse(bytes)
    {
        // not a byte less is a head
        assert_eq!(first.judge(&bytes[..end - 1]).pass, 0);
    } else {
        assert_eq!(guard.heads(), 0, "no parser would take it");
    }
});
