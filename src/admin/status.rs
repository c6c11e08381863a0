//! `GET /status?after=…`: all that the status page shows but its tables, measured now, and the samples after the first `after`.

use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::failures;
use super::samples::Counted;
use super::{Admin, Operated};
use crate::cache::{Cache, Fullness, Store};
use crate::limit::BudgetName;
use crate::metrics::{Metrics, Reading};
use crate::moment::{Moment, Wall};

/// Tells how `admin`'s server fares.
pub fn status<T: Operated>(admin: &Admin<T>, query: Option<&str>) -> Answer {
    match failures::after(query) {
        Ok(known) => answer::compact_json(&told(admin, known, admin.clock.now())),
        Err(bad) => bad.answer(),
    }
}

fn told<T: Operated>(admin: &Admin<T>, known: u64, now: Moment) -> Value {
    let Admin { metrics, drain, samples, started, .. } = admin;
    let reading = admin.server.reading();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now_ms": now.wall.unix_millis(),
        "started_ms": started.wall.unix_millis(),
        "uptime_seconds": now.tick.since(started.tick).as_secs(),
        "draining": drain.is_announced(),
        "since_start": Counted::now(metrics, admin.records.failures()).told(),
        "last_minute": samples.last_minute(),
        "history": samples.told_after(known),
        "stores": stores(&admin.server.shared().cache, metrics, &reading),
        "limits": limits(metrics, &reading),
        "origin": {
            "circuit_open": reading.circuit_open,
            "skew_ms": reading.skew_millis,
            "fills_under_way": reading.fills,
        },
        "certificate": metrics.certificate_end().map(|end| certificate(end, now.wall)),
        "connections": connections(metrics),
        "log_lines_dropped": reading.log_lines_dropped,
    })
}

fn stores(cache: &Cache, metrics: &Metrics, reading: &Reading) -> Value {
    json!({
        "image": store(cache.images()),
        "own": (cache.own_images().capacity > 0).then(|| store(cache.own_images())),
        "negative": store(cache.negatives()),
        "own_tickets": reading.own_tickets,
        "evictions": evictions(metrics),
    })
}

/// Images that went for want of room.
fn evictions(metrics: &Metrics) -> u64 {
    metrics.evictions(Store::Images) + metrics.evictions(Store::Own)
}

fn store(fullness: Fullness) -> Value {
    let Fullness { entries, bytes, capacity } = fullness;
    json!({ "entries": entries, "bytes": bytes, "capacity": capacity })
}

fn limits(metrics: &Metrics, reading: &Reading) -> Value {
    let refusals = metrics.refusals().into_iter().map(|(budget, count)| (BudgetName::name(budget), count));
    json!({
        "refusals": refusals.collect::<std::collections::BTreeMap<_, _>>(),
        "waiting": reading.waiting,
        "waiting_for_fills": reading.waiting_for_fills,
    })
}

fn certificate(end: Wall, now: Wall) -> Value {
    json!({ "ends_ms": end.unix_millis(), "days_left": end.unix().saturating_sub(now.unix()).div_euclid(86_400) })
}

fn connections(metrics: &Metrics) -> Value {
    json!({
        "open": metrics.open_connections(),
        "refused": metrics.connections_refused.get(),
        "proxy_headers_refused": metrics.proxy_headers_refused.get(),
        "tls_handshakes_failed": metrics.tls_handshakes_failed.get(),
        "accept_failures": metrics.accept_failures.get(),
        "malformed": metrics.malformed.get(),
        "abandoned": metrics.abandoned.get(),
    })
}
