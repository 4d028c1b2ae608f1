//! How the program speaks: errors on stderr as what, where, expected, next; exit codes 0 done,
//! 1 failed, 2 the command line, a configuration or a file is wrong, 3 problems were found.

use std::{io::Write, process::ExitCode};

/// A command that did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// Exit code 1.
    Failed(String),
    /// Exit code 2.
    Wrong(String),
    /// Exit code 3: so many problems were found, and told already.
    Found(usize),
}

/// Writes to standard output. A reader that went away is no error of ours.
pub(super) fn out(text: &str) {
    let mut stdout = anstream::stdout();
    drop(
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush()),
    );
}

/// Writes to standard error.
pub(super) fn err(text: &str) {
    drop(anstream::stderr().write_all(text.as_bytes()));
}

/// Reports a failure.
pub(super) fn fail(failure: &Failure) -> ExitCode {
    let (text, code) = match failure {
        Failure::Failed(text) => (text.clone(), 1),
        Failure::Wrong(text) => (text.clone(), 2),
        Failure::Found(1) => ("1 problem".to_owned(), 3),
        Failure::Found(n) => (format!("{n} problems"), 3),
    };
    for line in text.trim_end().lines() {
        err(&format!("{line}\n"));
    }
    ExitCode::from(code)
}

/// Reports what clap found: help and version are no errors.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    drop(error.print());
    if error.use_stderr() {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    }
}
