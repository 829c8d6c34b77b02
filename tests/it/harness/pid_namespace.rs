//! The agent where guests' processes have the numbers that libvirt says.

use std::process::Command;

use super::agent::{Agent, PROGRAM};
use super::stack::{Stack, child_of};

/// An agent in the stack's world of processes and files, where libvirt and the kernel speak of the
/// same processes; its network is the tests'.
pub(crate) struct Inside {
    pub(crate) agent: Agent,
    pid: u32,
}

impl Inside {
    pub(crate) fn start(stack: &Stack, flags: &[&str]) -> Self {
        let agent = Agent::run(stack.command_outside_network(PROGRAM), flags);
        let pid = child_of(agent.pid());
        Self { agent, pid }
    }

    /// Its process, for signals from outside.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // nsenter, which the test started, does not pass its end on. It may be over already.
        let kill = format!("kill -s KILL {} 2>/dev/null", self.pid);
        let _ = Command::new("/bin/sh").args(["-c", &kill]).status();
    }
}
