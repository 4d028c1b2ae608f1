//! `check`: the same path as start and reload, without sockets.

use std::path::{Path, PathBuf};

use super::report::{Failure, err, out};
use crate::{
    app,
    config::{self, Config},
};

/// Reads one configuration.
pub(super) fn read(file: &Path) -> Result<Config, Failure> {
    config::load(file).map_err(|problems| Failure::Wrong(problems.to_string()))
}

/// Checks every file and everything they name; all problems are told.
pub(super) fn run(files: &[PathBuf]) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    for file in files {
        let config = match read(file) {
            Ok(config) => config,
            Err(Failure::Wrong(text) | Failure::Failed(text)) => {
                wrong.push(text);
                continue;
            }
            Err(Failure::Found(_)) => continue,
        };
        let role = config.role();
        match app::run::check(config) {
            Ok(warnings) => {
                for warning in warnings {
                    err(&format!("{}: warning: {warning}\n", file.display()));
                }
                out(&format!("{}: ok ({role})\n", file.display()));
            }
            Err(problems) => wrong.push(problems.to_string()),
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure::Wrong(wrong.join("\n")))
    }
}
