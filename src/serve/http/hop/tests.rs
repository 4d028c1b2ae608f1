use std::{collections::VecDeque, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header::HOST};
use http_body_util::BodyExt as _;
use rstest::rstest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
};

use super::*;
use crate::{
    serve::http::{
        body::RequestBody,
        client::{Kind, SendFailed},
        expect::Interim,
    },
    telemetry::metrics::Metrics,
};

impl Abort for DuplexStream {
    fn abort(&mut self) {}
}

/// A connection, and the next hop's end of it.
fn pair() -> (Box<Hop>, DuplexStream) {
    let (near, far) = duplex(64 << 10);
    (Hop::new(near, None, Drain::new()), far)
}

async fn ask(hop: Box<Hop>, method: &Method) -> Result<Response<AnswerBody>, SendFailed> {
    let request = Request::builder()
        .method(method)
        .uri("/a")
        .header("host", "b")
        .body(RequestBody::none(&Arc::default()))
        .unwrap();
    let metrics = Metrics::new().requests_to("x");
    let interim = Interim {
        metrics: &metrics,
        asked: None,
    };
    send(hop, request, interim).await
}

/// Reads the head of a request and answers with `bytes`, in pieces of `piece`; then ends if `close`.
#[expect(clippy::disallowed_methods, reason = "a test waits for its own task")]
fn answers(mut far: DuplexStream, bytes: Vec<u8>, piece: usize, close: bool) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            let Ok(byte) = far.read_u8().await else {
                return;
            };
            read.push(byte);
        }
        for piece in bytes.chunks(piece) {
            if far.write_all(piece).await.is_err() {
                return;
            }
            // so that each piece is one read
            tokio::task::yield_now().await;
        }
        if !close {
            std::future::pending::<()>().await;
        }
    })
}

/// A whole answer: its body, its trailers, and whether its connection can be used again.
async fn whole(
    response: Response<AnswerBody>,
) -> Result<(Vec<u8>, Option<HeaderMap>, bool), String> {
    let mut body = response.into_body();
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| error.to_string())?.into_data() {
            Ok(more) => data.extend_from_slice(&more),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((data, trailers, body.rested().is_some()))
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what)
        .await
        .expect("in time")
}

const CHUNKED: &str = "HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\n1;x\r\n!\r\n0\r\nX-Own: yes\r\n\r\n";
const SIZED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello!";
const CLOSED: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello!";

#[rstest]
#[case(CHUNKED, false, true)]
#[case(SIZED, false, true)]
#[case(CLOSED, true, false)]
#[tokio::test]
async fn an_answer_is_the_same_in_pieces_of_any_size(
    #[case] answer: &str,
    #[case] close: bool,
    #[case] kept: bool,
) {
    for piece in 1..=answer.len() {
        let (hop, far) = pair();
        let task = answers(far, answer.into(), piece, close);
        let response = in_time(ask(hop, &Method::GET)).await;
        let response = response.map_err(|failed| failed.denied).unwrap();
        let (data, trailers, rested) = in_time(whole(response)).await.unwrap();
        assert_eq!(data, b"hello!", "{piece}");
        assert_eq!(trailers.is_some(), answer == CHUNKED);
        assert_eq!(rested, kept);
        task.abort();
    }
}

#[rstest]
#[case(CHUNKED)]
#[case(SIZED)]
#[tokio::test]
async fn an_answer_that_ends_too_early_breaks_wherever_it_ends(#[case] answer: &str) {
    for length in 0..answer.len() {
        let (hop, far) = pair();
        let task = answers(far, answer.as_bytes()[..length].into(), length.max(1), true);
        if let Ok(response) = in_time(ask(hop, &Method::GET)).await {
            let broken = in_time(whole(response)).await.unwrap_err();
            assert!(
                broken.contains("before its answer was complete"),
                "{broken}"
            );
        }
        task.abort();
    }
}

#[rstest]
#[case(Method::GET, SIZED)]
#[case(Method::GET, CHUNKED)]
#[case(Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")]
#[case(Method::GET, "HTTP/1.1 204 No\r\nContent-Length: 6\r\n\r\n")]
#[case(Method::GET, "HTTP/1.1 304 No\r\nContent-Length: 6\r\n\r\n")]
#[tokio::test]
async fn what_stands_behind_an_answer_ends_its_connection(
    #[case] method: Method,
    #[case] answer: &str,
) {
    for behind in ["", "H", SIZED] {
        let (hop, far) = pair();
        let bytes = [answer, behind].concat();
        let task = answers(far, bytes.into(), usize::MAX, false);
        let response = in_time(ask(hop, &method)).await;
        let response = response.map_err(|failed| failed.denied).unwrap();
        let (_, _, rested) = in_time(whole(response)).await.unwrap();
        assert_eq!(rested, behind.is_empty(), "{behind:?}");
        task.abort();
    }
}

#[rstest]
#[case("HTTP/1.1 102 Processing\r\n\r\n".repeat(2000), "interim answers")]
#[case(format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(1 << 20)), "longer than")]
#[case("HTTP/1.1 200 OK\r\n".to_owned() + &"A: b\r\n".repeat(1 << 18), "fields")]
#[case("\r\n".repeat(1 << 18), "status line")]
#[tokio::test]
async fn what_never_becomes_an_answer_is_not_waited_for(#[case] bytes: String, #[case] why: &str) {
    let (hop, far) = pair();
    let task = answers(far, bytes.into(), usize::MAX, false);
    let failed = in_time(ask(hop, &Method::GET)).await.err().unwrap();
    assert_eq!(failed.denied.reason, Denial::UpstreamBroken);
    assert!(
        failed.denied.detail.contains(why),
        "{}",
        failed.denied.detail
    );
    assert!(failed.unsent.is_none());
    task.abort();
}

#[tokio::test]
async fn trailers_without_end_are_not_kept() {
    let (hop, far) = pair();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    let bytes = head.to_owned() + &"A: b\r\n".repeat(1 << 18);
    let task = answers(far, bytes.into(), usize::MAX, false);
    let response = in_time(ask(hop, &Method::GET)).await.ok().unwrap();
    let broken = in_time(whole(response)).await.unwrap_err();
    assert!(broken.contains("trailers are longer"), "{broken}");
    task.abort();
}

#[tokio::test]
async fn a_connection_that_is_not_quiet_takes_no_request() {
    let (mut hop, mut far) = pair();
    assert!(hop.is_quiet_now());
    far.write_all(b"x").await.unwrap();
    assert!(!hop.is_quiet_now(), "bytes that nobody asked for");
    let (mut hop, far) = pair();
    drop(far);
    assert!(!hop.is_quiet_now(), "an end");
}

#[tokio::test]
async fn a_request_of_which_not_a_byte_went_out_comes_back() {
    let (hop, far) = pair();
    drop(far);
    let failed = in_time(ask(hop, &Method::POST)).await.err().unwrap();
    let request = failed.unsent.expect("the request");
    assert_eq!(request.headers()["host"], "b");
}

#[rstest]
#[case::nothing("")]
#[case::an_interim_answer("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")]
#[case::half_a_head("HTTP/1.1 200 OK\r\nA: b\r\n")]
#[case::a_head_in_doubt("HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: x\r\n\r\n")]
#[tokio::test]
async fn a_request_that_may_be_sent_twice_comes_back_whole(#[case] bytes: &str) {
    for (method, may_be) in [(Method::GET, true), (Method::POST, false)] {
        let (hop, far) = pair();
        let task = answers(far, bytes.into(), usize::MAX, true);
        let failed = in_time(ask(hop, &method)).await.err().unwrap();
        assert_eq!(failed.denied.reason, Denial::UpstreamBroken);
        assert!(failed.unsent.is_none(), "it was sent");
        let fields = failed.repeatable.map(|request| request.headers().clone());
        let expected = HeaderMap::from_iter([(HOST, HeaderValue::from_static("b"))]);
        assert_eq!(fields, may_be.then_some(expected), "{method}");
        task.await.unwrap();
    }
}

/// Rules that admit every link.
struct Admits;

impl Judge for Admits {
    fn judged(&self) -> Result<(), Denied> {
        Ok(())
    }
}

#[tokio::test]
async fn who_waits_on_a_link_is_told_that_it_ends() {
    let (near, far) = duplex(64 << 10);
    let fate = Arc::new(Fate::new(Arc::new(Admits)));
    let hop = Hop::new(near, Some(Arc::clone(&fate)), Drain::new());
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhel";
    let task = answers(far, half.into(), usize::MAX, false);
    let response = in_time(ask(hop, &Method::GET)).await.ok().unwrap();
    let mut body = response.into_body();
    let first = in_time(body.frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), Bytes::from_static(b"hel"));
    assert!(body.frame().now_or_never().is_none());
    let sealed = async { fate.seal(Denied::new(Denial::RulesChanged, "gone")) };
    let (broken, first) = in_time(async { tokio::join!(body.frame(), sealed) }).await;
    assert!(first);
    let broken = broken.unwrap().unwrap_err().to_string();
    assert!(broken.contains("the link connection ended"), "{broken}");
    assert!(body.frame().await.unwrap().is_err(), "it is no end");
    task.abort();

    let (near, mut far) = duplex(64 << 10);
    let mut hop = Hop::new(near, Some(fate), Drain::new());
    assert!(!hop.is_quiet_now());
    let failed = in_time(ask(hop, &Method::GET)).await.err().unwrap();
    assert!(failed.unsent.is_some());
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0, "not a byte of it");
}

/// A next hop that says this and no more, and takes what it is sent, or breaks, or waits.
struct Silent {
    says: &'static str,
    takes: Poll<bool>,
    /// Sealed while it is listened to in vain.
    seals: Option<Arc<Fate>>,
}

impl AsyncRead for Silent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.says.is_empty() {
            buf.put_slice(std::mem::take(&mut self.says).as_bytes());
            return Poll::Ready(Ok(()));
        }
        if let Some(fate) = &self.seals {
            fate.seal(Denied::new(Denial::RulesChanged, "gone"));
        }
        Poll::Pending
    }
}

impl Hold for Silent {}

impl Abort for Silent {
    fn abort(&mut self) {}
}

impl AsyncWrite for Silent {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.takes.map(|takes| match takes {
            true => Ok(bytes.len()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.takes.map(|_| Ok(()))
    }
}

#[rstest]
#[case("")]
#[case("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhel")]
#[tokio::test(start_paused = true)]
async fn an_end_that_comes_while_the_link_is_looked_at_is_not_lost(#[case] says: &'static str) {
    let fate = Arc::new(Fate::new(Arc::new(Admits)));
    let silent = Silent {
        says,
        takes: Poll::Ready(true),
        seals: Some(Arc::clone(&fate)),
    };
    let hop = Hop::new(silent, Some(fate), Drain::new());
    let begun = tokio::time::Instant::now();
    let broken = match in_time(ask(hop, &Method::GET)).await {
        Ok(response) => in_time(whole(response)).await.unwrap_err(),
        Err(failed) => failed.denied.detail,
    };
    // a clock that stands goes on when everybody waits
    assert!(begun.elapsed().is_zero(), "nobody was woken");
    assert!(broken.contains("the link connection ended"), "{broken}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_who_takes_nothing_more_is_not_waited_for_long() {
    let silent = Silent {
        says: "",
        takes: Poll::Ready(false),
        seals: None,
    };
    let hop = Hop::new(silent, None, Drain::new());
    let failed = in_time(ask(hop, &Method::GET)).await.err().unwrap();
    assert_eq!(failed.denied.reason, Denial::UpstreamBroken);
}

#[rstest]
#[case("HTTP/1.1 200 OK\r\nContent-Le")]
#[case("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")]
#[case("\r\n")]
#[tokio::test(start_paused = true)]
async fn what_comes_before_the_request_is_not_its_answer(#[case] says: &'static str) {
    let silent = Silent {
        says,
        takes: Poll::Pending,
        seals: None,
    };
    let hop = Hop::new(silent, None, Drain::new());
    let failed = in_time(ask(hop, &Method::GET)).await.err().unwrap();
    let detail = &failed.denied.detail;
    assert!(detail.contains("before it was asked"), "{detail}");
    assert!(failed.unsent.is_some());
}

#[tokio::test]
async fn a_task_that_has_done_much_is_told_that_a_connection_ended() {
    let (mut hop, far) = pair();
    drop(far);
    while tokio::task::coop::consume_budget().now_or_never().is_some() {}
    assert!(!hop.is_quiet_now());
    assert!(!Kind::Http1(Some(hop)).ready().await);
}

#[test]
fn a_connection_may_be_dropped_where_no_timer_can_be_set() {
    let silent = Silent {
        says: "",
        takes: Poll::Pending,
        seals: None,
    };
    let stalls = crate::net::Stalls::new(silent, Duration::from_secs(1));
    drop(Hop::new(stalls, None, Drain::new()));
}

/// A next hop whose octets come in pieces: many are lent, few are read. Then it ends, or is quiet.
struct Lends {
    pieces: VecDeque<Octets>,
    ends: bool,
}

impl Abort for Lends {
    fn abort(&mut self) {}
}

impl Hold for Lends {
    fn poll_lend(&mut self, _cx: &mut Context<'_>) -> Option<Poll<io::Result<Option<Octets>>>> {
        match self.pieces.front() {
            Some(piece) if !piece.are_many() => None,
            None if !self.ends => Some(Poll::Pending),
            _ => Some(Poll::Ready(Ok(self.pieces.pop_front()))),
        }
    }
}

impl AsyncRead for Lends {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(piece) = self.pieces.pop_front() else {
            return if self.ends {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        };
        let (now, later) = piece
            .as_ref()
            .split_at(buf.remaining().min(piece.as_ref().len()));
        buf.put_slice(now);
        if !later.is_empty() {
            self.pieces.push_front(Octets::of(later));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lends {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Length,
    Chunks,
    Close,
}

#[rstest]
#[tokio::test]
async fn much_of_a_body_passes_in_the_buffers_that_it_came_in(
    #[values(Ends::Length, Ends::Chunks, Ends::Close)] ends: Ends,
    #[values(1000, 33_000, 40_000, 65_280, 65_536)] piece: usize,
) {
    let body: Vec<u8> = (0..300_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let head = match ends {
        Ends::Length => "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n",
        Ends::Chunks => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        Ends::Close => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    };
    let mut answer = head.as_bytes().to_vec();
    if ends == Ends::Chunks {
        for chunk in body.chunks(110_000) {
            answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            answer.extend_from_slice(chunk);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\n\r\n");
    } else {
        answer.extend_from_slice(&body);
    }
    let whole = answer.len();
    answer.extend_from_slice(SIZED.as_bytes());
    let close = ends == Ends::Close;
    // whole, with more behind it, and cut short
    for len in [whole, answer.len(), whole - 1, whole - piece, 100] {
        let (front, rest) = answer[..len].split_at(head.len().min(len));
        let pieces = [front].into_iter().chain(rest.chunks(piece));
        let pieces: VecDeque<Octets> = pieces.map(Octets::of).collect();
        let many = pieces.iter().filter(|piece| piece.are_many());
        let lent: Vec<*const u8> = many.map(|piece| piece.as_ref().as_ptr()).collect();
        let ends_early = len < whole;
        let hop = Lends {
            pieces,
            ends: close || ends_early,
        };
        let hop = Hop::new(hop, None, Drain::new());
        let response = in_time(ask(hop, &Method::GET)).await.ok().unwrap();
        let mut body_came = response.into_body();
        let (mut came, mut passed, mut broken) = (Vec::new(), 0, None);
        while let Some(frame) = in_time(body_came.frame()).await {
            match frame {
                Ok(frame) => {
                    let data = frame.into_data().unwrap();
                    passed += usize::from(lent.contains(&data.as_ptr()));
                    came.extend_from_slice(&data);
                }
                Err(error) => {
                    broken = Some(error.to_string());
                    break;
                }
            }
        }
        let all = if close {
            &answer[head.len()..len]
        } else {
            &body
        };
        assert!(all.starts_with(&came), "{len}");
        assert_eq!(broken.is_some(), ends_early && !close, "{len}: {broken:?}");
        if broken.is_none() {
            assert_eq!(came.len(), all.len(), "{len}");
        }
        let goes_on = body_came.rested().is_some_and(|mut hop| hop.is_quiet_now());
        assert_eq!(goes_on, len == whole && !close, "{len}");
        let expected = match ends {
            // what is behind the body's end, or is less than half a buffer, is copied
            Ends::Length | Ends::Close => lent.len(),
            Ends::Chunks => lent.len().min(2),
        };
        assert!(
            passed >= expected,
            "{passed} of {} buffers of {len}",
            lent.len()
        );
    }
}
