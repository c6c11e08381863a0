//! Whose trace a request belongs to (W3C Trace Context §3.2): pure.

pub mod config;

use std::fmt;

pub use config::Config;
use http::{HeaderMap, HeaderName, HeaderValue};

/// `traceparent`.
pub const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// What other tracers add to it; means nothing without.
pub const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of the fields that every version begins with: `00-<32 hex>-<16 hex>-<2 hex>`.
const LENGTH: usize = 55;

/// A step of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace; never 0.
    pub trace: u128,
    /// The step; never 0.
    pub span: u64,
    /// Whether whoever began the trace keeps it.
    pub sampled: bool,
}

impl Context {
    /// The step that made a request with `headers`; `None` when it names none, several, or rubbish.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACE_PARENT).iter();
        let (line, None) = (lines.next()?, lines.next()) else { return None };
        Self::read(line.as_bytes())
    }

    fn read(line: &[u8]) -> Option<Self> {
        let (fields, rest) = line.split_at_checked(LENGTH)?;
        let mut fields = fields.split(|byte| *byte == b'-');
        let (version, trace) = (hex(fields.next()?, 2)?, hex(fields.next()?, 32)?);
        let (span, flags) = (hex(fields.next()?, 16)?, hex(fields.next()?, 2)?);
        // What later versions add stands behind another hyphen (§4.3).
        let is_known = version == 0 && rest.is_empty()
            || (1..255).contains(&version) && rest.first().is_none_or(|byte| *byte == b'-');
        let span = u64::try_from(span).ok()?;
        (is_known && trace != 0 && span != 0).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }

    /// The field that names this step.
    pub fn field(&self) -> HeaderValue {
        let Self { trace, span, sampled } = self;
        let field = format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(*sampled));
        HeaderValue::try_from(field).expect("hex digits are visible ASCII")
    }
}

/// The trace alone, as logs name it.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.trace)
    }
}

/// `digits` lower-case hex digits.
fn hex(text: &[u8], digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| std::str::from_utf8(text).ok()).flatten().and_then(|text| u128::from_str_radix(text, 16).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(lines: &[&str]) -> Option<Context> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(TRACE_PARENT, HeaderValue::from_str(line).unwrap());
        }
        Context::of(&headers)
    }

    #[test]
    fn a_step_is_read_as_it_is_written() {
        let context = of(&[SAMPLE]).unwrap();
        assert_eq!(context.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((context.span, context.sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(context.field(), SAMPLE);
        assert!(of(&[&SAMPLE.replace("00-4", "cc-4").replace("-01", "-01-what-comes")]).is_some(), "a later version");
    }

    #[test]
    fn rubbish_names_no_trace() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[SAMPLE, SAMPLE]), None, "several");
        for rubbish in [
            "",
            "00",
            &SAMPLE.to_uppercase(),
            &SAMPLE.replace("00-4", "ff-4"),
            &SAMPLE.replace("-01", "-01-more"),
            &SAMPLE.replace("-01", "-0"),
            &SAMPLE.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(of(&[rubbish]), None, "{rubbish}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1..=u128::MAX, span in 1..=u64::MAX, sampled: bool) {
            let context = Context { trace, span, sampled };
            prop_assert_eq!(Context::read(context.field().as_bytes()), Some(context));
        }

        #[test]
        fn no_bytes_make_it_panic(line: Vec<u8>) {
            let _ = Context::read(&line);
        }
    }
}
