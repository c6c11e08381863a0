//! A raw query, as it stands: its parameters, and the raw value of one. Pure.

use std::iter;

use memchr::memchr_iter;

/// The parameters of `query`, of which an empty one has a single empty one.
pub fn parameters(query: &str) -> impl Iterator<Item = &str> {
    let ends = memchr_iter(b'&', query.as_bytes()).chain(iter::once(query.len()));
    ends.scan(0, |start, end| query.get(std::mem::replace(start, end + 1)..end))
}

/// The raw value of `parameter` if its name is `name`, compared as it stands: no name that we know needs an escape.
pub fn value<'a>(parameter: &'a str, name: &str) -> Option<&'a str> {
    match parameter.strip_prefix(name)? {
        "" => Some(""),
        rest => rest.strip_prefix('='),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parameters_stand_between_ampersands(query in "[&=a-c\u{e9}]{0,80}") {
            prop_assert_eq!(parameters(&query).collect::<Vec<_>>(), query.split('&').collect::<Vec<_>>());
        }

        #[test]
        fn a_value_stands_behind_its_name_and_the_first_equals_sign(parameter in "[=ab\u{e9}]{0,8}", name in "[ab]{1,3}") {
            let expected = match parameter.split_once('=') {
                Some((is, value)) => (is == name).then_some(value),
                None => (parameter == name).then_some(""),
            };
            prop_assert_eq!(value(&parameter, &name), expected);
        }
    }
}
