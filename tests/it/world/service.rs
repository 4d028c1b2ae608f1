//! Real servers as backends: Redis and PostgreSQL, on this world's addresses.

use std::{
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::{World, run, text, until};

/// A server that ends when dropped.
pub(crate) struct Service {
    child: Child,
    pub(crate) address: SocketAddr,
    folder: Option<PathBuf>,
}

impl World {
    pub(crate) fn redis(&self) -> Service {
        let address = self.address();
        let child = Command::new("redis-server")
            .args(["--bind", &address.ip().to_string()])
            .args(["--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server: run scripts/test, it installs it");
        Service::up(child, address, None)
    }

    /// A fresh cluster whose only user is `postgres`, who needs no password.
    pub(crate) fn postgres(&self) -> Service {
        let address = self.address();
        let data = std::env::temp_dir().join(format!("portcullis-postgres-{address}"));
        std::fs::create_dir(&data).unwrap();
        if geteuid().is_root() {
            let (ok, said) = run("chown", &["postgres", text(&data)]);
            assert!(ok, "{said}");
        }
        let made = as_postgres("initdb")
            .args(["-D", text(&data), "-U", "postgres", "-A", "trust"])
            .args(["--no-sync", "--no-locale", "-E", "UTF8"])
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let child = as_postgres("postgres")
            .args(["-D", text(&data), "-h", &address.ip().to_string()])
            .args(["-p", &address.port().to_string(), "-k", "", "-F"])
            .args(["-c", "shared_buffers=16MB", "-c", "max_connections=20"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let service = Service::up(child, address, Some(data));
        // it accepts before it answers
        until("PostgreSQL", || {
            let (ip, port) = (address.ip().to_string(), address.port().to_string());
            let (ok, _) = run(
                "psql",
                &["-h", &ip, "-p", &port, "-U", "postgres", "-c", "select 1"],
            );
            ok.then_some(())
        });
        service
    }
}

impl Service {
    fn up(child: Child, address: SocketAddr, folder: Option<PathBuf>) -> Self {
        let service = Self {
            child,
            address,
            folder,
        };
        until("the server", || TcpStream::connect(address).ok());
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // PostgreSQL's children end with it, at once, on this signal
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::QUIT).ok();
        }
        let ended = (0..50).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            matches!(self.child.try_wait(), Ok(Some(_)))
        });
        if !ended {
            drop(self.child.kill());
        }
        drop(self.child.wait());
        if let Some(folder) = &self.folder {
            drop(std::fs::remove_dir_all(folder));
        }
    }
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &str) -> Command {
    let found = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin").join(program))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{program}: run scripts/test, it installs it"));
    if !geteuid().is_root() {
        return Command::new(found);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ])
        .arg(found)
        .current_dir("/");
    command
}
