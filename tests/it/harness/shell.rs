//! The commands that call an agent, in a pipe or on a terminal.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::agent::{Agent, PROGRAM};
use super::support::{Scratch, wait_until};

/// Longer than a loaded machine needs for work of some milliseconds.
const SOON: Duration = Duration::from_secs(60);
/// The text that clears the line of a terminal.
pub(crate) const CLEARED: &str = "\r\u{1b}[K";

/// A shell on the host of an agent.
pub(crate) struct Shell {
    pub(crate) agent: Agent,
    pub(crate) directory: Scratch,
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self::with(Scratch::new(), &[])
    }

    /// Starts an agent with its socket in this directory, and with these flags.
    pub(crate) fn with(directory: Scratch, flags: &[&str]) -> Self {
        let socket = directory.path().join("s").display().to_string();
        let all = [&["--libvirt-uri", "test:///default", "--socket", &socket], flags].concat();
        Self { agent: Agent::start(&all), directory }
    }

    /// Waits for the first sample of all guests, which a loaded machine takes after the first question.
    pub(crate) fn has_metrics(&self) {
        let answer = || self.agent.call_with("AllMetrics", &json!({}));
        wait_until("a sample", SOON, || answer()["error"].is_null());
    }

    pub(crate) fn port(&self) -> String {
        self.agent.address().port().to_string()
    }

    /// Runs a command with this text on its standard input.
    pub(crate) fn feed(&self, words: &[&str], input: &str) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(["--config", "/dev/null", "--port", &self.port()]).args(words);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("stdin was piped");
        // A command that does not read it has ended already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("it is our child")
    }

    /// Returns the JSON that a command writes into a pipe.
    pub(crate) fn ask(&self, words: &[&str]) -> Value {
        let output = self.feed(words, "");
        assert!(output.status.success(), "{words:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{words:?}: {output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Returns the exit status and the error text of a command that fails.
    pub(crate) fn fail(&self, words: &[&str]) -> String {
        let output = self.feed(words, "");
        assert!(output.stdout.is_empty(), "{words:?}: {output:?}");
        let why = String::from_utf8(output.stderr).expect("text");
        format!("{} {why}", output.status.code().expect("a status"))
    }

    /// Returns the output of a command on a terminal.
    pub(crate) fn on_terminal(&self, words: &str) -> String {
        on_terminal(&self.agent, words)
    }

    /// Returns the final output: on a loaded machine a slow call shows its progress every second, and clears that at
    /// its end.
    pub(crate) fn left_on_terminal(&self, words: &str) -> String {
        let written = self.on_terminal(words);
        written.rsplit(CLEARED).next().unwrap_or_default().to_owned()
    }
}

/// Returns the output of a command on a terminal; the command calls this agent.
pub(crate) fn on_terminal(agent: &Agent, words: &str) -> String {
    let port = agent.address().port();
    let line = format!("{PROGRAM} --config /dev/null --port {port} {words}");
    let mut script = Command::new("script");
    let output = script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
    let output = output.expect("bsdutils is part of every Debian");
    assert!(output.status.success(), "{words}: {output:?}");
    String::from_utf8(output.stdout).expect("text").replace("\r\n", "\n")
}
