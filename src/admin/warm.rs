//! `POST /warm`: images are fetched before somebody asks, and each is told of when it has come. `POST /refresh`: the same of
//! images that are held, which stay until the new ones are there. A caller that hangs up ends it;
//! the fills that are under way go on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::channel::Sender;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::answer::{self, Answer};
use super::call;
use crate::fill::Warmed;
use crate::proxy::Shared;
use crate::ticket::Ticket;

/// Tickets at once: enough to keep the origin's budget busy, and few enough that clients find room beside them.
const AT_ONCE: usize = 16;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Warm {
    tickets: Vec<String>,
}

/// Which tickets the origin is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// Those of which no fresh image is held.
    Missing,
    /// All.
    Anew,
}

/// Fetches what `request` names: a line of JSON for each, as it is done.
pub async fn warm(shared: Arc<Shared>, request: Request<Incoming>, wanted: Fetch) -> Answer {
    match call::read::<Warm>(request).await.and_then(|Warm { tickets }| call::tickets(&tickets)) {
        Ok(tickets) => {
            let (lines, answer) = answer::json_lines();
            // Ends with its tickets, with its reader, or with the runtime.
            tokio::spawn(fetch(shared, tickets, wanted, lines));
            answer
        }
        Err(bad) => bad.answer(),
    }
}

async fn fetch(shared: Arc<Shared>, tickets: Vec<Ticket>, wanted: Fetch, mut lines: Sender<Bytes>) {
    let mut left = tickets.into_iter().enumerate();
    let mut under_way = JoinSet::new();
    loop {
        let free = AT_ONCE - under_way.len();
        for (place, ticket) in left.by_ref().take(free) {
            under_way.spawn(one(Arc::clone(&shared), place, ticket, wanted));
        }
        let Some(done) = under_way.join_next().await else { return };
        let line = done.unwrap_or_else(|_| json!({ "result": "failed", "reason": "panicked" }));
        if lines.send_data(format!("{line}\n").into()).await.is_err() {
            return;
        }
    }
}

async fn one(shared: Arc<Shared>, place: usize, ticket: Ticket, wanted: Fetch) -> Value {
    let began = shared.clock.tick();
    let warmed = match wanted {
        // Nobody would be shown it.
        _ if !shared.serves(&ticket) => Warmed::NotStored("foreign-ticket"),
        Fetch::Missing => shared.fills.warm(&ticket).await,
        Fetch::Anew => shared.fills.warm_anew(&ticket).await,
    };
    let took = shared.clock.tick().since(began);
    let (result, bytes, reason) = match warmed {
        Warmed::Stored { bytes } => ("stored", Some(bytes), None),
        Warmed::Held { bytes } => ("held", Some(bytes), None),
        Warmed::NotStored(reason) => ("not-stored", None, Some(reason)),
        Warmed::Failed(reason) => ("failed", None, Some(reason)),
    };
    json!({
        "index": place,
        "ticket": ticket.canonical(),
        "short": ticket.short().to_string(),
        "result": result,
        "bytes": bytes,
        "reason": reason,
        "took_ms": milliseconds(took),
    })
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
