//! The README's five-minute path, run as it is written: its shell blocks and its files, with its
//! two hosts' addresses and folders mapped to this test's; and the commands that the smallest examples
//! begin with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use portcullis::pki::store::write_file;

use crate::world::{World, named_backend, until};

const README: &str = include_str!("../../README.md");

/// The fenced block behind `<!-- MARK -->`.
fn block(mark: &str) -> String {
    let (_, after) = README
        .split_once(&format!("<!-- {mark} -->"))
        .unwrap_or_else(|| panic!("no block {mark:?} in README.md"));
    let (_, code) = after.split_once("```").unwrap();
    let (_, code) = code.split_once('\n').unwrap();
    code.split_once("\n```").unwrap().0.to_owned()
}

/// Two hosts in one folder.
struct Hosts {
    world: World,
    backend: String,
}

impl Hosts {
    fn root(&self, host: &str) -> PathBuf {
        self.world.path(host)
    }

    /// A text of the README, as it is on one host.
    fn mapped(&self, host: &str, text: &str) -> String {
        let root = self.root(host);
        let at = |path: &str| format!("{}{path}", root.display());
        text.replace("192.0.2.20", &self.world.ip().to_string())
            .replace("203.0.113.10", &self.world.other_ip(2).to_string())
            .replace("127.0.0.1:8080", &self.backend)
            .replace("/etc/", &at("/etc/"))
            .replace("/usr/", &at("/usr/"))
            .replace("scripts/", concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/"))
    }

    /// Runs a block in the authority's folder, with the commands of a host that are not ours to
    /// run put in front of the PATH.
    fn run(&self, host: &str, mark: &str) {
        let root = self.root(host);
        for folder in ["etc/systemd/system", "usr/local/bin", "usr/lib/sysusers.d"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let script = self.mapped(host, &block(mark));
        let path = format!(
            "{}:{}:{}",
            self.root("tools").display(),
            Path::new(env!("CARGO_BIN_EXE_portcullis"))
                .parent()
                .unwrap()
                .display(),
            std::env::var("PATH").unwrap()
        );
        let done = Command::new("sh")
            .args(["-euc", &script])
            .current_dir(self.root("authority"))
            .env("PATH", path)
            .env("ROOT", &root)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{mark}: {script}\n{}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }

    fn tool(&self, name: &str, script: &str) {
        let path = self.root("tools").join(name);
        let text = format!("#!/bin/sh\nset -eu\n{script}\n");
        write_file(&path, text.as_bytes(), 0o755).unwrap();
    }
}

/// Ends what the stand-in for `systemctl` started, by its id.
impl Drop for Hosts {
    fn drop(&mut self) {
        for host in ["acceptor-host", "gateway-host"] {
            if let Ok(pid) = fs::read_to_string(self.root(host).join("pid")) {
                let pid = pid
                    .trim()
                    .parse()
                    .ok()
                    .and_then(rustix::process::Pid::from_raw);
                if let Some(pid) = pid {
                    let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }
}

#[test]
fn the_five_minute_path_ends_with_a_protected_backend() {
    let world = World::new();
    let backend = named_backend(&world, "the protected backend");
    let hosts = Hosts {
        backend: backend.address.to_string(),
        world,
    };
    for folder in ["authority", "tools"] {
        fs::create_dir_all(hosts.root(folder)).unwrap();
    }
    hosts.tool("systemd-sysusers", "exit 0");
    hosts.tool("chgrp", "test -d \"$3\"");
    // runs what the unit says, as the service manager would
    hosts.tool(
        "systemctl",
        "case \"$1\" in daemon-reload) exit 0;; enable) ;; *) exit 1;; esac\n\
         unit=\"$ROOT/etc/systemd/system/$3.service\"\n\
         line=$(sed -n 's/^ExecStart=//p' \"$unit\" | sed \"s#/usr/#$ROOT/usr/#; s#/etc/#$ROOT/etc/#\")\n\
         $line >\"$ROOT/log\" 2>&1 &\n\
         echo $! >\"$ROOT/pid\"",
    );

    hosts.run("authority", "run: authority");
    for (role, host) in [("acceptor", "acceptor-host"), ("gateway", "gateway-host")] {
        let etc = hosts.root(host).join("etc");
        fs::create_dir_all(&etc).unwrap();
        fs::rename(hosts.root("authority").join(host), etc.join("portcullis")).unwrap();
        let file = format!("{role}.toml");
        let text = hosts.mapped(host, &block(&format!("file: {file}")));
        write_file(&etc.join("portcullis").join(file), text.as_bytes(), 0o600).unwrap();
        hosts.run(host, "run: host");
        hosts.run(host, &format!("run: {host}"));
    }
    for host in ["acceptor-host", "gateway-host"] {
        until("a listener", || {
            let log = fs::read_to_string(hosts.root(host).join("log")).ok()?;
            log.contains("\"listening\"").then_some(())
        });
    }
    let script = block("run: client");
    let first = script.lines().next().unwrap();
    assert!(first.starts_with("curl"), "{first}");
    hosts.run("client", "run: client");
    let log = fs::read_to_string(hosts.root("acceptor-host").join("log")).unwrap();
    assert!(log.contains("source_untrusted"), "{log}");
    let log = fs::read_to_string(hosts.root("gateway-host").join("log")).unwrap();
    assert!(log.contains("\"status\":200"), "{log}");
    assert!(backend.connections() > 0, "the request arrived");
}

#[test]
fn the_smallest_examples_say_how_their_files_are_made() {
    let program = Path::new(env!("CARGO_BIN_EXE_portcullis"))
        .parent()
        .unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    for (name, text) in [
        ("gateway.toml", include_str!("../../config/gateway.toml")),
        ("acceptor.toml", include_str!("../../config/acceptor.toml")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_file(&folder.path().join(name), text.as_bytes(), 0o644).unwrap();
        let head = text.lines().take_while(|line| line.starts_with('#'));
        let script: Vec<_> = head
            .filter_map(|line| line.strip_prefix("#     "))
            .collect();
        let check = format!("portcullis check {name}");
        assert_eq!(script.last(), Some(&check.as_str()));
        let done = Command::new("sh")
            .args(["-euc", &script.join("\n")])
            .current_dir(folder.path())
            .env("PATH", &path)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        assert!(done.status.success(), "{name}: {said}");
    }
}

#[test]
fn every_file_that_the_readme_points_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for part in README.split("](").skip(1) {
        let target = part.split(')').next().unwrap();
        if !target.starts_with("http") {
            assert!(root.join(target).exists(), "{target}");
            seen += 1;
        }
    }
    assert!(seen > 5);
}
