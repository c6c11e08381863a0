//! stub
#![allow(missing_docs)]
#[derive(Debug, Clone)]
pub struct Config {
    pub server: crate::server::Config,
    pub routes: crate::route::Config,
    pub clients: crate::limit::ClientConfig,
    pub limits: crate::limit::Config,
    pub origin: crate::origin::Config,
    pub forward: crate::forward::Config,
    pub cache: crate::cache::Config,
    pub tickets: crate::ticket::Config,
    pub cors: crate::respond::CorsConfig,
    pub admin: crate::admin::Config,
    pub log: crate::log::Config,
}
