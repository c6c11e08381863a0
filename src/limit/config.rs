//! `[limits]`, and how clients are told apart.

use std::num::NonZeroU32;
use std::time::Duration;

/// `[limits]`: the three budgets (S28) and how they are told to clients (S29).
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Image requests of one client; `None` is off.
    pub client_requests: Option<Policy>,
    /// Cache misses of one client.
    pub client_misses: Option<Policy>,
    /// Calls to the origin in all.
    pub origin_fills: Option<Policy>,
    /// When `RateLimit` fields are sent.
    pub ratelimit_headers: TellBudget,
    /// Requests that may wait for a budget at once.
    pub max_waiters: usize,
}

/// A rate with a burst and a bounded wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Calls a second, above 0.
    pub rate: f64,
    /// Calls at once.
    pub burst: NonZeroU32,
    /// How long a call may wait for its turn; zero refuses at once.
    pub wait: Duration,
}

/// `limits.ratelimit_headers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TellBudget {
    /// With refusals only (a CDN would show one client's budget to others).
    Refusals,
    /// On allowed image answers too.
    Always,
    /// Never.
    Never,
}

/// How clients are told apart (S30).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Peers whose word about the client counts.
    pub trusted_proxies: Vec<Trusted>,
    /// The one header field in which they give it.
    pub client_header: ClientHeader,
}

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trusted {
    /// This machine.
    Loopback,
    /// Private and link-local networks.
    Private,
    /// A network.
    Net(ipnet::IpNet),
}

/// `client_header`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self { trusted_proxies: vec![Trusted::Loopback], client_header: ClientHeader::XForwardedFor }
    }
}

impl Policy {
    /// A tenth of it, but one call at least.
    #[must_use]
    pub fn tenth(self) -> Self {
        let burst = NonZeroU32::new(self.burst.get() / 10).unwrap_or(NonZeroU32::MIN);
        Self { rate: self.rate / 10.0, burst, ..self }
    }

    const fn new(rate: f64, burst: u32, wait: Duration) -> Self {
        Self { rate, burst: NonZeroU32::new(burst).expect("a burst is not zero"), wait }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            client_requests: Some(Policy::new(500.0, 2000, Duration::ZERO)),
            client_misses: Some(Policy::new(50.0, 500, Duration::from_secs(10))),
            origin_fills: Some(Policy::new(100.0, 500, Duration::from_secs(10))),
            ratelimit_headers: TellBudget::Refusals,
            max_waiters: 10_000,
        }
    }
}
