//! HTTP/1 framing: the same judgement however the bytes come, and no head that a parser reads to
//! another end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::wire::framing::{Guard, Stop};

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
