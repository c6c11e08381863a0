//! `admin.token`: what an operator shows to be let in from elsewhere. A server keeps only its digest, so that it cannot be printed;
//! digests are compared, so that the time a comparison takes says nothing about the token.

use std::fmt;
use std::path::{Path, PathBuf};

use http::HeaderValue;
use sha2::{Digest, Sha256};

/// Bytes of a token.
const LONGEST: usize = 512;

/// More than a file with a token has.
const LONGEST_FILE: u64 = 4096;

/// What a text or a file is told that holds none.
pub const NO_TOKEN: &str = "holds no token of 1 to 512 visible ASCII characters";

/// How a token stands in `Authorization` (RFC 6750 §2.1).
const SCHEME: &str = "Bearer ";

/// A token that is known and cannot be told.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

/// A token that stands in a file of its own (`admin.token_file`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFile {
    /// The file.
    pub path: PathBuf,
    /// What it held when it was read.
    pub token: Token,
}

/// A token as it is shown to a running server, by the commands that ask one. It says nothing of itself in `Debug`.
#[derive(Debug, Clone)]
pub struct Credential(HeaderValue);

impl Token {
    /// The token that `text` is; `None` for what cannot stand in a header field: it must be 1 to 512 visible ASCII characters.
    pub fn of(text: &str) -> Option<Self> {
        let fits = (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self::digest(text.as_bytes()))
    }

    /// Whether it is what was `shown`.
    pub fn is(&self, shown: &[u8]) -> bool {
        *self == Self::digest(shown)
    }

    fn digest(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl TokenFile {
    /// Reads `path`; white space around the token is dropped, since editors end files with a line break.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = read_text(path)?;
        let token = Token::of(text.trim()).ok_or(NO_TOKEN)?;
        Ok(Self { path: path.to_owned(), token })
    }
}

impl Credential {
    /// What shows the token that `text` is; `None` where [`Token::of`] sees none.
    pub fn of(text: &str) -> Option<Self> {
        Token::of(text)?;
        let mut value = HeaderValue::try_from(format!("{SCHEME}{text}")).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// The same of the token in the file `path`; white space around it is dropped.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::of(read_text(path)?.trim()).ok_or_else(|| NO_TOKEN.to_owned())
    }

    /// The field `Authorization`, for whom it is meant.
    pub fn authorization(&self) -> HeaderValue {
        self.0.clone()
    }

    /// `text` without the token, should it be in there: others may repeat what they were sent.
    pub fn masked(&self, text: &str) -> String {
        let token = self.0.to_str().ok().and_then(|value| value.strip_prefix(SCHEME));
        token.map_or_else(String::new, |token| text.replace(token, "***"))
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(LONGEST_FILE).read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_shown_to_whom_it_is_meant_for_alone() {
        let credential = Credential::of("s3cret").unwrap();
        assert_eq!(credential.authorization(), "Bearer s3cret");
        assert!(credential.authorization().is_sensitive());
        assert!(!format!("{credential:?}").contains("s3cret"));
        assert_eq!(credential.masked("no s3cret here: Bearer s3cret"), "no *** here: Bearer ***");
        assert!(Credential::of("two words").is_none() && Credential::of("").is_none());
    }

    #[test]
    fn a_token_is_itself_alone_and_is_never_told() {
        let token = Token::of("s3cret").unwrap();
        assert!(token.is(b"s3cret"));
        for other in ["", "s3cre", "s3cret ", "S3cret", "s3cretx"] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
        assert_eq!(format!("{token:?}"), "Token");
        assert!(
            [Token::of(""), Token::of("a b"), Token::of("\u{e9}"), Token::of(&"x".repeat(513))]
                .iter()
                .all(Option::is_none)
        );
    }
}
