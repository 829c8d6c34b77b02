//! The client: the subcommands that call a running agent.
//!
//! It finds the agent by the agent's own configuration, and is authorized like every other caller.
//! It writes text to a terminal, and JSON elsewhere.

mod connection;
mod create;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod output;
mod progress;
mod reach;
mod server;
mod top;
mod verbs;
mod wait;

use std::fmt::{self, Write};

use output::shown;

pub use connection::Endpoint;
pub use create::{Create, NewGuest, create};
pub use reach::ssh;
pub use verbs::{ClientCommand, Params, run};
pub use wait::WaitFor;

/// The reason for which a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// An invalid request: status 2.
    Asked(String),
    /// An error of the agent: status 1.
    Answered(String),
    /// An error of the agent about an object that does not exist: status 1.
    NotFound(String),
    /// No connection, or no valid response: status 3.
    Unreached(String),
}

impl Error {
    /// Returns the exit status of the program.
    pub fn status(&self) -> u8 {
        match self {
            Self::Answered(_) | Self::NotFound(_) => 1,
            Self::Asked(_) => 2,
            Self::Unreached(_) => 3,
        }
    }

    /// Appends text to the message.
    fn with(mut self, more: &str) -> Self {
        let (Self::Asked(why) | Self::Answered(why) | Self::NotFound(why) | Self::Unreached(why)) =
            &mut self;
        *why += more;
        self
    }
}

/// Shows the message without control characters that would move a terminal's cursor, as guests can cause its text.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Asked(why) | Self::Answered(why) | Self::NotFound(why) | Self::Unreached(why)) =
            self;
        why.chars().try_for_each(|c| f.write_char(if c == '\n' { c } else { shown(c) }))
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_moves_no_cursor_but_to_the_next_line() {
        let error = Error::Answered("a\x1b[2J\r\nb\u{9b}".to_owned());
        assert_eq!(error.to_string(), "a\u{fffd}[2J\u{fffd}\nb\u{fffd}");
    }
}
