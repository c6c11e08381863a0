//! One exchange with the origin: pooled connections, deadlines, a cap on the body while it is read, and a single retry
//! where a pooled connection had died unnoticed. The only module here that knows hyper's client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use super::config::Config;
use super::failure::Failure;
use crate::cache::freshness::Exchange;
use crate::clock::Clock;
use crate::outbound::pooled::{self, Unanswered};
use crate::outbound::trouble::links;
use crate::outbound::{
    BadCaFile, Connector, PING_AFTER, PING_ECHO, Transcript, Trouble, Wire, certificate_cause, trust,
};
use crate::route::is_coded;

/// Shorter than WeChat's keep-alive, so that we rarely meet a connection it is just closing.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// Bytes of a refusal that pass through (S17).
pub const MAX_PASSED: usize = 64 * 1024;

/// Retries in hand: ten at first, and one more for every ten answers.
const RETRIES: u32 = 10 * RETRY_COST;
const RETRY_COST: u32 = 10;

/// The origin's answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body, so far as it can be of use.
    pub body: Read,
    /// When it was asked for and when it came.
    pub exchange: Exchange,
}

/// What was read of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// All of it, of the announced length.
    Whole(Bytes),
    /// It went beyond the cap and was dropped.
    TooLong,
    /// Its end would be the connection's end: not read.
    CloseDelimited,
    /// It is encoded, for itself or for its transfer, or its status makes it useless: not read.
    Unwanted,
}

/// Talks to the origin.
pub struct Client {
    pool: Pool<Connector, Empty<Bytes>>,
    first_byte_timeout: Duration,
    fill_timeout: Duration,
    max_image: usize,
    retries: AtomicU32,
    clock: Clock,
}

impl Client {
    /// A client under the deadlines of `config`, which reads at most `max_image` bytes of an image.
    pub fn new(config: &Config, max_image: usize, clock: Clock) -> Result<Self, BadCaFile> {
        Ok(Self::over(connector(config)?, config, max_image, clock))
    }

    /// The same for one exchange, of which notes are taken.
    pub fn noting(
        config: &Config,
        max_image: usize,
        clock: Clock,
        transcript: Arc<Transcript>,
    ) -> Result<Self, BadCaFile> {
        Ok(Self::over(connector(config)?.noting(transcript), config, max_image, clock))
    }

    fn over(connector: Connector, config: &Config, max_image: usize, clock: Clock) -> Self {
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(config.max_concurrent)
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(PING_AFTER)
            .http2_keep_alive_timeout(PING_ECHO)
            .build(connector);
        let (first_byte_timeout, fill_timeout) = (config.first_byte_timeout, config.fill_timeout);
        Self { pool, first_byte_timeout, fill_timeout, max_image, retries: AtomicU32::new(RETRIES), clock }
    }

    /// Sends what `request` makes and reads the answer, all within `origin.fill_timeout`. Dropping the future closes the
    /// connection if an answer is under way on it.
    pub async fn fetch(&self, request: impl Fn() -> Request<Empty<Bytes>>) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.fill_timeout;
        let fetching = async {
            match self.exchange(request()).await {
                Err(Lost::Idle) => self.exchange(request()).await.map_err(Lost::into_failure),
                other => other.map_err(Lost::into_failure),
            }
        };
        timeout_at(deadline, fetching).await.map_err(|_| Failure::FillTimeout)?
    }

    async fn exchange(&self, request: Request<Empty<Bytes>>) -> Result<Answer, Lost> {
        let asked = self.clock.now();
        let sent = pooled::send(&self.pool, request, self.first_byte_timeout, || None).await;
        let response = sent.map_err(|unanswered| self.lost(&unanswered))?;
        let exchange = Exchange { asked, answered: self.clock.now() };
        let wire = response.extensions().get::<Arc<Wire>>().cloned();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.read(response).await?;
        let ended = matches!(body, Read::Whole(_)) || status == StatusCode::NOT_MODIFIED;
        if let Some(wire) = wire.filter(|_| ended) {
            wire.settle();
            self.earn_retry();
        }
        Ok(Answer { status, headers, body, exchange })
    }

    fn lost(&self, unanswered: &Unanswered) -> Lost {
        let Unanswered::Lost(error) = unanswered else { return Lost::For(Failure::FirstByteTimeout) };
        let died_idle = error.connect_info().is_some_and(|connected| {
            let mut extras = http::Extensions::new();
            connected.get_extras(&mut extras);
            extras.get::<Arc<Wire>>().is_some_and(|wire| wire.died_idle())
        });
        if died_idle && self.spend_retry() { Lost::Idle } else { Lost::For(classify(error)) }
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Read, Failure> {
        let cap = match response.status() {
            StatusCode::OK => self.max_image,
            status if status.is_client_error() || status.is_server_error() => MAX_PASSED,
            _ => return Ok(Read::Unwanted),
        };
        let is_good = response.status() == StatusCode::OK;
        if is_encoded(response.headers()) || is_good && is_coded(response.headers()) {
            return Ok(Read::Unwanted);
        }
        if is_good && is_close_delimited(&response) {
            return Ok(Read::CloseDelimited);
        }
        read_body(response.into_body(), cap).await
    }

    fn spend_retry(&self) -> bool {
        let spend = |left: u32| left.checked_sub(RETRY_COST);
        self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }

    fn earn_retry(&self) {
        let earn = |left: u32| (left < RETRIES).then_some(left + 1);
        let _ = self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earn);
    }
}

fn connector(config: &Config) -> Result<Connector, BadCaFile> {
    let tls = trust::client_config("origin.ca_file", config.ca_file.as_deref())?;
    Ok(Connector::new(tls, config.connect_timeout))
}

/// Why an exchange came to nothing.
enum Lost {
    /// A reused connection died before a byte of the answer: worth one retry.
    Idle,
    For(Failure),
}

impl Lost {
    fn into_failure(self) -> Failure {
        match self {
            Self::Idle => Failure::Cut,
            Self::For(failure) => failure,
        }
    }
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        Self::For(failure)
    }
}

async fn read_body(mut body: Incoming, cap: usize) -> Result<Read, Failure> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| if error.is_parse() { Failure::Malformed } else { Failure::Cut })?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > cap {
            return Ok(Read::TooLong);
        }
        whole.extend_from_slice(&data);
    }
    // A copy of exactly this size: the buffer that grew would stay up to twice as large as long as the image is cached.
    Ok(Read::Whole(Bytes::copy_from_slice(&whole)))
}

/// `identity` is no encoding (RFC 9110 §8.4.1 keeps the word for Accept-Encoding, but servers do send it).
fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// RFC 9112 §6.3: without a length and without chunks, the end of the connection is the end of the body. So it is where chunks
/// are not the last coding, which is not asked for here: such an answer is coded.
fn is_close_delimited(response: &Response<Incoming>) -> bool {
    response.version() < Version::HTTP_2
        && !response.headers().contains_key(header::CONTENT_LENGTH)
        && !response.headers().contains_key(header::TRANSFER_ENCODING)
}

/// What a lost exchange means.
pub fn classify(error: &PoolError) -> Failure {
    if links(error).filter_map(|link| link.downcast_ref::<hyper::Error>()).any(hyper::Error::is_parse) {
        return Failure::Malformed;
    }
    if let Some(cause) = certificate_cause(error) {
        // Fills are bounded, and the circuit soon lets one through every other second.
        tracing::warn!(%cause, "the origin's certificate is not trusted; check origin.url and origin.ca_file");
    }
    match Trouble::of(error) {
        Some(trouble) => trouble.into(),
        None if error.is_connect() => Failure::Unreachable,
        None => Failure::Cut,
    }
}
