//! Streams that can hold back what is written to them.

use tokio::io::DuplexStream;

/// A stream whose last bytes and end can go out in one write.
pub trait Hold {
    /// What is written from now on may wait until it is flushed, or for the end, which then goes
    /// out with it. Nothing, where it can't.
    fn hold(&mut self) {}
}

impl Hold for DuplexStream {}

impl<S: Hold + ?Sized> Hold for &mut S {
    fn hold(&mut self) {
        (**self).hold();
    }
}
