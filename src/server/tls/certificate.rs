//! The certificate that we show, and its key: read from two PEM files, and believed only when they belong together.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Config, validity};
use crate::moment::Wall;

/// More than any chain or key has.
const MAX_FILE: u64 = 1024 * 1024;

/// The certificate in force.
#[derive(Debug)]
pub struct Certificate {
    pair: RwLock<Arc<CertifiedKey>>,
    /// Of the start.
    pem: Pem,
}

/// A file of `[tls]` is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadCertificate {
    /// The configuration key that names it.
    pub key: &'static str,
    path: Option<PathBuf>,
    cause: String,
}

/// What the two files hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// What is wrong with the files that `config` names; nothing where they are a certificate and a key that belong together.
pub fn check(config: &Config) -> Vec<BadCertificate> {
    let missing = config.files().into_iter().filter(|(_, file)| file.is_none());
    let missing: Vec<_> = missing.map(|(key, _)| BadCertificate::missing(key)).collect();
    if missing.is_empty() { Certificate::load(config).err().into_iter().collect() } else { missing }
}

impl Certificate {
    /// Reads the files that `config` names.
    pub fn load(config: &Config) -> Result<Arc<Self>, BadCertificate> {
        let pem = Pem::read(config)?;
        let pair = RwLock::new(pem.parse(config)?);
        Ok(Arc::new(Self { pair, pem }))
    }

    /// What the files held at the start.
    pub fn pem(&self) -> &Pem {
        &self.pem
    }

    /// Shows `pair` from now on; connections that are open keep what they were shown.
    pub fn replace(&self, pair: Arc<CertifiedKey>) {
        *self.pair.write().unwrap_or_else(PoisonError::into_inner) = pair;
    }

    /// When the one in force ends, if it says so.
    pub fn end(&self) -> Option<Wall> {
        validity::end(self.in_force().cert.first()?)
    }

    fn in_force(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.pair.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.in_force())
    }
}

/// A key is in it.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem")
    }
}

impl Pem {
    /// Reads both files.
    pub fn read(config: &Config) -> Result<Self, BadCertificate> {
        let read = |(key, path): (_, Option<&Path>)| {
            let path = path.ok_or_else(|| BadCertificate::missing(key))?;
            read(path).map_err(|cause| BadCertificate::new(key, path, cause))
        };
        let [cert, key] = config.files();
        Ok(Self { cert: read(cert)?, key: read(key)? })
    }

    /// Makes a certificate of them, when they belong together.
    pub fn parse(&self, config: &Config) -> Result<Arc<CertifiedKey>, BadCertificate> {
        let bad = |key, path: &Option<PathBuf>, cause: String| BadCertificate { key, path: path.clone(), cause };
        let bad_cert = |cause| bad("tls.cert", &config.cert, cause);
        let bad_key = |cause| bad("tls.key", &config.key, cause);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.cert).collect();
        let chain = chain.map_err(|error| bad_cert(error.to_string()))?;
        if chain.is_empty() {
            return Err(bad_cert("it holds no PEM certificate".to_owned()));
        }
        // The error of a key file is not repeated: it might quote the key.
        let key = PrivateKeyDer::from_pem_slice(&self.key);
        let key = key.map_err(|_| bad_key("it holds no PEM private key (PKCS#8, PKCS#1 or SEC1)".to_owned()))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        match CertifiedKey::from_der(chain, key, &provider) {
            Ok(pair) => Ok(Arc::new(pair)),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(bad_key("it is not the key of the first certificate in tls.cert".to_owned()))
            }
            Err(rustls::Error::InvalidCertificate(error)) => {
                Err(bad_cert(format!("no certificate to show: {error:?}")))
            }
            Err(error) => Err(bad_key(error.to_string())),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_FILE).read_to_end(&mut pem).map_err(|error| error.to_string())?;
    Ok(pem)
}

impl BadCertificate {
    fn new(key: &'static str, path: &Path, cause: String) -> Self {
        Self { key, path: Some(path.to_owned()), cause }
    }

    fn missing(key: &'static str) -> Self {
        Self { key, path: None, cause: "tls.listen needs it; name a PEM file".to_owned() }
    }
}

impl fmt::Display for BadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key)?;
        if let Some(path) = &self.path {
            write!(f, " {}", path.display())?;
        }
        write!(f, ": {}", self.cause)
    }
}

impl std::error::Error for BadCertificate {}
