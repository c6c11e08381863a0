//! Pages that bring along all they need: one script and one style, which a policy names by their hashes, so that a browser runs
//! and shows nothing else, whatever else gets into a page.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// The hashes of what a page itself brings along.
#[derive(Debug, Clone)]
pub struct Inline {
    script: String,
    style: String,
}

impl Inline {
    /// Of `page`, which has one script and one style.
    pub fn of(page: &str) -> Self {
        Self { script: hash(between(page, "<script>", "</script>")), style: hash(between(page, "<style>", "</style>")) }
    }

    /// A `Content-Security-Policy` under which they work, and calls of the page's own origin; pictures come from `images`. The page
    /// is shown in no frame and sends no form.
    pub fn policy(&self, images: &str) -> String {
        let Self { script, style } = self;
        format!(
            "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src {images}; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    }
}

fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = page.split_once(start).expect("the page has one");
    rest.split_once(end).expect("and closes it").0
}

/// As a policy names what is written within a page (CSP 3 §2.3.1).
fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}
