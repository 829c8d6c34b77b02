//! The agent from the shell: the commands that ask an agent which runs.
//!
//! It finds the agent by the same settings that the agent was started with, and is let in by the
//! same rules. On a terminal it writes for people, elsewhere JSON.

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
pub use verbs::{Ask, Params, run};
pub use wait::WaitFor;

/// Why there is no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// What was asked cannot be: status 2.
    Asked(String),
    /// The agent's own words: status 1.
    Answered(String),
    /// The same of something that does not exist: status 1.
    NotFound(String),
    /// Nobody, or nobody who speaks like an agent, was reached: status 3.
    Unreached(String),
}

impl Error {
    /// The exit status of the program.
    pub fn status(&self) -> u8 {
        match self {
            Self::Answered(_) | Self::NotFound(_) => 1,
            Self::Asked(_) => 2,
            Self::Unreached(_) => 3,
        }
    }

    /// With more words at its end.
    fn with(mut self, more: &str) -> Self {
        let (Self::Asked(why) | Self::Answered(why) | Self::NotFound(why) | Self::Unreached(why)) =
            &mut self;
        *why += more;
        self
    }
}

/// Parts of it may be a guest's words: what would move a terminal's cursor is not shown.
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
