//! `POST /tickets`: tickets become own, all that are named or none (S36). Each may be what `qrcode/create` answered, since fields
//! that are not needed are ignored.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::Value;

use super::answer::{Answer, done, text};
use super::call::{self, BadCall};
use crate::fill::Registration;
use crate::metrics::Metrics;
use crate::proxy::Shared;
use crate::store::NotKept;
use crate::ticket::{BadTicket, Ticket};

/// WeChat's tickets live for 30 days at most; what lives longer than this is a point in time, or milliseconds.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// For a successor to serve, or for a disk to take what waits.
const LATER: HeaderValue = HeaderValue::from_static("2");

/// Why something is no registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRegistration {
    /// No JSON object.
    NotAnObject,
    /// `ticket` is no text, or is not there.
    NoTicket,
    /// The ticket is none.
    Ticket(BadTicket),
    /// `expire_seconds` is no whole number from 0 to ten years.
    Life,
}

/// Reads one of what may be registered: `{"ticket": "…", "expire_seconds": 60}`; 0 or none is not known.
pub fn registration(entry: &Value) -> Result<Registration, BadRegistration> {
    let entry = entry.as_object().ok_or(BadRegistration::NotAnObject)?;
    let ticket = entry.get("ticket").and_then(Value::as_str).ok_or(BadRegistration::NoTicket)?;
    let ticket = Ticket::find(ticket).map_err(BadRegistration::Ticket)?;
    let lifetime = match entry.get("expire_seconds") {
        None | Some(Value::Null) => None,
        Some(seconds) => lifetime(seconds.as_u64())?,
    };
    Ok(Registration { ticket, lifetime })
}

/// Reads `expire_seconds`: 0 is not known.
pub fn lifetime(seconds: Option<u64>) -> Result<Option<Duration>, BadRegistration> {
    let lifetime = seconds.map(Duration::from_secs).filter(|lifetime| *lifetime <= LONGEST_LIFE);
    lifetime.map(|lifetime| Some(lifetime).filter(|lifetime| !lifetime.is_zero())).ok_or(BadRegistration::Life)
}

/// Registers what `request` names. The answer says that it is surely written, where there is a file.
pub(super) async fn register(shared: Arc<Shared>, metrics: &Metrics, request: Request<Incoming>) -> Answer {
    let registrations = match call::read::<Value>(request).await.and_then(|body| registrations(&body)) {
        Ok(registrations) => registrations,
        Err(bad) => return bad.answer(),
    };
    let count = registrations.len();
    // To its end, whether the caller waits for it or not.
    let registering = tokio::spawn(async move { shared.fills.register(&registrations).await });
    match registering.await {
        Ok(Ok(())) => {
            metrics.tickets_registered.inc_by(count as u64);
            tracing::info!(tickets = count, "registered");
            done()
        }
        Ok(Err(why)) => refused(&why),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the registration failed; see the log\n"),
    }
}

fn registrations(body: &Value) -> Result<Vec<Registration>, BadCall> {
    let read = |place: Option<usize>, entry| registration(entry).map_err(|bad| BadCall::Registration(place, bad));
    match body {
        Value::Array(entries) => entries.iter().enumerate().map(|(place, entry)| read(Some(place), entry)).collect(),
        one => read(None, one).map(|one| vec![one]),
    }
}

fn refused(why: &NotKept) -> Answer {
    let full = matches!(why, NotKept::Full(_));
    let status = if full { StatusCode::INSUFFICIENT_STORAGE } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = text(status, format!("{why}; nothing was registered\n"));
    if !full {
        answer.headers_mut().insert(header::RETRY_AFTER, LATER);
    }
    answer
}

impl fmt::Display for BadRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("no object such as {\"ticket\": \"…\", \"expire_seconds\": 60}"),
            Self::NoTicket => f.write_str("ticket is no text, or is not there"),
            Self::Ticket(bad) => bad.fmt(f),
            Self::Life => {
                f.write_str("expire_seconds is no whole number of seconds from now, from 0 (not known) to ten years")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_of_qrcode_create_is_a_registration() {
        let ticket = || Ticket::from_text("a/b==").unwrap();
        for (entry, seconds) in [
            (json!({"ticket": "a/b=="}), None),
            (json!({"ticket": "a%2Fb%3D%3D", "expire_seconds": 0}), None),
            (json!({"ticket": "https://a.example/x?ticket=a%2Fb%3D%3D", "expire_seconds": null}), None),
            (
                json!({"ticket": "a/b==", "expire_seconds": 60, "url": "http://weixin.qq.com/q/x", "expire_in": "x"}),
                Some(60),
            ),
        ] {
            let lifetime = seconds.map(Duration::from_secs);
            assert_eq!(registration(&entry), Ok(Registration { ticket: ticket(), lifetime }), "{entry}");
        }
    }

    #[test]
    fn what_is_none_is_told_apart() {
        use BadRegistration::{Life, NoTicket, NotAnObject, Ticket};
        for (entry, bad) in [
            (json!("a"), NotAnObject),
            (json!(null), NotAnObject),
            (json!({}), NoTicket),
            (json!({"ticket": 5}), NoTicket),
            (json!({"ticket": ""}), Ticket(BadTicket::Empty)),
            (json!({"ticket": "\u{1}"}), Ticket(BadTicket::Characters)),
            (json!({"ticket": "a".repeat(600)}), Ticket(BadTicket::TooLong)),
            (json!({"ticket": "a", "expire_seconds": -1}), Life),
            (json!({"ticket": "a", "expire_seconds": 1.5}), Life),
            (json!({"ticket": "a", "expire_seconds": "60"}), Life),
            (json!({"ticket": "a", "expire_seconds": true}), Life),
            (json!({"ticket": "a", "expire_seconds": 1_700_000_000_u64}), Life),
            (json!({"ticket": "a", "expire_seconds": u64::MAX}), Life),
        ] {
            assert_eq!(registration(&entry), Err(bad), "{entry}");
        }
    }

    #[test]
    fn the_place_in_a_list_is_named() {
        let told = registrations(&json!([{"ticket": "a"}, {"ticket": ""}])).unwrap_err().to_string();
        assert!(told.starts_with("[1]: the ticket is empty"), "{told}");
        assert_eq!(registrations(&json!([])).unwrap(), []);
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in any::<String>(), seconds in any::<f64>()) {
            let _ = registration(&json!({"ticket": text, "expire_seconds": seconds}));
        }
    }
}
