//! Opens connections: name, TCP and TLS under one deadline.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tower_service::Service;

use super::transcript::Transcript;
use super::wire::Wired;

/// What goes wrong below HTTP; [`super::trouble`] knows what it is.
pub type ConnectError = Box<dyn std::error::Error + Send + Sync>;

type Opening = Pin<Box<dyn Future<Output = Result<TokioIo<Wired>, ConnectError>> + Send>>;

/// Opens connections.
#[derive(Debug, Clone)]
pub struct Connector {
    https: HttpsConnector<HttpConnector>,
    timeout: Duration,
    transcript: Option<Arc<Transcript>>,
}

/// The connection was not there in time.
#[derive(Debug)]
pub struct ConnectTimedOut;

impl Connector {
    /// A connector that verifies by `tls`, offers every version of HTTP over it, and gives up after `timeout`.
    pub fn new(tls: rustls::ClientConfig, timeout: Duration) -> Self {
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        Self { https: https.enable_all_versions().wrap_connector(sockets()), timeout, transcript: None }
    }

    /// The same for HTTP/1.1 alone.
    pub fn of_http1(tls: rustls::ClientConfig, timeout: Duration) -> Self {
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        Self { https: https.enable_http1().wrap_connector(sockets()), timeout, transcript: None }
    }

    /// The same, which notes what passes; for one exchange.
    #[must_use]
    pub fn noting(self, transcript: Arc<Transcript>) -> Self {
        Self { transcript: Some(transcript), ..self }
    }

    /// Opens a connection to the host of `uri`. Dropping the future gives it up.
    pub async fn open(&self, uri: Uri) -> Result<TokioIo<Wired>, ConnectError> {
        let opening = self.https.clone().call(uri);
        let stream = tokio::time::timeout(self.timeout, opening).await.map_err(|_| ConnectTimedOut)??;
        Ok(TokioIo::new(Wired::noting(stream, self.transcript.clone())))
    }
}

fn sockets() -> HttpConnector {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wired>;
    type Error = ConnectError;
    type Future = Opening;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Opening {
        let connector = self.clone();
        Box::pin(async move { connector.open(uri).await })
    }
}

impl std::fmt::Display for ConnectTimedOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no connection in time")
    }
}

impl std::error::Error for ConnectTimedOut {}
