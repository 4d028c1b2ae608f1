//! The `portcullis` program. Everything is in the library; `main` maps a result to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis::cli::main()
}
