//! What is kept of a relayed call: one access line and the counts. Method and path, never the query: it holds the
//! `access_token` (S35).

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};

use super::target::SecretTarget;
use crate::clock::Clock;
use crate::log::ACCESS;
use crate::metrics::Metrics;
use crate::moment::Tick;
use crate::ticket::Ticket;

/// What is logged for an app that hung up, as nginx does.
const APP_GONE: u16 = 499;

/// A call that is not answered yet. Dropped in this state it was given up: its app hung up.
pub struct Record<'a> {
    metrics: &'a Metrics,
    clock: &'a Clock,
    method: Method,
    target: &'a SecretTarget,
    id: HeaderValue,
    began: Tick,
}

impl<'a> Record<'a> {
    /// Begins a record.
    pub fn begin(
        metrics: &'a Metrics,
        clock: &'a Clock,
        method: Method,
        target: &'a SecretTarget,
        id: HeaderValue,
    ) -> Self {
        Self { metrics, clock, method, target, id, began: clock.tick() }
    }

    /// Ends it with an answer; `ticket` is what was made.
    pub fn answered(self, status: StatusCode, reason: Option<&'static str>, ticket: Option<&Ticket>) {
        let this = std::mem::ManuallyDrop::new(self);
        this.metrics.relayed(status, reason);
        this.write(status.as_u16(), reason, ticket);
    }

    fn write(&self, status: u16, reason: Option<&'static str>, ticket: Option<&Ticket>) {
        if !tracing::enabled!(target: ACCESS, tracing::Level::INFO) {
            return;
        }
        tracing::info!(
            target: ACCESS,
            method = self.method.as_str(),
            route = "relay",
            path = self.target.path(),
            status,
            reason,
            ticket = ticket.map(|ticket| tracing::field::display(ticket.short())),
            took_ms = milliseconds(self.clock.tick().since(self.began)),
            id = self.id.to_str().unwrap_or_default(),
        );
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.metrics.abandoned.inc();
        self.write(APP_GONE, None, None);
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
