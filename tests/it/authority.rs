//! A certificate authority, and certificates signed by it.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tempfile::TempDir;
use tonic::transport::{Certificate, Identity};

/// The first and the last year of certificates that are valid.
const YEARS: (i32, i32) = (2020, 4000);

/// Signs certificates, and stores them as files.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate and its key, as files.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    /// Returns the pair in the form that tonic's client takes.
    pub fn identity(&self) -> Identity {
        let read = |path: &Path| fs::read(path).expect("it is there");
        Identity::from_pem(read(&self.certificate), read(&self.key))
    }

    /// Replaces this pair's files by those of another pair.
    pub fn become_like(&self, other: &Self) {
        for (to, from) in [(&self.certificate, &other.certificate), (&self.key, &other.key)] {
            replace(to, &fs::read(from).expect("it is there"));
        }
    }
}

/// Replaces a file atomically, as a careful operator does.
pub fn replace(path: &Path, contents: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, contents).expect("a file");
    fs::rename(beside, path).expect("one file system");
}

impl Authority {
    pub fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // Two authorities with one name would be confused with each other.
        let key = KeyPair::generate().expect("a key");
        let name: String = key.public_key_raw().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        parameters.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("a certificate");
        let directory = TempDir::with_prefix("wal-indexer-ca-").expect("a directory");
        fs::write(directory.path().join("ca.pem"), issuer.pem()).expect("a file");
        Self { issuer, directory }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the file of the authority's own certificate.
    pub fn file(&self) -> PathBuf {
        self.directory().join("ca.pem")
    }

    /// Returns the authority's own certificate.
    pub fn certificate(&self) -> Certificate {
        Certificate::from_pem(self.issuer.pem())
    }

    /// Signs a certificate for 127.0.0.1 and localhost that is valid today.
    pub fn sign(&self, file: &str) -> Pair {
        self.sign_for(file, &["127.0.0.1", "localhost"], YEARS)
    }

    /// Signs a certificate for these names, valid from the first year to the second.
    pub fn sign_for(&self, file: &str, names: &[&str], years: (i32, i32)) -> Pair {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut parameters = CertificateParams::new(names).expect("names");
        parameters.not_before = date_time_ymd(years.0, 1, 1);
        parameters.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        let path = |end: &str| self.directory().join(format!("{file}.{end}"));
        let pair = Pair { certificate: path("pem"), key: path("key") };
        fs::write(&pair.certificate, certificate.pem()).expect("a file");
        fs::write(&pair.key, key.serialize_pem()).expect("a file");
        pair
    }

    /// Signs a certificate that expired long ago.
    pub fn sign_expired(&self, file: &str) -> Pair {
        self.sign_for(file, &["127.0.0.1", "localhost"], (2001, 2002))
    }
}
