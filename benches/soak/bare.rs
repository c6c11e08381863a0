//! A bare server: it takes slow clients in, reads what they say, shakes hands, fills the socket of who does not read, closes
//! them at their deadline, and nothing else: it answers nothing and forwards nothing. Where it stands on the core of the server
//! that is soaked, and they go there, what good answers take longer is about what such clients cost whoever takes them in.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Outcome;
use crate::aside::Aside;
use crate::certificate::Certificate;
use crate::guests::{read_out, take_in};
use crate::machine::pinned;
use crate::server::Timeouts;
use crate::slow::Kind;
use crate::tickets::IMAGE;

/// Bytes read of requests, whatever they say.
const PIECE: usize = 1024;
/// A head, whatever it says.
const HEAD: usize = 512;
/// Who may be on the way in, as with ticketgate.
const BACKLOG: i32 = 4096;

/// A running bare server for one kind of client; ends when dropped.
#[derive(Debug)]
pub struct Bare {
    /// Where it listens, for TLS too.
    pub address: SocketAddr,
    inside: Arc<AtomicU64>,
    _over: DropGuard,
}

/// What it does with whoever comes.
struct Host {
    kind: Kind,
    stay: Duration,
    acceptor: TlsAcceptor,
    /// Of the size of an image.
    answer: Vec<u8>,
    inside: Arc<AtomicU64>,
}

/// Counts one who is inside.
struct Inside(Arc<AtomicU64>);

impl Bare {
    /// Starts one on these cores.
    pub fn start(kind: Kind, timeouts: &Timeouts, certificate: &Certificate, cores: &[usize]) -> Outcome<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        SockRef::from(&listener).listen(BACKLOG)?;
        listener.set_nonblocking(true)?;
        let (address, over, inside) = (listener.local_addr()?, CancellationToken::new(), Arc::<AtomicU64>::default());
        let (end, counted, stay) = (over.clone(), Arc::clone(&inside), kind.stay(timeouts));
        let acceptor = acceptor(certificate)?;
        pinned(cores, || {
            Aside::among("bare", move || async move {
                let host = Rc::new(Host { kind, stay, acceptor, answer: vec![0; HEAD + IMAGE], inside: counted });
                end.run_until_cancelled(take_in(listener, |stream| Rc::clone(&host).host(stream))).await;
            })
        })?;
        Ok(Self { address, inside, _over: over.drop_guard() })
    }

    /// How many are inside.
    pub fn connections(&self) -> u64 {
        self.inside.load(Ordering::Relaxed)
    }
}

fn acceptor(certificate: &Certificate) -> Outcome<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from_pem_file(&certificate.chain)?];
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&certificate.key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config).into())
}

impl Host {
    async fn host(self: Rc<Self>, mut stream: TcpStream) {
        let _inside = Inside::enter(&self.inside);
        let _ = stream.set_nodelay(true);
        let _ = timeout(self.stay, self.attend(&mut stream)).await;
        if self.kind == Kind::Reader {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Goes on until the client hangs up.
    async fn attend(&self, stream: &mut TcpStream) {
        match self.kind {
            Kind::Reader => {
                let _ = stream.read(&mut [0; PIECE]).await;
                while stream.write_all(&self.answer).await.is_ok() {}
            }
            Kind::Preface => {
                if let Ok(stream) = self.acceptor.accept(stream).await {
                    read_out(stream).await;
                }
            }
            Kind::Silent | Kind::Head | Kind::Body | Kind::Handshake => read_out(stream).await,
        }
    }
}

impl Inside {
    fn enter(inside: &Arc<AtomicU64>) -> Self {
        inside.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(inside))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
