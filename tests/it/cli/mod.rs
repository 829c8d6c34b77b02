//! The program on the command line: subcommands, exit status, logs.

pub(crate) mod blocked_log;
pub(crate) mod check;
mod logs;
mod new_guest;
mod process;
pub(crate) mod shell;
