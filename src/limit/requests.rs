//! Requests that are under way: with the app, or, counted apart, waiting for an image. There are as many of each as there may be
//! connections, `limits.max_connections` in all and `limits.max_connections_per_client` of one address. Over HTTP/1.1 alone there
//! would never be more, since each has a connection to itself; over HTTP/2 a hundred come over one, and each of them takes memory, and
//! an open file to the app, as if it had its own. What is answered at once is not counted.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderValue, StatusCode};

use super::Trust;
use super::shares::{Share, Shares};

/// Counts them.
#[derive(Debug)]
pub struct Requests {
    most: AtomicUsize,
    count: AtomicUsize,
    shares: Arc<Shares>,
}

/// A request that is under way, until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct UnderWay(#[expect(dead_code, reason = "held for its end")] Arc<Begun>);

#[derive(Debug)]
struct Begun {
    requests: Arc<Requests>,
    _share: Share,
}

/// A request that cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// As many are under way as there may be connections.
    InAll,
    /// As many of this client as it may have connections.
    OfClient,
}

impl Requests {
    /// As many as `all`, and `per_client` of one untrusted address.
    pub fn new(all: usize, per_client: usize, trust: Trust) -> Arc<Self> {
        let (most, count) = (AtomicUsize::new(all), AtomicUsize::new(0));
        Arc::new(Self { most, count, shares: Shares::new(per_client, trust) })
    }

    /// As many as `all`, and `per_client` of one untrusted address, from now on. Those under way go on.
    pub fn resize(&self, all: usize, per_client: usize, trust: Trust) {
        self.most.store(all, Ordering::Relaxed);
        self.shares.resize(per_client, trust);
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts one more, which came from `peer`.
    pub fn begin(self: &Arc<Self>, peer: IpAddr) -> Result<UnderWay, TooMany> {
        let share = self.shares.take(peer).ok_or(TooMany::OfClient)?;
        let most = self.most.load(Ordering::Relaxed);
        let one_more = |count| (count < most).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map_err(|_| TooMany::InAll)?;
        Ok(UnderWay(Arc::new(Begun { requests: Arc::clone(self), _share: share })))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.requests.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TooMany {
    /// `Retry-After`: a second, in which many may end.
    pub const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

    /// What the client is told.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::InAll => StatusCode::SERVICE_UNAVAILABLE,
            Self::OfClient => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The error type of RFC 9209 §2.3: a client's share is its own matter, and none of the next hop's.
    pub const fn proxy_error(self) -> Option<&'static str> {
        match self {
            Self::InAll => Some("connection_limit_reached"),
            Self::OfClient => None,
        }
    }

    /// The word for logs and metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::InAll => "crowded",
            Self::OfClient => "client-share",
        }
    }

    /// What is said of it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::InAll => {
                "as many requests are under way here as there may be connections (limits.max_connections); try again after Retry-After"
            }
            Self::OfClient => {
                "this client has as many requests under way as it may have connections (limits.max_connections_per_client); try again after Retry-After"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::ClientConfig;

    fn requests(all: usize, per_client: usize) -> Arc<Requests> {
        Requests::new(all, per_client, trust())
    }

    fn trust() -> Trust {
        Trust::new(&ClientConfig::default())
    }

    fn begin(requests: &Arc<Requests>, peer: &str) -> Result<UnderWay, TooMany> {
        requests.begin(peer.parse().unwrap())
    }

    #[test]
    fn a_request_is_under_way_until_nobody_holds_it_any_more() {
        let requests = requests(1, 9);
        let sent = begin(&requests, "203.0.113.7").unwrap();
        let answered = sent.clone();
        drop(sent);
        assert_eq!(begin(&requests, "203.0.113.8").unwrap_err(), TooMany::InAll);
        drop(answered);
        assert_eq!(requests.under_way(), 0);
        assert!(begin(&requests, "203.0.113.8").is_ok());
    }

    #[test]
    fn one_client_leaves_room_for_others_and_who_is_refused_takes_none() {
        let requests = requests(3, 1);
        let one = begin(&requests, "203.0.113.7").unwrap();
        assert_eq!(begin(&requests, "203.0.113.7").unwrap_err(), TooMany::OfClient);
        let trusted = begin(&requests, "127.0.0.1").unwrap();
        let also_trusted = begin(&requests, "127.0.0.1").unwrap();
        assert_eq!(begin(&requests, "203.0.113.8").unwrap_err(), TooMany::InAll);
        drop((trusted, also_trusted));
        assert!(begin(&requests, "203.0.113.8").is_ok(), "its refusal left its share alone");
        drop(one);
        assert_eq!(requests.under_way(), 0);
    }

    #[test]
    fn fewer_hold_when_those_that_are_too_many_have_ended() {
        let requests = requests(3, 9);
        let mut under_way: Vec<_> = (0..3).map(|_| begin(&requests, "203.0.113.7").unwrap()).collect();
        requests.resize(1, 9, trust());
        under_way.truncate(1);
        assert_eq!(begin(&requests, "203.0.113.7").unwrap_err(), TooMany::InAll);
        under_way.clear();
        assert!(begin(&requests, "203.0.113.7").is_ok());
    }
}
