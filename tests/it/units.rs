//! The units for systemd: they verify, and their sandbox stays tight.

use std::{fs, path::Path};

use portcullis::pki::store::write_file;

use crate::world::{run, text};

const UNITS: [&str; 3] = [
    "portcullis-gateway.service",
    "portcullis-acceptor.service",
    "portcullis-pki-serve.service",
];

/// Copies in a folder of their own, with the program where it was built: `verify` looks for it.
fn copies() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("scripts/systemd")
            .join(unit);
        let shipped = fs::read_to_string(source).unwrap();
        let ours = shipped.replace(
            "/usr/local/bin/portcullis",
            env!("CARGO_BIN_EXE_portcullis"),
        );
        assert_ne!(shipped, ours);
        write_file(&folder.path().join(unit), ours.as_bytes(), 0o644).unwrap();
    }
    folder
}

#[test]
fn systemd_has_nothing_to_say_of_them() {
    let folder = copies();
    for unit in UNITS {
        let path = folder.path().join(unit);
        let (ok, said) = run("systemd-analyze", &["verify", text(&path)]);
        assert!(ok && said.trim().is_empty(), "{unit}: {said}");
        // the check itself can fail
        let broken = fs::read_to_string(&path).unwrap() + "\n[Service]\nNoSuchKey=1\n";
        write_file(&path, broken.as_bytes(), 0o644).unwrap();
        let (_, said) = run("systemd-analyze", &["verify", text(&path)]);
        assert!(said.contains("NoSuchKey"), "{said}");
    }
}

#[test]
fn their_exposure_stays_below_two() {
    let folder = copies();
    for unit in UNITS {
        let path = folder.path().join(unit);
        let rated = ["security", "--offline=true", "--threshold=20", text(&path)];
        let (ok, said) = run("systemd-analyze", &rated);
        assert!(ok, "{unit}: {said}");
    }
}

#[test]
fn what_they_start_is_what_there_is() {
    let folder = copies();
    let starts = [
        ("gateway", "gateway", "portcullis"),
        ("acceptor", "acceptor", "portcullis"),
        ("pki serve", "pki", "portcullis-pki"),
    ];
    for (unit, (role, file, user)) in UNITS.iter().zip(starts) {
        let unit = fs::read_to_string(folder.path().join(unit)).unwrap();
        let start = format!(
            "ExecStart={} {role} --config /etc/portcullis/{file}.toml\n",
            env!("CARGO_BIN_EXE_portcullis")
        );
        assert!(unit.contains(&start), "{unit}");
        assert!(unit.contains("Type=notify\n") && unit.contains(&format!("User={user}\n")));
    }
}
