//! Proofs and handshakes, with material made for each test.

mod handshakes;
mod large_crl;
mod lists;
mod loading;
mod mint;
mod openssl;
mod proofs;
mod resumption;
