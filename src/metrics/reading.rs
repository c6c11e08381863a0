//! What is measured when somebody looks: how full, how many just now.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{RouteLabels, StoreLabels};
use crate::cache::Store;
use crate::route::Kind;

/// What is measured when somebody looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// Images held, those of own tickets not counted.
    pub image_entries: u64,
    /// Bytes they take.
    pub image_bytes: u64,
    /// Bytes they may take.
    pub image_capacity: u64,
    /// Images of own tickets held.
    pub own_entries: u64,
    /// Bytes they take.
    pub own_bytes: u64,
    /// Bytes they may take.
    pub own_capacity: u64,
    /// Own tickets known.
    pub own_tickets: u64,
    /// Refusals remembered.
    pub negative_entries: u64,
    /// Bytes they take.
    pub negative_bytes: u64,
    /// Bytes they may take.
    pub negative_capacity: u64,
    /// Requests that are with the app.
    pub at_app: u64,
    /// Requests that wait for an image, in whatever way.
    pub awaiting: u64,
    /// Fills under way.
    pub fills: u64,
    /// Requests waiting for a budget.
    pub waiting: u64,
    /// Requests waiting for a fill.
    pub waiting_for_fills: u64,
    /// Whether the circuit is open.
    pub circuit_open: bool,
    /// The origin's clock less ours, in milliseconds.
    pub skew_millis: i64,
    /// Log lines that found the queue full.
    pub log_lines_dropped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Gauges {
    entries: Family<StoreLabels, Gauge>,
    bytes: Family<StoreLabels, Gauge>,
    capacity: Family<StoreLabels, Gauge>,
    own_tickets: Gauge,
    under_way: Family<RouteLabels, Gauge>,
    fills: Gauge,
    waiting: Gauge,
    waiting_for_fills: Gauge,
    circuit_open: Gauge,
    skew: Gauge<f64, AtomicU64>,
    log_lines_dropped: Counter,
}

impl Gauges {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("cache_entries", "Entries held", self.entries.clone());
        let help = "Bytes that entries take, with their overhead";
        registry.register_with_unit("cache", help, Unit::Bytes, self.bytes.clone());
        registry.register_with_unit(
            "cache_capacity",
            "Bytes that entries may take",
            Unit::Bytes,
            self.capacity.clone(),
        );
        registry.register("own_tickets", "Own tickets known", self.own_tickets.clone());
        let help = "Requests that are with the app, or wait for an image";
        registry.register("requests_under_way", help, self.under_way.clone());
        registry.register("fills_under_way", "Fills under way", self.fills.clone());
        registry.register("waiting_for_budgets", "Requests that wait for a budget", self.waiting.clone());
        registry.register("waiting_for_fills", "Requests that wait for a fill", self.waiting_for_fills.clone());
        registry.register("circuit_open", "1 while the origin is only probed", self.circuit_open.clone());
        let help = "The origin's clock less ours";
        registry.register_with_unit("origin_clock_skew", help, Unit::Seconds, self.skew.clone());
        registry.register("log_lines_dropped", "Log lines that found the queue full", self.log_lines_dropped.clone());
    }

    pub(super) fn set(&self, reading: Reading) {
        for (store, entries, bytes, capacity) in [
            (Store::Images, reading.image_entries, reading.image_bytes, reading.image_capacity),
            (Store::Own, reading.own_entries, reading.own_bytes, reading.own_capacity),
            (Store::Negatives, reading.negative_entries, reading.negative_bytes, reading.negative_capacity),
        ] {
            let labels = StoreLabels { store: store.name() };
            self.entries.get_or_create(&labels).set(signed(entries));
            self.bytes.get_or_create(&labels).set(signed(bytes));
            self.capacity.get_or_create(&labels).set(signed(capacity));
        }
        self.own_tickets.set(signed(reading.own_tickets));
        for (kind, requests) in [(Kind::App, reading.at_app), (Kind::Image, reading.awaiting)] {
            self.under_way.get_or_create(&RouteLabels { route: kind.label() }).set(signed(requests));
        }
        self.fills.set(signed(reading.fills));
        self.waiting.set(signed(reading.waiting));
        self.waiting_for_fills.set(signed(reading.waiting_for_fills));
        self.circuit_open.set(i64::from(reading.circuit_open));
        self.skew.set(reading.skew_millis as f64 / 1e3);
        self.log_lines_dropped.inner().store(reading.log_lines_dropped, Ordering::Relaxed);
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
