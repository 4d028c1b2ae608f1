//! The command line: one file per command; `report` says how errors speak and what exit codes mean.

mod check;
mod demo;
mod doctor;
mod explain;
mod pki;
mod report;
mod status;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::{app, config::Config};
use report::{Failure, fail, out};

/// Every byte that reaches the backend came through the gateway.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole thing at work on loopback: gateway, acceptor, backend and throw-away certificates
    Demo(demo::DemoArgs),
    /// Terminate client TLS and open mutual TLS to acceptors
    Gateway(Run),
    /// Let gateways in to the backend beside us, and nobody else
    Acceptor(Run),
    /// Validate configurations and every file they name; opens no socket
    Check {
        /// Configuration files of either role
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Say which rule decides on a peer, and why; opens no socket. With a reason's code: what it means
    Explain(explain::Explain),
    /// Walk each hop for real: resolve, connect, handshake, admission, ends of certificates
    Doctor(doctor::Doctor),
    /// Show a running process
    Status(status::Status),
    /// Try to reach the backend around us (not supported yet)
    #[command(hide = true)]
    Prove(Later),
    /// Write systemd units for a configuration (not supported yet)
    #[command(hide = true)]
    Unit(Later),
    /// Make and keep the certificates of gateways and acceptors
    Pki(pki::PkiArgs),
    /// Write the completions of a shell to standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// The folder
        dir: PathBuf,
    },
}

/// A command that is to come: whatever is said to it.
#[derive(Debug, Args)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

impl Later {
    fn refuse(&self, name: &str) -> Failure {
        Failure::Wrong(format!(
            "portcullis {}: not supported yet",
            [&[name.to_owned()], &*self.rest].concat().join(" ")
        ))
    }
}

#[derive(Debug, Args)]
struct Run {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Validate it and every file it names, then exit
    #[arg(long)]
    check: bool,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report::usage(&error),
    };
    if let Err(error) = outlive_full_files() {
        report::err(&format!(
            "warning: {error}: a limit on file sizes would end us\n"
        ));
    }
    let done = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Gateway(run) => role(&run, "gateway", |config| {
            matches!(config, Config::Gateway(_))
        }),
        Command::Acceptor(run) => role(&run, "acceptor", |config| {
            matches!(config, Config::Acceptor(_))
        }),
        Command::Check { files } => check::run(&files),
        Command::Explain(explain) => explain::run(&explain),
        Command::Doctor(doctor) => doctor::run(&doctor),
        Command::Status(status) => status::run(&status),
        Command::Prove(later) => Err(later.refuse("prove")),
        Command::Unit(later) => Err(later.refuse("unit")),
        Command::Pki(args) => pki::run(args),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "portcullis", &mut text);
            out(&String::from_utf8_lossy(&text));
            Ok(())
        }
        Command::Man { dir } => clap_mangen::generate_to(Cli::command(), &dir)
            .map_err(|error| Failure::Failed(format!("{}: {error}", dir.display()))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

/// A write beyond the limit of file sizes (setrlimit(2)) is then an error like any other, and not
/// the end of the process: whoever takes the signal over once has it for good.
fn outlive_full_files() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let _context = runtime.enter();
    let kind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    signal(kind).map(drop)
}

fn role(run: &Run, name: &str, fits: impl Fn(&Config) -> bool) -> Result<(), Failure> {
    let config = check::read(&run.config)?;
    if !fits(&config) {
        return Err(Failure::Wrong(format!(
            "{}: is not a configuration of `portcullis {name}`: `portcullis check` says whose it is",
            run.config.display()
        )));
    }
    if run.check {
        return check::run(std::slice::from_ref(&run.config));
    }
    app::run(config).map_err(|error| match error {
        app::StartError::Load(_) => Failure::Wrong(error.to_string()),
        app::StartError::Bind(_) | app::StartError::System(_) => Failure::Failed(error.to_string()),
    })
}
