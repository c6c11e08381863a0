//! `GET /inspect?ticket=…`: what a ticket says of itself, what we have learned of it, and what the cache holds for it.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::answer::{self, Answer};
use super::call::BadCall;
use crate::cache::entry::Image;
use crate::fill::judge;
use crate::moment::Moment;
use crate::proxy::Shared;
use crate::ticket::{Report, Ticket};

/// Tells everything about the ticket in `query`. Calls nobody.
pub fn inspect(shared: &Shared, query: Option<&str>) -> Answer {
    match Ticket::from_query(query) {
        Ok(ticket) => answer::json(StatusCode::OK, &told(shared, &ticket, shared.clock.now())),
        Err(bad) => BadCall::Ticket(None, bad).answer(),
    }
}

fn told(shared: &Shared, ticket: &Ticket, now: Moment) -> Value {
    let report = Report::of(ticket, now.wall);
    let report = match shared.cache.expiry(ticket) {
        Some(end) => report.ending(end.stated, now.wall),
        None => report,
    };
    let mut told = serde_json::to_value(report).expect("text, numbers and booleans are JSON");
    let all = told.as_object_mut().expect("a report has fields");
    all.insert("own".to_owned(), shared.cache.is_own(ticket, now).into());
    all.insert("filling".to_owned(), shared.fills.running(ticket).is_some().into());
    all.insert("cache".to_owned(), held(shared, ticket, now));
    told
}

fn held(shared: &Shared, ticket: &Ticket, now: Moment) -> Value {
    let mut held = shared.cache.stored(ticket, now).map_or_else(Map::new, |image| described(&image, now));
    if let Some(refusal) = shared.cache.refusal(ticket, now) {
        let seconds = refusal.until.since(now.tick).as_secs();
        held.insert(
            "refusal".to_owned(),
            json!({ "reason": judge::negative_reason(&refusal), "remembered_for_seconds": seconds }),
        );
        held.entry("state").or_insert_with(|| "refused".into());
    }
    held.entry("state").or_insert_with(|| "nothing".into());
    held.into()
}

fn described(image: &Image, now: Moment) -> Map<String, Value> {
    let state = if image.is_fresh(now) { "fresh" } else { "stale" };
    let described = json!({
        "state": state,
        "bytes": image.body.len(),
        "content_type": image.format().media_type(),
        "age_seconds": image.freshness.age(now.tick).as_secs(),
        "fresh_for_seconds": image.fresh_for(now).as_secs(),
        "stale_for_seconds": image.freshness.staleness(now.tick).as_secs(),
        "usable_for_seconds": image.useful_for(now).as_secs(),
    });
    match described {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
