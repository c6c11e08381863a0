//! What to do with a stale image (S23). Pure: the times are arguments, the windows were computed when it was stored.

use super::entry::Image;
use crate::moment::Moment;

/// What a request for a stale image leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// It is shown at once, while one fill refreshes it.
    ShowAndRefresh,
    /// It is shown at once: the last refresh failed, and the next is not due.
    Show,
    /// The origin is asked, and it is shown when that fails or takes too long.
    AskBriefly,
    /// The origin is asked: the image may not be shown unasked.
    Ask,
}

impl Plan {
    /// The plan for `image` at `now`. With `refused` the origin just would not give a new one.
    pub fn of(image: &Image, refused: bool, now: Moment) -> Self {
        let due = !refused && image.retry.is_due(now.tick);
        if image.serves_while_revalidating(now) {
            return if due { Self::ShowAndRefresh } else { Self::Show };
        }
        match (image.serves_on_error(now), due) {
            (true, true) => Self::AskBriefly,
            (true, false) => Self::Show,
            (false, _) => Self::Ask,
        }
    }
}
