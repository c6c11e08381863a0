//! HTTPS towards the origin: a private authority is believed when it is named, a wrong name and an unknown authority are
//! not (S12).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use ticketgate::fault::Faults;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::origin::Answer;
use crate::support::proxy::Proxy;
use crate::support::tickets;

struct TlsOrigin {
    address: SocketAddr,
    ca_file: PathBuf,
    requests: Arc<AtomicUsize>,
    _directory: TempDir,
}

/// An origin whose certificate is for `name`, with an authority of its own.
async fn tls_origin(name: &str, alpn: &[&[u8]]) -> TlsOrigin {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let directory = TempDir::new().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let secret = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut tls = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], secret).unwrap();
    tls.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), Arc::clone(&requests)));
    TlsOrigin { address, ca_file, requests, _directory: directory }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, requests: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, requests) = (acceptor.clone(), Arc::clone(&requests));
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut buffer = [0; 4096];
            while let Ok(1..) = stream.read(&mut buffer).await {
                requests.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(&Answer::image().bytes).await;
            }
        });
    }
}

async fn status(origin: &TlsOrigin, host: &str, ca_file: Option<PathBuf>) -> (u16, String) {
    let proxy = Proxy::configured(Faults::default(), |config| {
        config.origin.url = format!("https://{host}:{}", origin.address.port()).parse().unwrap();
        config.origin.ca_file = ca_file;
    });
    let answer = proxy.image(&tickets::permanent(1)).await;
    (answer.status, answer.cache_status().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_of_a_named_authority_is_believed() {
    let origin = tls_origin("localhost", &[b"http/1.1"]).await;
    let (status, cache) = status(&origin, "localhost", Some(origin.ca_file.clone())).await;
    assert_eq!((status, cache.as_str()), (200, "ticketgate; fwd=uri-miss; fwd-status=200; stored"));
    assert_eq!(origin.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused() {
    let origin = tls_origin("other.example", &[b"http/1.1"]).await;
    let (status, cache) = status(&origin, "localhost", Some(origin.ca_file.clone())).await;
    assert_eq!((status, cache.as_str()), (502, "ticketgate; fwd=uri-miss; detail=certificate"));
    assert_eq!(origin.requests.load(Ordering::SeqCst), 0, "nothing was said to a stranger");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_authority_is_refused() {
    let origin = tls_origin("localhost", &[b"http/1.1"]).await;
    let (status, cache) = status(&origin, "localhost", None).await;
    assert_eq!((status, cache.as_str()), (502, "ticketgate; fwd=uri-miss; detail=certificate"));
    assert_eq!(origin.requests.load(Ordering::SeqCst), 0);
}

#[test]
fn a_ca_file_without_a_certificate_is_an_error_at_start() {
    let directory = TempDir::new().unwrap();
    let empty = directory.path().join("ca.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    let mut config = ticketgate::config::Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    config.admin.listen = None;
    config.origin.ca_file = Some(empty);
    let error = ticketgate::app::App::bind(config, ticketgate::app::Surroundings::default()).err().expect("an error");
    assert!(error.to_string().contains("origin.ca_file"), "{error}");
}
