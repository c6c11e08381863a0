//! Calls of WeChat's API: pooled connections, deadlines, and other hosts when no connection can be made. A call is sent once:
//! whatever fails after its first byte was written is told, and never tried again (S33). What hyper-util sends again by
//! itself was not written at all.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::config::{Config, Host};
use super::failure::Failure;
use super::lent::Lent;
use crate::body::timed::{BodyError, Watch};
use crate::origin;
use crate::outbound::pooled::{self, Unanswered};
use crate::outbound::{BadCaFile, Connector, trust};

/// Short, since a call that meets a closing connection is not sent again; long enough for a burst to share connections.
const POOL_IDLE: Duration = Duration::from_secs(10);
/// A connection of HTTP/2 that died without a word is found out by a ping after so long a silence,
const PING_AFTER: Duration = Duration::from_secs(2);
/// and ended after so long without an echo.
const PING_ECHO: Duration = Duration::from_secs(3);
/// Connections that are kept for later, for each host.
const MOST_IDLE: usize = 64;

/// What is sent behind a head.
pub type Outgoing = Either<Full<Bytes>, Lent>;

/// The hosts of the API.
pub struct Api {
    pool: Pool<Connector, Outgoing>,
    hosts: Arc<[Host]>,
    first_byte: Duration,
}

/// A call for one host, and how its body moves.
pub struct Call {
    /// The call.
    pub request: Request<Outgoing>,
    /// When the last piece of its body moved; `None` when the body is there already.
    pub last_piece: Option<Watch>,
}

impl Api {
    /// The hosts of `config`, under the deadlines and the trust of `origin`.
    pub fn new(config: &Config, origin: &origin::Config) -> Result<Self, BadCaFile> {
        let tls = trust::client_config("origin.ca_file", origin.ca_file.as_deref())?;
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(MOST_IDLE)
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(PING_AFTER)
            .http2_keep_alive_timeout(PING_ECHO)
            .build(Connector::new(tls, origin.connect_timeout));
        let hosts = std::iter::once(&config.url).chain(&config.fallback).cloned().collect();
        Ok(Self { pool, hosts, first_byte: origin.first_byte_timeout })
    }

    /// Sends what `call` makes to the first host that a connection can be made to. Dropping the future closes the connection.
    pub async fn send(&self, call: impl Fn(&Host) -> Result<Call, Failure>) -> Result<Response<Incoming>, Failure> {
        let mut unreached = Failure::BadTarget;
        for host in &*self.hosts {
            let Call { request, last_piece } = call(host)?;
            let last_piece = || last_piece.as_ref().map(Watch::last_piece);
            match pooled::send(&self.pool, request, self.first_byte, last_piece).await {
                Ok(response) => return Ok(response),
                Err(Unanswered::TooSlow) => return Err(origin::Failure::FirstByteTimeout.into()),
                // Nobody was connected, so nothing was written.
                Err(Unanswered::Lost(error)) if error.is_connect() => unreached = of(&error),
                Err(Unanswered::Lost(error)) => return Err(of(&error)),
            }
        }
        Err(unreached)
    }
}

fn of(error: &PoolError) -> Failure {
    let mut cause = error.source();
    while let Some(link) = cause {
        match link.downcast_ref::<BodyError>() {
            Some(BodyError::Overdue(_)) => return Failure::BodyOverdue,
            Some(BodyError::Broken(_)) => return Failure::BodyBroken,
            None => cause = link.source(),
        }
    }
    Failure::Unanswered(origin::classify(error))
}
