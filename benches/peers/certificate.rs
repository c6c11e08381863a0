//! What servers show over TLS, and clients believe.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::Outcome;

/// A certificate of our own, as files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// PEM.
    pub chain: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// Both in one, as HAProxy wants them.
    pub bundle: PathBuf,
}

impl Certificate {
    /// Makes one for `localhost`.
    pub fn make(directory: &Path) -> Outcome<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let write = |name: &str, text: &str| -> Outcome<PathBuf> {
            let file = directory.join(name);
            std::fs::write(&file, text)?;
            Ok(file)
        };
        Ok(Self {
            chain: write("certificate.pem", &certificate)?,
            key: write("key.pem", &key)?,
            bundle: write("bundle.pem", &format!("{certificate}{key}"))?,
        })
    }

    /// Speaks TLS 1.3 to whoever has it, and offers `protocols`.
    pub fn connector(&self, protocols: &[&[u8]]) -> Outcome<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.chain)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config).into())
    }
}
