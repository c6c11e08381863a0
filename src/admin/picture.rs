//! `GET /image?ticket=…`: the picture that is held of a ticket, fresh or stale, as it is cached. Asks nobody, and counts as no hit.

use http::{HeaderName, HeaderValue, StatusCode, header};

use super::answer::{self, Answer};
use super::call::BadCall;
use crate::proxy::Shared;
use crate::ticket::Ticket;

/// No page of others shows it, and it runs nothing where it is opened by itself.
const KEPT_IN: [(HeaderName, HeaderValue); 2] = [
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox")),
];

/// Shows what is held of the ticket in `query`.
pub fn picture(shared: &Shared, query: Option<&str>) -> Answer {
    let ticket = match Ticket::from_query(query) {
        Ok(ticket) => ticket,
        Err(bad) => return BadCall::Ticket(None, bad).answer(),
    };
    let Some(image) = shared.cache.stored(&ticket, shared.clock.now()) else {
        return answer::text(StatusCode::NOT_FOUND, "no image is held of this ticket\n");
    };
    let media_type = HeaderValue::from_static(image.format().media_type());
    let mut answer = answer::page(StatusCode::OK, media_type, image.body.clone());
    answer.headers_mut().extend(KEPT_IN);
    answer
}
