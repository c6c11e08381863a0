//! Values as they are shown to the operator: in the words in which a file would give them, as JSON. What is secret is
//! masked. Two configurations differ where what they show differs, which is how a reload knows what it changes.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Uri};
use serde_json::{Value, json};
use tracing::Level;

use crate::admin::token::{Token, TokenFile};
use crate::cache::pass_headers::PassHeaders;
use crate::limit::{ClientHeader, Policy, TellBudget, Trusted};
use crate::log::{ClientShown, Format};
use crate::relay::config::{Forwarded, Host};
use crate::ticket::{Allow, Expired};

/// Stands for what is secret.
pub const MASK: &str = "***";

/// A value that can be shown.
pub trait Show {
    /// As a file would give it.
    fn show(&self) -> Value;
}

impl Show for bool {
    fn show(&self) -> Value {
        json!(self)
    }
}

/// A count.
impl Show for usize {
    fn show(&self) -> Value {
        json!(self)
    }
}

/// A number of bytes.
impl Show for u64 {
    fn show(&self) -> Value {
        json!(self)
    }
}

/// A share.
impl Show for f64 {
    fn show(&self) -> Value {
        json!(self)
    }
}

impl Show for Duration {
    fn show(&self) -> Value {
        json!(humantime::format_duration(*self).to_string())
    }
}

/// An address; none is off.
impl Show for Option<SocketAddr> {
    fn show(&self) -> Value {
        json!(self.map_or_else(|| "off".to_owned(), |address| address.to_string()))
    }
}

impl Show for Uri {
    fn show(&self) -> Value {
        json!(self.to_string())
    }
}

impl Show for Option<Uri> {
    fn show(&self) -> Value {
        or_empty(self.as_ref())
    }
}

impl Show for Option<String> {
    fn show(&self) -> Value {
        or_empty(self.as_ref())
    }
}

/// A file.
impl Show for Option<PathBuf> {
    fn show(&self) -> Value {
        or_empty(self.as_ref().map(|path| path.display()))
    }
}

/// That there is one is all that is told.
impl Show for Option<Token> {
    fn show(&self) -> Value {
        json!(if self.is_some() { MASK } else { "" })
    }
}

impl Show for Option<TokenFile> {
    fn show(&self) -> Value {
        or_empty(self.as_ref().map(|file| file.path.display()))
    }
}

impl Show for Vec<String> {
    fn show(&self) -> Value {
        json!(self)
    }
}

impl Show for Vec<Trusted> {
    fn show(&self) -> Value {
        json!(self.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

impl Show for PassHeaders {
    fn show(&self) -> Value {
        match self {
            Self::All => json!(["*"]),
            Self::Listed(names) => json!(names.iter().map(HeaderName::as_str).collect::<Vec<_>>()),
        }
    }
}

/// A budget; none is off.
impl Show for Option<Policy> {
    fn show(&self) -> Value {
        self.map_or(
            json!("off"),
            |Policy { rate, burst, wait }| json!({ "rate": rate, "burst": burst, "wait": wait.show() }),
        )
    }
}

/// A host of the API.
impl Show for Host {
    fn show(&self) -> Value {
        self.url().show()
    }
}

impl Show for Vec<Host> {
    fn show(&self) -> Value {
        json!(self.iter().map(Show::show).collect::<Vec<_>>())
    }
}

impl Show for Forwarded {
    fn show(&self) -> Value {
        json!(match self {
            Self::Create => "create",
            Self::All => "all",
        })
    }
}

impl Show for ClientHeader {
    fn show(&self) -> Value {
        json!(match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        })
    }
}

impl Show for Expired {
    fn show(&self) -> Value {
        json!(match self {
            Self::Ask => "ask",
            Self::Gone => "gone",
        })
    }
}

impl Show for Allow {
    fn show(&self) -> Value {
        json!(match self {
            Self::Any => "any",
            Self::Own => "own",
        })
    }
}

impl Show for TellBudget {
    fn show(&self) -> Value {
        json!(match self {
            Self::Refusals => "refusals",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

impl Show for Format {
    fn show(&self) -> Value {
        json!(match self {
            Self::Auto => "auto",
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

impl Show for ClientShown {
    fn show(&self) -> Value {
        json!(match self {
            Self::Full => "full",
            Self::Anonymised => "anonymised",
            Self::Off => "off",
        })
    }
}

impl Show for Level {
    fn show(&self) -> Value {
        json!(self.as_str().to_ascii_lowercase())
    }
}

/// `""` says that there is none.
fn or_empty(value: Option<impl Display>) -> Value {
    json!(value.map(|value| value.to_string()).unwrap_or_default())
}
