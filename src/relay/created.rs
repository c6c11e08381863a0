//! What `qrcode/create` answered, as far as it can be learned from: pure. Whatever is not surely a good answer teaches
//! nothing, and no bytes make this panic.

use std::io::Read as _;
use std::time::Duration;

use flate2::read::{GzDecoder, ZlibDecoder};
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use crate::ticket::Ticket;

/// Bytes of an answer, whatever they were packed into.
const MOST_UNPACKED: u64 = 64 * 1024;

/// A ticket that WeChat has just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The ticket.
    pub ticket: Ticket,
    /// How long it lives; `None` when permanent, or not known.
    pub lifetime: Option<Duration>,
}

impl Created {
    /// Reads an answer with `status`, the head `headers` and the whole `body`. `{"errcode": …}` comes with status 200 as well;
    /// fields that are not needed are ignored, numbers may be in quotes. Of content encodings gzip and deflate are read;
    /// [`Created::is_coded`] tells of others.
    pub fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        if status != StatusCode::OK {
            return None;
        }
        let coding = headers.get(header::CONTENT_ENCODING).map(|coding| coding.as_bytes().to_ascii_lowercase());
        let told: Value = match coding.as_deref().map(<[u8]>::trim_ascii) {
            None | Some(b"" | b"identity") => serde_json::from_slice(body).ok()?,
            Some(b"gzip" | b"x-gzip") => serde_json::from_reader(GzDecoder::new(body).take(MOST_UNPACKED)).ok()?,
            Some(b"deflate") => serde_json::from_reader(ZlibDecoder::new(body).take(MOST_UNPACKED)).ok()?,
            Some(_) => return None,
        };
        if told.get("errcode").is_some_and(|code| number(code) != Some(0)) {
            return None;
        }
        let ticket = Ticket::from_text(told.get("ticket")?.as_str()?).ok()?;
        let seconds = told.get("expire_seconds").and_then(number).filter(|seconds| *seconds > 0);
        Some(Self { ticket, lifetime: seconds.map(Duration::from_secs) })
    }
}

impl Created {
    /// Whether a good answer with the head `headers` is packed in a way that is not read here (`br`, `zstd`): its ticket stays
    /// unknown.
    pub fn is_coded(status: StatusCode, headers: &HeaderMap) -> bool {
        let known = ["", "identity", "gzip", "x-gzip", "deflate"].map(str::as_bytes);
        let coding = headers.get(header::CONTENT_ENCODING).map(|coding| coding.as_bytes().trim_ascii());
        let is_known = |coding: &[u8]| known.iter().any(|known| known.eq_ignore_ascii_case(coding));
        status == StatusCode::OK && coding.is_some_and(|coding| !is_known(coding))
    }
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// WeChat's documentation.
    const SAMPLE: &str = r#"{"ticket":"gQH47joAAAAAAAAAASxodHRwOi8vd2VpeGluLnFxLmNvbS9xL2taZ2Z3TVRtNzJXV1Brb3ZhYmJJAAIEZ23sUwMEmm3sUw==","expire_seconds":60,"url":"http:\/\/weixin.qq.com\/q\/kZgfwMTm72WWPkovabbI"}"#;

    fn read(body: &str) -> Option<(String, Option<u64>)> {
        let created = Created::read(StatusCode::OK, &HeaderMap::new(), body.as_bytes())?;
        Some((created.ticket.canonical().to_owned(), created.lifetime.map(|lifetime| lifetime.as_secs())))
    }

    #[expect(clippy::unnecessary_wraps, reason = "what reading comes to")]
    fn some(ticket: &str, seconds: Option<u64>) -> Option<(String, Option<u64>)> {
        Some((ticket.to_owned(), seconds))
    }

    #[test]
    fn the_answer_of_the_documentation_is_read() {
        let ticket = "gQH47joAAAAAAAAAASxodHRwOi8vd2VpeGluLnFxLmNvbS9xL2taZ2Z3TVRtNzJXV1Brb3ZhYmJJAAIEZ23sUwMEmm3sUw==";
        assert_eq!(read(SAMPLE), some(ticket, Some(60)));
    }

    #[test]
    fn what_may_vary_may() {
        for (body, expected) in [
            (r#"{"ticket":"a\/b==","url":"x"}"#, some("a/b==", None)),
            (r#"{"ticket":"\u0061b","expire_seconds":"1800"}"#, some("ab", Some(1800))),
            (r#"{"ticket":"ab","expire_seconds":0}"#, some("ab", None)),
            (r#"{"ticket":"ab","expire_seconds":null}"#, some("ab", None)),
            (r#"{"ticket":"ab","expire_seconds":-1}"#, some("ab", None)),
            (r#"{"ticket":"ab","expire_seconds":1e99}"#, some("ab", None)),
            (r#" {"new":[{"x":1}],"errcode":0,"errmsg":"ok","ticket":"ab","expire_seconds":2592000} "#, {
                some("ab", Some(2_592_000))
            }),
        ] {
            assert_eq!(read(body), expected, "{body}");
        }
    }

    #[test]
    fn anything_else_teaches_nothing() {
        for body in [
            "",
            "null",
            "[]",
            "\"ticket\"",
            "{}",
            r#"{"errcode":40013,"errmsg":"invalid appid"}"#,
            r#"{"errcode":-1,"ticket":"ab"}"#,
            r#"{"errcode":"45009","ticket":"ab"}"#,
            r#"{"ticket":""}"#,
            r#"{"ticket":5}"#,
            r#"{"ticket":"a\u0000b"}"#,
            r#"{"ticket":"ab""#,
            "<html>",
        ] {
            assert_eq!(read(body), None, "{body}");
        }
        assert_eq!(Created::read(StatusCode::BAD_GATEWAY, &HeaderMap::new(), SAMPLE.as_bytes()), None);
        assert_eq!(Created::read(StatusCode::OK, &HeaderMap::new(), &vec![b'['; 65536]), None, "deep nesting");
    }

    fn encoded(coding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(coding))])
    }

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(body).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn what_was_compressed_is_read_within_the_bound() {
        let read = |coding, body: &[u8]| Created::read(StatusCode::OK, &encoded(coding), body);
        assert_eq!(read("gzip", &gzip(SAMPLE.as_bytes())), read("identity", SAMPLE.as_bytes()));
        assert!(read("identity", SAMPLE.as_bytes()).is_some());
        assert_eq!(read("GZIP ", &gzip(SAMPLE.as_bytes())), read("identity", SAMPLE.as_bytes()));
        let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        deflated.write_all(SAMPLE.as_bytes()).unwrap();
        assert_eq!(read("deflate", &deflated.finish().unwrap()), read("identity", SAMPLE.as_bytes()));
        assert_eq!(read("br", SAMPLE.as_bytes()), None);
        let is_coded = |coding| Created::is_coded(StatusCode::OK, &encoded(coding));
        assert!(is_coded("br") && !is_coded("Gzip") && !Created::is_coded(StatusCode::OK, &HeaderMap::new()));
        let bomb = gzip(&[&vec![b' '; 10 << 20], SAMPLE.as_bytes()].concat());
        assert!(bomb.len() < 64 * 1024);
        assert_eq!(read("gzip", &bomb), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Created::read(StatusCode::OK, &HeaderMap::new(), &bytes);
            let _ = Created::read(StatusCode::OK, &encoded("gzip"), &bytes);
        }

        #[test]
        fn a_damaged_answer_makes_no_panic_either(at in 0..SAMPLE.len(), byte: u8) {
            let mut bytes = SAMPLE.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = Created::read(StatusCode::OK, &HeaderMap::new(), &bytes);
            let _ = Created::read(StatusCode::OK, &HeaderMap::new(), &bytes[..at]);
        }

        #[test]
        fn what_wechat_sends_is_read(
            ticket in "[A-Za-z0-9/+_-]{1,94}={0,2}",
            seconds in prop::option::of(1u64..=31_536_000),
            quoted: bool,
            escaped: bool,
        ) {
            let letters = if escaped { ticket.replace('/', "\\/").replace('+', "\\u002b") } else { ticket.clone() };
            let quote = if quoted { "\"" } else { "" };
            let life = seconds.map_or_else(String::new, |n| format!(",\"expire_seconds\":{quote}{n}{quote}"));
            let body = format!("{{\"ticket\":\"{letters}\"{life},\"url\":\"http:\\/\\/weixin.qq.com\\/q\\/x\"}}");
            let canonical = Ticket::from_text(&ticket).unwrap();
            prop_assert_eq!(read(&body), some(canonical.canonical(), seconds));
        }
    }
}
