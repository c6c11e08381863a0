//! `[admin]`.

use std::net::{Ipv4Addr, SocketAddr};

use super::token::{Token, TokenFile};

/// The operator's listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `listen`: where; `None` is off.
    pub listen: Option<SocketAddr>,
    /// `token`: what is needed off loopback, and wherever it is set.
    pub token: Option<Token>,
    /// `token_file`: the same, in a file of its own.
    pub token_file: Option<TokenFile>,
    /// `allow_hosts`: names that `Host` may have besides loopback names and addresses.
    pub allow_hosts: Vec<String>,
}

impl Config {
    /// The token, wherever it stands.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref().or(self.token_file.as_ref().map(|file| &file.token))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Some((Ipv4Addr::LOCALHOST, 9180).into()),
            token: None,
            token_file: None,
            allow_hosts: Vec::new(),
        }
    }
}
