//! `admin.token`: what an operator shows to be let in from elsewhere. Only its digest is kept, so that it cannot be printed;
//! digests are compared, so that the time a comparison takes says nothing about the token.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Bytes of a token.
const LONGEST: usize = 512;

/// More than a file with a token has.
const LONGEST_FILE: u64 = 4096;

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
        use std::io::Read as _;
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
        file.take(LONGEST_FILE).read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
        let token = Token::of(text.trim()).ok_or("holds no token of 1 to 512 visible ASCII characters")?;
        Ok(Self { path: path.to_owned(), token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
