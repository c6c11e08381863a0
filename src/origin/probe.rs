//! One exchange with the origin that somebody looks at: the request of the template, over the client that fills use, and all
//! that passed. It spends no budget, heeds no circuit and learns nothing for others.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::client::{Answer, Client};
use super::skew::Skew;
use super::template::Template;
use super::{Config, DEFAULT_PAUSE, Failure, retry_after};
use crate::cache::entry::Validators;
use crate::clock::Clock;
use crate::outbound::BadCaFile;
pub use crate::outbound::transcript::{Notes, Transcript};
use crate::ticket::Ticket;
use crate::via::Via;

/// What was seen.
#[derive(Debug)]
pub struct Probe {
    /// What was asked: method and target.
    pub line: String,
    /// The fields that were sent, without those that the client adds for its version of HTTP.
    pub fields: HeaderMap,
    /// The answer, or why there is none.
    pub answer: Result<Answer, Failure>,
    /// How far the origin's clock is ahead of ours, in milliseconds.
    pub skew_millis: i64,
    /// What passed.
    pub notes: Notes,
    /// Until all was read.
    pub took: Duration,
}

/// Asks the origin of `config` for the image of `ticket`, of which at most `max_image` bytes are read, within
/// `origin.fill_timeout`. Dropping the future closes the connection.
pub async fn probe(config: &Config, max_image: u64, clock: &Clock, ticket: &Ticket) -> Result<Probe, BadCaFile> {
    let template = Template::new(&config.url, Via::unique());
    let request = || template.request(ticket, &Validators::default());
    let transcript = Arc::new(Transcript::begin(clock.clone()));
    let max_image = usize::try_from(max_image).unwrap_or(usize::MAX);
    let client = Client::noting(config, max_image, clock.clone(), Arc::clone(&transcript))?;
    let began = clock.tick();
    let answer = client.fetch(request).await;
    let took = clock.tick().since(began);
    let skew = |answer: &Answer| Skew::default().learn(answer.status, &answer.headers, answer.exchange);
    let skew_millis = answer.as_ref().map_or(0, skew);
    let (asked, _) = request().into_parts();
    let line = format!("{} {}", asked.method, asked.uri.path_and_query().map_or("/", |target| target.as_str()));
    Ok(Probe { line, fields: asked.headers, answer, skew_millis, notes: transcript.notes(), took })
}

impl Probe {
    /// What the proxy takes a refusal of our calls for: 429 limits us, and no client (S17).
    pub fn limited(&self, clock: &Clock) -> Option<Failure> {
        let answer = self.answer.as_ref().ok().filter(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS)?;
        Some(Failure::Limited(retry_after(&answer.headers, clock.now().wall).unwrap_or(DEFAULT_PAUSE)))
    }
}
