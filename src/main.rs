//! `ticketgate`, the command: see [`ticketgate::cli`].

use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ticketgate::cli::run(std::env::args_os(), std::env::vars_os())
}
