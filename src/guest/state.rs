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

/// The state of a guest in libvirt (`virDomainState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// libvirt does not know the state.
    Unknown,
    /// Running.
    Running,
    /// Blocked on a resource; only Xen reports this state.
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
    /// A state without a name in this agent.
    Other(i32),
}

impl State {
    /// Returns the state with libvirt's number `code`.
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

    /// Returns the state with this name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        STATE_NAMES.iter().find(|(_, known)| *known == name).map(|(state, _)| *state)
    }

    /// Returns libvirt's number of the state.
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

    /// Returns the wire's name; empty for a state without one, so that JSON omits the member `state`.
    pub fn name(self) -> &'static str {
        STATE_NAMES.iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }
}

/// The state of a guest, and the reason of an unrequested state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The state.
    pub state: State,
    /// The reason, for example `io-error`; empty if a caller or the guest requested the state, or libvirt knows no
    /// reason.
    pub reason: &'static str,
}

impl Condition {
    /// Returns the condition for libvirt's numbers of a state and its reason.
    pub fn from_codes(state: i32, reason: i32) -> Self {
        let state = State::from_code(state);
        // virDomainPausedReason, virDomainShutoffReason and virDomainCrashedReason.
        let reason = match (state, reason) {
            (State::Paused, 2) | (State::Shutoff, 4) => "migration",
            (State::Paused, 3) => "saving",
            (State::Paused, 4) => "dump",
            (State::Paused, 5) => "io-error",
            (State::Paused, 6) => "watchdog",
            (State::Paused, 9) => "snapshot",
            (State::Paused, 10) | (State::Shutoff, 3) => "crashed",
            (State::Paused, 11) => STARTING,
            (State::Paused, 13) => "migration-failed",
            (State::Shutoff, 6) => "failed",
            (State::Crashed, 1) => "panicked",
            _ => "",
        };
        Self { state, reason }
    }

    /// Returns whether the guest is starting: libvirt reports it as paused until it runs.
    pub fn is_starting(&self) -> bool {
        (self.state, self.reason) == (State::Paused, STARTING)
    }
}

/// The reason of a guest that is starting.
const STARTING: &str = "starting";

/// Returns whether libvirt's numbers of a state and its reason mean that a guest runs and was never stopped or paused
/// since it booted (`VIR_DOMAIN_RUNNING_BOOTED`).
pub fn is_as_booted(state: i32, reason: i32) -> bool {
    (State::from_code(state), reason) == (State::Running, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unexpected_states_have_a_reason() {
        for (state, reason, expected) in [
            (1, 1, ""),
            (3, 1, ""),
            (3, 5, "io-error"),
            (5, 1, ""),
            (5, 2, ""),
            (5, 3, "crashed"),
            (6, 1, "panicked"),
            (3, 99, ""),
            (99, 1, ""),
        ] {
            assert_eq!(Condition::from_codes(state, reason).reason, expected, "{state} {reason}");
        }
    }

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
