//! `CDN-Cache-Control` (RFC 9213): what an origin says to caches like us alone. A valid one stands for `Cache-Control` and
//! `Expires` entirely; one that is no structured dictionary (RFC 9651), or empty, is as good as absent. Pure.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::control::{Control, Seconds};

/// The field's name.
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The directives meant for us; `None` when `Cache-Control` counts.
pub fn control(headers: &HeaderMap) -> Option<Control> {
    let lines: Option<Vec<&str>> = headers.get_all(CDN_CACHE_CONTROL).iter().map(|line| line.to_str().ok()).collect();
    let whole = lines.filter(|lines| !lines.is_empty())?.join(", ");
    let directives: Dictionary = Parser::new(&whole).parse().ok()?;
    if directives.is_empty() {
        return None;
    }
    let mut control = Control::default();
    for (name, value) in &directives {
        apply(&mut control, name.as_str(), value);
    }
    Some(control)
}

fn apply(control: &mut Control, name: &str, value: &ListEntry) {
    match name {
        "max-age" => control.max_age = Some(lifetime(value)),
        "s-maxage" => control.s_maxage = Some(lifetime(value)),
        "stale-while-revalidate" => control.stale_while_revalidate = Some(lifetime(value)),
        "stale-if-error" => control.stale_if_error = Some(lifetime(value)),
        "no-store" => control.no_store = says_yes(value),
        "no-cache" => control.no_cache = says_yes(value),
        "private" => control.private = says_yes(value),
        "must-revalidate" => control.must_revalidate = says_yes(value),
        "proxy-revalidate" => control.proxy_revalidate = says_yes(value),
        "no-transform" => control.no_transform = says_yes(value),
        // RFC 9111 §5.2.3: unknown directives are ignored.
        _ => {}
    }
}

/// Whole seconds; a value of another type, or a negative one, is stale at once.
fn lifetime(value: &ListEntry) -> Seconds {
    let seconds = match value {
        ListEntry::Item(item) => match item.bare_item {
            BareItem::Integer(seconds) => u64::try_from(i64::from(seconds)).unwrap_or(0),
            _ => 0,
        },
        ListEntry::InnerList(_) => 0,
    };
    Seconds::saturating(seconds)
}

/// `?0` takes a directive back; field names (a string or a list) count as the bare directive.
fn says_yes(value: &ListEntry) -> bool {
    !matches!(value, ListEntry::Item(item) if item.bare_item == BareItem::Boolean(false))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &[&str]) -> Option<Control> {
        let line = |line: &&str| (CDN_CACHE_CONTROL, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        control(&lines.iter().map(line).collect())
    }

    #[expect(clippy::unnecessary_wraps, reason = "reads as what it is compared with")]
    fn seconds(n: u64) -> Option<Seconds> {
        Some(Seconds::saturating(n))
    }

    /// RFC 9213 §2.1.
    #[test]
    fn a_dictionary_is_read_over_all_its_lines() {
        let control = read(&["max-age=60, no-cache", "stale-if-error=30;x=1, unknown=(1 2)"]).unwrap();
        assert_eq!((control.max_age, control.stale_if_error), (seconds(60), seconds(30)));
        assert!(control.no_cache && !control.no_store);
        assert_eq!(
            read(&["max-age=1, max-age=2"]).unwrap().max_age,
            seconds(2),
            "of a key given twice the last counts"
        );
        assert!(read(&["private=\"x-a\""]).unwrap().private);
        assert!(!read(&["no-store=?0, max-age=1"]).unwrap().no_store);
    }

    /// RFC 9213 §2.2: the first valid, non-empty targeted field counts, else Cache-Control.
    #[test]
    fn what_is_no_dictionary_is_as_good_as_absent() {
        for bad in [
            "",
            "max-age=",
            "Max-Age=60",
            "max-age=60,",
            "max-age = 60",
            "max-age=60 no-store",
            "\u{e9}",
            "max-age=\"60",
        ] {
            assert_eq!(read(&[bad]), None, "{bad}");
        }
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["max-age=60", "rubbish="]), None, "lines are one field");
    }

    #[test]
    fn values_of_another_type_are_stale_at_once() {
        for bad in ["max-age", "max-age=\"60\"", "max-age=1.5", "max-age=-1", "max-age=(60)", "max-age=?1", "max-age=x"]
        {
            assert_eq!(read(&[bad]).unwrap().max_age, seconds(0), "{bad}");
        }
        assert_eq!(read(&["max-age=999999999999999"]).unwrap().max_age, seconds(1 << 31));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let _ = control(&[(CDN_CACHE_CONTROL, value)].into_iter().collect());
            }
        }
    }
}
