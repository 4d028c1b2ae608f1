//! Proofs and handshakes, with material made for each test.

mod handshakes;
mod large_crl;
mod loading;
mod mint;
mod openssl;
mod proofs;
mod resumption;
