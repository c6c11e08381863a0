//! How a request came to us: from whom, when, and the name that it has in the log.

use http::{HeaderName, HeaderValue};

use crate::moment::Moment;
use crate::peer::Peer;

/// Connects an answer with its log line, and with the app's.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Keeps its place in an answer that is not named yet.
pub const UNNAMED: HeaderValue = HeaderValue::from_static("-");

/// The arrival of one request.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// From whom.
    pub peer: Peer,
    /// When its head had been read.
    pub at: Moment,
    /// Its [`REQUEST_ID`].
    pub id: &'a HeaderValue,
}
