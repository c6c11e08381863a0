//! TLS on the public listener (S32): rustls, TLS 1.2 and 1.3, one certificate for whatever name is asked. What is spoken
//! over it is [`super::connection`]'s to say.

pub mod certificate;
pub mod config;
pub mod renewal;
mod validity;

use std::io;
use std::sync::Arc;

pub use config::Config;
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What we speak over TLS, best first.
const PROTOCOLS: [&[u8]; 2] = [HTTP_2, b"http/1.1"];
const HTTP_2: &[u8] = b"h2";

/// Of all connections, those that may be in a handshake at once: half-open ones hold buffers, and no client may hold all of
/// these, since its share of connections is smaller.
const SHARE_IN_HANDSHAKE: usize = 4;

/// Takes TLS handshakes.
pub struct Tls {
    acceptor: TlsAcceptor,
    at_once: Semaphore,
    port: u16,
}

impl Tls {
    /// Shows what `certificate` holds, at `port`; `connections` may be open at once, and a quarter of them in a handshake.
    pub fn new(certificate: Arc<dyn ResolvesServerCert>, connections: usize, port: u16) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3");
        let mut config = builder.with_no_client_auth().with_cert_resolver(certificate);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        let at_once = connections.div_ceil(SHARE_IN_HANDSHAKE).clamp(1, Semaphore::MAX_PERMITS);
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), at_once: Semaphore::new(at_once), port }
    }

    /// Where it is taken.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Takes the handshake of `socket`, when there is room for one. Dropping the future closes the socket.
    pub async fn accept<T: AsyncRead + AsyncWrite + Unpin>(&self, socket: T) -> io::Result<TlsStream<T>> {
        let _room = self.at_once.acquire().await.expect("the semaphore is never closed");
        self.acceptor.accept(socket).await
    }
}

/// Whether the handshake chose HTTP/2; nothing else may.
pub fn speaks_http2<T>(stream: &TlsStream<T>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP_2)
}
