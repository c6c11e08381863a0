//! Whom we believe over TLS: the web's certificate authorities, compiled in, and those of a `ca_file`.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// More than any bundle of roots holds.
const MAX_CA_FILE: u64 = 4 * 1024 * 1024;

/// A `ca_file` cannot be used.
#[derive(Debug)]
pub struct BadCaFile {
    key: &'static str,
    path: PathBuf,
    cause: String,
}

/// The TLS settings of a client: certificates verified, TLS 1.2 or 1.3. `key` is where `ca_file` was named.
pub fn client_config(key: &'static str, ca_file: Option<&Path>) -> Result<ClientConfig, BadCaFile> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        add(&mut roots, path).map_err(|cause| BadCaFile { key, path: path.to_owned(), cause })?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.2 and 1.3");
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Whether `path` can be used as the `ca_file` that `key` names.
pub fn check_ca_file(key: &'static str, path: &Path) -> Result<(), BadCaFile> {
    client_config(key, Some(path)).map(drop)
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_CA_FILE).read_to_end(&mut pem).map_err(|error| error.to_string())?;
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.len() == before {
        return Err("it holds no PEM certificate".to_owned());
    }
    Ok(())
}

impl fmt::Display for BadCaFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.key, self.path.display(), self.cause)
    }
}

impl std::error::Error for BadCaFile {}
