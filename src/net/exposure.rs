//! Whether the backend can be reached round the acceptor.
