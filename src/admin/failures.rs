//! `GET /failures?after=…`: the last image requests that ended without an image, and how many there were for what reason.

use http::StatusCode;
use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::call::BadCall;
use super::query;
use crate::failures::{Failures, ImageFailure};

/// Tells those after the first `after`.
pub fn failures(failures: &Failures, query: Option<&str>) -> Answer {
    match after(query) {
        Ok(known) => answer::json(StatusCode::OK, &told(failures, known)),
        Err(bad) => bad.answer(),
    }
}

/// Of a query whose only parameter is `after`.
pub fn after(query: Option<&str>) -> Result<u64, BadCall> {
    let [after] = query::parameters(query, ["after"])?;
    after.map_or(Ok(0), |after| query::number(&after))
}

fn told(failures: &Failures, known: u64) -> Value {
    let told = failures.after(known);
    let last = told.last.iter().map(|(number, failure)| one(*number, failure)).collect::<Vec<_>>();
    json!({ "all": told.all, "by_reason": told.by_reason, "last": last })
}

fn one(number: u64, failure: &ImageFailure) -> Value {
    json!({
        "number": number,
        "at_ms": failure.at.unix_millis(),
        "reason": failure.reason,
        "status": failure.status,
        "request_id": failure.request_id,
        "ticket": failure.ticket.map(|short| short.to_string()),
        "client": failure.client,
    })
}
