//! 64 KiB buffers, page-aligned, borrowed only while data moves. Alignment matters: on some CPUs
//! a copy whose destination lies a few bytes above its source modulo 4096 is 20 times slower.

use std::{
    cell::RefCell,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Octets of a buffer.
pub(super) const SIZE: usize = 64 * 1024;
/// So much and more is handed on in its buffer.
pub(super) const MUCH: usize = SIZE / 2;
/// What is read at once of much. With what TLS and a link add it stays below 64 KiB, and below what
/// Linux passes on in one piece over loopback: the few octets above would be a packet of their own.
pub(crate) const PIECE: usize = SIZE - 256;
const PAGE: usize = 4096;
/// The same with what TLS adds to it.
const WIDE: usize = SIZE + PAGE;
/// Buffers that a thread keeps for the next one who needs them.
const KEPT: usize = 32;

/// A buffer; given back to the thread on which it is dropped. A pointer, because what holds one
/// for a moment has room for it all its life.
#[derive(Debug)]
pub(crate) struct Chunk(
    /// `None` once given back.
    Option<Box<Memory>>,
);

#[derive(Debug)]
struct Memory {
    /// Longer than `WIDE` by a page, so that an aligned part exists.
    octets: Vec<u8>,
    offset: usize,
}

/// What one thread has too many of and another may need: octets that are handed from thread to thread
/// take their buffers along.
static SPARE: Mutex<Vec<Chunk>> = Mutex::new(Vec::new());

thread_local! {
    static FREE: RefCell<Vec<Chunk>> = const { RefCell::new(Vec::new()) };
}

fn spare() -> MutexGuard<'static, Vec<Chunk>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chunk {
    /// Borrows one.
    pub(crate) fn take() -> Self {
        FREE.with(|free| free.borrow_mut().pop())
            .or_else(|| spare().pop())
            .unwrap_or_else(|| {
                let octets = vec![0; WIDE + PAGE];
                let offset = octets.as_ptr().align_offset(PAGE).min(PAGE);
                Self(Some(Box::new(Memory { octets, offset })))
            })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.wide().get(..SIZE).unwrap_or_default()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.wide_mut().get_mut(..SIZE).unwrap_or_default()
    }

    /// All of it: room for as much data in TLS records.
    pub(crate) fn wide(&self) -> &[u8] {
        let memory = self.0.as_deref();
        memory
            .and_then(|Memory { octets, offset }| octets.get(*offset..offset.saturating_add(WIDE)))
            .unwrap_or_default()
    }

    pub(crate) fn wide_mut(&mut self) -> &mut [u8] {
        let memory = self.0.as_deref_mut();
        memory
            .and_then(|Memory { octets, offset }| {
                octets.get_mut(*offset..offset.saturating_add(WIDE))
            })
            .unwrap_or_default()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some(memory) = self.0.take() else {
            return;
        };
        // a thread that is ending has no list any more: the memory is freed then
        let _gone = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(Self(Some(memory)));
                return;
            }
            let mut spare = spare();
            if spare.len() < KEPT {
                spare.push(Self(Some(memory)));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn buffers_come_back_from_threads_that_they_were_handed_to() {
        const MARK: &[u8; 8] = b"was used";
        let (hand, handed) = mpsc::channel::<Chunk>();
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                for chunk in handed {
                    drop(chunk);
                    tell.send(()).unwrap();
                }
            });
            let taking = scope.spawn(move || {
                (0..KEPT * 10)
                    .filter(|_| {
                        let mut chunk = Chunk::take();
                        // new ones are empty
                        let back = chunk.bytes().starts_with(MARK);
                        chunk.bytes_mut()[..MARK.len()].copy_from_slice(MARK);
                        hand.send(chunk).unwrap();
                        told.recv().unwrap();
                        back
                    })
                    .count()
            });
            // others of this process may take some
            assert!(taking.join().unwrap() > KEPT);
        });
    }

    #[test]
    fn buffers_are_aligned_and_used_again() {
        let chunk = Chunk::take();
        assert_eq!(
            (chunk.bytes().as_ptr() as usize % PAGE, chunk.bytes().len()),
            (0, SIZE)
        );
        let address = chunk.bytes().as_ptr() as usize;
        drop(chunk);
        assert_eq!(Chunk::take().bytes().as_ptr() as usize, address);
        let many: Vec<Chunk> = (0..KEPT * 2).map(|_| Chunk::take()).collect();
        drop(many);
        assert_eq!(FREE.with(|free| free.borrow().len()), KEPT);
    }
}
