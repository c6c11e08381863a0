//! Which paths are images.

/// What routes are told apart by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `paths`: the image paths, compared byte for byte.
    pub paths: Vec<String>,
    /// `health_path`: answers 200 `ok` to load balancers; `None` when empty.
    pub health_path: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { paths: vec!["/cgi-bin/showqrcode".to_owned()], health_path: None }
    }
}
