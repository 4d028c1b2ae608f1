//! The real binary in one role, its log, its admin socket and its end.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PATIENCE, until};

/// The program.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

/// A started process; it is killed when dropped.
pub(crate) struct Running {
    child: Child,
    role: String,
    pub(crate) config: PathBuf,
    log: PathBuf,
}

impl Running {
    /// Starts a role and waits until it listens.
    pub(crate) fn start(role: &str, config: &Path) -> Self {
        Self::launch(role, config).ready()
    }

    /// Waits until it listens.
    pub(crate) fn ready(mut self) -> Self {
        until("the start", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended with {status}: {}", self.role, self.text());
            }
            self.admin("/readyz").filter(|(status, _)| *status == 200)
        });
        self
    }

    /// Starts a role and waits for nothing.
    pub(crate) fn launch(role: &str, config: &Path) -> Self {
        Self::launch_by(&mut Command::new(BINARY), role, config)
    }

    /// The same through a command that ends as the program: the role and its configuration are
    /// its last arguments.
    pub(crate) fn launch_by(command: &mut Command, role: &str, config: &Path) -> Self {
        let log = config.with_extension("log");
        let out = File::create(&log).unwrap();
        let child = command
            .env("STATE_DIRECTORY", config.with_file_name("state"))
            .args([role, "--config", config.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Self {
            child,
            role: role.to_owned(),
            config: config.to_owned(),
            log,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its memory, in MiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
        kib / 1024
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// SIGHUP, and waits until the process has said what it made of it.
    pub(crate) fn reload(&self) {
        let before = self.count(said_of_reload);
        self.signal(Signal::HUP);
        until("the reload", || {
            (self.count(said_of_reload) > before).then_some(())
        });
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for the end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let end = std::time::Instant::now() + PATIENCE * 2;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                std::time::Instant::now() < end,
                "{} does not end: {}",
                self.role,
                self.text()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Its end, if it comes soon.
    pub(crate) fn ended_within(&mut self, time: std::time::Duration) -> Option<ExitStatus> {
        let end = std::time::Instant::now() + time;
        while std::time::Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        None
    }

    /// Whether it still runs.
    pub(crate) fn alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// All that it wrote.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// The JSON lines so far; `fields` are lifted to the top.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(lifted)
            .collect()
    }

    pub(crate) fn count(&self, is: impl Fn(&Value) -> bool) -> usize {
        self.lines().iter().filter(|line| is(line)).count()
    }

    /// The first line that fits, as soon as it is there.
    pub(crate) fn line(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.lines().into_iter().find(&is) {
                return line;
            }
            assert!(
                std::time::Instant::now() < end,
                "no line of {what} in the log of {}:\n{}",
                self.role,
                self.text()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// The first access line that was refused for `reason`.
    pub(crate) fn refusal(&self, reason: &str) -> Value {
        self.line(reason, |line| {
            line["message"] == "access" && line["reason"] == reason
        })
    }

    /// The access line of a connection that never got in, and its count at the listener.
    pub(crate) fn refused(&self, listener: &str, reason: &str) -> Value {
        let line = self.line(reason, |line| {
            line["message"] == "access"
                && line["decision"] == "refused"
                && line["reason"] == reason
                && line["listener"] == listener
        });
        assert!(
            self.denied(listener, reason) >= 1.0,
            "{reason} is not counted"
        );
        line
    }

    /// The access line of a connection that was let in and refused later, and its count.
    pub(crate) fn refused_after(&self, listener: &str, reason: &str) -> Value {
        let line = self.line(reason, |line| {
            line["message"] == "access"
                && line["decision"] == "refused"
                && line["reason"] == reason
                && line["listener"] == listener
        });
        assert!(self.ended_for(listener, reason) >= 1.0);
        line
    }

    /// So many connections were refused for this reason, no more; a peer hears of it before it is
    /// counted.
    pub(crate) fn denied_times(&self, listener: &str, reason: &str, times: u32) {
        let wanted = f64::from(times) - 0.5;
        let counted = until(reason, || {
            Some(self.denied(listener, reason)).filter(|counted| *counted > wanted)
        });
        assert!(counted < wanted + 1.0, "{reason}: {counted}");
    }

    /// How many connections a listener refused for this reason.
    pub(crate) fn denied(&self, listener: &str, reason: &str) -> f64 {
        self.of_listener("connections_denied", listener, reason)
    }

    /// How many connections that were in ended for this reason, as soon as there is one.
    pub(crate) fn ended_for(&self, listener: &str, reason: &str) -> f64 {
        until(reason, || {
            Some(self.of_listener("connections_ended", listener, reason)).filter(|n| *n > 0.0)
        })
    }

    fn of_listener(&self, family: &str, listener: &str, reason: &str) -> f64 {
        self.metric(&format!(
            "portcullis_{family}_total{{listener=\"{listener}\",reason=\"{reason}\"}}"
        ))
    }

    /// The first access line that was decided so: `admitted`, `refused` or `ended`.
    pub(crate) fn access(&self, decision: &str) -> Value {
        self.line(decision, |line| {
            line["message"] == "access" && line["decision"] == decision
        })
    }

    /// Asks the admin socket; status and body.
    pub(crate) fn admin(&self, path: &str) -> Option<(u16, String)> {
        let socket = self.config.with_extension("sock");
        let mut stream = UnixStream::connect(socket).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n")?.1.to_owned();
        Some((status, body))
    }

    /// The value of one sample of `/metrics`, by how its line begins.
    pub(crate) fn metric(&self, begins: &str) -> f64 {
        let (_, body) = self.admin("/metrics").unwrap();
        body.lines()
            .find(|line| line.starts_with(begins))
            .and_then(|line| line.rsplit(' ').next())
            .map_or(0.0, |value| value.parse().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Whether a line of the log has this word in the text under this key.
pub(crate) fn says(line: &Value, key: &str, word: &str) -> bool {
    line[key].as_str().is_some_and(|text| text.contains(word))
}

fn said_of_reload(line: &Value) -> bool {
    line["message"]
        .as_str()
        .is_some_and(|message| message == "reloaded" || message.starts_with("reload refused"))
}

fn lifted(mut line: Value) -> Value {
    if let Some(Value::Object(fields)) = line.get_mut("fields").map(Value::take)
        && let Value::Object(top) = &mut line
    {
        top.extend(fields);
    }
    line
}
