//! `mistify-libvirt check`: the requirements that a host does not meet, a line each, with the
//! remedy.
//!
//! The checks change nothing, and need no running agent.

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

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The requirement is met.
    Ok,
    /// The agent works, but some guests may not.
    Warn,
    /// The agent does not work.
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

/// One result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The subject of the check, one word.
    pub subject: &'static str,
    /// The level.
    pub level: Level,
    /// The observation.
    pub seen: String,
    /// The remedy; empty if none is needed.
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

/// A check; it may return several findings.
type Check = fn(&Config) -> Vec<Finding>;

const CHECKS: [(&str, Check); 16] = [
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

/// Runs all checks and writes the findings to standard output: lines on a terminal, JSON elsewhere
/// or with `json`. Returns whether the agent works on this host.
///
/// # Errors
/// When standard output cannot be written.
///
/// # Blocking
/// Up to 10 s for each check.
pub fn run(config: &Config, json: bool) -> io::Result<bool> {
    let for_people = !json && io::stdout().is_terminal();
    let mut worst = Level::Ok;
    let mut all = Vec::new();
    for (subject, check) in CHECKS {
        for finding in within(CHECK_LOOK, subject, config, check) {
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

/// Returns the findings of a check, or a failure if it did not end in time: then its thread is left
/// running.
fn within(limit: Duration, subject: &'static str, config: &Config, check: Check) -> Vec<Finding> {
    let (done, found) = bounded(1);
    let config = config.clone();
    let work = move || drop(done.send(check(&config)));
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
    // A finding takes one line, even if the output of a command has several.
    format!("{level:<5} {subject:<8} {}\n", format!("{seen}{remedy}").replace('\n', " "))
}

fn as_json(finding: &Finding) -> Value {
    json!({
        "subject": finding.subject, "level": finding.level.word(), "seen": finding.seen,
        "remedy": finding.remedy,
    })
}

/// Checks whether this user may read and write the path.
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
    fn hung_check_fails_after_its_time() {
        let hang: Check = |_| {
            thread::sleep(Duration::from_secs(3600));
            Vec::new()
        };
        let found = within(Duration::from_millis(10), "storage", &Config::default(), hang);
        assert_eq!((found.len(), found[0].level), (1, Level::Fail));
    }
}
