//! `[trace]`.

use http::Uri;

/// Where traces go.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `endpoint`: a collector that takes OTLP over HTTP; `None` when empty. Needs the feature `otel`.
    pub endpoint: Option<Uri>,
    /// `sample`: the share that is traced of the requests which come without a trace.
    pub sample: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { endpoint: None, sample: 1.0 }
    }
}
