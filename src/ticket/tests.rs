use proptest::prelude::*;

use super::layout::read;
use super::*;
use crate::moment::Wall;

/// The sample in WeChat's documentation.
const SAMPLE: &str = "gQH47joAAAAAAAAAASxodHRwOi8vd2VpeGluLnFxLmNvbS9xL2taZ2Z3TVRtNzJXV1Brb3ZhYmJJAAIEZ23sUwMEmm3sUw==";

struct Known {
    ticket: String,
    url: String,
    created: i64,
    validity: u64,
    kind: String,
    expires_at: Option<i64>,
}

fn known() -> Vec<Known> {
    let all: Vec<serde_json::Value> = serde_json::from_str(include_str!("../../tests/data/tickets.json")).unwrap();
    assert!(all.len() > 30);
    let text = |entry: &serde_json::Value, name: &str| entry[name].as_str().unwrap().to_owned();
    all.iter()
        .map(|entry| Known {
            ticket: text(entry, "ticket"),
            url: text(entry, "url"),
            created: entry["created"].as_i64().unwrap(),
            validity: entry["validity"].as_u64().unwrap(),
            kind: text(entry, "kind"),
            expires_at: entry["expires_at"].as_i64(),
        })
        .collect()
}

fn canonical(text: &str) -> String {
    Ticket::from_text(text).unwrap_or_else(|bad| panic!("{text:?}: {bad}")).canonical().to_owned()
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

#[test]
fn every_known_ticket_decodes_to_its_url_creation_and_validity() {
    for known in known() {
        let facts = Ticket::from_text(&known.ticket).unwrap().facts().unwrap_or_else(|| panic!("{}", known.ticket));
        assert_eq!(facts.url, known.url);
        assert_eq!(facts.created, Wall::from_unix(known.created));
        let validity = match known.kind.as_str() {
            "permanent" => Validity::Permanent,
            "relative" => Validity::Lifetime(std::time::Duration::from_secs(known.validity)),
            "absolute" => Validity::Until(Wall::from_unix(known.validity.try_into().unwrap())),
            other => panic!("a kind nobody knows: {other}"),
        };
        assert_eq!(facts.validity, validity);
        assert_eq!(facts.expires(), known.expires_at.map(Wall::from_unix));
    }
}

#[test]
fn the_documented_sample_decodes_with_the_swapped_alphabet() {
    let facts = read(SAMPLE).unwrap();
    assert_eq!(facts.url, "http://weixin.qq.com/q/kZgfwMTm72WWPkovabbI");
    assert_eq!(facts.created, Wall::from_unix(1_408_003_431));
    assert_eq!(facts.validity, Validity::Until(Wall::from_unix(1_408_003_482)));
}

/// Everything S7 names, as it would stand in a query.
fn mangled(ticket: &str) -> Vec<(String, &'static str)> {
    let encoded = encode(ticket);
    let mut forms = vec![
        (ticket.to_owned(), "bare"),
        (encoded.clone(), "encoded"),
        (encode(&encoded), "encoded twice"),
        (encode(&encode(&encoded)), "encoded thrice"),
        (encoded.replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d"), "lower-case escapes"),
        (ticket.replace('+', " "), "plus became a space"),
        (encode(&ticket.replace('+', " ")), "plus became an encoded space"),
        (encode(&encode(&ticket.replace('+', " "))), "plus became a space encoded twice"),
        (encode(&ticket.replace('/', "\\/")), "backslash"),
        (encode(&encode(&ticket.replace('/', "\\/"))), "backslash, encoded twice"),
        (ticket.trim_end_matches('=').to_owned(), "all padding lost"),
        (ticket.strip_suffix('=').unwrap_or(ticket).to_owned(), "some padding lost"),
        (encode(&format!("  {ticket}\r\n")), "white space around"),
        (encode(&format!("\"\\/{ticket}")[3..]), "nothing at all"),
    ];
    for at in [1, 33, 60, ticket.len() - 1] {
        let (start, end) = ticket.split_at(at);
        for gap in ["\n", "\r\n", "\t", "\n        "] {
            forms.push((encode(&format!("{start}{gap}{end}")), "line break"));
            forms.push((encode(&format!("{start}{gap}{end}").replace('+', " ")), "line break and plus became a space"));
        }
        forms.push((encode(&format!("{start} {end}")), "inner space"));
        forms.push((encode(&encode(&format!("{start} {}", end.trim_end_matches('=')))), "space, lost padding, twice"));
    }
    forms
}

#[test]
fn every_mangled_form_of_every_known_ticket_is_the_same_ticket() {
    for known in known() {
        let ticket = &known.ticket;
        for (form, what) in mangled(ticket) {
            // A line break right beside a `+` that became a space cannot be told from indentation.
            if what.contains("and plus") && !canonical_is_possible(ticket) {
                continue;
            }
            assert_eq!(&canonical(&form), ticket, "{what}: {form}");
        }
    }
}

fn canonical_is_possible(ticket: &str) -> bool {
    [1, 33, 60, ticket.len() - 1].iter().all(|at| {
        let (start, end) = ticket.split_at(*at);
        !start.ends_with('+') && !end.starts_with('+')
    })
}

#[test]
fn a_ticket_that_needs_no_repair_reports_none() {
    for known in known() {
        let ticket = Ticket::from_text(&encode(&known.ticket)).unwrap();
        assert!(ticket.repairs().is_empty());
    }
}

/// A ticket in the alphabet used until 2016, with every letter that gets mangled.
fn old_ticket() -> String {
    let minted = (0..10_000).map(|number| {
        let url = format!("http://weixin.qq.com/q/{number:0>20}");
        mint(&url, Wall::from_unix(1_400_000_000 + number), Validity::Permanent).unwrap()
    });
    let old = minted.map(|ticket| ticket.replace('_', "+").replace('-', "/"));
    old.into_iter().find(|old| old.contains('+') && old.contains('/') && old.ends_with("==")).unwrap()
}

#[test]
fn an_old_ticket_with_every_fragile_letter_survives_every_mangling() {
    let ticket = old_ticket();
    for (form, what) in mangled(&ticket) {
        if what.contains("and plus") && !canonical_is_possible(&ticket) {
            continue;
        }
        assert_eq!(canonical(&form), ticket, "{what}: {form}");
    }
}

#[test]
fn repairs_are_named() {
    let old = old_ticket();
    let repairs = |text: &str| Ticket::from_text(text).unwrap().repairs().iter().collect::<Vec<_>>();
    assert_eq!(repairs(&old.replace('+', "%20")), [Repair::SpaceToPlus]);
    assert_eq!(repairs(&encode(&encode(&old))), [Repair::DoubleEncoding]);
    assert_eq!(repairs(&encode(&old.replace('/', "\\/"))), [Repair::Backslash]);
    assert_eq!(repairs(&format!("{}%0A{}", &old[..20], &old[20..])), [Repair::WhiteSpace]);
    assert_eq!(repairs(&format!("{}%20{}", &old[..20], &old[20..])), [Repair::WhiteSpace]);
    assert_eq!(repairs(old.trim_end_matches('=')), [Repair::Padding]);
}

#[test]
fn an_unknown_layout_is_left_alone() {
    assert_eq!(canonical("new.layout~1"), "new.layout~1");
    assert_eq!(canonical("a%20b"), "a+b");
    assert_eq!(canonical("a+b"), "a+b");
    assert_eq!(canonical("a%252Bb"), "a%2Bb", "decoded once");
    assert_eq!(canonical("a%5C%2Fb"), "a\\/b");
    assert_eq!(canonical("abc"), "abc", "no padding is invented");
    assert_eq!(canonical("100%"), "100%");
    assert_eq!(canonical("%zz"), "%zz");
}

#[test]
fn only_the_parameter_named_ticket_counts() {
    let ticket = Ticket::from_query(Some("access_token=S&ticket=abc&scene=1")).unwrap();
    assert_eq!(ticket.canonical(), "abc");
    assert_eq!(Ticket::from_query(Some("ticket=ab%63&ticket=abc")), Ok(ticket), "the same twice");
    for (query, bad) in [
        (None, BadTicket::Missing),
        (Some(""), BadTicket::Missing),
        (Some("Ticket=abc&%74icket=abc&tickets=abc"), BadTicket::Missing),
        (Some("ticket"), BadTicket::Empty),
        (Some("ticket="), BadTicket::Empty),
        (Some("ticket=abc&ticket="), BadTicket::Empty),
        (Some("ticket=abc&ticket=abd"), BadTicket::Conflicting),
        (Some("ticket=a%0Ab"), BadTicket::Characters),
        (Some("ticket=a%00b"), BadTicket::Characters),
        (Some("ticket=%E4%BD%A0"), BadTicket::Characters),
        (Some("ticket=%FF"), BadTicket::Characters),
    ] {
        assert_eq!(Ticket::from_query(query), Err(bad), "{query:?}");
    }
}

#[test]
fn a_query_full_of_tickets_is_not_worth_reading() {
    let same = vec!["ticket=abc"; 10_000].join("&");
    assert_eq!(Ticket::from_query(Some(&same)).unwrap().canonical(), "abc", "copies of the first cost nothing");
    let spelled = ["ticket=abc", "ticket=%61bc", "ticket=a%62c", "ticket=ab%63", "ticket=%61%62c", "ticket=%61b%63"];
    let spelled = [&spelled[..], &["ticket=a%62%63", "ticket=%61%62%63"]].concat();
    assert_eq!(spelled.len(), MOST_PARAMETERS);
    assert_eq!(Ticket::from_query(Some(&spelled.join("&"))).unwrap().canonical(), "abc");
    let (most, more) = (spelled.join("&"), [&spelled[..], &["ticket=%61bc"]].concat().join("&"));
    assert_eq!(Ticket::from_query(Some(&format!("{most}&{same}"))).unwrap().canonical(), "abc");
    assert_eq!(Ticket::from_query(Some(&more)), Err(BadTicket::Conflicting));
    // Were the last one read, it would be malformed.
    assert_eq!(Ticket::from_query(Some(&format!("{most}&ticket=%00"))), Err(BadTicket::Conflicting));
}

#[test]
fn length_is_bounded_after_decoding() {
    assert!(Ticket::from_text(&"a".repeat(MAX_BYTES)).is_ok());
    assert_eq!(Ticket::from_text(&"a".repeat(MAX_BYTES + 1)), Err(BadTicket::TooLong));
    assert!(Ticket::from_text(&"%61".repeat(MAX_BYTES)).is_ok());
}

#[test]
fn the_short_form_is_the_hash_and_all_that_debug_shows() {
    let ticket = Ticket::from_text("abc").unwrap();
    assert_eq!(ticket.short().to_string(), "ba7816bf");
    assert_eq!(format!("{ticket:?}"), "Ticket(ba7816bf)");
}

#[test]
fn no_single_letter_change_is_accepted() {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    for known in known().iter().step_by(9) {
        for at in 0..known.ticket.len() {
            for letter in LETTERS {
                let mut changed = known.ticket.clone().into_bytes();
                changed[at] = *letter;
                let changed = String::from_utf8(changed).unwrap();
                let same =
                    changed.replace('+', "_").replace('/', "-") == known.ticket.replace('+', "_").replace('/', "-");
                assert_eq!(read(&changed).is_some(), same, "{changed}");
            }
        }
    }
}

#[test]
fn no_cut_and_no_change_of_case_is_accepted() {
    for known in known() {
        assert!((0..known.ticket.len()).all(|end| read(&known.ticket[..end]).is_none()));
        assert!(read(&known.ticket.to_ascii_lowercase()).is_none());
        assert!(read(&known.ticket.to_ascii_uppercase()).is_none());
    }
}

fn any_ticket() -> impl Strategy<Value = String> {
    any_ticket_of("[A-Za-z0-9_-]{20,22}")
}

/// A ticket whose url ends with `code`, a regular expression.
fn any_ticket_of(code: &'static str) -> impl Strategy<Value = String> {
    let validity = prop_oneof![
        Just(Validity::Permanent),
        (1u64..31_536_000).prop_map(|s| Validity::Lifetime(std::time::Duration::from_secs(s))),
        (1_800_000_000i64..2_000_000_000).prop_map(|s| Validity::Until(Wall::from_unix(s))),
    ];
    (code, 1_300_000_000i64..1_800_000_000, validity, any::<bool>()).prop_map(|(code, created, validity, old)| {
        let url = format!("http://weixin.qq.com/q/{code}");
        let ticket = mint(&url, Wall::from_unix(created), validity).unwrap();
        if old { ticket.replace('_', "+").replace('-', "/") } else { ticket }
    })
}

/// An old ticket on its way into a query by careless hands: some of its `+` became spaces, some letters got in, and some
/// layers of encoding came around all of it.
fn careless_text() -> impl Strategy<Value = String> {
    // Wherever they fall, these give at least one `+` and one `/`.
    let fragile = any_ticket_of("[A-Za-z0-9_-]{8}~~~[?]{3}[A-Za-z0-9_-]{8}");
    let fragile = fragile.prop_map(|ticket| ticket.replace('_', "+").replace('-', "/"));
    let stray =
        (prop::sample::select(vec!["%20", "%0A", "%2520", "%250A", "\\", "%", " ", "="]), any::<prop::sample::Index>());
    let plus = prop::sample::select(vec!["+", " ", "%20", "%2520"]);
    let layers = 0usize..3;
    (fragile, plus, prop::collection::vec(stray, 0..4), layers).prop_map(|(ticket, plus, strays, layers)| {
        let mut text = ticket.replace('+', plus);
        for (letters, at) in strays {
            text.insert_str(at.index(text.len() + 1), letters);
        }
        (0..layers).fold(text, |text, _| encode(&text))
    })
}

#[test]
fn a_stray_space_in_a_deeper_layer_does_not_hide_that_spaces_were_pluses() {
    let ticket = old_ticket();
    let spaced = ticket.replace('+', "%20");
    for at in [20, 60] {
        let text = format!("{}%2520{}", &spaced[..at], &spaced[at..]);
        assert_eq!(canonical(&text), ticket, "{text}");
        let repairs: Vec<_> = Ticket::from_text(&text).unwrap().repairs().iter().collect();
        assert_eq!(repairs, [Repair::SpaceToPlus, Repair::WhiteSpace, Repair::DoubleEncoding]);
    }
}

proptest! {
    #[test]
    fn decoding_in_two_parts_is_decoding(text: String, escapes in "(%[0-9a-fA-F]{2}|%|[a-z%]){0,20}") {
        for text in [text.clone(), format!("{text}{escapes}"), escapes] {
            prop_assert_eq!(decoded(&text), Cow::from(percent_decode_str(&text)));
        }
    }

    #[test]
    fn a_minted_ticket_reads_back(code in "[A-Za-z0-9_-]{1,100}", created in 1_300_000_000i64..2_000_000_000, life in 1u64..1_000_000) {
        let url = format!("http://weixin.qq.com/q/{code}");
        let validity = Validity::Lifetime(std::time::Duration::from_secs(life));
        let facts = read(&mint(&url, Wall::from_unix(created), validity).unwrap()).unwrap();
        prop_assert_eq!(facts, Facts { url, created: Wall::from_unix(created), validity });
    }

    /// The first law of S8.
    #[test]
    fn the_canonical_form_is_its_own_canonical_form(query in ".{0,200}") {
        if let Ok(ticket) = Ticket::from_text(&query) {
            let again = Ticket::from_text(&ticket.encoded()).unwrap();
            prop_assert_eq!(again.canonical(), ticket.canonical());
            prop_assert!(again.repairs().is_empty());
        }
    }

    #[test]
    fn the_canonical_form_of_ticket_like_texts_is_its_own_too(query in "[A-Za-z0-9+/_=%\\\\ \n-]{0,120}") {
        if let Ok(ticket) = Ticket::from_text(&query) {
            let again = Ticket::from_text(&ticket.encoded()).unwrap();
            prop_assert_eq!(again.canonical(), ticket.canonical());
        }
    }

    #[test]
    fn the_canonical_form_of_a_careless_text_is_its_own_too(text in careless_text()) {
        if let Ok(ticket) = Ticket::from_text(&text) {
            let again = Ticket::from_text(&ticket.encoded()).unwrap();
            prop_assert_eq!(again.canonical(), ticket.canonical());
            prop_assert!(again.repairs().is_empty());
        }
    }

    /// The second law: the request is a function of the key, and nothing else gets into it.
    #[test]
    fn equal_keys_give_equal_requests(a in "[ab%2B5 +\\\\/=]{1,12}", b in "[ab%2B5 +\\\\/=]{1,12}") {
        if let (Ok(a), Ok(b)) = (Ticket::from_text(&a), Ticket::from_text(&b)) {
            prop_assert_eq!(a.key() == b.key(), a.encoded() == b.encoded());
            prop_assert!(a.encoded().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
        }
    }

    /// The third law.
    #[test]
    fn a_recognised_ticket_survives_every_mangling(ticket in any_ticket()) {
        for (form, what) in mangled(&ticket) {
            if what.contains("and plus") && !canonical_is_possible(&ticket) {
                continue;
            }
            prop_assert_eq!(&canonical(&form), &ticket, "{}: {}", what, form);
        }
    }

    #[test]
    fn no_query_makes_it_panic(query in ".*") {
        let _ = Ticket::from_query(Some(&query));
    }
}

#[test]
fn a_ticket_is_found_bare_in_a_query_and_in_a_url() {
    let bare = Ticket::find(SAMPLE).unwrap();
    for text in [
        format!("ticket={SAMPLE}"),
        format!("https://mp.weixin.qq.com/cgi-bin/showqrcode?ticket={SAMPLE}#top"),
        format!("/cgi-bin/showqrcode?access_token=x&ticket={}", SAMPLE.replace('=', "%3D")),
    ] {
        assert_eq!(Ticket::find(&text), Ok(bare.clone()), "{text}");
    }
    assert_eq!(Ticket::find("https://a/?ticket="), Err(BadTicket::Empty));
    assert_eq!(Ticket::find(""), Err(BadTicket::Empty));
}
