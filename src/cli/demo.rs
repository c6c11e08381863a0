//! `ticketgate demo` (S41): the main job on the built-in stand-in.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use tracing::Level;

use super::serve::exit_code;
use super::signals::End;
use super::{fail, say};
use crate::app::Surroundings;
use crate::demo::Demo;
use crate::log;

pub(super) const EXAMPLES: &str = "\
Example: ticketgate demo --listen 127.0.0.1:0\n\nConfiguration files and TICKETGATE_ variables play no part here.";

/// Where to show it.
#[derive(Debug, Args)]
pub(super) struct Show {
    /// Where the page is served; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

impl Show {
    /// Shows the demo until `SIGTERM` or `SIGINT`.
    pub(super) fn run(&self) -> ExitCode {
        // The page shows what happens; lines for each request would only run over its address.
        let log = log::init(&log::Config { access: false, level: Level::WARN, ..log::Config::default() });
        let surroundings = Surroundings { log: log.control(), ..Surroundings::default() };
        let demo = match Demo::start(self.listen, surroundings) {
            Ok(demo) => demo,
            Err(error) => return fail(format_args!("{error}; --listen 127.0.0.1:0 picks a free port")),
        };
        let end = match demo.running().wait_for(async { End::catch() }) {
            Ok(end) => end,
            Err(error) => return fail(format_args!("cannot wait for signals: {error}")),
        };
        say(introduction(&demo));
        end.heed(demo.running());
        exit_code(demo.finish())
    }
}

fn introduction(demo: &Demo) -> String {
    format!(
        "\n  ticketgate demo: the real proxy before a built-in stand-in for WeChat\n\n  \
         open      {}\n  \
         or twice  curl -si '{}' | head -n 13\n            \
         (a miss, then a hit)\n  \
         status    http://{}/\n            \
         (what an operator sees)\n  \
         your own  TICKETGATE_ORIGIN_URL=http://{stand_in} TICKETGATE_RELAY_URL=http://{stand_in} \
         {program} --listen 127.0.0.1:0 --config FILE\n            \
         (a configuration of yours before the stand-in, as long as this runs; the flag's free port instead of its own)\n  \
         end       Ctrl-C\n",
        demo.url(),
        demo.image_url(),
        demo.running().addresses().admin.expect("the demo lets an operator look"),
        stand_in = demo.stand_in(),
        // As it was called: it may not be on the path.
        program = std::env::args_os().next().unwrap_or_else(|| "ticketgate".into()).display(),
    )
}
