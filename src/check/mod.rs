//! `mistify-libvirt check`: what a host lacks for the agent, a line each, with the remedy.
//!
//! It looks and changes nothing, and asks no agent for anything but whether it answers.

mod callers;
mod guests;
mod host;
mod storage;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;
use serde_json::{Value, json};

use crate::config::Config;
use crate::config::fixed::CHECK_LOOK;

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it has to be.
    Ok,
    /// The agent works without it, some guests may not.
    Warn,
    /// The agent is of no use like this.
    Fail,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, a word.
    pub subject: &'static str,
    /// How it is.
    pub level: Level,
    /// What was seen.
    pub seen: String,
    /// What helps; empty where nothing has to.
    pub remedy: String,
}

impl Finding {
    fn ok(subject: &'static str, seen: impl Into<String>) -> Self {
        Self { subject, level: Level::Ok, seen: seen.into(), remedy: String::new() }
    }

    fn warn(subject: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, level: Level::Warn, seen: seen.into(), remedy: remedy.into() }
    }

    fn fail(subject: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, level: Level::Fail, seen: seen.into(), remedy: remedy.into() }
    }
}

/// A look; what it finds may be more than one thing.
type Look = fn(&Config) -> Vec<Finding>;

const LOOKS: [(&str, Look); 16] = [
    ("libvirt", guests::libvirt),
    ("kvm", host::kvm),
    ("guests", guests::machines),
    ("cgroup", host::cgroup),
    ("bridges", host::bridges),
    ("storage", storage::space),
    ("zfs", storage::zfs),
    ("allowed", storage::permissions),
    ("mounts", storage::mounts),
    ("images", host::images),
    ("state", host::state),
    ("callers", callers::callers),
    ("ports", callers::ports),
    ("tokens", callers::tokens),
    ("unit", host::unit),
    ("stop", host::stop),
];

/// Looks at everything and writes what was found on standard output: lines on a terminal, JSON
/// elsewhere or where `json` says so. Whether the agent can do its work here.
///
/// # Errors
/// When standard output does not take it.
///
/// # Blocking
/// Up to 10 s for each thing that is looked at.
pub fn run(config: &Config, json: bool) -> io::Result<bool> {
    let for_people = !json && io::stdout().is_terminal();
    let mut worst = Level::Ok;
    let mut all = Vec::new();
    for (subject, look) in LOOKS {
        for finding in within(CHECK_LOOK, subject, config, look) {
            worst = worst.max(finding.level);
            match for_people {
                true => io::stdout().write_all(line(&finding).as_bytes())?,
                false => all.push(finding),
            }
        }
    }
    if !for_people {
        writeln!(io::stdout(), "{}", all.iter().map(as_json).collect::<Value>())?;
    }
    Ok(worst < Level::Fail)
}

/// What the look finds, or that it did not end: then its thread stays with it.
fn within(limit: Duration, subject: &'static str, config: &Config, look: Look) -> Vec<Finding> {
    let (done, found) = bounded(1);
    let config = config.clone();
    let work = move || drop(done.send(look(&config)));
    let hangs = || Finding::fail(subject, format!("no answer after {} s", limit.as_secs()), "");
    match thread::Builder::new().name(subject.to_owned()).spawn(work) {
        Ok(_) => found.recv_timeout(limit).unwrap_or_else(|_| vec![hangs()]),
        Err(error) => vec![Finding::fail(subject, format!("cannot start a thread: {error}"), "")],
    }
}

fn line(finding: &Finding) -> String {
    let Finding { subject, level, seen, remedy } = finding;
    let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
    let level = level.word();
    // One line a finding, whatever a command has said.
    format!("{level:<5} {subject:<8} {}\n", format!("{seen}{remedy}").replace('\n', " "))
}

fn as_json(finding: &Finding) -> Value {
    json!({
        "subject": finding.subject, "level": finding.level.word(), "seen": finding.seen,
        "remedy": finding.remedy,
    })
}

/// Whether this user may use the path in both directions.
fn can_use(path: &Path) -> io::Result<()> {
    std::fs::File::options().read(true).write(true).open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_with_its_remedy() {
        let finding = Finding::warn("kvm", "/dev/kvm: absent\nreally", "load kvm_intel");
        assert_eq!(line(&finding), "warn  kvm      /dev/kvm: absent really; load kvm_intel\n");
        assert_eq!(line(&Finding::ok("unit", "enabled")), "ok    unit     enabled\n");
        assert!(Level::Ok < Level::Warn && Level::Warn < Level::Fail);
    }

    #[test]
    fn hung_probe_fails_while_others_continue() {
        let hang: Look = |_| {
            thread::sleep(Duration::from_secs(3600));
            Vec::new()
        };
        let found = within(Duration::from_millis(10), "storage", &Config::default(), hang);
        assert_eq!((found.len(), found[0].level), (1, Level::Fail));
    }
}
