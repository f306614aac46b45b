//! The program: parses the command line, runs what it asks for and turns an error into one line and an exit status.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use cogvideox_server::cli::{Cli, Stdio};

/// The error and its causes, none of them twice: many a message says its cause already.
fn one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match line.as_str() {
        "" => cause,
        said if said.contains(&cause) => line,
        said => format!("{said}: {cause}"),
    })
}

fn main() -> ExitCode {
    let stdio = Stdio { stdin: std::io::stdin().lock(), stdout: std::io::stdout().lock() };
    match Cli::parse().run(std::env::vars_os(), stdio) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done about a closed stderr; the exit status still tells.
            let _ = writeln!(std::io::stderr(), "error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}
