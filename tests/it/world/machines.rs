//! Machines of a test's own: network namespaces with a wire between some of them, and one wall clock
//! for all, which the test moves. Both take root, or capabilities like it.

use std::{
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
};

use portcullis::identity::UnixSeconds;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{BINARY, Running, World, run, until};

/// Shifts what the C library says of the wall clock, and leaves the monotonic one alone.
const SHIFTS: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// A network namespace. It ends with the test process, however that ends.
pub(crate) struct Machine {
    holder: Child,
}

impl Machine {
    pub(crate) fn new() -> Self {
        // lives until its input ends
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare");
        let mut machine = Self { holder };
        let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
        let place = machine.place();
        until("a network namespace", || {
            if let Some(status) = machine.holder.try_wait().unwrap() {
                panic!("no network namespace ({status}): this test needs root");
            }
            // before `cat` runs, it is still ours
            let theirs = std::fs::read_link(&place).ok()?;
            (theirs != ours).then_some(())
        });
        machine.ip(&["link", "set", "lo", "up"]);
        machine
    }

    fn place(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    fn ip(&self, arguments: &[&str]) {
        let net = format!("--net={}", self.place());
        let all = [&[net.as_str(), "ip"], arguments].concat();
        let (ok, said) = run("nsenter", &all);
        assert!(ok, "ip {arguments:?}: {said}");
    }

    /// A wire to another machine, with an address at each end.
    pub(crate) fn wire(&self, ours: Ipv4Addr, other: &Self, theirs: Ipv4Addr) {
        let device = |to: Ipv4Addr| {
            let [.., third, fourth] = to.octets();
            format!("to-{third}-{fourth}")
        };
        let (here, there) = (device(theirs), device(ours));
        self.ip(&[
            &["link", "add", &here, "type", "veth", "peer", "name", &there][..],
            &["netns", &other.holder.id().to_string()],
        ]
        .concat());
        for (machine, address, device) in [(self, ours, &here), (other, theirs, &there)] {
            machine.ip(&["addr", "add", &format!("{address}/30"), "dev", device]);
            machine.ip(&["link", "set", device, "up"]);
        }
    }

    /// A thread of this machine: what it opens, and what its own threads open, is here.
    pub(crate) fn on<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let place = self.place();
        std::thread::spawn(move || {
            let net = std::fs::File::open(place).unwrap();
            move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
    }

    /// Starts the binary here, under this clock; `arguments` stand before the role.
    pub(crate) fn start(
        &self,
        clock: &Clock,
        arguments: &[&str],
        role: &str,
        config: &Path,
    ) -> Running {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.place()))
            .arg(BINARY)
            .args(arguments);
        clock.rules(&mut command);
        Running::launch_by(&mut command, role, config).ready()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// A wall clock that is as far ahead of ours as the test says.
pub(crate) struct Clock {
    file: PathBuf,
    ahead: i64,
}

impl Clock {
    pub(crate) fn new(world: &World) -> Self {
        let mut clock = Self {
            file: world.path("clock"),
            ahead: 0,
        };
        clock.advance(0);
        clock
    }

    /// Moves it by so many seconds, for every process at once.
    pub(crate) fn advance(&mut self, seconds: i64) {
        self.ahead += seconds;
        // in one step: whoever reads half of it would be in another year
        let text = format!("{:+}\n", self.ahead);
        portcullis::pki::store::write_file(&self.file, text.as_bytes(), 0o644).unwrap();
    }

    pub(crate) fn now(&self) -> UnixSeconds {
        UnixSeconds(portcullis::clock::now().0 + self.ahead)
    }

    /// Starts a role under this clock, on no machine of its own.
    pub(crate) fn start(&self, role: &str, config: &Path) -> Running {
        self.launch(role, config).ready()
    }

    /// The same, and waits for nothing.
    pub(crate) fn launch(&self, role: &str, config: &Path) -> Running {
        let mut command = Command::new(BINARY);
        self.rules(&mut command);
        Running::launch_by(&mut command, role, config)
    }

    fn rules(&self, command: &mut Command) {
        let shift = SHIFTS
            .into_iter()
            .find(|path| Path::new(path).exists())
            .expect("libfaketime: run scripts/test, it installs it");
        command
            .env("LD_PRELOAD", shift)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
    }
}
