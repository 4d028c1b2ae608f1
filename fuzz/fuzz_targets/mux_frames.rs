//! A link that carries many clients: whatever frames come, in whatever order, it stays within its
//! bounds, and what breaks it breaks every stream that has not ended: only what had its FIN is read
//! to an end.
#![no_main]

use std::{
    collections::{BTreeSet, VecDeque},
    task::{Poll, Waker},
};

use libfuzzer_sys::fuzz_target;
use portcullis::wire::{
    link::{ConnectionId, Open},
    mux::{Event, GROWTH, HEADER_LEN, Header, Kind, MAX_CONTROL, MAX_STREAMS, Mux, Side, WINDOW},
};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, mut rest)) = bytes.split_first() else {
        return;
    };
    let side = if first % 2 == 0 { Side::Gateway } else { Side::Acceptor };
    let mut mux: Mux<Vec<u8>> = Mux::new(side);
    for _ in 0..first / 16 {
        mux.open(&Open::new(ConnectionId([7; 16])), None);
        mux.transmit(1, &mut VecDeque::new());
    }
    let mut ids: Vec<u32> = (1..=u32::from(first / 16)).collect();
    let mut whole = BTreeSet::new();
    let mut now = 0;
    while let Some((head, behind)) = rest.split_first_chunk::<HEADER_LEN>() {
        rest = behind;
        let Ok(header) = Header::read(*head) else {
            break;
        };
        assert_eq!(header.bytes(), *head);
        // a short input still brings whole frames
        let mut payload = rest[..header.len.min(rest.len())].to_vec();
        rest = &rest[payload.len()..];
        payload.resize(header.len, 0);
        let taken = if header.kind == Kind::Data {
            mux.expect(header).map(|wanted| {
                if wanted {
                    mux.data(header.stream, payload);
                }
                Event::None
            })
        } else {
            mux.frame(header, &payload, now)
        };
        if header.kind == Kind::Fin && taken.is_ok() {
            whole.insert(header.stream);
        }
        match taken {
            Ok(Event::Opened(id, _)) => ids.push(id),
            Ok(Event::None) => {}
            Ok(Event::Over(_)) | Err(_) => {
                mux.break_all();
                assert_eq!(mux.live(), 0);
                for id in ids {
                    let end = loop {
                        match mux.poll_take(id, Waker::noop()) {
                            Poll::Ready(Ok(Some(_))) => {}
                            end => break end,
                        }
                    };
                    match end {
                        Poll::Ready(Ok(_)) => assert!(whole.contains(&id)),
                        Poll::Ready(Err(_)) => {}
                        Poll::Pending => panic!("stream {id} waits for a link that is no more"),
                    }
                    mux.release(id);
                }
                assert_eq!(mux.waiting(), 0);
                return;
            }
        }
        now += u64::from(first % 8);
        local(&mut mux, &ids, head[7]);
        assert!(mux.live() <= MAX_STREAMS);
        assert!(mux.waiting() <= MAX_STREAMS * WINDOW + GROWTH);
        assert!(mux.queued() <= MAX_CONTROL * 2 + MAX_STREAMS * (WINDOW + 1024));
    }
});

/// What the streams' holders do meanwhile.
fn local(mux: &mut Mux<Vec<u8>>, ids: &[u32], choice: u8) {
    let Some(id) = ids.get(usize::from(choice) % ids.len().max(1)) else {
        return;
    };
    let waker = Waker::noop();
    match choice % 8 {
        0 => mux.admit(*id),
        1 => mux.refuse(*id, "no_route"),
        2 => drop(mux.poll_take(*id, waker)),
        3 => {
            if let Poll::Ready(Ok(n)) = mux.poll_reserve(*id, 70_000, waker) {
                mux.push(*id, vec![0; n]);
            }
        }
        4 => drop(mux.poll_finish(*id, waker)),
        5 => mux.release(*id),
        6 => mux.transmit(100_000, &mut VecDeque::new()),
        _ => mux.admit(*id),
    }
}
