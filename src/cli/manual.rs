//! What shells and readers are told of the commands, from clap's own description of them: `completions` and `man`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory as _};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use super::{Arguments, fail};

pub(super) const COMPLETIONS: &str = "\
Examples:
  ticketgate completions bash > /etc/bash_completion.d/ticketgate
  ticketgate completions zsh > /usr/local/share/zsh/site-functions/_ticketgate
  ticketgate completions fish > ~/.config/fish/completions/ticketgate.fish";

pub(super) const MAN: &str = "\
Examples:
  ticketgate man > /usr/local/share/man/man1/ticketgate.1
  ticketgate man | man -l -";

/// For which shell.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    /// Prints them.
    pub(super) fn run(&self) -> ExitCode {
        let mut text = Vec::new();
        generate(self.shell, &mut Arguments::command(), "ticketgate", &mut text);
        print(&text)
    }
}

/// Prints the manual page.
pub(super) fn man() -> ExitCode {
    match page() {
        Ok(page) => print(&page),
        Err(error) => fail(format_args!("the manual page cannot be written: {error}")),
    }
}

/// All commands on one page, since one program is installed.
fn page() -> io::Result<Vec<u8>> {
    let mut whole = Arguments::command();
    whole.build();
    let man = Man::new(whole.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for command in whole.get_subcommands().filter(|command| command.get_name() != "help") {
        section(&mut page, command)?;
    }
    writeln!(page, ".SH NOTES")?;
    examples(&mut page, &whole)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// A command: its own sections a level below.
fn section(page: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    writeln!(page, ".SS ticketgate {}", command.get_name())?;
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    writeln!(page, "{}", literal(&about))?;
    let man = Man::new(command.clone());
    let mut parts = Vec::new();
    man.render_synopsis_section(&mut parts)?;
    man.render_options_section(&mut parts)?;
    for line in String::from_utf8_lossy(&parts).lines() {
        match line.strip_prefix(".SH ") {
            Some(name) => writeln!(page, ".PP\n\\fI{name}\\fR\n.br")?,
            None => writeln!(page, "{line}")?,
        }
    }
    writeln!(page, ".PP")?;
    examples(page, command)
}

/// What stands below the help, line by line as it is written.
fn examples(page: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    let Some(text) = command.get_after_help() else { return Ok(()) };
    writeln!(page, ".nf")?;
    for line in text.to_string().lines() {
        writeln!(page, "{}", literal(line))?;
    }
    writeln!(page, ".fi")
}

/// Text that roff takes for nothing else.
fn literal(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

/// Whoever stops reading has enough; whoever has no room is told.
fn print(text: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(format_args!("standard output: {error}")),
        _ => ExitCode::SUCCESS,
    }
}
