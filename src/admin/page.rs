//! `GET /`: the status page, for people. It brings along its script and its style, loads nothing of others, and asks the other
//! calls of this listener for what it shows.

use http::{HeaderValue, StatusCode, header};

use super::answer::{self, Answer};
use crate::inline::Inline;

const PAGE: &str = include_str!("page.html");
const ICON_TEXT: &str = include_str!("icon.svg");

/// Where its icon is.
pub const ICON: &str = "/icon.svg";

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const SVG: HeaderValue = HeaderValue::from_static("image/svg+xml");

/// The page, and the policy under which it is shown.
pub struct Page {
    policy: HeaderValue,
}

impl Page {
    /// Computes the policy.
    pub fn new() -> Self {
        let policy = Inline::of(PAGE).policy("'self'");
        Self { policy: HeaderValue::try_from(policy).expect("hashes are visible ASCII") }
    }

    /// The page.
    pub fn answer(&self) -> Answer {
        let mut answer = answer::page(StatusCode::OK, HTML, PAGE);
        answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        answer.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        answer
    }
}

/// Its icon.
pub fn icon() -> Answer {
    answer::page(StatusCode::OK, SVG, ICON_TEXT)
}
