//! `ticketgate purge`: has a running server forget what it holds.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::operator::{BATCH, Operator, Trouble, Whom, wait_for};
use super::{Options, fail, say};
use crate::ticket::Ticket;

pub(super) const EXAMPLES: &str = "\
Examples:
  ticketgate purge TICKET                                 the next who asks for it has it fetched anew
  ticketgate purge --all --admin 127.0.0.1:9180
  TICKETGATE_ADMIN_TOKEN=… ticketgate purge --all         where the server wants its token

A fill that is under way is shown to those who wait for it and not stored; what is registered stays.
Exits 0 when it is done, 1 when not, 2 for bad usage or configuration.";

/// What is forgotten, and by whom.
#[derive(Debug, Args)]
pub(super) struct Purge {
    /// Tickets as they stand in pages, mangled or not, or URLs that contain them.
    #[arg(value_name = "TICKET", required_unless_present = "all", conflicts_with = "all")]
    tickets: Vec<String>,
    /// Everything that the cache holds.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    whom: Whom,
}

impl Purge {
    /// Purges. `before` are the flags that stand before the command.
    pub(super) fn run(&self, before: &Options, environment: &[(String, String)]) -> ExitCode {
        let tickets = match encoded(&self.tickets) {
            Ok(tickets) => tickets,
            Err(bad) => return fail(format_args!("{bad}; nothing was purged")),
        };
        let operator = match self.whom.operator(before, environment) {
            Ok(operator) => operator,
            Err(refused) => return refused,
        };
        match wait_for(purged(&operator, &tickets, self.all)) {
            Ok(held) if self.all => say(format!("purged everything; {held} were held")),
            Ok(held) => say(format!("purged; {held} of {} were held", tickets.len())),
            Err(trouble) => return fail(format_args!("{operator}/purge: {trouble}")),
        }
        ExitCode::SUCCESS
    }
}

/// As they can stand in a call, or what is wrong with the first that is none.
fn encoded(texts: &[String]) -> Result<Vec<String>, String> {
    let read = |(number, text): (usize, &String)| match Ticket::find(text) {
        Ok(ticket) => Ok(ticket.encoded()),
        Err(bad) if texts.len() == 1 => Err(bad.to_string()),
        Err(bad) => Err(format!("ticket {}: {bad}", number + 1)),
    };
    texts.iter().enumerate().map(read).collect()
}

/// Of how many something was held.
async fn purged(operator: &Operator, tickets: &[String], all: bool) -> Result<u64, Trouble> {
    if all {
        return ask(operator, &json!({ "all": true })).await;
    }
    let mut held = 0;
    for batch in tickets.chunks(BATCH) {
        held += ask(operator, &json!({ "tickets": batch })).await?;
    }
    Ok(held)
}

async fn ask(operator: &Operator, body: &Value) -> Result<u64, Trouble> {
    let answer = operator.call("/purge", body).await?;
    answer["purged"].as_u64().ok_or(Trouble::Stranger(None))
}
