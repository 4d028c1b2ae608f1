//! What was renewed, on disk. Key and certificate are two files and no rename changes both: they
//! go into one file first, which a start that finds it completes. Trust and CRLs are judged
//! together with all that stands beside them before either is replaced.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use zeroize::Zeroizing;

use crate::{
    clock,
    config::{CertificateFiles, Identity, TlsOptions},
    identity::CertFacts,
    pki::store::{PRIVATE, PUBLIC, write_file, write_pair},
    tls::{EdgeMaterial, Generation, LinkRole},
};

/// What an identity needs to be loaded.
#[derive(Clone)]
pub(super) struct Own {
    pub(super) identity: Identity,
    pub(super) tls: TlsOptions,
    pub(super) role: LinkRole,
}

/// Where key and certificate stand together until both are in place.
fn together(key: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(key.file_name().unwrap_or_default());
    name.push(".renewed");
    key.with_file_name(name)
}

/// Loads a pair, both in one file maybe, as it would be loaded in its place.
fn load_pair(own: &Own, (certificate, key): (&Path, &Path)) -> Result<CertFacts, String> {
    let mut identity = own.identity.clone();
    identity.certificate = certificate.to_owned();
    identity.key = key.to_owned();
    load(own, &identity, None).map(|generation| generation.leaf.clone())
}

fn load(
    own: &Own,
    identity: &Identity,
    previous: Option<&Generation>,
) -> Result<Arc<Generation>, String> {
    Generation::load(identity, &own.tls, own.role, previous, clock::now()).map_err(|all| {
        let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
        lines.join("; ")
    })
}

/// The names of a certificate, in order.
pub(super) fn names(facts: &CertFacts) -> Vec<String> {
    let mut all: Vec<String> = facts.dns.iter().chain(&facts.uris).cloned().collect();
    all.extend(facts.ips.iter().map(ToString::to_string));
    all.sort();
    all
}

/// Puts a new key and its certificate in force, if they are what they should be.
pub(super) fn install(
    own: &Own,
    current: &CertFacts,
    key: &str,
    chain: &str,
) -> Result<CertFacts, String> {
    install_for(own, &names(current), key, chain)
}

/// The same for a certificate that has to carry these names, in order, and no others.
pub(super) fn install_for(
    own: &Own,
    expected: &[String],
    key: &str,
    chain: &str,
) -> Result<CertFacts, String> {
    let leaf = judged(expected, chain)?;
    let identity = &own.identity;
    let at = (identity.certificate.as_path(), identity.key.as_path());
    put(at, key, chain, |pair| load_pair(own, (pair, pair)))?;
    Ok(leaf)
}

/// What came, if it is for these names and of now.
fn judged(expected: &[String], chain: &str) -> Result<CertFacts, String> {
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes())
        .map_err(|error| format!("what came is no certificate: {error}"))?;
    let leaf = CertFacts::read(&leaf).map_err(|error| error.to_string())?;
    if names(&leaf) != expected {
        return Err(format!(
            "the certificate that came names {}, ours {}",
            names(&leaf).join(", "),
            expected.join(", ")
        ));
    }
    if leaf.not_after <= clock::now() {
        return Err(format!(
            "the certificate that came ended {}",
            leaf.not_after
        ));
    }
    Ok(leaf)
}

/// The same for a certificate that clients are shown.
pub(super) fn install_edge(
    files: &CertificateFiles,
    options: &TlsOptions,
    expected: &[String],
    key: &str,
    chain: &str,
) -> Result<CertFacts, String> {
    let leaf = judged(expected, chain)?;
    let at = (files.certificate.as_path(), files.key.as_path());
    put(at, key, chain, |pair| load_edge(options, (pair, pair)))?;
    Ok(leaf)
}

/// Loads a pair, both in one file maybe, as a listener would.
fn load_edge(
    options: &TlsOptions,
    (certificate, key): (&Path, &Path),
) -> Result<CertFacts, String> {
    let parts = [(certificate, key, None)];
    let loaded = EdgeMaterial::load_parts(parts, None, options, None, clock::now());
    let loaded = loaded.map_err(|all| {
        let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
        lines.join("; ")
    })?;
    let first = loaded.certificates.first();
    first
        .map(|certificate| certificate.leaf.clone())
        .ok_or_else(|| "no certificate in it".to_owned())
}

/// Completes what a crash has left half done of a certificate that clients are shown.
pub(super) fn recover_edge(
    files: &CertificateFiles,
    options: &TlsOptions,
) -> Result<Option<CertFacts>, String> {
    complete((&files.certificate, &files.key), |at| {
        load_edge(options, at)
    })
}

/// Whether both can be written, before anybody is asked for what would be lost: CAs count what they
/// issue.
pub(super) fn check_places(certificate: &Path, key: &Path) -> Result<(), String> {
    for place in [key, certificate] {
        let trial = together(place).with_extension("new");
        write(&trial, b"", PRIVATE)?;
        remove(&trial);
    }
    Ok(())
}

/// Writes both, if they are good together.
fn put<T>(
    at: (&Path, &Path),
    key: &str,
    chain: &str,
    load: impl FnOnce(&Path) -> Result<T, String>,
) -> Result<(), String> {
    let pair = together(at.1);
    // a pair that is placed by half is not given up for one that is of no use
    let new = pair.with_extension("new");
    let text = Zeroizing::new(format!("{}\n{}", key.trim_end(), chain));
    write(&new, text.as_bytes(), PRIVATE)?;
    if let Err(error) = load(&new) {
        remove(&new);
        return Err(format!("the certificate that came is of no use: {error}"));
    }
    fs::rename(&new, &pair).map_err(|error| failed("write", &pair, &error))?;
    // what can't be placed now, on a full disk say, stays: the key may even be in place already, and
    // without its certificate no start would succeed
    place(at, &pair)
}

/// Both files from the one.
fn place((certificate, own_key): (&Path, &Path), pair: &Path) -> Result<(), String> {
    let text = Zeroizing::new(fs::read_to_string(pair).map_err(|e| failed("read", pair, &e))?);
    if certificate == own_key {
        write(own_key, text.as_bytes(), PRIVATE)?;
    } else {
        let at = text
            .find("-----BEGIN CERTIFICATE")
            .ok_or("no certificate in it")?;
        let (key, chain) = text.split_at_checked(at).ok_or("no certificate in it")?;
        write_pair([
            (own_key, key.as_bytes(), PRIVATE),
            (certificate, chain.as_bytes(), PUBLIC),
        ])
        .map_err(|error| failed("write", certificate, &error))?;
    }
    remove(pair);
    Ok(())
}

/// Completes what a crash or a full disk has left half done; called before anything is loaded or
/// ordered. Returns what is in place now.
pub(super) fn recover(own: &Own) -> Result<Option<CertFacts>, String> {
    let identity = &own.identity;
    complete((&identity.certificate, &identity.key), |at| {
        load_pair(own, at)
    })
}

fn complete(
    at: (&Path, &Path),
    load: impl Fn((&Path, &Path)) -> Result<CertFacts, String>,
) -> Result<Option<CertFacts>, String> {
    let pair = together(at.1);
    if !pair.exists() {
        return Ok(None);
    }
    let renewed = match load((&pair, &pair)) {
        Ok(renewed) => renewed,
        Err(error) => {
            tracing::warn!(file = %pair.display(), %error, "a renewal that was left behind is of no use");
            remove(&pair);
            return Ok(None);
        }
    };
    // an operator may have put another pair there since
    let newer = load(at).is_ok_and(|there| there.not_before >= renewed.not_before);
    if newer {
        remove(&pair);
        return Ok(None);
    }
    place(at, &pair)
        .map_err(|error| format!("a renewal that was cut off can't be completed: {error}"))?;
    tracing::info!(serial = %renewed.serial, "a renewal that was cut off is complete");
    Ok(Some(renewed))
}

/// Where trust and CRLs of the authority go.
fn targets(identity: &Identity) -> (Option<&PathBuf>, Option<&PathBuf>) {
    let lists = identity.revocation.as_ref().and_then(|r| r.files.first());
    (identity.trust.as_ref(), lists)
}

/// Trust and CRLs as they are here.
pub(super) fn held(own: &Own) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let read = |path: &PathBuf| fs::read(path).ok();
    let (trust, lists) = targets(&own.identity);
    (trust.and_then(read), lists.and_then(read))
}

/// Takes new trust and CRLs, if everything loads with them and no CRL goes back. Returns which
/// files are new.
pub(super) fn refresh(
    own: &Own,
    in_force: &Generation,
    trust: &[u8],
    crl: Option<&[u8]>,
) -> Result<Vec<PathBuf>, String> {
    let identity = &own.identity;
    let mut wanted: Vec<(&PathBuf, &[u8])> = Vec::new();
    let (roots, lists) = targets(identity);
    if let Some(path) = roots {
        wanted.push((path, trust));
    }
    if let (Some(path), Some(crl)) = (lists, crl) {
        wanted.push((path, crl));
    }
    wanted.retain(|(path, bytes)| fs::read(path).ok().as_deref() != Some(*bytes));
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let mut candidate = identity.clone();
    for (at, (path, bytes)) in wanted.iter().enumerate() {
        let new = folder.path().join(at.to_string());
        write(&new, bytes, PRIVATE)?;
        if candidate.trust.as_ref() == Some(*path) {
            candidate.trust = Some(new.clone());
        }
        for file in candidate.revocation.iter_mut().flat_map(|r| &mut r.files) {
            if *file == **path {
                file.clone_from(&new);
            }
        }
    }
    let loaded = load(own, &candidate, Some(in_force))?;
    if loaded.verification.roots().is_empty() {
        return Err("the trust that came has no root".to_owned());
    }
    let mut written = Vec::new();
    for (path, bytes) in wanted {
        write(path, bytes, PUBLIC)?;
        written.push(path.clone());
    }
    Ok(written)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    write_file(path, bytes, mode).map_err(|error| failed("write", path, &error))
}

fn failed(act: &str, path: &Path, error: &io::Error) -> String {
    format!(
        "can't {act} {}: {error}: an identity that renews itself needs a folder that the process \
         may write to",
        path.display()
    )
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %path.display(), %error, "can't be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Cipher, KeyExchange, Records},
        pki::{Authority, InitOptions, IssueRequest, Role},
    };

    const CHAIN: &str = "-----BEGIN CERTIFICATE-----\nnew\n";

    #[test]
    fn a_pair_that_waits_is_not_lost_to_one_of_no_use() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        let at = (certificate.as_path(), key.as_path());
        let pair = together(&key);
        write(&pair, b"placed by half", PRIVATE).unwrap();
        let refused = put(at, "KEY", CHAIN, |_| Err::<(), _>("no".to_owned()));
        let said = "the certificate that came is of no use: no";
        assert_eq!(refused.unwrap_err(), said);
        assert_eq!(fs::read_to_string(&pair).unwrap(), "placed by half");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        put(at, "KEY", CHAIN, |_| Ok(())).unwrap();
        assert_eq!(fs::read_to_string(&key).unwrap(), "KEY\n");
        assert_eq!(fs::read_to_string(&certificate).unwrap(), CHAIN);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    /// Key and chain of a server's certificate that began so many seconds ago.
    fn issued(authority: &Authority, ago: i64) -> (String, String) {
        let mut request = IssueRequest::new(Role::Server, "site").san("site.test");
        request.not_before = Some(crate::identity::UnixSeconds(clock::now().0 - ago));
        request.force = true;
        let issued = authority.issue(&request).unwrap();
        let [key, chain] =
            [issued.key, issued.certificate].map(|file| fs::read_to_string(file).unwrap());
        (key, chain)
    }

    #[test]
    fn what_was_left_behind_is_completed_unless_something_newer_has_come() {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::init(&home.path().join("pki"), InitOptions::default()).unwrap();
        let (old, new) = (issued(&authority, 7200), issued(&authority, 60));
        let files = CertificateFiles {
            certificate: home.path().join("c.pem"),
            key: home.path().join("k.pem"),
            key_passphrase: None,
            acme: None,
        };
        let options = TlsOptions {
            min_version: None,
            key_exchange: vec![KeyExchange::X25519],
            ciphers: vec![Cipher::Aes128Gcm],
            records: Records::Own,
        };
        let pair = together(&files.key);
        let stand = |there: &(String, String), waits: &(String, String)| {
            write(&files.key, there.0.as_bytes(), PRIVATE).unwrap();
            write(&files.certificate, there.1.as_bytes(), PUBLIC).unwrap();
            write(&pair, (waits.0.clone() + &waits.1).as_bytes(), PRIVATE).unwrap();
        };
        let there = || {
            let read = |file| fs::read_to_string(file).unwrap();
            assert!(!pair.exists());
            (read(&files.key), read(&files.certificate))
        };
        let nothing = ("x".to_owned(), "y".to_owned());
        // over an older one, over none that is of use, and over half of itself
        for before in [&old, &nothing, &(new.0.clone(), old.1.clone())] {
            stand(before, &new);
            assert!(recover_edge(&files, &options).unwrap().is_some());
            assert!(there() == new);
        }
        // an operator's own, newer one stays, and so does what is there where garbage waits
        for waits in [&old, &nothing] {
            stand(&new, waits);
            assert!(recover_edge(&files, &options).unwrap().is_none());
            assert!(there() == new);
        }
    }
}
