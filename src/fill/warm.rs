//! Warming: fetching what nobody waits for. It spends the origin's budget alone (S13) and is patient with it: where a client
//! would be told to come back later, it does.

use std::time::Duration;

use super::judge::{EXPIRED, Storable, Verdict, negative_reason};
use super::{Filled, Fills, Joined};
use crate::cache::Found;
use crate::ticket::Ticket;

/// Times that a ticket is tried for which there is no room or no budget just now: for five minutes at least.
const MOST_TRIES: u32 = 70;

/// Waits between them double up to this: of several who come for one turn, each would otherwise try as often as the others do.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// They are no longer, whatever is asked for (S14).
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What came of warming one ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warmed {
    /// Its image is in the cache by now.
    Stored {
        /// Bytes of the image.
        bytes: usize,
    },
    /// It was there before.
    Held {
        /// Bytes of the image.
        bytes: usize,
    },
    /// There is an image, which may not be kept; the word says why.
    NotStored(&'static str),
    /// There is none; the word says why.
    Failed(&'static str),
}

impl Warmed {
    /// Whether the next who asks finds the image.
    pub const fn is_held(&self) -> bool {
        matches!(self, Self::Stored { .. } | Self::Held { .. })
    }
}

impl Fills {
    /// Has the image of `ticket` in the cache, if there is a way. Waits for budgets, pauses and an open circuit, within bounds.
    /// A ticket whose life is over is not asked for. Dropping the future gives up waiting; a fill it began goes on.
    pub async fn warm(&self, ticket: &Ticket) -> Warmed {
        self.warm_by(ticket, Self::join_or_start).await
    }

    /// The same of an image that is held and fresh: it answers until the new one, or the word that it is still the same, is
    /// there. A fill that is under way is joined.
    pub async fn warm_anew(&self, ticket: &Ticket) -> Warmed {
        self.warm_by(ticket, Self::join_or_start_anew).await
    }

    async fn warm_by(&self, ticket: &Ticket, join: fn(&Self, &Ticket) -> Joined) -> Warmed {
        if self.is_over(ticket) {
            return Warmed::Failed(EXPIRED);
        }
        let mut wait = FIRST_WAIT;
        for _ in 1..MOST_TRIES {
            match self.try_to_warm(ticket, join).await {
                Err(later) => tokio::time::sleep(later.clamp(wait, LONGEST_WAIT)).await,
                Ok(warmed) => return warmed,
            }
            wait = (wait * 2).min(LAST_WAIT);
        }
        self.try_to_warm(ticket, join).await.unwrap_or(Warmed::Failed("busy"))
    }

    /// `Err` says when to try again.
    async fn try_to_warm(&self, ticket: &Ticket, join: fn(&Self, &Ticket) -> Joined) -> Result<Warmed, Duration> {
        let Filled { verdict, .. } = match join(self, ticket) {
            Joined::Found(Found::Image(image)) => return Ok(Warmed::Held { bytes: image.body.len() }),
            Joined::Found(Found::Negative(negative)) => return Ok(Warmed::Failed(negative_reason(&negative))),
            Joined::Filling(filling) => filling.end().await,
        };
        match verdict {
            Verdict::Image(_, Storable::ShowOnly(reason)) => Ok(Warmed::NotStored(reason)),
            Verdict::Image(_, Storable::Stale) => Ok(Warmed::NotStored("stale-on-arrival")),
            Verdict::Image(image, Storable::Yes) => Ok(Warmed::Stored { bytes: image.body.len() }),
            Verdict::Unknown(negative) => Ok(Warmed::Failed(negative_reason(&negative))),
            Verdict::Passed(_) => Ok(Warmed::Failed("origin-status")),
            Verdict::Failed(failure, _) => failure.retry_after().map_or(Ok(Warmed::Failed(failure.reason())), Err),
        }
    }
}
