//! The states of a guest, by libvirt's numbers and the wire's names.

/// The wire's name of each state (the owner's `StateNames`).
pub const STATE_NAMES: [(State, &str); 8] = [
    (State::Unknown, "unknown"),
    (State::Running, "running"),
    (State::Blocked, "blocked"),
    (State::Paused, "paused"),
    (State::Shutdown, "shutdown"),
    (State::Shutoff, "shutoff"),
    (State::Crashed, "crashed"),
    (State::Suspended, "suspended"),
];

/// What libvirt says a guest is doing (`virDomainState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// libvirt does not know.
    Unknown,
    /// Running.
    Running,
    /// Blocked on a resource; only Xen says so.
    Blocked,
    /// Paused, by a user or by an I/O error.
    Paused,
    /// Shutting down, still active.
    Shutdown,
    /// Off.
    Shutoff,
    /// Crashed.
    Crashed,
    /// Suspended by the guest's own power management.
    Suspended,
    /// A state that this agent has no name for.
    Other(i32),
}

impl State {
    /// The state of libvirt's number `code`.
    pub fn from_code(code: i32) -> Self {
        match code {
            0 => Self::Unknown,
            1 => Self::Running,
            2 => Self::Blocked,
            3 => Self::Paused,
            4 => Self::Shutdown,
            5 => Self::Shutoff,
            6 => Self::Crashed,
            7 => Self::Suspended,
            other => Self::Other(other),
        }
    }

    /// The state that the wire has this name for.
    pub fn from_name(name: &str) -> Option<Self> {
        STATE_NAMES.iter().find(|(_, known)| *known == name).map(|(state, _)| *state)
    }

    /// libvirt's number of the state.
    pub fn code(self) -> i32 {
        match self {
            Self::Unknown => 0,
            Self::Running => 1,
            Self::Blocked => 2,
            Self::Paused => 3,
            Self::Shutdown => 4,
            Self::Shutoff => 5,
            Self::Crashed => 6,
            Self::Suspended => 7,
            Self::Other(code) => code,
        }
    }

    /// The wire's name; empty for a state without one, so that the member `state` is left out.
    pub fn name(self) -> &'static str {
        STATE_NAMES.iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_libvirt_has_the_name_of_the_contract() {
        let names: Vec<_> = (0..8).map(|code| State::from_code(code).name()).collect();
        assert_eq!(
            names,
            [
                "unknown",
                "running",
                "blocked",
                "paused",
                "shutdown",
                "shutoff",
                "crashed",
                "suspended"
            ]
        );
    }

    #[test]
    fn an_unknown_code_is_kept_and_has_no_name() {
        for code in [-1, 8, i32::MAX, i32::MIN] {
            assert_eq!(State::from_code(code), State::Other(code));
            assert_eq!(State::from_code(code).name(), "");
        }
    }
}
