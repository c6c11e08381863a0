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

/// Of all connections, those that may be in a handshake at once, one part of so many: half-open ones hold buffers.
const SHARE_IN_HANDSHAKE: usize = 4;

/// No client may hold all of these, whatever its share of connections is: there are so many times that.
const CLIENTS_IN_HANDSHAKE: usize = 2;

/// Takes TLS handshakes.
pub struct Tls {
    acceptor: TlsAcceptor,
    at_once: Semaphore,
    port: u16,
}

impl Tls {
    /// Shows what `certificate` holds, at `port`; `connections` may be open at once, `per_client` of them of one address.
    pub fn new(certificate: Arc<dyn ResolvesServerCert>, connections: usize, per_client: usize, port: u16) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3");
        let mut config = builder.with_no_client_auth().with_cert_resolver(certificate);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), at_once: room(connections, per_client), port }
    }

    /// The same for other caps of connections; handshakes under way are not counted among its own.
    #[must_use]
    pub fn resized(&self, connections: usize, per_client: usize) -> Self {
        Self { acceptor: self.acceptor.clone(), at_once: room(connections, per_client), port: self.port }
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

fn room(connections: usize, per_client: usize) -> Semaphore {
    let fair = per_client.saturating_mul(CLIENTS_IN_HANDSHAKE).min(connections);
    Semaphore::new(connections.div_ceil(SHARE_IN_HANDSHAKE).max(fair).clamp(1, Semaphore::MAX_PERMITS))
}

/// Whether the handshake chose HTTP/2; nothing else may.
pub fn speaks_http2<T>(stream: &TlsStream<T>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP_2)
}
