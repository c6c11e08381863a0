//! What the operator's calls bring along: JSON of a bounded size, and tickets in it. Anything that is not right refuses the
//! whole call before something is changed.

use std::fmt;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::answer::{Answer, text};
use super::register::BadRegistration;
use crate::body::whole::{self, NotWhole};
use crate::ticket::{BadTicket, Ticket};

/// Bytes of a body.
pub const MOST_BYTES: usize = 1024 * 1024;

/// For a body to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call is refused.
#[derive(Debug)]
pub enum BadCall {
    /// The body did not come.
    NotWhole(NotWhole),
    /// It is not the JSON that it should be.
    Json(serde_json::Error),
    /// One of its tickets is none; its place, from 0, where there are several.
    Ticket(Option<usize>, BadTicket),
    /// One of what is to be registered cannot be; its place, from 0, in a list.
    Registration(Option<usize>, BadRegistration),
    /// One of its parameters is none of these.
    Unknown(Vec<&'static str>),
    /// What it says makes no sense.
    Senseless(&'static str),
}

/// Reads the body of `request` as JSON.
pub async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, BadCall> {
    let body = whole::read(request.into_body(), MOST_BYTES, BODY_TIMEOUT).await.map_err(BadCall::NotWhole)?;
    serde_json::from_slice(&body).map_err(BadCall::Json)
}

/// Reads each of `texts` as a ticket, or a URL that contains one.
pub fn tickets(texts: &[String]) -> Result<Vec<Ticket>, BadCall> {
    let read = |(place, text): (usize, &String)| Ticket::find(text).map_err(|bad| BadCall::Ticket(Some(place), bad));
    texts.iter().enumerate().map(read).collect()
}

impl BadCall {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotWhole(NotWhole::TooLong) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotWhole(NotWhole::Overdue) => StatusCode::REQUEST_TIMEOUT,
            Self::NotWhole(NotWhole::Broken)
            | Self::Json(_)
            | Self::Ticket(..)
            | Self::Registration(..)
            | Self::Unknown(_)
            | Self::Senseless(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// What the operator is told; nothing was changed.
    pub fn answer(&self) -> Answer {
        text(self.status(), format!("{self}\n"))
    }
}

impl fmt::Display for BadCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWhole(NotWhole::TooLong) => {
                write!(f, "the body has more than {MOST_BYTES} bytes; send it in several calls")
            }
            Self::NotWhole(NotWhole::Overdue) => write!(f, "the body did not come within {BODY_TIMEOUT:?}"),
            Self::NotWhole(NotWhole::Broken) => f.write_str("the body broke off"),
            Self::Json(error) => write!(f, "not the JSON that is expected here: {error}"),
            Self::Ticket(Some(place), bad) => write!(f, "tickets[{place}]: {bad}"),
            Self::Ticket(None, bad) => bad.fmt(f),
            Self::Registration(Some(place), bad) => write!(f, "[{place}]: {bad}"),
            Self::Registration(None, bad) => bad.fmt(f),
            Self::Unknown(known) => write!(f, "unknown parameter; there are: {}", known.join(", ")),
            Self::Senseless(why) => f.write_str(why),
        }
    }
}
