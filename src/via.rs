//! Our own hop in `Via` (RFC 9110 §7.6.3), by which a request that comes round is known. Chained proxies of this kind are
//! lawful, so it is the process that is named, in a comment; where others drop comments, too many of our name are a loop too.

use std::hash::{BuildHasher, RandomState};

use http::{HeaderMap, HeaderValue, Version, header};

/// Our hop as clients see it, behind a message that came in `version`.
pub const fn of_answer(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 ticketgate",
        Version::HTTP_2 => "2 ticketgate",
        _ => "1.1 ticketgate",
    })
}

/// Hops of our kind in one request; nobody chains as many on purpose.
const MOST_HOPS: usize = 8;

/// Names one process in the requests that it sends, to the app and to the origin alike.
#[derive(Debug, Clone)]
pub struct Via {
    comment: String,
    lines: [HeaderValue; 3],
}

impl Via {
    /// A name that no other process has.
    pub fn unique() -> Self {
        let comment = format!("({:016x})", RandomState::new().hash_one(std::process::id()));
        let line = |version| {
            HeaderValue::try_from(format!("{version} ticketgate {comment}")).expect("hex digits are visible ASCII")
        };
        Self { lines: ["1.1", "1.0", "2"].map(line), comment }
    }

    /// Adds our hop to a message that came in `version`.
    pub fn sign(&self, headers: &mut HeaderMap, version: Version) {
        let [http_1_1, http_1_0, http_2] = &self.lines;
        let line = match version {
            Version::HTTP_10 => http_1_0,
            Version::HTTP_2 => http_2,
            _ => http_1_1,
        };
        headers.append(header::VIA, line.clone());
    }

    /// Whether a request with `headers` has been here before.
    pub fn is_loop(&self, headers: &HeaderMap) -> bool {
        let all = headers.get_all(header::VIA);
        let lines = || all.iter().filter_map(|line| line.to_str().ok());
        let ours = |hop: &&str| hop.split_ascii_whitespace().nth(1) == Some("ticketgate");
        lines().any(|line| line.contains(&self.comment))
            || lines().flat_map(|line| line.split(',')).filter(ours).count() >= MOST_HOPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (header::VIA, HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn what_was_signed_is_known_wherever_it_stands() {
        let via = Via::unique();
        let mut signed = headers(&["1.0 fred"]);
        via.sign(&mut signed, Version::HTTP_2);
        assert!(via.is_loop(&signed));
        let own = signed.get_all(header::VIA).iter().next_back().unwrap().to_str().unwrap();
        assert!(via.is_loop(&headers(&[&format!("1.0 fred, {own}, 1.1 nginx")])));
        assert!(!Via::unique().is_loop(&signed), "another process is another hop");
    }

    #[test]
    fn without_comments_too_many_of_our_name_are_a_loop() {
        let via = Via::unique();
        assert!(!via.is_loop(&headers(&["1.1 ticketgate, 1.1 ticketgate"])));
        assert!(!via.is_loop(&headers(&["1.1 ticketgates, 1.1 nginx"; 8])));
        assert!(via.is_loop(&headers(&["1.1 ticketgate, 1.1 nginx"; 8])));
    }
}
