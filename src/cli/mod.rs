//! The command line (S40): reads the arguments and runs one command. Exit codes: 0 when all went well, 2 for bad usage or a
//! bad configuration, 1 for everything else.

mod check;
mod demo;
mod fetch;
mod health;
mod inspect;
mod listed;
mod manual;
mod operator;
mod progress;
mod purge;
mod register;
mod serve;
mod signals;
mod succession;
mod warm;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{CONFIG_VARIABLE, Config, Flag, Loaded, Mistakes, Sources};

/// A mistake in the arguments or in the configuration; clap exits with the same.
const BAD_USAGE: u8 = 2;

const AFTER_HELP: &str = "\
Examples:
  ticketgate demo                                     see it work, nothing else needed
  ticketgate --app http://127.0.0.1:3000              in front of an app, images from WeChat
  ticketgate --relay-listen 127.0.0.1:9181            and learn tickets from the app's calls of WeChat's API
  ticketgate --config /etc/ticketgate/ticketgate.toml
  ticketgate check                                    is the configuration valid?
  ticketgate inspect TICKET                           what does a ticket say?
  ticketgate inspect --fetch TICKET                   and what does WeChat really send for it?
  ticketgate health                                   is the server that runs here ready?
  ticketgate register tickets.txt                     make tickets the own ones of the server that runs here
  ticketgate warm tickets.txt                         have it fetch images before somebody asks
  ticketgate purge TICKET                             have it forget one
  ticketgate completions bash                         for your shell
  ticketgate man | man -l -                           all of this to read

Then let pages write <img src=\"/cgi-bin/showqrcode?ticket=TICKET\">.

Signals: SIGTERM and SIGINT drain, SIGHUP reloads the configuration, SIGUSR2 lets a successor take over the listeners.
Configuration: flags over environment (TICKETGATE_<SECTION>_<KEY>) over a TOML file (--config FILE, else
./ticketgate.toml, else /etc/ticketgate/ticketgate.toml) over defaults.
Exit codes: 0 after a clean end, 2 for bad usage or configuration, 1 otherwise.";

/// A caching HTTP proxy for WeChat QR code images: point <img> tags at it, put it in front of your app.
#[derive(Debug, Parser)]
#[command(name = "ticketgate", version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves images, and everything else from the app (also without a command).
    #[command(after_help = "Example: ticketgate serve --listen 0.0.0.0:8080 --app http://127.0.0.1:3000")]
    Serve(Options),
    /// Shows it at work on a built-in stand-in for WeChat: prints the address of a page to open.
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Show),
    /// Says whether the configuration is valid, without starting anything.
    #[command(after_help = "Example: ticketgate check --config ticketgate.toml && systemctl restart ticketgate")]
    Check(Options),
    /// Says what a ticket contains: its url, creation and expiry, and what had to be mended. With --fetch also what the
    /// origin really sends for it.
    #[command(after_help = inspect::EXAMPLES)]
    Inspect(inspect::Inspect),
    /// Asks a running server whether it is ready: one line and an exit code, for probes.
    #[command(after_help = health::EXAMPLES)]
    Health(health::Health),
    /// Has a running server fetch images before somebody asks for them: a ticket a line.
    #[command(after_help = warm::EXAMPLES)]
    Warm(warm::Warm),
    /// Has a running server forget images, so that they are fetched anew.
    #[command(after_help = purge::EXAMPLES)]
    Purge(purge::Purge),
    /// Makes tickets that were minted before a running server's own: it serves them when it serves no others.
    #[command(after_help = register::EXAMPLES)]
    Register(register::Register),
    /// Prints what lets a shell complete these commands.
    #[command(after_help = manual::COMPLETIONS)]
    Completions(manual::Completions),
    /// Prints the manual page.
    #[command(after_help = manual::MAN)]
    Man,
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
struct Options {
    #[arg(long, value_name = "FILE", help = "The configuration file; also TICKETGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Where everybody is served [default: 127.0.0.1:8080; port 0 picks a free one].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The app behind us, http or https, for all other paths [default: none; they are 404].
    #[arg(long, value_name = "URL")]
    app: Option<String>,
    #[arg(long, value_name = "URL", help = "Who is asked for images [default: https://mp.weixin.qq.com]")]
    origin: Option<String>,
    /// Where the operator is served, or "off" [default: 127.0.0.1:9180].
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Where the app makes its calls of WeChat's API, from which tickets are learned [default: off].
    #[arg(long, value_name = "ADDRESS")]
    relay_listen: Option<String>,
}

impl Options {
    /// Flags may stand before the command or behind it; behind it they win.
    fn or(self, before: Self) -> Self {
        Self {
            config: self.config.or(before.config),
            listen: self.listen.or(before.listen),
            app: self.app.or(before.app),
            origin: self.origin.or(before.origin),
            admin_listen: self.admin_listen.or(before.admin_listen),
            relay_listen: self.relay_listen.or(before.relay_listen),
        }
    }

    fn load(self, environment: Vec<(String, String)>) -> Result<Loaded, Mistakes> {
        Config::load(self.sources(environment))
    }

    fn sources(self, environment: Vec<(String, String)>) -> Sources {
        let named = environment.iter().find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty());
        let file = self.config.clone().or_else(|| named.map(|(_, path)| PathBuf::from(path)));
        Sources { file, look_around: true, environment, flags: self.flags() }
    }

    fn flags(self) -> Vec<Flag> {
        let given = [
            ("--listen", "listen", self.listen),
            ("--app", "app", self.app),
            ("--origin", "origin.url", self.origin),
            ("--admin-listen", "admin.listen", self.admin_listen),
            ("--relay-listen", "relay.listen", self.relay_listen),
        ];
        let flag = |(name, key, value): (_, _, Option<String>)| value.map(|value| Flag { name, key, value });
        given.into_iter().filter_map(flag).collect()
    }
}

/// Runs the command that `arguments` name, to its end.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let Arguments { command, options } = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too, with code 0 and on standard output.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(BAD_USAGE));
        }
    };
    // What is no UTF-8 stays, garbled, so that it is told as a mistake rather than overlooked.
    let readable =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.to_string_lossy().into()));
    let environment: Vec<_> = environment.into_iter().filter_map(readable).collect();
    match command.unwrap_or(Command::Serve(Options::default())) {
        Command::Serve(behind) => serve::serve(behind.or(options).sources(environment)),
        Command::Check(behind) => check::check(behind.or(options).load(environment)),
        Command::Demo(_) | Command::Completions(_) | Command::Man if options != Options::default() => {
            complain("this command takes none of the flags that stand before it; see its --help");
            ExitCode::from(BAD_USAGE)
        }
        Command::Health(health) => health.run(&options, &environment),
        Command::Warm(warm) => warm.run(&options, &environment),
        Command::Purge(purge) => purge.run(&options, &environment),
        Command::Register(register) => register.run(&options, &environment),
        Command::Demo(show) => show.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man => manual::man(),
        Command::Inspect(inspect) => inspect.run(options, environment),
    }
}

/// Says `text` on standard output. Somebody who stops listening (a closed pipe) is no failure of ours.
fn say(text: impl AsRef<str>) {
    let _ = writeln!(io::stdout().lock(), "{}", text.as_ref());
}

/// Says what went wrong on standard error.
fn complain(error: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "ticketgate: {error}");
}

/// Says what went wrong, and ends with 1.
fn fail(error: impl std::fmt::Display) -> ExitCode {
    complain(error);
    ExitCode::FAILURE
}

/// Tells every mistake in a configuration.
fn refuse(mistakes: &Mistakes) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "{mistakes}");
    ExitCode::from(BAD_USAGE)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;

    /// The commands that code in `text` names, in blocks and between words.
    fn named(text: &str) -> BTreeSet<&str> {
        let code = text.split('`').skip(1).step_by(2);
        let calls = code.flat_map(|code| code.split("ticketgate ").skip(1));
        let words = calls.map(|call| call.split(|other: char| !other.is_ascii_lowercase()).next().unwrap_or_default());
        words.filter(|word| !word.is_empty()).collect()
    }

    #[test]
    fn both_readmes_name_every_command_and_no_other() {
        let arguments = Arguments::command();
        let commands: BTreeSet<_> = arguments.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(named(include_str!("../../README.md")), commands);
        assert_eq!(named(include_str!("../../README.zh-CN.md")), commands);
    }
}
