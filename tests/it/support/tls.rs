//! A private authority, its certificates on disk, and clients that believe it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use ticketgate::config::Config;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub const HTTP_1: &[u8] = b"http/1.1";
pub const HTTP_2: &[u8] = b"h2";

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate and its key, PEM.
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Issued {
    /// What browsers pin a key by: the hash of its `SubjectPublicKeyInfo`, Base64.
    pub fn pin(&self) -> String {
        let key = KeyPair::from_pem(&self.key).unwrap();
        STANDARD.encode(Sha256::digest(key.subject_public_key_info()))
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, directory: TempDir::new().unwrap() }
    }

    pub fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { cert: certificate.pem(), key: key.serialize_pem() }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, pem: &str) -> PathBuf {
        std::fs::write(self.file(name), pem).unwrap();
        self.file(name)
    }

    /// Puts a new certificate for `localhost` where `configure` looks for it.
    pub fn install(&self) -> Issued {
        let issued = self.issue(|_| {});
        self.write("cert.pem", &issued.cert);
        self.write("key.pem", &issued.key);
        issued
    }

    pub fn configure(&self, config: &mut Config) {
        let tls = &mut config.server.tls;
        tls.listen = Some("127.0.0.1:0".parse().unwrap());
        (tls.cert, tls.key) = (Some(self.file("cert.pem")), Some(self.file("key.pem")));
    }

    pub fn ca_file(&self) -> PathBuf {
        self.write("ca.pem", &self.issuer.pem())
    }

    /// The server's side, with a certificate for `name` and the protocols of `alpn`.
    pub fn acceptor(&self, name: &str, alpn: &[&[u8]]) -> TlsAcceptor {
        let issued = self.issue(|params| {
            params.subject_alt_names = CertificateParams::new([name.to_owned()]).unwrap().subject_alt_names;
        });
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let certificate = CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap();
        let secret = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let mut tls = builder.with_no_client_auth().with_single_cert(vec![certificate], secret).unwrap();
        tls.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(tls))
    }

    pub fn client(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    pub async fn connect(&self, address: SocketAddr, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.unwrap();
        self.over(stream, alpn).await.unwrap()
    }

    pub async fn over<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: T,
        alpn: &[&[u8]],
    ) -> std::io::Result<TlsStream<T>> {
        let name = ServerName::try_from("localhost").unwrap();
        self.client(rustls::DEFAULT_VERSIONS, alpn).connect(name, stream).await
    }
}
