//! `Forwarded` (RFC 7239) as it is read and written: elements from proxies, the nearest on the right. Whom to believe is
//! [`crate::limit`]'s to say, what the app is told [`crate::forward`]'s. Pure.

use std::net::{IpAddr, SocketAddr};

/// The elements of one line (RFC 7239 §4), right to left. Commas inside quotes do not part them.
pub fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut elements: Vec<&[u8]> = split_outside_quotes(line, b',').collect();
    elements.reverse();
    elements.into_iter()
}

/// Whether every quote in `line` has its end: what is added behind one that has not would become part of it.
pub fn is_well_formed(line: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    !quoted
}

/// What `element` says of `name`, as it is written there.
pub fn parameter<'a>(element: &'a [u8], name: &str) -> Option<&'a [u8]> {
    split_outside_quotes(element, b';').find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (own, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
        own.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
    })
}

/// Text without the quotes around it. Nothing that we read needs an escape in them.
pub fn unquoted(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(text)
}

/// `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`, each quoted or not. `unknown` and `_hidden` are
/// none.
pub fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(unquoted(text)).ok()?;
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let bare = bracketed.unwrap_or(text).parse().ok();
    bare.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
}

/// The element of a proxy that was asked by `node`, for `host`, over `scheme`; `None` for a node is `unknown` (§6.2). `host` must
/// be visible ASCII without quotes.
pub fn element(node: Option<IpAddr>, host: Option<&str>, scheme: &str) -> String {
    let node = match node {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(v4)) => v4.to_string(),
        Some(IpAddr::V6(v6)) => format!("\"[{v6}]\""),
    };
    let host = host.map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
    format!("for={node}{host};proto={scheme}")
}

fn split_outside_quotes(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        *byte == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_and_their_parameters_are_read_around_quotes() {
        let line = br#"for=1.2.3.4;host="a,b;c";Proto=https, for="[2001:db8::1]:80" ; proto=http"#;
        let elements: Vec<_> = elements(line).collect();
        assert_eq!(elements.len(), 2);
        assert_eq!(parameter(elements[1], "host").map(unquoted), Some(&b"a,b;c"[..]));
        assert_eq!(
            (parameter(elements[1], "proto"), parameter(elements[0], "PROTO")),
            (Some(&b"https"[..]), Some(&b"http"[..]))
        );
        assert_eq!(parameter(elements[0], "for").and_then(address), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(parameter(elements[0], "host"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ip: IpAddr, tls: bool) {
            let scheme = if tls { "https" } else { "http" };
            let line = element(Some(ip), Some("shop.example:8443"), scheme);
            let elements: Vec<_> = elements(line.as_bytes()).collect();
            prop_assert_eq!(elements.len(), 1);
            prop_assert_eq!(parameter(elements[0], "for").and_then(address), Some(ip));
            prop_assert_eq!(parameter(elements[0], "host").map(unquoted), Some(&b"shop.example:8443"[..]));
            prop_assert_eq!(parameter(elements[0], "proto"), Some(scheme.as_bytes()));
        }

        #[test]
        fn no_bytes_make_it_panic(line: Vec<u8>) {
            for element in elements(&line) {
                let _ = parameter(element, "for").and_then(address);
            }
        }
    }
}
