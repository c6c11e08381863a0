//! Configuration (S37): flags over environment over a TOML file over defaults. Each component owns what it needs and its
//! defaults; `keys` says which key fills which, `settings` where values come from, `kind` what they may look like.
//! All mistakes are found in one pass and told together (`mistake`).

mod conflicts;
mod keys;
mod kind;
mod mistake;
mod secret;
mod settings;
mod show;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use mistake::{Mistake, Mistakes};
use settings::Settings;
pub use settings::{CONFIG_VARIABLE, Flag, PREDECESSOR_VARIABLE, Sources};
pub use show::Show;

use crate::admin::token::{Credential, NO_TOKEN};

/// Everything that can be configured. [`crate::app`] alone reads the whole of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// The public listener.
    pub server: crate::server::Config,
    /// Which paths are images.
    pub routes: crate::route::Config,
    /// How clients are told apart.
    pub clients: crate::limit::ClientConfig,
    /// Budgets.
    pub limits: crate::limit::Config,
    /// Who is asked for images.
    pub origin: crate::origin::Config,
    /// The app behind us.
    pub forward: crate::forward::Config,
    /// What is kept.
    pub cache: crate::cache::Config,
    /// How tickets are treated.
    pub tickets: crate::ticket::Config,
    /// Whose scripts may read.
    pub cors: crate::respond::CorsConfig,
    /// The operator's listener.
    pub admin: crate::admin::Config,
    /// The app's calls of WeChat's API.
    pub relay: crate::relay::Config,
    /// What is logged.
    pub log: crate::log::Config,
    /// Where traces go.
    pub trace: crate::trace::Config,
}

/// Every key and its value, as a file would give it.
pub type Shown = BTreeMap<&'static str, serde_json::Value>;

/// A configuration, and the file it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// The file; `None` when there is none.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Reads the configuration from `sources`. Fails with every mistake there is, not with the first.
    pub fn load(sources: Sources) -> Result<Loaded, Mistakes> {
        let mut settings = Settings::open(sources);
        let mut config = Self::default();
        keys::read(&mut settings, &mut config);
        conflicts::find(&mut settings, &config);
        let file = settings.file().cloned();
        settings.finish().map(|()| Loaded { config, file })
    }

    /// Whether images of own tickets have a store of their own (S18): where the relay learns tickets, or a file keeps them.
    pub fn expects_own_tickets(&self) -> bool {
        self.relay.listen.is_some() || self.tickets.store.is_some()
    }

    /// Whether its values agree with each other, whatever they come from. Looks at the files that it names.
    pub fn agrees(&self) -> Result<(), Mistakes> {
        let mut settings = Settings::open(Sources::default());
        keys::read(&mut settings, &mut self.clone());
        conflicts::find(&mut settings, self);
        settings.finish()
    }

    /// What to show to the server that `sources` configure, when they give it a token. A text that is no token is told as
    /// such, with the source that a file would name. A running server keeps only a digest, hence this reading of its own.
    pub fn credential(sources: Sources) -> Result<Option<Credential>, String> {
        let mut settings = Settings::open(sources);
        if let Some(text) = settings.text("admin.token") {
            return Credential::of(&text)
                .map(Some)
                .ok_or_else(|| format!("admin.token (TICKETGATE_ADMIN_TOKEN) {NO_TOKEN}"));
        }
        let file = settings.text("admin.token_file").map(PathBuf::from);
        let read = |path: PathBuf| {
            Credential::read(&path).map_err(|why| format!("admin.token_file {}: {why}", path.display()))
        };
        file.map(read).transpose()
    }

    /// Every key with its value in this configuration, secrets masked.
    pub fn shown(&self) -> Shown {
        let mut settings = Settings::open(Sources::default());
        keys::read(&mut settings, &mut self.clone());
        settings.into_shown()
    }

    /// The keys whose values differ in `other`.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let (one, two) = (self.shown(), other.shown());
        let is_other = |(key, value): &(&str, serde_json::Value)| match *key {
            // What is not shown.
            "admin.token" => self.admin.token != other.admin.token,
            "admin.token_file" => self.admin.token_file != other.admin.token_file,
            key => two.get(key) != Some(value),
        };
        one.into_iter().filter(is_other).map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests;
