//! The log of the agent's process.

use std::io::Write;
use std::time::SystemTime;

use log::LevelFilter;

use crate::os::clock;

/// Starts to log to standard error: time in UTC, level, module, sentence. A flag wins over
/// `RUST_LOG`. Once a process.
pub fn start_log(flag: Option<LevelFilter>) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Warn);
    match flag {
        Some(level) => builder.filter_level(level),
        None => builder.parse_default_env(),
    };
    builder.format(|line, record| {
        let time = clock::rfc3339_utc(SystemTime::now());
        writeln!(line, "{time} {} {}: {}", record.level(), record.target(), record.args())
    });
    builder.init();
}
