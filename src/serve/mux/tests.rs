use std::sync::Mutex;

use tokio::{
    io::{DuplexStream, duplex},
    task::JoinSet,
    time::Instant,
};

use super::*;
use crate::{
    net::{RelayCause, RelayOptions, relay},
    wire::{
        ConnectionId,
        mux::{Break, MAX_STREAMS},
    },
};

const LIMITS: Limits = Limits {
    first: None,
    idle: Duration::from_secs(600),
};

fn open() -> Open {
    Open::new(ConnectionId([7; 16]))
}

fn driver(io: DuplexStream, link: &Link, side: Side, limits: Limits) -> Driver<DuplexStream> {
    Driver::new(io, link.clone(), side, limits, |_| {})
}

/// Carries a gateway's end of a link that ends as it should.
async fn opening(io: DuplexStream, link: Link, limits: Limits) {
    let own = driver(io, &link, Side::Gateway, limits);
    assert_eq!(own.run(|_, _| {}).await, None);
}

/// The same of an acceptor's, with each of its streams.
async fn accepting<F>(io: DuplexStream, limits: Limits, carry: fn(Stream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let link = Link::new(Side::Acceptor);
    let own = driver(io, &link, Side::Acceptor, limits);
    let mut streams = JoinSet::new();
    let ended = own.run(|stream, _open| drop(streams.spawn(carry(stream))));
    assert_eq!(ended.await, None);
    streams.join_all().await;
}

/// Waits for what was begun, and fails where it has failed.
async fn over(tasks: JoinSet<()>) {
    let all = tokio::time::timeout(Duration::from_secs(60), tasks.join_all());
    all.await.expect("a task that does not end");
}

/// Runs a link whose acceptor gives back what comes; `act` gets the gateway's end.
async fn echoing<T>(room: usize, act: impl AsyncFnOnce(Link) -> T) -> T {
    let (near, far) = duplex(room);
    let gateway = Link::new(Side::Gateway);
    let mut tasks = JoinSet::new();
    tasks.spawn(accepting(far, LIMITS, |stream| async move {
        stream.admit();
        let (mut read, mut write) = tokio::io::split(stream);
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            drop(write.shutdown().await);
        }
    }));
    tasks.spawn(opening(near, gateway.clone(), LIMITS));
    let done = act(gateway.clone()).await;
    gateway.leave();
    over(tasks).await;
    done
}

#[tokio::test(start_paused = true)]
async fn streams_carry_what_they_are_given_whatever_the_pipe_takes_at_a_time() {
    for room in [7, 1000, 1 << 20] {
        echoing(room, async |link| {
            let [a, b, c, d] = [1, 2, 3, 4].map(|n: u8| {
                let mut stream = link.open(&open(), None).unwrap();
                async move {
                    stream.admitted().await.unwrap();
                    let sent = vec![n; 40_000 * usize::from(n)];
                    let (mut read, mut write) = tokio::io::split(stream);
                    let mut got = Vec::new();
                    let (wrote, took) = tokio::join!(
                        async {
                            write.write_all(&sent).await?;
                            write.shutdown().await
                        },
                        read.read_to_end(&mut got)
                    );
                    wrote.unwrap();
                    took.unwrap();
                    assert!(got == sent);
                }
            });
            tokio::join!(a, b, c, d);
            // one that is dropped before its end is told from one that has ended
            let mut dropped = link.open(&open(), None).unwrap();
            dropped.admitted().await.unwrap();
        })
        .await;
    }
}

/// Much is handed from a relay to its stream, and back, in the buffer that it is in.
#[tokio::test]
async fn a_relay_carries_much_and_little_over_a_stream() {
    // whole buffers, parts of them, and windows that end within one
    for (client_room, link_room) in [(1 << 20, 1 << 20), (50_000, 1 << 18), (3000, 100_000)] {
        echoing(link_room, async |link| {
            let mut stream = link.open(&open(), None).unwrap();
            stream.admitted().await.unwrap();
            let (client, mut edge) = duplex(client_room);
            let options = RelayOptions::default();
            let sent: Vec<u8> = (0..5_000_000_u32)
                .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
                .collect();
            let (mut read, mut write) = tokio::io::split(client);
            let mut got = Vec::new();
            let (end, wrote, took) = tokio::join!(
                relay(&mut edge, &mut stream, &options),
                async {
                    let (front, rest) = sent.split_at(10);
                    write.write_all(front).await?;
                    tokio::task::yield_now().await;
                    write.write_all(rest).await?;
                    write.shutdown().await
                },
                read.read_to_end(&mut got)
            );
            wrote.unwrap();
            took.unwrap();
            assert!(matches!(end.cause, RelayCause::Finished), "{end:?}");
            assert_eq!((end.a_to_b, end.b_to_a), (5_000_000, 5_000_000));
            assert!(got == sent);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_lives_by_its_answers() {
    echoing(4096, async |link| {
        let mut stream = link.open(&open(), None).unwrap();
        stream.admitted().await.unwrap();
        tokio::time::sleep(Duration::from_secs(300)).await;
        stream.write_all(b"word").await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"word");
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut back).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_does_not_answer_ends_the_link_and_breaks_its_streams() {
    let (near, _far) = duplex(4096);
    let link = Link::new(Side::Gateway);
    let mut stream = link.open(&open(), None).unwrap();
    let began = Instant::now();
    let (ended, answer) = tokio::join!(
        driver(near, &link, Side::Gateway, LIMITS).run(|_, _| {}),
        stream.admitted()
    );
    assert_eq!(ended.unwrap().reason, Denial::LinkSilent);
    assert_eq!(answer, Err(Break::Link));
    let took = began.elapsed();
    assert!((30..35).contains(&took.as_secs()), "{took:?}");
    let error = stream.read(&mut [0]).await.unwrap_err();
    assert!(error.to_string().contains("did not answer"), "{error}");
    assert!(link.open(&open(), None).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_end_that_takes_nothing_ends_the_link() {
    let (near, mut far) = duplex(64);
    let link = Link::new(Side::Gateway);
    let streams: Vec<_> = (0..4).map(|_| link.open(&open(), None).unwrap()).collect();
    let ended = tokio::select! {
        ended = driver(near, &link, Side::Gateway, LIMITS).run(|_, _| {}) => ended,
        // it speaks, and reads nothing
        () = async {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                let ping = Header { kind: Kind::Ping, len: 8, stream: 0 };
                far.write_all(&[&ping.bytes()[..], &[0; 8]].concat()).await.unwrap();
            }
        } => None,
    };
    assert_eq!(ended.unwrap().reason, Denial::WriteTimeout);
    drop(streams);
}

#[tokio::test(start_paused = true)]
async fn a_link_ends_by_itself_without_clients_and_as_a_fault_with_them() {
    // nobody comes
    let first = Limits {
        first: Some(Duration::from_secs(5)),
        ..LIMITS
    };
    let (near, mut far) = duplex(4096);
    let link = Link::new(Side::Acceptor);
    let ended = driver(near, &link, Side::Acceptor, first)
        .run(|_, _| {})
        .await;
    assert_eq!(ended.unwrap().reason, Denial::HandshakeTimeout);
    let mut word = Vec::new();
    far.read_to_end(&mut word).await.unwrap();
    assert!(word.ends_with(b"handshake_timeout"));
    // nobody is there any more; one that was opened beside others and found no use goes sooner
    let idle = Limits {
        first: None,
        idle: Duration::from_secs(8),
    };
    for (side, limits, ends) in [(Side::Acceptor, idle, 8..11), (Side::Gateway, LIMITS, 2..5)] {
        let (near, _far) = duplex(4096);
        let link = Link::new(side);
        let began = Instant::now();
        let ended = driver(near, &link, side, limits).run(|_, _| {}).await;
        assert_eq!(ended, None);
        assert!(ends.contains(&began.elapsed().as_secs()));
    }
    // the other end closes: with a stream that is a break, without one it is not
    for streams in [0, 1] {
        let (near, far) = duplex(4096);
        drop(far);
        let link = Link::new(Side::Gateway);
        let held: Vec<_> = (0..streams).map(|_| link.open(&open(), None)).collect();
        let ended = driver(near, &link, Side::Gateway, LIMITS)
            .run(|_, _| {})
            .await;
        assert_eq!(ended.is_some(), streams > 0);
        drop(held);
    }
}

/// However short its clients are, and whenever the deadlines are looked at.
#[tokio::test(start_paused = true)]
async fn a_link_in_steady_use_is_neither_unused_nor_idle() {
    let idle = Limits {
        first: None,
        idle: Duration::from_secs(3),
    };
    let (near, far) = duplex(1 << 20);
    let gateway = Link::new(Side::Gateway);
    let mut tasks = JoinSet::new();
    tasks.spawn(accepting(far, idle, |mut stream| async move {
        stream.admit();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }));
    tasks.spawn(opening(near, gateway.clone(), idle));
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(370)).await;
        let mut stream = gateway.open(&open(), None).expect("the link is in use");
        stream.admitted().await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
    // and without any it goes
    let began = Instant::now();
    over(tasks).await;
    assert!((3..6).contains(&began.elapsed().as_secs()));
}

/// A client that goes before its answer keeps no place on the link, or one for a moment where many
/// do.
#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_wants_and_nobody_answers_ends() {
    for (many, seconds) in [(1, 0..1), (MAX_STREAMS, 0..2)] {
        let (near, mut far) = duplex(1 << 20);
        let link = Link::new(Side::Gateway);
        let mut tasks = JoinSet::new();
        tasks.spawn(opening(near, link.clone(), LIMITS));
        let mut streams: Vec<_> = (0..many)
            .map(|_| link.open(&open(), None).unwrap())
            .collect();
        let waited = tokio::time::timeout(Duration::from_millis(100), streams[0].admitted());
        waited.await.unwrap_err();
        let began = Instant::now();
        drop(streams);
        link.leave();
        over(tasks).await;
        assert!(seconds.contains(&began.elapsed().as_secs()));
        let mut said = Vec::new();
        far.read_to_end(&mut said).await.unwrap();
        let reset = [Kind::Reset as u8, 0, 0, 0, 0, 0];
        let resets = said.windows(reset.len()).filter(|some| *some == reset);
        assert_eq!(resets.count(), many);
    }
}

#[tokio::test(start_paused = true)]
async fn a_violation_is_told_and_breaks_every_stream() {
    let (near, mut far) = duplex(4096);
    let link = Link::new(Side::Acceptor);
    let opened = Mutex::new(Vec::new());
    let mut frames = Vec::new();
    for id in [1, 2] {
        let payload = link::encode(&link::Frame::Open(Box::new(open())));
        let payload = payload.get(link::HEADER_LEN..).unwrap();
        let header = Header {
            kind: Kind::Open,
            len: payload.len(),
            stream: id,
        };
        frames.extend(header.bytes());
        frames.extend(payload);
    }
    frames.extend([99; HEADER_LEN]);
    far.write_all(&frames).await.unwrap();
    let running = driver(near, &link, Side::Acceptor, LIMITS);
    let ended = running
        .run(|stream, _open| opened.lock().unwrap().push(stream))
        .await;
    assert_eq!(ended.unwrap().reason, Denial::LinkViolation);
    let mut streams = opened.into_inner().unwrap();
    assert_eq!(streams.len(), 2);
    for stream in &mut streams {
        assert_eq!(stream.broken().await, Break::Cut);
        assert!(stream.write_all(b"x").await.is_err());
    }
    let mut word = Vec::new();
    far.read_to_end(&mut word).await.unwrap();
    assert!(word.ends_with(b"link_violation"), "{word:?}");
}

#[tokio::test]
async fn the_first_word_is_a_welcome_or_why_not() {
    let mut word = Vec::new();
    write_welcome(&mut word).await.unwrap();
    let able = Welcome { ahead: true };
    assert_eq!(read_welcome(&mut &word[..]).await, Ok(able));
    // one of before can't do anything, and one of later may do more
    for (word, ahead) in [
        (&b"\x02\0\0\0\0\0\0\0"[..], false),
        (b"\x02\0\0\x07\0\0\0\0\x09\0\x01x\x01\0\0", true),
        (b"\x02\0\0\x04\0\0\0\0\x01\0\x01x", false),
    ] {
        let mut word = word;
        assert_eq!(read_welcome(&mut word).await, Ok(Welcome { ahead }));
    }
    for (word, reason) in [
        (
            &b"\x03\0\0\x08\0\0\0\0draining"[..],
            Denial::UpstreamRefused,
        ),
        (&[2, 0, 0, 0, 0, 0, 0, 1], Denial::LinkViolation),
        (&[99; 8], Denial::LinkViolation),
        (&[2, 0], Denial::UpstreamRefused),
    ] {
        let denied = read_welcome(&mut &word[..]).await.unwrap_err();
        assert_eq!(denied.reason, reason, "{word:?}");
    }
}
