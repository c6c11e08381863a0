//! What clients are told about their budget: `Retry-After` (RFC 9110 §10.2.3), `RateLimit` and `RateLimit-Policy`
//! (draft-ietf-httpapi-ratelimit-headers-11). Pure.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Admitted, BudgetName, Policy, Refused, TellBudget};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Adds the fields of a refusal. `Retry-After` is always told, in whole seconds, at least one.
pub fn refused(headers: &mut HeaderMap, refused: &Refused, tell: TellBudget) {
    let seconds = whole_seconds(refused.retry_after.as_secs_f64()).max(1);
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    if tell != TellBudget::Never {
        write(headers, name(refused.budget), refused.policy, 0, seconds);
    }
}

/// Adds the fields of an allowed request, if they are wanted there.
pub fn admitted(headers: &mut HeaderMap, admitted: &Admitted, tell: TellBudget) {
    if let (TellBudget::Always, Some(policy)) = (tell, admitted.policy) {
        let until_full = f64::from(policy.burst.get().saturating_sub(admitted.left)) / policy.rate;
        write(headers, name(BudgetName::ClientRequests), policy, admitted.left, whole_seconds(until_full));
    }
}

/// Both budgets of a client go by one name: only one of them is ever told at a time.
const fn name(budget: BudgetName) -> &'static str {
    match budget {
        BudgetName::ClientRequests | BudgetName::ClientMisses => "client",
        BudgetName::OriginFills => "origin",
    }
}

fn write(headers: &mut HeaderMap, name: &str, policy: Policy, left: u32, seconds: u64) {
    let burst = policy.burst;
    let window = whole_seconds(f64::from(burst.get()) / policy.rate);
    headers.insert(RATELIMIT_POLICY, text(format!("\"{name}\";q={burst};w={window}")));
    headers.insert(RATELIMIT, text(format!("\"{name}\";r={left};t={seconds}")));
}

fn text(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("names and digits are visible ASCII")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "floats saturate, and this one is positive"
)]
fn whole_seconds(seconds: f64) -> u64 {
    seconds.ceil() as u64
}
