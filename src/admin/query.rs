//! The parameters of calls that look: known ones only, each once, percent-encoded and never form-encoded.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::call::BadCall;

/// Reads `query` as parameters of `known` names; those that are missing are `None`.
pub fn parameters<'a, const N: usize>(
    query: Option<&'a str>,
    known: [&'static str; N],
) -> Result<[Option<Cow<'a, str>>; N], BadCall> {
    let mut found = [const { None }; N];
    for parameter in query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let place = known.iter().position(|known| *known == name).ok_or(BadCall::Unknown(known.to_vec()))?;
        let value = percent_decode_str(value).decode_utf8().map_err(|_| BadCall::Senseless(NOT_TEXT))?;
        if found[place].replace(value).is_some() {
            return Err(BadCall::Senseless(TWICE));
        }
    }
    Ok(found)
}

const NOT_TEXT: &str = "a parameter is no text in UTF-8; percent-encode it once";
const TWICE: &str = "a parameter is there twice";

/// Reads a number from 0.
pub fn number(text: &str) -> Result<u64, BadCall> {
    text.parse().map_err(|_| BadCall::Senseless("`after` and `limit` are numbers"))
}
