//! The head of an answer with an image, or that a client has it already. A map that is copied needs no name hashed and no
//! place sought, which is most of what filling one costs. So the first head of its shape is kept, and those that follow are
//! copies with other values: all of a shape have the same fields, in the same order.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::cors::Cors;
use super::{BYTES, CACHE_STATUS, NO_STORE, TICKET_EXPIRES};
use crate::arrival::{REQUEST_ID, UNNAMED};
use crate::cache::downstream::{Downstream, http_date};
use crate::cache::entry::Image;
use crate::cache::status::Outcome;
use crate::moment::Moment;

/// Room for all that a head can have.
const FIELDS: usize = 24;

/// Which head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Of an image that may be kept, or of a part of it.
    Keep,
    /// Of one that nobody may keep: what is of no use later is shown whole.
    ShowOnly,
    /// That the client has it already: the fields that a cache needs to renew what it has, without those of a body (RFC
    /// 9110 §15.4.5).
    Renew,
}

/// One head of each shape, once it was needed. A shape is a use, whether the image has a `Last-Modified`, and whether it has
/// an expiry.
#[derive(Debug, Clone, Default)]
pub struct Heads([[[OnceLock<HeaderMap>; 2]; 2]; 3]);

/// What a head is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The image.
    pub image: &'a Image,
    /// How the request fared.
    pub outcome: &'a Outcome,
    /// What for.
    pub how: Use,
    /// When.
    pub now: Moment,
}

impl Heads {
    /// The head about `about`. What differs between clients is not in it: the fields of CORS with a list, the name of a file
    /// and a range; nor is what passes on from the origin. The place of the request's id is kept.
    pub fn head(&self, about: About<'_>, cors: &Cors) -> HeaderMap {
        let ready = self.ready(about);
        if let Some(ready) = ready.get() {
            let mut head = ready.clone();
            let mut places = head.values_mut();
            about.differs(|_, value| {
                if let Some(place) = places.next() {
                    *place = value;
                }
            });
            return head;
        }
        let head = about.fill(cors);
        ready.get_or_init(|| head.clone());
        head
    }

    fn ready(&self, about: About<'_>) -> &OnceLock<HeaderMap> {
        let Self(all) = self;
        let modified = about.image.described().len() > 2;
        &all[about.how as usize][usize::from(modified)][usize::from(about.image.expiry.is_some())]
    }
}

impl About<'_> {
    /// Name by name. What differs goes first, so that its places are known.
    fn fill(self, cors: &Cors) -> HeaderMap {
        let mut head = HeaderMap::with_capacity(FIELDS);
        self.differs(|name, value| {
            head.append(name, value);
        });
        let [_, nosniff, resource_policy] = self.image.format().fields().clone();
        head.extend([nosniff, resource_policy]);
        if self.how == Use::Keep {
            head.append(header::ACCEPT_RANGES, BYTES);
        }
        cors.allow_all(&mut head);
        head.append(REQUEST_ID, UNNAMED);
        head
    }

    /// Tells the fields that differ between two heads of a shape, always in the same order.
    fn differs(self, mut say: impl FnMut(&HeaderName, HeaderValue)) {
        let Self { image, outcome, how, now } = self;
        say(&CACHE_STATUS, outcome.field());
        if how == Use::ShowOnly {
            say(&header::CACHE_CONTROL, NO_STORE);
        } else {
            let told = Downstream::of(&image.freshness, image.expiry.as_ref(), now);
            say(&header::CACHE_CONTROL, told.cache_control(&image.said.downstream));
            say(&header::AGE, told.age());
            say(&header::DATE, http_date(told.date));
            say(&header::EXPIRES, http_date(told.expires()));
        }
        let described = if how == Use::Renew {
            &image.described()[1..]
        } else {
            let (content_type, value) = &image.format().fields()[0];
            say(content_type, value.clone());
            image.described()
        };
        for (name, value) in described {
            say(name, value.clone());
        }
        if let Some(expiry) = image.expiry {
            say(&TICKET_EXPIRES, http_date(expiry.stated));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, image_of};
    use super::*;
    use crate::cache::expiry::Expiry;
    use crate::respond::config::CorsConfig;
    use crate::respond::tests::MODIFIED;

    /// Two images of each shape, which differ in all that can differ.
    fn images() -> Vec<[Image; 2]> {
        let with_expiry = |mut image: Image, seconds| {
            image.expiry = Some(Expiry::new(at(seconds).wall, at(0), 0));
            image
        };
        let pair = |modified: [Option<&str>; 2]| {
            [image_of(b"\xff\xd8\xffa", "\"a\"", modified[0]), image_of(b"\x89PNG\r\n\x1a\nbb", "\"b\"", modified[1])]
        };
        let later = "Thu, 01 Jan 2026 00:00:01 GMT";
        let shapes = [[None, None], [Some(MODIFIED), Some(later)]];
        let with_end = |[one, other]: [Image; 2]| [with_expiry(one, 60), with_expiry(other, 50)];
        shapes.map(pair).into_iter().chain(shapes.map(pair).map(with_end)).collect()
    }

    #[test]
    fn a_head_that_is_copied_says_what_one_says_that_is_filled() {
        let outcomes = [93, 94].map(|seconds| Outcome::Hit { ttl: std::time::Duration::from_secs(seconds) });
        for allowed in ["*", "https://a.example"] {
            let cors = Cors::new(&CorsConfig { allow_origins: vec![allowed.to_owned()] });
            let heads = Heads::default();
            for how in [Use::Keep, Use::ShowOnly, Use::Renew] {
                for pair in &images() {
                    // The second is a copy of the first with other values, the third of the first anew.
                    for (round, turn) in [0, 1, 0].into_iter().enumerate() {
                        let about =
                            About { image: &pair[turn], outcome: &outcomes[turn], how, now: at(7 + round as u64) };
                        assert_eq!(heads.head(about, &cors), about.fill(&cors), "{how:?}, {round}");
                    }
                }
            }
        }
    }
}
