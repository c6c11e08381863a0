//! Secrets in a configuration that has mistakes: what is told of a mistake must not tell them, though they stand where they
//! should not, or are no TOML. Rather too much is masked than too little. Pure.

use super::show::MASK;

/// Keys of `[admin]` that are no secrets; whatever else stands there may be a token under a mistyped name.
const OPEN: [&str; 2] = ["listen", "allow_hosts"];

/// The line as it is shown when it may give a token, masked from its value on; `None` when it gives none. `above` are the lines
/// before it.
pub(super) fn masked_line(above: &str, line: &str) -> Option<String> {
    let (key, value) = line.split_once('=').unwrap_or(("", line));
    let is_key = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.\"' \t".contains(&byte));
    let key = if is_key { key } else { "" };
    let name = key.to_ascii_lowercase();
    let in_admin = is_in_admin(above) || name.trim_start().starts_with("admin");
    let is_open = OPEN.iter().any(|open| name.trim_end().ends_with(open));
    let is_secret = line.to_ascii_lowercase().contains("token") || in_admin && !is_open && !is_bare(line);
    let separator = if key.is_empty() { "" } else { "= " };
    (is_secret && !value.trim().is_empty()).then(|| format!("{key}{separator}{MASK}"))
}

/// The text without the passwords of URLs in it.
pub(super) fn without_passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown.push_str("://");
        let end = part.find(['/', '?', '#', '"', '\'', ' ', ',']).unwrap_or(part.len());
        let host = part[..end].rfind('@').map_or(0, |at| at);
        if host > 0 {
            shown.push_str(MASK);
        }
        shown.push_str(&part[host..]);
    }
    shown
}

fn is_in_admin(above: &str) -> bool {
    let header = above.lines().rev().map(str::trim).find(|line| line.starts_with('['));
    header.is_some_and(|header| header.trim_start_matches('[').trim_start().trim_matches('"').starts_with("admin"))
}

/// A header or a comment.
fn is_bare(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('[') || line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_masked_wherever_and_however_it_stands() {
        for (above, line) in [
            ("", "admin = { listen = \"nonsense\", token = \"s3cret\" }"),
            ("", "admin.token = 's3cret'"),
            ("", "admin.tokne = 's3cret'"),
            ("[admin]\n", "'token' = \"s3 cret\""),
            ("[admin]\n", "token: \"s3cret\""),
            ("[admin]\n", "tokne = \"s3cret\""),
            ("[admin]\nlisten = \"off\"\n", "\"s3cret\""),
            ("[log]\nlevel = 1\n[ admin ]\n", "pasword = s3cret"),
            ("[log]\n", "Admin_Token = s3cret"),
        ] {
            let shown = masked_line(above, line).unwrap_or_else(|| panic!("{line}"));
            assert!(!shown.contains("cret") && shown.ends_with(MASK), "{shown}");
        }
        assert_eq!(masked_line("[admin]\n", "token = \"x\"").unwrap(), "token = ***");
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        for (above, line) in [
            ("[admin]\n", "listen = \"lots\""),
            ("[admin]\n", "allow_hosts = 1"),
            ("[admin]\n", "[cache"),
            ("[admin]\n[cache]\n", "memory = \"lots\""),
            ("", "listen = 1"),
            ("", "admin.listen = 1"),
        ] {
            assert_eq!(masked_line(above, line), None, "{line}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_masked() {
        assert_eq!(without_passwords("app = \"http://user:pass@host/a@b\""), "app = \"http://***@host/a@b\"");
        assert_eq!(without_passwords("a https://b/c, http://d@e"), "a https://b/c, http://***@e");
        assert_eq!(without_passwords("no url: a@b"), "no url: a@b");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(above: String, line: String) {
            let _ = (masked_line(&above, &line), without_passwords(&line));
        }
    }
}
