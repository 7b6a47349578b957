//! The log on standard error. Standard output belongs to the lines that others read.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat};

/// What the frameworks below us say about their own start and end is noise, and what a peer sends wrong is no
/// error of ours; `log.level` can ask for both again.
const FRAMEWORK: &str = "actix_server=warn,actix_http=off";

/// Starts logging as configured. A second call in one process changes nothing, so that several servers
/// can run in one test.
pub fn init(config: &Log) {
    // The level was checked with the rest of the configuration.
    let filter = EnvFilter::try_new(format!("{FRAMEWORK},{}", config.level)).unwrap_or_default();
    let lines = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    let started = match config.format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_ansi(colours).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    drop(started);
}
