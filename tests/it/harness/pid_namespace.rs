//! The agent in the stack's pid namespace, where emulators have the pids that libvirt reports.

use std::process::Command;

use super::agent::{Agent, PROGRAM};
use super::stack::{Stack, child_of};

/// An agent in the stack's namespaces of processes and files, where libvirt and the kernel use the
/// same pids, and in the tests' network.
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

    /// Returns the agent's process, for signals from outside.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // The end of nsenter, the test's child, does not end the agent. The agent may have ended already.
        let kill = format!("kill -s KILL {} 2>/dev/null", self.pid);
        let _ = Command::new("/bin/sh").args(["-c", &kill]).status();
    }
}
