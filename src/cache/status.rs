//! How a request fared with the cache: one enum from which `Cache-Status` (RFC 9211), the access log and the metric labels
//! all come, so that they cannot disagree.

use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

/// What the cache did for one image request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A stored image answered.
    Hit {
        /// How long it stays fresh.
        ttl: Duration,
    },
    /// A remembered refusal of the origin answered.
    Negative,
    /// The origin was asked.
    Miss {
        /// The request joined a fill that somebody else began.
        collapsed: bool,
        /// The origin's status, if it answered.
        status: Option<StatusCode>,
        /// What became of the answer.
        kept: Kept,
    },
    /// Refused here, without asking anybody; the word says why.
    Refused(&'static str),
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It answers the next request.
    Stored,
    /// It does not; the word says why.
    NotStored(&'static str),
}

impl Outcome {
    /// The word for logs and metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Hit { .. } => "hit",
            Self::Negative => "negative",
            Self::Miss { collapsed: false, .. } => "miss",
            Self::Miss { collapsed: true, .. } => "collapsed",
            Self::Refused(_) => "refused",
        }
    }

    /// Every label, in the order of [`Outcome::index`].
    pub const LABELS: [&'static str; 5] = ["hit", "negative", "miss", "collapsed", "refused"];

    /// The label's place in [`Outcome::LABELS`].
    pub const fn index(&self) -> usize {
        match self {
            Self::Hit { .. } => 0,
            Self::Negative => 1,
            Self::Miss { collapsed: false, .. } => 2,
            Self::Miss { collapsed: true, .. } => 3,
            Self::Refused(_) => 4,
        }
    }

    /// `Cache-Status`.
    pub fn field(&self) -> HeaderValue {
        let mut text = String::from("ticketgate");
        match self {
            Self::Hit { ttl } => drop(write!(text, "; hit; ttl={}", ttl.as_secs())),
            Self::Negative => text.push_str("; hit; detail=negative"),
            Self::Miss { collapsed, status, kept } => write_miss(&mut text, *collapsed, *status, *kept),
            Self::Refused(reason) => drop(write!(text, "; detail={reason}")),
        }
        HeaderValue::try_from(text).expect("tokens and digits are visible ASCII")
    }
}

fn write_miss(text: &mut String, collapsed: bool, status: Option<StatusCode>, kept: Kept) {
    text.push_str("; fwd=uri-miss");
    if let Some(status) = status {
        let _ = write!(text, "; fwd-status={}", status.as_u16());
    }
    if kept == Kept::Stored {
        text.push_str("; stored");
    }
    if collapsed {
        text.push_str("; collapsed");
    }
    if let Kept::NotStored(reason) = kept {
        let _ = write!(text, "; detail={reason}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_reads_as_rfc_9211_wants_it() {
        assert_eq!(Outcome::Hit { ttl: Duration::from_secs(3600) }.field(), "ticketgate; hit; ttl=3600");
        let miss = |collapsed, kept| Outcome::Miss { collapsed, status: Some(StatusCode::OK), kept }.field();
        assert_eq!(miss(false, Kept::Stored), "ticketgate; fwd=uri-miss; fwd-status=200; stored");
        assert_eq!(miss(true, Kept::Stored), "ticketgate; fwd=uri-miss; fwd-status=200; stored; collapsed");
        assert_eq!(miss(false, Kept::NotStored("private")), "ticketgate; fwd=uri-miss; fwd-status=200; detail=private");
        assert_eq!(Outcome::Refused("no-ticket").field(), "ticketgate; detail=no-ticket");
    }

    #[test]
    fn labels_and_indices_agree() {
        let kept = Kept::Stored;
        let all = [
            Outcome::Hit { ttl: Duration::ZERO },
            Outcome::Negative,
            Outcome::Miss { collapsed: false, status: None, kept },
            Outcome::Miss { collapsed: true, status: None, kept },
            Outcome::Refused("x"),
        ];
        for outcome in all {
            assert_eq!(Outcome::LABELS[outcome.index()], outcome.label());
        }
    }
}
