//! `?download=NAME` (S26): the image as a file to save, under a name that is safe wherever it ends up (RFC 6266, RFC 8187).
//! Pure.

use std::borrow::Cow;

use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::query::{parameters, value};

/// The parameter; like `ticket`, compared as it stands.
const PARAMETER: &str = "download";

/// The name of an image that is given none.
const NAMELESS: &str = "qrcode";

/// Characters of a name with its extension.
const LONGEST: usize = 100;

/// Bytes of a name before its extension: file systems take 255.
const LONGEST_BYTES: usize = 200;

/// What file systems do not take, or take for something else: separators of paths, drives and streams, wildcards, quotes.
const FORBIDDEN: [char; 9] = ['/', '\\', ':', '*', '?', '"', '<', '>', '|'];

/// What stays bare in `filename*`, of `attr-char` (RFC 8187 §3.2.1) the part that no parser stumbles over.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `Content-Disposition` for a request with the raw query `query`, if that asks to save; `extension` is that of the bytes.
/// The first of several names counts.
pub fn disposition(query: Option<&str>, extension: &str) -> Option<HeaderValue> {
    let asked = parameters(query?).find_map(|parameter| value(parameter, PARAMETER)).map(decoded)?;
    let stem = stem(&asked, extension);
    let fallback = fallback(&stem);
    let mut text = format!("attachment; filename=\"{fallback}.{extension}\"");
    if fallback != stem {
        // RFC 6266 §4.3: who understands it prefers it, wherever it stands; §D puts it last, for those who do not.
        text.push_str("; filename*=UTF-8''");
        text.extend(utf8_percent_encode(&stem, ESCAPED));
        text.push('.');
        text.push_str(extension);
    }
    HeaderValue::try_from(text).ok()
}

/// Decoded as forms write it: a space is `+` or `%20`, and a plus sign is always escaped.
fn decoded(value: &str) -> String {
    percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// The name without its extension, and without all that makes a name unsafe.
fn stem(asked: &str, extension: &str) -> String {
    let named: String = asked.chars().filter(|c| is_harmless(*c)).collect();
    let named = without_extension(named.trim());
    // A leading dot hides a file; Windows drops dots and spaces at the end.
    let trimmed = named.trim_matches(|c: char| c == '.' || c.is_whitespace());
    let mut bytes = 0;
    let fits = |c: &char| {
        bytes += c.len_utf8();
        bytes <= LONGEST_BYTES
    };
    let cut: String = trimmed.chars().take(LONGEST - 1 - extension.len()).take_while(fits).collect();
    let stem = cut.trim_end_matches(|c: char| c == '.' || c.is_whitespace());
    if stem.is_empty() { NAMELESS.to_owned() } else { stem.to_owned() }
}

fn is_harmless(c: char) -> bool {
    // What bytes that are no UTF-8 decode to says nothing.
    !FORBIDDEN.contains(&c) && !c.is_control() && !is_invisible(c) && c != char::REPLACEMENT_CHARACTER
}

/// Marks that turn the direction of what follows (`gpj.exe` reads as `exe.jpg`), separate lines or take no room.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// What follows the last dot is an extension when it looks like one: `poster.png`, but not `v1.2` or `Dr. Wang`.
fn without_extension(name: &str) -> &str {
    let looks_like_one = |end: &str| {
        (1..=5).contains(&end.len())
            && end.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && end.bytes().any(|byte| byte.is_ascii_alphabetic())
    };
    name.rsplit_once('.').filter(|(_, end)| looks_like_one(end)).map_or(name, |(stem, _)| stem)
}

/// For those who do not know `filename*`. RFC 6266 §D: some decode `%41` in a `filename`, and few get other letters right.
fn fallback(stem: &str) -> Cow<'_, str> {
    let plain = |c: char| c == ' ' || c.is_ascii_graphic() && c != '%';
    if stem.chars().all(plain) {
        return stem.into();
    }
    if !stem.chars().any(|c| c.is_ascii_alphanumeric()) {
        return NAMELESS.into();
    }
    stem.chars().map(|c| if plain(c) { c } else { '_' }).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(query: &str) -> Option<String> {
        disposition(Some(query), "jpg").map(|value| value.to_str().unwrap().to_owned())
    }

    fn named(name: &str) -> String {
        told(&format!("ticket=x&download={name}")).unwrap()
    }

    #[test]
    fn only_the_parameter_itself_asks_to_save() {
        assert_eq!(disposition(None, "jpg"), None);
        for query in ["", "ticket=x", "Download=x", "downloads=x", "%64ownload=x", "ticket=download", "=download"] {
            assert_eq!(told(query), None, "{query}");
        }
        for query in ["download", "download=", "download&ticket=x", "ticket=x&download", "download=%20", "download=."] {
            assert_eq!(told(query).as_deref(), Some("attachment; filename=\"qrcode.jpg\""), "{query}");
        }
        assert_eq!(named("first&download=second"), "attachment; filename=\"first.jpg\"");
    }

    /// RFC 6266 §4.3 asks senders for names without path separators, and with an extension that fits.
    #[test]
    fn a_name_is_safe_wherever_it_ends_up() {
        for (name, file) in [
            ("poster", "poster.jpg"),
            ("table%207", "table 7.jpg"),
            ("table+7", "table 7.jpg"),
            ("a%2Bb", "a+b.jpg"),
            ("../../etc/passwd", "etcpasswd.jpg"),
            ("..%2F..%5Cboot.ini", "boot.jpg"),
            ("C:%5Cx%3Fy*z%3C%3E%7C", "Cxyz.jpg"),
            ("a%22;%20filename=%22b", "a; filename=b.jpg"),
            ("a%0D%0ASet-Cookie:%20b", "aSet-Cookie b.jpg"),
            ("a%00b%7Fc%C2%85d", "abcd.jpg"),
            (".htaccess", "htaccess.jpg"),
            ("...", "qrcode.jpg"),
            ("a.", "a.jpg"),
            ("%20a%20.%20", "a.jpg"),
            ("%FF%FE", "qrcode.jpg"),
            ("%E2%80%AEgpj.exe", "gpj.jpg"),
            ("it's", "it's.jpg"),
        ] {
            assert_eq!(named(name), format!("attachment; filename=\"{file}\""), "{name}");
        }
    }

    #[test]
    fn the_extension_is_that_of_the_bytes() {
        for (name, file) in [
            ("a.jpg", "a.jpg"),
            ("a.JPG", "a.jpg"),
            ("a.jpeg", "a.jpg"),
            ("a.png", "a.jpg"),
            ("a.html", "a.jpg"),
            ("a.exe.png", "a.exe.jpg"),
            ("a.7z", "a.jpg"),
            ("v1.2", "v1.2.jpg"),
            ("2026.05.01", "2026.05.01.jpg"),
            ("Dr.%20Wang", "Dr. Wang.jpg"),
            (".png", "qrcode.jpg"),
        ] {
            assert_eq!(named(name), format!("attachment; filename=\"{file}\""), "{name}");
        }
        for extension in ["jpg", "png", "gif", "webp"] {
            let told = disposition(Some("download=a.svg"), extension).unwrap();
            assert_eq!(told, format!("attachment; filename=\"a.{extension}\""));
        }
    }

    /// RFC 8187 §3.2, RFC 6266 §4.3 and §5.
    #[test]
    fn other_letters_stand_beside_a_plain_name() {
        for (name, plain, full) in [
            ("%E6%B5%B7%E6%8A%A5", "qrcode", "%E6%B5%B7%E6%8A%A5"),
            ("海报.png", "qrcode", "%E6%B5%B7%E6%8A%A5"),
            ("%E5%BA%97%20A1", "_ A1", "%E5%BA%97%20A1"),
            ("caf%C3%A9", "caf_", "caf%C3%A9"),
            ("50%25", "50_", "50%25"),
            ("a%2541", "a_41", "a%2541"),
            ("%F0%9F%98%80", "qrcode", "%F0%9F%98%80"),
        ] {
            let expected = format!("attachment; filename=\"{plain}.jpg\"; filename*=UTF-8''{full}.jpg");
            assert_eq!(named(name), expected, "{name}");
        }
    }

    #[test]
    fn a_long_name_is_cut_and_keeps_its_extension() {
        let long = "a".repeat(500);
        assert_eq!(named(&long), format!("attachment; filename=\"{}.jpg\"", "a".repeat(LONGEST - 4)));
        assert_eq!(named(&format!("{}.png", "a".repeat(96))), named(&long), "as long as it may be");
        assert_eq!(named(&format!("{}.....b", "a".repeat(94))), named(&"a".repeat(94)), "no dots where it was cut");
        let told = named(&"%E6%B5%B7".repeat(500));
        assert_eq!(told.matches("%E6%B5%B7").count(), LONGEST_BYTES / 3);
    }

    /// The value of `filename` as RFC 9110 §5.6.4 reads a quoted string, and what follows it.
    fn unquoted(told: &str) -> (&str, &str) {
        let rest = told.strip_prefix("attachment; filename=\"").expect("a quoted string");
        assert!(!rest.contains('\\'), "nothing is escaped");
        rest.split_once('"').expect("its end")
    }

    proptest! {
        #[test]
        fn no_name_escapes_its_quotes_or_makes_an_invalid_value(
            name in "([ -~]|%[0-7][0-9A-F]|%22|%5C|%0D%0A|%E6%B5%B7|%FF|\u{6d77}|\u{202e}|[.]){0,150}",
        ) {
            let name = name.replace('&', "");
            let value = disposition(Some(&format!("download={name}")), "webp").expect("it asks to save");
            let told = value.to_str().expect("visible ASCII");
            let (plain, rest) = unquoted(told);
            prop_assert!(plain.strip_suffix(".webp").is_some() && !plain.starts_with('.') && plain.len() <= LONGEST);
            prop_assert!(!plain.contains(['/', ':', '%']));
            if !rest.is_empty() {
                let full = rest.strip_prefix("; filename*=UTF-8''").expect("the only other parameter");
                let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
                prop_assert!(full.bytes().all(is_bare));
                let decoded = percent_decode_str(full).decode_utf8().expect("UTF-8");
                prop_assert!(decoded.strip_suffix(".webp").is_some() && !decoded.starts_with('.'));
                prop_assert!(decoded.chars().count() <= LONGEST);
                prop_assert!(decoded.chars().all(is_harmless));
            }
        }

        #[test]
        fn no_query_makes_it_panic(query in ".{0,200}") {
            let _ = disposition(Some(&query), "jpg");
        }
    }
}
