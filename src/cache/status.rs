//! How a request fared with the cache: one enum from which `Cache-Status` (RFC 9211), the access log and the metric labels
//! all come, so that they cannot disagree.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use crate::remembered::Remembered;

/// What the cache did for one image request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A stored image answered.
    Hit {
        /// How long it stays fresh.
        ttl: Duration,
    },
    /// A stored image answered although it is stale.
    Stale {
        /// For how long it has been.
        staleness: Duration,
        /// Whether the origin was asked in this request, and what it said.
        asked: Asked,
        /// The window that allowed it, or why the origin's answer was of no use.
        detail: &'static str,
    },
    /// What the origin said a short while ago instead of an image to keep; the word says what.
    Negative(&'static str),
    /// The origin was asked.
    Miss {
        /// Why.
        forward: Forward,
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

/// Why the origin was asked (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// Nothing was stored.
    UriMiss,
    /// What was stored is stale.
    Stale,
    /// What could be stored may not be: its ticket's life is over.
    Bypass,
}

/// What the origin said in a request that a stale image answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It was not asked.
    No,
    /// It did not answer, or not in time.
    InVain,
    /// It answered so.
    Answered(StatusCode),
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
        Self::LABELS[self.index()]
    }

    /// Every label, in the order of [`Outcome::index`].
    pub const LABELS: [&'static str; 7] =
        ["hit", "stale", "negative", "miss", "collapsed", "revalidated", Self::REFUSED];

    /// The label of what was refused before anything was looked up.
    pub const REFUSED: &'static str = "refused";

    /// The label's place in [`Outcome::LABELS`].
    pub const fn index(&self) -> usize {
        match self {
            Self::Hit { .. } => 0,
            Self::Stale { .. } => 1,
            Self::Negative(_) => 2,
            Self::Miss { forward: Forward::Stale, .. } => 5,
            Self::Miss { collapsed: false, .. } => 3,
            Self::Miss { collapsed: true, .. } => 4,
            Self::Refused(_) => 6,
        }
    }

    /// Whether requests of this label were answered from the cache.
    pub fn is_hit(label: &str) -> bool {
        matches!(label, "hit" | "stale")
    }

    /// Whether requests of this label waited for the origin.
    pub fn is_miss(label: &str) -> bool {
        matches!(label, "miss" | "collapsed" | "revalidated")
    }

    /// `Cache-Status`.
    pub fn field(&self) -> HeaderValue {
        match self {
            Self::Hit { ttl } => HITS.with_borrow_mut(|hits| hits.value(ttl.as_secs(), |_| self.written())),
            _ => self.written(),
        }
    }

    fn written(&self) -> HeaderValue {
        let mut text = String::with_capacity(80);
        text.push_str("ticketgate");
        match *self {
            Self::Hit { ttl } => drop(write!(text, "; hit; ttl={}", ttl.as_secs())),
            Self::Stale { staleness, asked, detail } => write_stale(&mut text, staleness, asked, detail),
            Self::Negative(what) => drop(write!(text, "; hit; detail={what}")),
            Self::Miss { forward, collapsed, status, kept } => write_miss(&mut text, forward, collapsed, status, kept),
            Self::Refused(reason) => drop(write!(text, "; detail={reason}")),
        }
        HeaderValue::try_from(text).expect("tokens and digits are visible ASCII")
    }
}

thread_local! {
    static HITS: RefCell<Remembered> = const { RefCell::new(Remembered::nothing()) };
}

/// §2.4 wants a negative ttl for what is stale.
fn write_stale(text: &mut String, staleness: Duration, asked: Asked, detail: &str) {
    match asked {
        Asked::No => text.push_str("; hit"),
        Asked::InVain => text.push_str("; fwd=stale"),
        Asked::Answered(status) => drop(write!(text, "; fwd=stale; fwd-status={}", status.as_u16())),
    }
    let seconds = staleness.as_secs() + u64::from(staleness.subsec_nanos() > 0);
    let _ = write!(text, "; ttl=-{seconds}; detail={detail}");
}

fn write_miss(text: &mut String, forward: Forward, collapsed: bool, status: Option<StatusCode>, kept: Kept) {
    text.push_str(match forward {
        Forward::UriMiss => "; fwd=uri-miss",
        Forward::Stale => "; fwd=stale",
        Forward::Bypass => "; fwd=bypass",
    });
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
        let miss = |collapsed, kept| {
            let (forward, status) = (Forward::UriMiss, Some(StatusCode::OK));
            Outcome::Miss { forward, collapsed, status, kept }.field()
        };
        assert_eq!(miss(false, Kept::Stored), "ticketgate; fwd=uri-miss; fwd-status=200; stored");
        assert_eq!(miss(true, Kept::Stored), "ticketgate; fwd=uri-miss; fwd-status=200; stored; collapsed");
        assert_eq!(miss(false, Kept::NotStored("private")), "ticketgate; fwd=uri-miss; fwd-status=200; detail=private");
        assert_eq!(Outcome::Refused("no-ticket").field(), "ticketgate; detail=no-ticket");
        let stale = |asked, detail| Outcome::Stale { staleness: Duration::from_millis(41_999), asked, detail }.field();
        assert_eq!(
            stale(Asked::No, "stale-while-revalidate"),
            "ticketgate; hit; ttl=-42; detail=stale-while-revalidate"
        );
        assert_eq!(stale(Asked::InVain, "cut"), "ticketgate; fwd=stale; ttl=-42; detail=cut");
        let failed = stale(Asked::Answered(StatusCode::BAD_GATEWAY), "origin-status");
        assert_eq!(failed, "ticketgate; fwd=stale; fwd-status=502; ttl=-42; detail=origin-status");
        let (forward, status, kept) = (Forward::Stale, Some(StatusCode::NOT_MODIFIED), Kept::Stored);
        let renewed = Outcome::Miss { forward, collapsed: false, status, kept }.field();
        assert_eq!(renewed, "ticketgate; fwd=stale; fwd-status=304; stored");
    }

    #[test]
    fn every_outcome_has_its_label() {
        let miss = |forward, collapsed| Outcome::Miss { forward, collapsed, status: None, kept: Kept::Stored };
        for (outcome, label) in [
            (Outcome::Hit { ttl: Duration::ZERO }, "hit"),
            (Outcome::Stale { staleness: Duration::ZERO, asked: Asked::No, detail: "x" }, "stale"),
            (Outcome::Negative("x"), "negative"),
            (miss(Forward::UriMiss, false), "miss"),
            (miss(Forward::Bypass, false), "miss"),
            (miss(Forward::UriMiss, true), "collapsed"),
            (miss(Forward::Stale, true), "revalidated"),
            (Outcome::Refused("x"), "refused"),
        ] {
            assert_eq!(outcome.label(), label);
        }
    }
}
