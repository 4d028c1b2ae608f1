//! Handshakes over a pipe, with material made for each test.

mod mint;

mod handshakes;
