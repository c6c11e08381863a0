//! Field values that every answer says, and that say the same number again and again within a second: dates, ages,
//! lifetimes. Writing one takes as long as looking an image up, so a thread remembers what it wrote.

use http::HeaderValue;

/// How many numbers are remembered. A prime: lifetimes are whole minutes, hours and weeks, and of 64 places the second that an
/// answer is made in would share one with the second that it ends in, a week later.
const PLACES: usize = 61;

/// Values of one field, by the number that each says. Belongs into a `thread_local!`.
#[derive(Debug)]
pub struct Remembered([Option<(u64, HeaderValue)>; PLACES]);

impl Remembered {
    /// Nothing yet.
    pub const fn nothing() -> Self {
        Self([const { None }; PLACES])
    }

    /// The value that says `number`, which `write` writes unless it is remembered: it must write the same for the same number.
    pub fn value(&mut self, number: u64, write: impl FnOnce(u64) -> HeaderValue) -> HeaderValue {
        let place = &mut self.0[usize::try_from(number % PLACES as u64).unwrap_or(0)];
        match place {
            Some((remembered, value)) if *remembered == number => value.clone(),
            _ => place.insert((number, write(number))).1.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_remembered_is_what_would_be_written(numbers: Vec<u64>, near in prop::collection::vec(0u64..200, 1..200)) {
            let mut remembered = Remembered::nothing();
            for number in numbers.iter().chain(&near).chain(&numbers).chain(&near) {
                prop_assert_eq!(remembered.value(*number, HeaderValue::from), HeaderValue::from(*number));
            }
        }
    }

    #[test]
    fn a_number_and_the_lifetimes_that_origins_like_are_remembered_side_by_side() {
        let lifetimes = [1, 60, 1800, 3600, 86_400, 604_800, 2_592_000, 31_536_000];
        for lifetime in lifetimes {
            assert_ne!(lifetime % PLACES as u64, 0, "{lifetime}");
        }
    }
}
