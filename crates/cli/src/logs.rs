//! Log lines, to standard error.

use std::io::IsTerminal;

use anyhow::Result;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::args::{Global, LogFormat};
use crate::exit::UsageError;

/// Starts logging. `default` is the filter where the caller named none.
pub fn init(global: &Global, default: &str) -> Result<()> {
    let filter = global
        .log
        .as_deref()
        .filter(|filter| !filter.is_empty())
        .unwrap_or(default);
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| UsageError(format!("--log: {filter:?} is no filter: {error}")))?;
    let logs = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    Ok(())
}
