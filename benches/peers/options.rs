//! What both harnesses can be told, in the same words.

use std::path::{Path, PathBuf};

/// What a harness of ours can be told.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Writes the tables and figures into docs/
    #[arg(long)]
    write: bool,
    /// Stands in the written tables, such as "a busy machine"
    #[arg(long, value_name = "WORDS")]
    pub note: Option<String>,
    /// The ticketgate to try [default: this source, built for release]
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Said by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Where tables and figures go: they are written in any case, or nobody knew that they can be.
    pub fn destination(&self, otherwise: &Path) -> PathBuf {
        if self.write { Path::new(env!("CARGO_MANIFEST_DIR")).join("docs") } else { otherwise.to_owned() }
    }
}
