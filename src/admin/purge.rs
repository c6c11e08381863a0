//! `POST /purge`: what the cache holds is forgotten, for some tickets or for all. What is registered stays.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::answer::{self, Answer};
use super::call::{self, BadCall};
use crate::fill::Fills;
use crate::ticket::Ticket;

/// The body: one of the two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Purge {
    tickets: Option<Vec<String>>,
    all: Option<bool>,
}

enum Wanted {
    Some(Vec<Ticket>),
    All,
}

/// Purges what `request` names; the answer says of how many tickets something was held.
pub async fn purge(fills: &Fills, request: Request<Incoming>) -> Answer {
    match call::read::<Purge>(request).await.and_then(Purge::wanted) {
        Ok(wanted) => {
            let purged = wanted.purge(fills);
            tracing::info!(purged, "purged");
            answer::json(StatusCode::OK, &json!({ "purged": purged }))
        }
        Err(bad) => bad.answer(),
    }
}

impl Purge {
    fn wanted(self) -> Result<Wanted, BadCall> {
        match (self.tickets, self.all) {
            (Some(tickets), None | Some(false)) => call::tickets(&tickets).map(Wanted::Some),
            (None, Some(true)) => Ok(Wanted::All),
            _ => Err(BadCall::Senseless("either {\"tickets\": [\"…\"]} or {\"all\": true}")),
        }
    }
}

impl Wanted {
    fn purge(self, fills: &Fills) -> u64 {
        match self {
            Self::All => fills.purge_all(),
            Self::Some(tickets) => tickets.iter().filter(|ticket| fills.purge(ticket)).count() as u64,
        }
    }
}
