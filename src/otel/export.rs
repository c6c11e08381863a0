//! Sends spans to a collector, many at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::otlp::{self, Span};
use crate::metrics::{Fate, Metrics};
use crate::mishap::outlived;
use crate::outbound::{BadCaFile, Connector, trust};

/// Spans that go in one request, at most.
const BATCH: usize = 512;
/// How long the first of them waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// For a connection to the collector,
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// and for all of a request. What is not taken then is lost.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Below what collectors keep connections for.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// Where OTLP takes traces, when the endpoint names no path.
const PATH: PathAndQuery = PathAndQuery::from_static("/v1/traces");

/// What waits in the queue.
#[derive(Debug)]
pub(super) enum Item {
    Span(Box<Span>),
    /// Somebody wants to know when all before it was sent.
    Flush(oneshot::Sender<()>),
}

pub(super) struct Exporter {
    pool: Pool<Connector, Full<Bytes>>,
    endpoint: Uri,
    metrics: Arc<Metrics>,
    /// The last request failed: said once, not for each.
    failing: bool,
}

impl Exporter {
    pub(super) fn new(endpoint: Uri, metrics: Arc<Metrics>) -> Result<Self, BadCaFile> {
        let tls = trust::client_config("trace.endpoint", None)?;
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .build(Connector::new(tls, CONNECT_TIMEOUT));
        Ok(Self { pool, endpoint: with_path(endpoint), metrics, failing: false })
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Item>) {
        let panics = self.metrics.panics.clone();
        while let Some(first) = queue.recv().await {
            let (batch, flush) = gather(first, &mut queue).await;
            if !batch.is_empty() && outlived(self.send(&batch), &panics).await.is_none() {
                self.metrics.traced(Fate::Lost, batch.len() as u64);
            }
            // Fails when nobody waits any more.
            let _ = flush.map(|sent| sent.send(()));
        }
    }

    async fn send(&mut self, batch: &[Span]) {
        let refused = self.post(otlp::encode(batch)).await.err();
        let fate = if refused.is_none() { Fate::Sent } else { Fate::Lost };
        self.metrics.traced(fate, batch.len() as u64);
        match &refused {
            Some(why) if !self.failing => tracing::warn!("traces are lost: the collector of trace.endpoint {why}"),
            None if self.failing => tracing::info!("the collector of trace.endpoint takes traces again"),
            _ => {}
        }
        self.failing = refused.is_some();
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), String> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        (*request.method_mut(), *request.uri_mut()) = (Method::POST, self.endpoint.clone());
        request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        let answered = timeout(SEND_TIMEOUT, self.pool.request(request)).await;
        match answered.map_err(|_| format!("does not answer within {SEND_TIMEOUT:?}"))? {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(format!("answers {}{}", response.status().as_u16(), hint(response.status()))),
            Err(error) if error.is_connect() => Err("cannot be reached".to_owned()),
            Err(_) => Err("closed the connection".to_owned()),
        }
    }
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "; is it the address of OTLP over HTTP (4318, as a rule)?",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "; it has to take OTLP in JSON",
        _ => "",
    }
}

/// What comes within a while of the first, and who waits for it.
async fn gather(first: Item, queue: &mut mpsc::Receiver<Item>) -> (Vec<Span>, Option<oneshot::Sender<()>>) {
    let (mut batch, mut next, end) = (Vec::new(), Some(first), Instant::now() + GATHER);
    while let Some(item) = next {
        match item {
            Item::Span(span) => batch.push(*span),
            Item::Flush(sent) => return (batch, Some(sent)),
        }
        if batch.len() >= BATCH {
            break;
        }
        next = timeout_at(end, queue.recv()).await.ok().flatten();
    }
    (batch, None)
}

fn with_path(endpoint: Uri) -> Uri {
    let mut parts = endpoint.into_parts();
    parts.path_and_query = parts.path_and_query.filter(|path| path.path() != "/").or(Some(PATH));
    Uri::from_parts(parts).expect("a URL with another path is a URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_otlps_own_unless_another_is_named() {
        for (endpoint, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://a.example/otlp/v1/traces", "https://a.example/otlp/v1/traces"),
        ] {
            assert_eq!(with_path(endpoint.parse().unwrap()), url);
        }
    }
}
