//! Built without the feature `otel`: nobody traces.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::log::access::Line;
use crate::metrics::Metrics;
use crate::outbound::BadCaFile;
use crate::trace::{Config, Context};

/// There is none.
#[derive(Debug)]
pub enum Tracer {}

/// Nothing is traced.
#[derive(Debug, Clone, Copy)]
pub enum Step {}

impl Tracer {
    /// None.
    pub fn start(_: &Config, _: &Handle, _: &Clock, _: &Arc<Metrics>) -> Result<Option<Arc<Self>>, BadCaFile> {
        Ok(None)
    }

    /// Never called.
    pub fn begin(&self, _: Option<Context>) -> Option<Step> {
        match *self {}
    }

    /// Never called.
    pub fn end(&self, _: Step, _: &Line<'_>) {
        match *self {}
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "the same as with the feature")]
    pub async fn flush(&self) {
        match *self {}
    }
}

impl Step {
    /// Never called.
    pub fn context(&self) -> Context {
        match *self {}
    }

    /// Never called.
    pub fn onward(&self) -> Context {
        match *self {}
    }
}
