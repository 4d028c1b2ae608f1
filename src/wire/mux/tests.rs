use std::{
    collections::VecDeque,
    task::{Poll, Waker},
};

use proptest::prelude::*;

use super::{ends::EARLY, *};
use crate::wire::link::{ConnectionId, FrameError, Open, codec};

const IDLE: &Waker = Waker::noop();

/// As many as a link carries.
const STREAMS: u32 = 256;

/// The number of the n-th stream.
fn numbered(n: usize) -> u32 {
    u32::try_from(n).unwrap() + 1
}

fn open() -> Open {
    Open::new(ConnectionId([7; 16]))
}

/// One end, and what it has yet to be given.
struct End {
    mux: Mux<Vec<u8>>,
    coming: Vec<u8>,
    opened: Vec<u32>,
}

impl End {
    fn new(side: Side) -> Self {
        let mut mux = Mux::new(side);
        mux.set_busy(true);
        Self {
            mux,
            coming: Vec::new(),
            opened: Vec::new(),
        }
    }

    /// Takes whole frames out of what has come.
    fn take(&mut self, now: u64) -> Result<Event, Violation> {
        while let Some(head) = self.coming.first_chunk::<HEADER_LEN>() {
            let header = Header::read(*head)?;
            let Some(payload) = self.coming.get(HEADER_LEN..HEADER_LEN + header.len) else {
                break;
            };
            let payload = payload.to_vec();
            self.coming.drain(..HEADER_LEN + header.len);
            if header.kind == Kind::Data {
                if self.mux.expect(header)? {
                    self.mux.data(header.stream, payload);
                }
                continue;
            }
            match self.mux.frame(header, &payload, now)? {
                Event::Opened(id, _) => self.opened.push(id),
                Event::None => {}
                over @ Event::Over(_) => return Ok(over),
            }
        }
        Ok(Event::None)
    }

    fn hear(&mut self, frames: &[u8]) -> Result<Event, Violation> {
        self.coming.extend(frames);
        self.take(0)
    }

    fn write(&mut self, id: u32, bytes: &[u8]) -> Poll<Result<usize, Break>> {
        let reserved = self.mux.poll_reserve(id, bytes.len(), IDLE);
        if let Poll::Ready(Ok(n)) = reserved {
            self.mux.push(id, bytes[..n].to_vec());
        }
        reserved
    }

    /// What it has to say; with `usize::MAX` what waits for company too.
    fn say(&mut self, most: usize) -> Vec<u8> {
        if most == usize::MAX {
            self.mux.call_later();
        }
        let mut pieces = VecDeque::new();
        self.mux.transmit(most, &mut pieces);
        let mut bytes = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Bytes(part) | Piece::Body(part) => bytes.extend(part),
            }
        }
        bytes
    }
}

fn frame(kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = payload.len();
    [&Header { kind, len, stream }.bytes(), payload].concat()
}

fn said(kind: Kind, stream: u32) -> Vec<u8> {
    frame(kind, stream, &[])
}

fn opening(stream: u32) -> Vec<u8> {
    frame(Kind::Open, stream, &codec::open_payload(&open()))
}

/// An acceptor with stream 1, admitted.
fn acceptor() -> End {
    let mut end = End::new(Side::Acceptor);
    end.hear(&opening(1)).unwrap();
    end.mux.admit(1);
    end
}

#[test]
fn the_bytes_of_a_frame_are_as_documented() {
    assert_eq!(
        frame(Kind::Window, 258, &[0, 1, 0, 0]),
        [9, 0, 0, 4, 0, 0, 1, 2, 0, 1, 0, 0]
    );
    for kind in 1..=10 {
        let len = [0, 1, 0, 1, 1, 0, 0, 8, 8, 4, 0][usize::from(kind)];
        let stream = u8::from(!matches!(kind, 7 | 8 | 10));
        let bytes = [kind, 0, 0, len, 0, 0, 0, stream];
        assert_eq!(Header::read(bytes).unwrap().bytes(), bytes);
    }
}

#[rstest::rstest]
#[case::type_zero([0, 0, 0, 0, 0, 0, 0, 1], Violation::Type(0))]
#[case::type_eleven([11, 0, 0, 0, 0, 0, 0, 1], Violation::Type(11))]
#[case::empty_data([4, 0, 0, 0, 0, 0, 0, 1], Violation::Length(Kind::Data, 0))]
#[case::long_data([4, 1, 0, 1, 0, 0, 0, 1], Violation::Length(Kind::Data, 65537))]
#[case::long_open([1, 0, 0x10, 1, 0, 0, 0, 1], Violation::Length(Kind::Open, 4097))]
#[case::fin_says_more([5, 0, 0, 1, 0, 0, 0, 1], Violation::Length(Kind::Fin, 1))]
#[case::data_of_the_link([4, 0, 0, 1, 0, 0, 0, 0], Violation::Place(Kind::Data, 0))]
#[case::ping_of_a_stream([7, 0, 0, 8, 0, 0, 0, 1], Violation::Place(Kind::Ping, 1))]
fn a_header_tells_what_is_wrong(#[case] bytes: [u8; 8], #[case] wrong: Violation) {
    assert_eq!(Header::read(bytes), Err(wrong));
}

#[rstest::rstest]
#[case::unopened(said(Kind::Fin, 2), Violation::Unopened(Kind::Fin, 2))]
#[case::unopened_data(frame(Kind::Data, 9, b"x"), Violation::Unopened(Kind::Data, 9))]
#[case::used(opening(1), Violation::Used(1, 1))]
#[case::admitted(said(Kind::Admitted, 1), Violation::Direction(Kind::Admitted))]
#[case::refused(frame(Kind::Refused, 1, b"x"), Violation::Direction(Kind::Refused))]
#[case::goaway(said(Kind::GoAway, 0), Violation::Direction(Kind::GoAway))]
#[case::pong(frame(Kind::Pong, 0, &[0; 8]), Violation::Order(Kind::Pong, 0))]
#[case::crumb(frame(Kind::Window, 1, &1u32.to_be_bytes()), Violation::Window(1, 1))]
#[case::overflow(frame(Kind::Window, 1, &u32::MAX.to_be_bytes()), Violation::Window(1, u32::MAX))]
#[case::fin_twice([said(Kind::Fin, 1), said(Kind::Fin, 1)].concat(), Violation::Order(Kind::Fin, 1))]
#[case::data_behind_fin([said(Kind::Fin, 1), frame(Kind::Data, 1, b"x")].concat(), Violation::Order(Kind::Data, 1))]
#[case::far_ahead([opening(2), frame(Kind::Data, 2, &[0; AHEAD + 1])].concat(), Violation::Credit(2))]
#[case::further_ahead(
    [opening(2), frame(Kind::Data, 2, &[0; AHEAD]), frame(Kind::Data, 2, b"x")].concat(),
    Violation::Credit(2)
)]
#[case::fin_before_admitted([opening(2), said(Kind::Fin, 2)].concat(), Violation::Order(Kind::Fin, 2))]
#[case::empty_open(frame(Kind::Open, 2, &[1]), Violation::Frame(FrameError::Short("mode")))]
#[case::ping_flood(frame(Kind::Ping, 0, &[0; 8]).repeat(17), Violation::Flood(Kind::Ping))]
#[case::reset_flood(
    [said(Kind::Reset, 1), said(Kind::Reset, 1).repeat(1000)].concat(),
    Violation::Flood(Kind::Reset)
)]
#[case::beyond_the_window(
    frame(Kind::Data, 1, &[0; MAX_DATA]).repeat(WINDOW / MAX_DATA + 1),
    Violation::Credit(1)
)]
#[case::beyond_the_window_of_the_gone(
    [said(Kind::Reset, 1), frame(Kind::Data, 1, &[0; MAX_DATA]).repeat(WINDOW / MAX_DATA + 1)].concat(),
    Violation::Credit(1)
)]
#[case::open_flood(
    (2..=STREAMS + 1).flat_map(opening).collect(),
    Violation::Streams(STREAMS + 1)
)]
#[case::opened_and_reset(
    (2..5000).flat_map(|id| [opening(id), said(Kind::Reset, id)].concat()).collect(),
    Violation::Flood(Kind::Open)
)]
fn an_acceptor_ends_the_link_of_a_gateway_that(#[case] frames: Vec<u8>, #[case] wrong: Violation) {
    assert_eq!(acceptor().hear(&frames), Err(wrong));
}

#[test]
fn streams_that_are_reset_before_their_answer_are_a_flood_when_nobody_holds_them_either() {
    let mut end = End::new(Side::Acceptor);
    let mut ended = None;
    for id in 1..10_000 {
        let heard = end.hear(&[opening(id), said(Kind::Reset, id)].concat());
        end.opened.drain(..).for_each(|id| end.mux.release(id));
        end.say(1);
        if let Err(wrong) = heard {
            ended = Some((id, wrong));
            break;
        }
    }
    assert_eq!(ended, Some((4097, Violation::Flood(Kind::Reset))));
}

/// So many clients that have gone are no business of an acceptor's; as many streams are free again.
fn spend_early_resets(gateway: &mut End, acceptor: &mut End) {
    for _ in 0..EARLY {
        let id = gateway.mux.open(&open(), None).unwrap();
        acceptor.hear(&gateway.say(1)).unwrap();
        gateway.mux.release(id);
        assert_eq!(gateway.mux.live(), 0, "its place is free at once");
    }
    acceptor.hear(&gateway.say(1)).unwrap();
    acceptor
        .opened
        .drain(..)
        .for_each(|id| acceptor.mux.release(id));
    assert_eq!((acceptor.mux.live(), acceptor.mux.queued()), (0, 0));
}

#[test]
fn clients_that_go_before_their_answer_cost_the_acceptor_few_resets_in_advance() {
    let (mut gateway, mut acceptor) = (End::new(Side::Gateway), End::new(Side::Acceptor));
    // gone before OPEN was written: the acceptor hears nothing of it
    for _ in 0..10_000 {
        let id = gateway.mux.open(&open(), None).unwrap();
        gateway.mux.release(id);
    }
    assert_eq!((gateway.mux.live(), gateway.mux.queued()), (0, 0));
    assert!(gateway.say(1).is_empty());
    // gone later: few are reset at once
    spend_early_resets(&mut gateway, &mut acceptor);
    // each of the others keeps its place, and is reset once, when it is answered
    let mut told = 0;
    for _ in 0..40 {
        while let Some(id) = gateway.mux.open(&open(), None) {
            acceptor.hear(&gateway.say(1)).unwrap();
            gateway.mux.release(id);
        }
        assert_eq!(gateway.mux.live(), MAX_STREAMS);
        assert!(gateway.say(1).is_empty());
        for (n, id) in acceptor.opened.drain(..).enumerate() {
            match n % 3 {
                0 => acceptor.mux.admit(id),
                1 => acceptor.mux.refuse(id, "draining"),
                _ => acceptor.mux.release(id),
            }
            told += usize::from(n % 3 == 0);
            acceptor.mux.release(id);
        }
        gateway.hear(&acceptor.say(1)).unwrap();
        assert_eq!(gateway.mux.live(), 0);
        acceptor.hear(&gateway.say(1)).unwrap();
        assert_eq!((acceptor.mux.live(), acceptor.mux.queued()), (0, 0));
    }
    assert!(told > 3000);
}

/// Whatever its clients do, and though no backend answers: a second brings places for more clients
/// than a link carries, and the acceptor finds nothing to object to.
#[test]
fn clients_that_go_for_minutes_and_are_never_answered_neither_end_the_link_nor_fill_it() {
    let (mut gateway, mut acceptor) = (End::new(Side::Gateway), End::new(Side::Acceptor));
    for second in 0..300_u64 {
        let mut taken = 0;
        while let Some(id) = gateway.mux.open(&open(), None) {
            acceptor.coming.extend(gateway.say(1));
            gateway.mux.release(id);
            taken += 1;
        }
        assert_eq!(taken, MAX_STREAMS + EARLY, "second {second}");
        gateway.mux.give_up();
        assert_eq!(gateway.mux.live(), 0);
        acceptor.coming.extend(gateway.say(1));
        acceptor.take(second * 1000).unwrap();
        // what was reset is held until its turn has come, and none was refused for that
        assert_eq!(acceptor.opened.len(), taken);
        acceptor
            .opened
            .drain(..)
            .for_each(|id| acceptor.mux.release(id));
        assert!(acceptor.say(1).is_empty());
    }
}

/// A link on which the gateway has sent `ahead` behind OPEN, and its acceptor has admitted that.
fn asked(ahead: &[u8]) -> (End, End, u32) {
    let (mut gateway, mut acceptor) = (End::new(Side::Gateway), End::new(Side::Acceptor));
    let id = gateway.mux.open(&open(), Some(ahead.to_vec())).unwrap();
    assert!(!gateway.mux.was_said(id));
    let said = gateway.say(1);
    assert!(gateway.mux.was_said(id));
    assert_eq!(said, [opening(id), frame(Kind::Data, id, ahead)].concat());
    acceptor.hear(&said).unwrap();
    acceptor.mux.admit(id);
    (gateway, acceptor, id)
}

#[test]
fn what_goes_ahead_is_admitted_with_its_answer() {
    let (_, mut acceptor, id) = asked(b"ask");
    assert!(acceptor.say(1).is_empty());
    assert!(acceptor.mux.has_later() && !acceptor.mux.has_later());
    assert_eq!(
        acceptor.mux.poll_take(id, IDLE),
        Poll::Ready(Ok(Some(b"ask".to_vec())))
    );
    assert!(acceptor.write(id, b"answer").is_ready());
    let answer = frame(Kind::Data, id, b"answer");
    assert_eq!(acceptor.say(1), [said(Kind::Admitted, id), answer].concat());
    // there was some: it is asked for again, and then no more
    assert!(acceptor.mux.call_later() && !acceptor.mux.call_later());
    // or by itself after a while
    let (mut gateway, mut acceptor, id) = asked(b"ask");
    assert!(acceptor.say(1).is_empty());
    assert_eq!(acceptor.say(usize::MAX), said(Kind::Admitted, id));
    gateway.hear(&said(Kind::Admitted, id)).unwrap();
    assert_eq!(gateway.mux.poll_admitted(id, IDLE), Poll::Ready(Ok(())));
    // and at once where company is rare, or the client may have more to say
    let (_, mut acceptor, id) = asked(b"ask");
    acceptor.mux.set_busy(false);
    acceptor.hear(&opening(id + 1)).unwrap();
    acceptor.hear(&frame(Kind::Data, id + 1, b"ask")).unwrap();
    acceptor.mux.admit(id + 1);
    assert!(acceptor.say(1).starts_with(&said(Kind::Admitted, id + 1)));
    let (_, mut acceptor, id) = asked(&[7; AHEAD]);
    assert_eq!(acceptor.say(1), said(Kind::Admitted, id));
}

#[test]
fn an_admission_that_waits_goes_before_every_other_frame_of_its_stream() {
    let (mut gateway, mut acceptor, id) = asked(b"ask");
    acceptor.mux.reset(id);
    let both = acceptor.say(1);
    assert_eq!(
        both,
        [said(Kind::Admitted, id), said(Kind::Reset, id)].concat()
    );
    gateway.hear(&both).unwrap();
    // leave to send more
    let (mut gateway, mut acceptor, id) = asked(b"ask");
    let stream = acceptor.mux.streams.get_mut(&id).unwrap();
    assert!(stream.admit(WINDOW / 2));
    stream.receive(vec![7; WINDOW / 2]);
    while let Poll::Ready(taken) = acceptor.mux.poll_take(id, IDLE) {
        taken.unwrap();
    }
    let both = acceptor.say(1);
    assert!(both.starts_with(&said(Kind::Admitted, id)));
    assert_eq!(both.len(), HEADER_LEN + HEADER_LEN + 4);
    gateway.mux.streams.get_mut(&id).unwrap().may_go -= WINDOW / 2;
    gateway.hear(&both).unwrap();
}

#[test]
fn what_went_ahead_of_a_refusal_is_no_fault() {
    for len in [1, AHEAD] {
        let mut acceptor = acceptor();
        acceptor.mux.leave();
        let ahead = frame(Kind::Data, 2, &vec![0; len]);
        acceptor
            .hear(&[opening(2), ahead.clone()].concat())
            .unwrap();
        assert!(acceptor.say(1).ends_with(b"draining"));
        // once
        let again = acceptor.hear(&frame(Kind::Data, 2, &vec![0; AHEAD]));
        assert_eq!(again, Err(Violation::Credit(2)));
    }
    let mut gateway = End::new(Side::Gateway);
    // and nothing is left out of it: what does not fit has no stream, nor leaves a trace of one
    for len in [0, AHEAD + 1] {
        assert_eq!(gateway.mux.open(&open(), Some(vec![0; len])), None);
        assert_eq!((gateway.mux.latest(), gateway.mux.live()), (0, 0));
    }
    // a client that goes before OPEN was written has said nothing
    let id = gateway.mux.open(&open(), Some(vec![0; AHEAD])).unwrap();
    gateway.mux.release(id);
    assert!(gateway.say(1).is_empty());
    assert_eq!((gateway.mux.queued(), gateway.mux.live()), (0, 0));
}

#[test]
fn the_end_of_a_client_whose_backend_is_done_waits_for_company() {
    let (mut gateway, _, id) = asked(b"ask");
    gateway
        .hear(&[said(Kind::Admitted, id), said(Kind::Fin, id)].concat())
        .unwrap();
    assert_eq!(gateway.mux.poll_finish(id, IDLE), Poll::Ready(Ok(())));
    gateway.mux.release(id);
    assert!(gateway.say(1).is_empty());
    assert_eq!(gateway.mux.live(), 1);
    let next = gateway.mux.open(&open(), None).unwrap();
    assert_eq!(
        gateway.say(1),
        [opening(next), said(Kind::Fin, id)].concat()
    );
    assert_eq!(gateway.mux.live(), 1);
    // the other way round somebody waits for it
    let (mut gateway, mut acceptor, id) = asked(b"ask");
    gateway.hear(&acceptor.say(usize::MAX)).unwrap();
    assert!(gateway.mux.poll_finish(id, IDLE).is_pending());
    acceptor.hear(&gateway.say(1)).unwrap();
    assert!(acceptor.mux.poll_finish(id, IDLE).is_pending());
    assert_eq!(acceptor.say(1), said(Kind::Fin, id));
}

#[test]
fn answers_that_nobody_reads_stop_the_reading() {
    let mut end = acceptor();
    for id in 2..60_000 {
        if end.mux.is_congested() {
            return;
        }
        end.hear(&opening(id)).unwrap();
        end.mux.refuse(id, "too_many_connections");
        end.mux.release(id);
    }
    panic!("{}", end.mux.queued());
}

#[rstest::rstest]
#[case(opening(2), Violation::Direction(Kind::Open))]
#[case(said(Kind::Admitted, 0), Violation::Order(Kind::Admitted, 0))]
#[case([said(Kind::Admitted, 1), said(Kind::Admitted, 1)].concat(), Violation::Order(Kind::Admitted, 1))]
#[case([said(Kind::Admitted, 1), frame(Kind::Refused, 1, b"x")].concat(), Violation::Order(Kind::Refused, 1))]
#[case(said(Kind::GoAway, 0).repeat(2), Violation::Order(Kind::GoAway, 0))]
#[case(frame(Kind::Data, 1, b"x"), Violation::Order(Kind::Data, 1))]
#[case(said(Kind::Reset, 2), Violation::Unopened(Kind::Reset, 2))]
#[case(frame(Kind::Refused, 1, b"No"), Violation::Frame(FrameError::Code))]
fn a_gateway_ends_the_link_of_an_acceptor_that(#[case] frames: Vec<u8>, #[case] wrong: Violation) {
    let mut end = End::new(Side::Gateway);
    end.mux.open(&open(), None).unwrap();
    end.say(1);
    assert_eq!(end.hear(&frames), Err(wrong));
}

#[test]
fn a_gateway_ends_the_link_of_an_acceptor_that_answers_what_was_not_asked() {
    let mut end = End::new(Side::Gateway);
    let id = end.mux.open(&open(), None).unwrap();
    for kind in [Kind::Admitted, Kind::Reset] {
        assert_eq!(end.hear(&said(kind, id)), Err(Violation::Order(kind, id)));
    }
}

#[test]
fn a_refusal_is_its_streams_and_that_of_stream_zero_the_links() {
    let mut end = End::new(Side::Gateway);
    let (one, two) = (
        end.mux.open(&open(), None).unwrap(),
        end.mux.open(&open(), None).unwrap(),
    );
    end.say(1);
    end.hear(
        &[
            frame(Kind::Refused, one, b"draining"),
            said(Kind::Admitted, two),
        ]
        .concat(),
    )
    .unwrap();
    let refused = Break::Refused("draining".into());
    assert_eq!(end.mux.poll_admitted(one, IDLE), Poll::Ready(Err(refused)));
    assert_eq!(end.mux.poll_admitted(two, IDLE), Poll::Ready(Ok(())));
    assert_eq!(end.mux.live(), 1);
    let over = end.hear(&frame(Kind::Refused, 0, b"link_violation"));
    assert_eq!(over, Ok(Event::Over("link_violation".into())));
    end.mux.break_all();
    assert_eq!(end.mux.poll_take(two, IDLE), Poll::Ready(Err(Break::Link)));
}

#[test]
fn an_acceptor_that_leaves_refuses_what_was_on_its_way() {
    let mut end = acceptor();
    end.mux.leave();
    end.mux.leave();
    end.say(1);
    assert_eq!(end.hear(&opening(2)), Ok(Event::None));
    assert_eq!(end.say(1), frame(Kind::Refused, 2, b"draining"));
    let mut gateway = End::new(Side::Gateway);
    gateway.hear(&said(Kind::GoAway, 0)).unwrap();
    assert_eq!(gateway.mux.open(&open(), None), None);
    // the stream that it had goes on
    end.hear(&frame(Kind::Data, 1, b"on")).unwrap();
    assert_eq!(
        end.mux.poll_take(1, IDLE),
        Poll::Ready(Ok(Some(b"on".to_vec())))
    );
}

#[test]
fn streams_have_their_turns_whatever_one_has_to_say() {
    let mut end = End::new(Side::Gateway);
    let ids: Vec<u32> = (0..3)
        .map(|_| end.mux.open(&open(), None).unwrap())
        .collect();
    end.say(1);
    for id in &ids {
        end.hear(&said(Kind::Admitted, *id)).unwrap();
    }
    end.say(1);
    assert_eq!(end.write(ids[0], &[1; 60_000]), Poll::Ready(Ok(60_000)));
    // no crumb of what does not fit
    assert_eq!(end.write(ids[0], &[1; 60_000]), Poll::Pending);
    assert_eq!(end.write(ids[0], &[1; 5000]), Poll::Ready(Ok(5000)));
    assert_eq!(end.write(ids[0], &[1; 537]), Poll::Pending);
    assert_eq!(end.write(ids[1], &[2; 10]), Poll::Ready(Ok(10)));
    assert_eq!(end.write(ids[1], &[3; 10]), Poll::Ready(Ok(10)));
    assert_eq!(end.write(ids[2], &[4; 10]), Poll::Ready(Ok(10)));
    let order = |bytes: &[u8]| {
        let mut at = 0;
        let mut list = Vec::new();
        while let Some(head) = bytes[at..].first_chunk::<HEADER_LEN>() {
            let header = Header::read(*head).unwrap();
            list.push((header.stream, header.len));
            at += HEADER_LEN + header.len;
        }
        list
    };
    assert_eq!(
        order(&end.say(usize::MAX)),
        [(ids[0], 60_000), (ids[1], 20), (ids[2], 10), (ids[0], 5000)]
    );
    // alone it goes as far as the queue and the window reach
    let mut left = WINDOW - 65_000;
    while left > 0 {
        let taken = left.min(QUEUE);
        assert_eq!(end.write(ids[0], &[1; 100_000]), Poll::Ready(Ok(taken)));
        assert_eq!(end.write(ids[0], &[1]), Poll::Pending);
        end.say(usize::MAX);
        left -= taken;
    }
    assert_eq!(end.write(ids[0], &[1]), Poll::Pending);
}

#[test]
fn a_reader_that_keeps_pace_gets_a_wider_window_and_the_link_has_a_bound() {
    assert_eq!(STREAMS as usize, MAX_STREAMS);
    let mut end = End::new(Side::Acceptor);
    for id in 1..=STREAMS {
        end.hear(&opening(id)).unwrap();
        end.mux.admit(id);
        let mut may_come = WINDOW;
        for _ in 0..if id <= 10 { 300 } else { 0 } {
            let len = may_come.min(MAX_DATA);
            end.hear(&frame(Kind::Data, id, &vec![0; len])).unwrap();
            may_come -= len;
            assert!(end.mux.poll_take(id, IDLE).is_ready());
            let said = end.say(1);
            if said.len() == HEADER_LEN + 4 && said[0] == Kind::Window as u8 {
                let more = u32::from_be_bytes(said[HEADER_LEN..].try_into().unwrap());
                may_come += more as usize;
            }
        }
        assert!(may_come <= MAX_WINDOW);
        // and now its reader stops
        while may_come > 0 {
            let len = may_come.min(MAX_DATA);
            end.hear(&frame(Kind::Data, id, &vec![0; len])).unwrap();
            may_come -= len;
        }
    }
    let waiting = end.mux.waiting();
    assert!(waiting > WINDOW * MAX_STREAMS, "no window has grown");
    assert!(waiting <= WINDOW * MAX_STREAMS + GROWTH, "{waiting}");
}

/// Reads a stream to its end, or to what is in place of one.
fn rest(end: &mut End, id: u32) -> (usize, Result<(), Break>) {
    let mut got = 0;
    loop {
        match end.mux.poll_take(id, IDLE) {
            Poll::Ready(Ok(Some(bytes))) => got += bytes.len(),
            Poll::Ready(end) => return (got, end.map(drop)),
            Poll::Pending => panic!("nothing more will come"),
        }
    }
}

/// Streams that have 50,000 octets each: 1 has both its ends, 2 one, 3 was reset behind its words, 4
/// is under way.
fn four(side: Side) -> End {
    let mut end = End::new(side);
    for id in 1..=4 {
        match side {
            Side::Gateway => {
                end.mux.open(&open(), None).unwrap();
                end.say(1);
                end.hear(&said(Kind::Admitted, id)).unwrap();
            }
            Side::Acceptor => {
                end.hear(&opening(id)).unwrap();
                end.mux.admit(id);
            }
        }
        end.hear(&frame(Kind::Data, id, &[7; 50_000])).unwrap();
    }
    for id in [1, 2] {
        end.hear(&said(Kind::Fin, id)).unwrap();
    }
    let finished = end.mux.poll_finish(1, IDLE);
    assert_eq!(finished.is_ready(), side == Side::Gateway);
    end.say(usize::MAX);
    end.hear(&said(Kind::Reset, 3)).unwrap();
    assert_eq!(end.mux.live(), 2);
    end
}

#[test]
fn what_came_outlives_its_link_and_is_whole_where_its_end_came() {
    for side in [Side::Gateway, Side::Acceptor] {
        let mut end = four(side);
        assert!(end.write(4, b"never said").is_ready());
        end.mux.break_all();
        assert_eq!((end.mux.live(), end.mux.queued()), (0, 0));
        assert!(end.say(usize::MAX).is_empty());
        assert_eq!(rest(&mut end, 1), (50_000, Ok(())));
        // its own direction is broken all the same
        assert_eq!(rest(&mut end, 2), (50_000, Ok(())));
        assert_eq!(end.write(2, b"more"), Poll::Ready(Err(Break::Link)));
        assert_eq!(end.mux.poll_broken(2, IDLE), Poll::Ready(Break::Link));
        assert_eq!(rest(&mut end, 3), (50_000, Err(Break::Reset)));
        assert_eq!(rest(&mut end, 4), (50_000, Err(Break::Link)));
        (1..=4).for_each(|id| end.mux.release(id));
        assert_eq!(end.mux.waiting(), 0);
    }
}

/// The first two of these links are there, of the others nothing is left to cut but what came.
#[test]
fn what_came_ends_with_its_link_where_that_is_cut() {
    for (side, broken) in [
        (Side::Gateway, false),
        (Side::Acceptor, false),
        (Side::Gateway, true),
        (Side::Acceptor, true),
    ] {
        let mut end = four(side);
        if broken {
            end.mux.break_all();
        }
        assert!((1..=4).all(|id| end.mux.poll_cut(id, IDLE).is_pending()));
        end.mux.cut_all();
        let cut: Vec<u32> = (1..=5)
            .filter(|id| end.mux.poll_cut(*id, IDLE).is_ready())
            .collect();
        // the last was never there
        assert_eq!((end.mux.live(), cut), (0, vec![2, 3, 4, 5]));
        // it was over before
        assert_eq!(rest(&mut end, 1), (50_000, Ok(())));
        for id in 2..=4 {
            assert_eq!(rest(&mut end, id), (0, Err(Break::Cut)));
        }
        (1..=4).for_each(|id| end.mux.release(id));
        assert_eq!(end.mux.waiting(), 0);
    }
}

#[derive(Clone, Debug)]
enum Act {
    Open(usize),
    Answer(usize, bool),
    Write(usize, bool, usize),
    Read(usize, bool),
    Finish(usize, bool),
    Reset(usize, bool),
    Release(usize, bool),
    Say(bool, usize),
    Hear(bool, usize),
    Leave,
    Ping(bool),
}

fn act() -> impl Strategy<Value = Act> {
    let (which, side) = (0..6usize, any::<bool>());
    prop_oneof![
        2 => prop_oneof![Just(0), 1..=AHEAD].prop_map(Act::Open),
        3 => (which.clone(), prop::bool::weighted(0.9)).prop_map(|(n, yes)| Act::Answer(n, yes)),
        8 => (which.clone(), side, 1..150_000usize).prop_map(|(n, s, len)| Act::Write(n, s, len)),
        8 => (which.clone(), side).prop_map(|(n, s)| Act::Read(n, s)),
        2 => (which.clone(), side).prop_map(|(n, s)| Act::Finish(n, s)),
        1 => (which.clone(), side).prop_map(|(n, s)| Act::Reset(n, s)),
        1 => (which, side).prop_map(|(n, s)| Act::Release(n, s)),
        9 => (side, 1..200_000usize).prop_map(|(s, most)| Act::Say(s, most)),
        9 => (side, 1..300_000usize).prop_map(|(s, most)| Act::Hear(s, most)),
        1 => any::<bool>().prop_filter_map("seldom", |yes| yes.then_some(Act::Leave)),
        1 => side.prop_map(Act::Ping),
    ]
}

/// What was written to one direction of a stream, and what came out.
#[derive(Clone, Debug, Default)]
struct Way {
    sent: Vec<u8>,
    got: Vec<u8>,
    finished: bool,
    ended: bool,
}

#[derive(Clone, Debug, Default)]
struct Client {
    admitted: bool,
    /// Somebody broke it, or refused it.
    broken: bool,
    released: [bool; 2],
    /// By who wrote.
    ways: [Way; 2],
}

/// Two ends, what is on its way between them, and what should come of it.
struct Pair {
    ends: [End; 2],
    wires: [VecDeque<u8>; 2],
    clients: Vec<Client>,
    written: u8,
    pings: u8,
    /// The link is no more.
    over: bool,
}

impl Pair {
    fn read(&mut self, n: usize, side: usize) -> bool {
        let id = numbered(n);
        if self.clients[n].released[side] || !self.ends[side].opened.contains(&id) {
            return false;
        }
        match self.ends[side].mux.poll_take(id, IDLE) {
            Poll::Pending => false,
            Poll::Ready(Ok(Some(bytes))) => {
                self.clients[n].ways[1 - side].got.extend(bytes);
                true
            }
            Poll::Ready(Ok(None)) => {
                let way = &mut self.clients[n].ways[1 - side];
                assert!(way.finished, "an end that nobody said");
                assert_eq!(way.got.len(), way.sent.len(), "an end before the end");
                !std::mem::replace(&mut way.ended, true)
            }
            Poll::Ready(Err(why)) => {
                let client = &self.clients[n];
                let refused = !client.admitted && self.ends[1].mux.is_leaving();
                let cut = self.over && matches!(why, Break::Link | Break::Cut);
                assert!(client.broken || refused || cut, "stream {n}: {why}");
                false
            }
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Open(ahead) => {
                self.written = self.written.wrapping_add(1);
                let ahead = vec![self.written; ahead];
                let sent = (!ahead.is_empty()).then(|| ahead.clone());
                if let Some(id) = self.ends[0].mux.open(&open(), sent) {
                    self.ends[0].opened.push(id);
                    let mut client = Client::default();
                    client.ways[0].sent = ahead;
                    self.clients.push(client);
                    assert_eq!(id as usize, self.clients.len());
                }
            }
            Act::Answer(n, yes) => self.answer(n, yes),
            Act::Write(n, side, len) => self.write(n, usize::from(side), len),
            Act::Read(n, side) => {
                if n < self.clients.len() {
                    self.read(n, usize::from(side));
                }
            }
            Act::Finish(n, side) => self.finish(n, usize::from(side)),
            Act::Reset(n, side) => self.drop(n, usize::from(side), true),
            Act::Release(n, side) => self.drop(n, usize::from(side), false),
            Act::Say(side, most) => {
                let said = self.ends[usize::from(side)].say(most);
                self.wires[usize::from(side)].extend(said);
            }
            Act::Hear(side, most) => {
                let from = 1 - usize::from(side);
                let most = most.min(self.wires[from].len());
                let part: Vec<u8> = self.wires[from].drain(..most).collect();
                self.ends[1 - from].coming.extend(part);
                let heard = self.ends[1 - from].take(0);
                assert_eq!(heard, Ok(Event::None));
            }
            Act::Leave => self.ends[1].mux.leave(),
            Act::Ping(side) => {
                // what an honest end does now and then
                if self.pings < 16 {
                    self.pings += 1;
                    self.ends[usize::from(side)].mux.ping();
                }
            }
        }
    }

    fn answer(&mut self, n: usize, yes: bool) {
        let id = numbered(n);
        let known = self.ends[1].opened.contains(&id);
        if known && !self.clients[n].admitted && !self.clients[n].released[1] {
            if yes {
                self.clients[n].admitted = true;
                self.ends[1].mux.admit(id);
            } else {
                self.clients[n].broken = true;
                self.ends[1].mux.refuse(id, "no_route");
            }
        }
    }

    fn write(&mut self, n: usize, side: usize, len: usize) {
        let Some(client) = self.clients.get_mut(n) else {
            return;
        };
        if client.released[side] || client.ways[side].finished {
            return;
        }
        self.written = self.written.wrapping_add(1);
        let bytes = vec![self.written; len];
        if let Poll::Ready(Ok(taken)) = self.ends[side].write(numbered(n), &bytes) {
            client.ways[side].sent.extend(&bytes[..taken]);
        }
    }

    fn finish(&mut self, n: usize, side: usize) {
        let id = numbered(n);
        let Some(client) = self.clients.get_mut(n) else {
            return;
        };
        let mux = &mut self.ends[side].mux;
        if !client.released[side] && mux.poll_reserve(id, 0, IDLE).is_pending() {
            client.ways[side].finished = true;
            let finished = mux.poll_finish(id, IDLE);
            assert!(finished.is_pending() || side == 0);
        }
    }

    fn drop(&mut self, n: usize, side: usize, reset: bool) {
        let id = numbered(n);
        if !self.ends[side].opened.contains(&id) {
            return;
        }
        let client = &mut self.clients[n];
        let finished = client.ways.iter().all(|way| way.finished);
        client.broken |= !(finished && client.ways[1 - side].ended);
        if reset {
            client.broken = true;
            self.ends[side].mux.reset(id);
        } else if !std::mem::replace(&mut client.released[side], true) {
            self.ends[side].mux.release(id);
        }
    }

    /// Ends the link where it stands. All that had come is read, and what had its end is read to the
    /// end; whatever else is read is no end that nobody said. Of a link that is cut nothing is read
    /// but what had both its ends.
    fn end(&mut self, cut: bool) {
        self.over = true;
        for side in [0, 1] {
            let streams = self.ends[side].mux.streams.iter();
            let before: Vec<(u32, usize, bool)> = streams
                .filter(|(_, one)| !cut || (!one.on_wire && one.broken.is_none()))
                .map(|(id, one)| {
                    let lost = !matches!(one.broken, None | Some(Break::Reset));
                    (*id, one.waiting(), one.fin_came && !lost)
                })
                .collect();
            match cut {
                false => self.ends[side].mux.break_all(),
                true => self.ends[side].mux.cut_all(),
            }
            for n in 0..self.clients.len() {
                let had = self.clients[n].ways[1 - side].got.len();
                while self.read(n, side) {}
                let way = &self.clients[n].ways[1 - side];
                let kept = before.iter().find(|(id, ..)| *id == numbered(n));
                let (waited, whole) = kept.map_or((0, false), |(_, len, fin)| (*len, *fin));
                if !self.clients[n].released[side] {
                    assert_eq!(way.got.len() - had, waited, "stream {n}");
                    assert!(way.ended || !whole, "stream {n} is cut");
                }
            }
            for n in 0..self.clients.len() {
                self.drop(n, side, false);
            }
            assert_eq!(
                (self.ends[side].mux.live(), self.ends[side].mux.waiting()),
                (0, 0)
            );
        }
    }

    /// Lets everything come to its end.
    fn settle(&mut self) {
        for n in 0..self.clients.len() {
            self.act(&Act::Answer(n, true));
            for side in [false, true] {
                self.act(&Act::Finish(n, side));
            }
        }
        loop {
            let mut moved = false;
            for side in [false, true] {
                self.act(&Act::Say(side, usize::MAX));
                moved |= !self.wires[usize::from(side)].is_empty();
                self.act(&Act::Hear(!side, usize::MAX));
            }
            for n in 0..self.clients.len() {
                self.act(&Act::Answer(n, true));
                for side in [0, 1] {
                    self.act(&Act::Finish(n, side == 1));
                    while self.read(n, side) {
                        moved = true;
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever is done in whatever order: what comes out is what went in, an end is an end, and a
    /// stream that breaks breaks alone.
    #[test]
    fn every_stream_delivers_what_it_was_given(
        acts in prop::collection::vec(act(), 1..250),
        breaks in prop::option::weighted(0.4, any::<bool>()),
    ) {
        let mut pair = Pair {
            ends: [End::new(Side::Gateway), End::new(Side::Acceptor)],
            wires: Default::default(),
            clients: Vec::new(),
            written: 0,
            pings: 0,
            over: false,
        };
        for act in &acts {
            let many = pair.clients.len() >= 6;
            if !(many && matches!(act, Act::Open(_))) {
                pair.act(act);
            }
            for end in &pair.ends {
                prop_assert!(end.mux.waiting() <= 6 * WINDOW + GROWTH);
            }
        }
        if let Some(cut) = breaks {
            pair.end(cut);
            for way in pair.clients.iter().flat_map(|client| &client.ways) {
                prop_assert!(way.sent.starts_with(&way.got));
            }
            return Ok(());
        }
        pair.settle();
        let left = pair.ends[1].mux.is_leaving();
        for (n, client) in pair.clients.iter().enumerate() {
            for way in &client.ways {
                prop_assert!(way.sent.starts_with(&way.got), "stream {n}");
                if !client.broken && client.admitted {
                    prop_assert_eq!(&way.got, &way.sent, "stream {}", n);
                    prop_assert!(way.ended, "stream {n} has no end");
                }
            }
            prop_assert!(client.broken || client.admitted || left);
        }
        for end in &pair.ends {
            prop_assert_eq!((end.mux.live(), end.mux.queued()), (0, 0));
        }
    }

    #[test]
    fn arbitrary_frames_never_panic_and_are_bounded(
        frames in prop::collection::vec((0u8..12, 0u8..4, any::<Vec<u8>>()), 0..60),
        gateway in any::<bool>(),
    ) {
        let mut end = if gateway { End::new(Side::Gateway) } else { acceptor() };
        if gateway {
            end.mux.open(&open(), None);
            end.say(1);
        }
        for (kind, stream, payload) in frames {
            let payload = &payload[..payload.len().min(255)];
            let len = u8::try_from(payload.len()).unwrap();
            let mut bytes = vec![kind, 0, 0, len, 0, 0, 0, stream];
            bytes.extend(payload);
            if end.hear(&bytes).is_err() {
                end.mux.break_all();
                prop_assert_eq!(end.mux.live(), 0);
                end.opened.push(1);
                end.opened.iter().for_each(|id| end.mux.release(*id));
                prop_assert_eq!(end.mux.waiting(), 0);
                break;
            }
            prop_assert!(end.mux.waiting() <= MAX_STREAMS * WINDOW + GROWTH);
        }
    }
}
