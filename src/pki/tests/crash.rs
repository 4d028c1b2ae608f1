//! A command is killed before each act that changes the disk; what the next one finds is the old
//! state or the new one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    super::{store::acts_until_killed, *},
    pem,
};
use crate::identity::CertFacts;

/// In memory where there is some: these tests write what others would write in years.
fn home() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    folder.unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else {
            into.push(path);
        }
    }
}

/// Everything on disk fits everything else; how many records, CRLs written, and audited acts.
fn sound(folder: &Path) -> (usize, u64, usize) {
    let authority = Authority::open(folder).unwrap();
    let records = authority.records().unwrap();
    for record in records.iter().filter(|r| r.superseded.is_none()) {
        let folder = authority.certificate_folder(record.role, &record.name);
        let facts = CertFacts::read(&pem(&folder.join("cert.pem"))).unwrap();
        assert_eq!(facts.fingerprint.to_string(), record.fingerprint);
        let key = folder.join("key.pem");
        assert_eq!(key.exists(), !record.requested);
        if key.exists() {
            let key = algorithm::key_from_file(&key, None).unwrap();
            let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
            assert_eq!(crate::identity::Sha256::of(&spki), facts.spki);
        }
        let accepted = authority.verify(&folder.join("cert.pem"), None);
        assert_eq!(accepted.is_ok(), record.revoked.is_none(), "{accepted:?}");
    }
    for ca in authority.authorities().unwrap() {
        if ca.is_trusted() {
            drop(authority.signer(&ca).unwrap());
        }
    }
    let mut all = Vec::new();
    files(folder, &mut all);
    let left: Vec<_> = all
        .iter()
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            // a file that had no name yet when it was killed, in a folder that nobody else reads
            let nameless = name.starts_with(".staging.json.");
            (name.starts_with('.') && !nameless) || name == "journal.json"
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let audit = fs::read_to_string(folder.join("state/audit.log")).unwrap();
    assert!(audit.ends_with('\n'));
    let number = state::State::load(&folder.join("state"))
        .unwrap()
        .issuing_crl_number;
    (records.len(), number, audit.lines().count())
}

/// Kills `command` everywhere. `again`: it can be run a second time after it was done.
fn everywhere(what: &str, base: &Path, command: impl Fn(&Authority) -> Result<(), PkiError>) {
    let home = home();
    let old = sound(base);
    let whole = home.path().join("whole");
    copy(base, &whole);
    command(&Authority::open(&whole).unwrap()).unwrap();
    let new = sound(&whole);
    assert_ne!(old, new, "{what} does something");
    let mut seen = [0, 0];
    for acts in 0.. {
        let folder = home.path().join(acts.to_string());
        copy(base, &folder);
        let authority = Authority::open(&folder).unwrap();
        let done = acts_until_killed(acts, || command(&authority));
        let found = sound(&folder);
        assert!(
            found == old || found == new,
            "{what} killed before act {acts}: {found:?} is neither {old:?} nor {new:?}"
        );
        if let Some(ended) = done {
            ended.unwrap();
            assert_eq!(found, new);
            assert!(acts > 8, "{what}: {acts} acts");
            break;
        }
        seen[usize::from(found == new)] += 1;
        if found == old {
            command(&authority).unwrap();
            assert_eq!(sound(&folder), new, "{what} after act {acts}, again");
        }
        fs::remove_dir_all(folder).unwrap();
    }
    assert!(seen.iter().all(|n| *n > 1), "{what}: {seen:?}");
}

#[test]
fn a_command_killed_anywhere_leaves_the_old_or_the_new() {
    let home = home();
    let base = home.path().join("pki");
    let authority = Authority::init(&base, InitOptions::default()).unwrap();
    authority
        .issue(&IssueRequest::new(Role::Gateway, "edge-1"))
        .unwrap();
    let host = home.path().join("host");
    let asked = KeyRequest {
        role: Role::Gateway,
        name: "edge-2".to_owned(),
        sans: Vec::new(),
        algorithm: Algorithm::default(),
        out: host,
        owner: None,
    };
    let csr = fs::read(asked.make().unwrap().request).unwrap();

    everywhere("issue", &base, |authority| {
        let request = IssueRequest::new(Role::Client, "anna");
        authority.issue(&request).map(drop)
    });
    everywhere("issue by force", &base, |authority| {
        let mut request = IssueRequest::new(Role::Gateway, "edge-1");
        request.force = true;
        authority.issue(&request).map(drop)
    });
    everywhere("sign", &base, |authority| {
        authority.sign(&SignRequest::new(csr.clone())).map(drop)
    });
    for rekey in [false, true] {
        everywhere("renew", &base, |authority| {
            let options = RenewOptions {
                names: vec!["edge-1".to_owned()],
                rekey,
                ..RenewOptions::default()
            };
            authority.renew(&options).map(drop)
        });
    }
    everywhere("revoke", &base, |authority| {
        authority.revoke("edge-1", Reason::Superseded).map(drop)
    });
    everywhere("crl", &base, |authority| {
        authority.write_crls(CrlOptions::default()).map(drop)
    });
}

#[test]
fn a_rotation_killed_anywhere_leaves_the_old_or_the_new() {
    let home = home();
    let base = home.path().join("pki");
    let authority = Authority::init(&base, InitOptions::default()).unwrap();
    authority
        .issue(&IssueRequest::new(Role::Gateway, "edge-1"))
        .unwrap();
    for kind in [CaKind::Issuing, CaKind::Root] {
        let mut options = RotateOptions {
            kind,
            prepare: false,
            algorithm: None,
            days: 3650,
        };
        everywhere("rotate", &base, |authority| {
            authority.rotate(&options).map(drop)
        });
        options.prepare = true;
        everywhere("prepare", &base, |authority| {
            authority.rotate(&options).map(drop)
        });
        authority.rotate(&options).unwrap();
        options.prepare = false;
        everywhere("switch", &base, |authority| {
            authority.rotate(&options).map(drop)
        });
        authority.rotate(&options).unwrap();
        authority.renew(&RenewOptions::default()).unwrap();
        everywhere("finish", &base, |authority| {
            authority.finish_rotation(kind, true).map(drop)
        });
        authority.finish_rotation(kind, true).unwrap();
    }
}

#[test]
fn an_init_killed_anywhere_can_be_run_again_or_is_done() {
    let home = home();
    for acts in 0.. {
        let folder = home.path().join(acts.to_string());
        let init = || Authority::init(&folder, InitOptions::default());
        let done = acts_until_killed(acts, init);
        if let Some(ended) = done {
            ended.unwrap();
            break;
        }
        if Authority::open(&folder).is_err() {
            init().unwrap();
        }
        let (records, number, _) = sound(&folder);
        assert_eq!((records, number), (0, 1));
        assert_eq!(pem_count(&folder.join("crl.pem"), "X509 CRL"), 2);
    }
}

#[test]
fn a_request_or_installation_killed_anywhere_can_be_run_again() {
    let home = home();
    let authority = Authority::init(&home.path().join("pki"), InitOptions::default()).unwrap();
    let mut request = IssueRequest::new(Role::Gateway, "edge-1");
    let from = authority.issue(&request).unwrap().folder;
    let old = home.path().join("old");
    install::install(&from, &old, None).unwrap();
    request.force = true;
    authority.issue(&request).unwrap();
    let read = |folder: &Path, name: &str| fs::read(folder.join(name)).unwrap();
    let names = ["cert.pem", "key.pem", "trust.pem", "crl.pem"];
    let mut halves = 0;
    for acts in 0.. {
        let to = home.path().join(acts.to_string());
        copy(&old, &to);
        let done = acts_until_killed(acts, || install::install(&from, &to, None).unwrap());
        // each file is the old one or the new one
        let fresh = names.map(|name| {
            let (now, before) = (read(&to, name), read(&old, name));
            assert!(now == before || now == read(&from, name), "{name}");
            now != before
        });
        halves += usize::from(fresh[0] != fresh[1]);
        install::install(&from, &to, None).unwrap();
        for name in ["cert.pem", "key.pem"] {
            assert_eq!(read(&to, name), read(&from, name), "{name}");
        }
        if done.is_some() {
            break;
        }
    }
    // between the two renames, and nowhere else
    assert_eq!(halves, 1);

    for acts in 0.. {
        let out = home.path().join(format!("host-{acts}"));
        let asked = KeyRequest {
            role: Role::Gateway,
            name: "edge-2".to_owned(),
            sans: Vec::new(),
            algorithm: Algorithm::default(),
            out: out.clone(),
            owner: None,
        };
        let done = acts_until_killed(acts, || asked.make().unwrap());
        let key = out.join("key.pem");
        let kept = key.exists().then(|| fs::read(&key).unwrap());
        let made = asked.make().unwrap();
        assert!(kept.is_none_or(|kept| kept == fs::read(&key).unwrap()));
        request::Request::read(&fs::read(made.request).unwrap()).unwrap();
        if done.is_some() {
            break;
        }
    }
}

fn pem_count(path: &Path, label: &str) -> usize {
    let text = fs::read_to_string(path).unwrap();
    text.matches(&format!("BEGIN {label}")).count()
}
