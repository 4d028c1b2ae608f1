//! The log: text on a terminal, JSON lines elsewhere, always on stderr.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

/// Installs the process's log. A second call changes nothing.
pub fn init(log: &Log) {
    let terminal = std::io::stderr().is_terminal();
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    // the level was checked when the configuration was read
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    // it warns of what strangers write in a ClientHello: our own refusals say what counts
    let filter = match "rustls=error".parse() {
        Ok(quiet) if !log.level.contains("rustls") => filter.add_directive(quiet),
        Ok(_) | Err(_) => filter,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let installed = if json {
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr);
        registry.with(layer).try_init()
    } else {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(colour)
            .with_writer(std::io::stderr);
        registry.with(layer).try_init()
    };
    if installed.is_err() {
        tracing::debug!("the log was set up before");
    }
}
