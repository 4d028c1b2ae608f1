//! Small backends: a thread for each connection.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::PATIENCE;

/// A listening backend; its threads end with the test process.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Backend {
    /// Handles each connection by `serve`.
    pub(crate) fn serve(
        address: SocketAddr,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, serve) = (Arc::clone(&connections), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// Gives back what comes, and the end of it as an end.
    pub(crate) fn echo(address: SocketAddr) -> Self {
        Self::serve(address, |mut stream| {
            let mut buffer = vec![0; 65536];
            while let Ok(n) = stream.read(&mut buffer) {
                let Some(part) = buffer.get(..n).filter(|p| !p.is_empty()) else {
                    break;
                };
                if stream.write_all(part).is_err() {
                    return;
                }
            }
            drop(stream.shutdown(Shutdown::Write));
        })
    }

    /// How many connections came so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}
