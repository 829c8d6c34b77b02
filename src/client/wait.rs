//! The wait for a guest that was started: until its SSH server greets, or cloud-init is done.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::connection::Client;
use crate::client::output::printable;
use crate::client::verbs::word;
use crate::client::{Error, reach};
use crate::config::fixed::{WAIT_INTERVAL, WAIT_PAUSE_MIN};

/// What a started guest does before `create --wait` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// Its SSH server greets.
    Ssh,
    /// cloud-init says on the serial console that it has finished.
    CloudInit,
}

/// A wait for a guest.
pub(super) struct Wait<'c> {
    client: &'c Client,
    id: String,
    what: WaitFor,
    /// The console log before the guest's start.
    before: Before,
}

/// What is known of a console log before the start of a guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// The guest was off, and this was the log.
    Log(String),
    /// The guest was running already.
    Running,
}

impl<'c> Wait<'c> {
    /// Begins, before the guest is started.
    ///
    /// # Errors
    /// A guest without a console log, where the wait needs it; as [`Client::call`].
    pub(super) fn before_run(client: &'c Client, id: &str, what: WaitFor) -> Result<Self, Error> {
        let mut wait = Self { client, id: id.to_owned(), what, before: Before::Running };
        if what == WaitFor::CloudInit && wait.call("Status")?["guest"]["state"] != "running" {
            wait.before = Before::Log(wait.console()?);
        }
        Ok(wait)
    }

    /// What is waited for, for people.
    pub(super) fn title(&self) -> String {
        let what = match self.what {
            WaitFor::Ssh => "an SSH server",
            WaitFor::CloudInit => "cloud-init",
        };
        format!("waiting for {what} of {}", printable(&self.id))
    }

    /// Waits, at most so long; the address by which the guest can be reached, as far as one is known.
    ///
    /// # Errors
    /// A guest that is off, cloud-init's failures, the end of the time; as [`Client::call`], but a connection
    /// that fails is tried again.
    ///
    /// # Blocking
    /// Up to `limit`, and as long as its last look takes.
    pub(super) fn until_done(&self, limit: Duration) -> Result<Option<String>, Error> {
        let deadline = Instant::now() + limit;
        let mut after = Value::Null;
        loop {
            let last = match self.look(deadline) {
                Ok(Ok(address)) => return Ok(address),
                Ok(Err(why)) => why,
                // The agent may be restarted meanwhile.
                Err(Error::Unreached(why)) => why,
                Err(error) => return Err(error),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (title, seconds) = (self.title(), limit.as_secs());
                return Err(Error::Answered(format!(
                    "timed out after {seconds} s {title}: {last}"
                )));
            }
            self.pause(&mut after, left.min(WAIT_INTERVAL));
        }
    }

    /// Looks once: the address where the wait is over, else what is missing.
    fn look(&self, deadline: Instant) -> Result<Result<Option<String>, String>, Error> {
        let status = self.call("Status")?;
        let mut state = word(&status["guest"]["state"]);
        let is_off = ["shutoff", "crashed"].contains(&state.as_str());
        let is_running = state == "running";
        if status["guest"]["reason"].is_string() {
            state += &format!(" ({})", word(&status["guest"]["reason"]));
        }
        if is_off {
            let (id, title) = (&self.id, self.title());
            return Err(Error::Answered(format!("{id} went {state} while {title}")));
        }
        match self.what {
            _ if !is_running => Ok(Err(format!("the guest is {state}"))),
            WaitFor::Ssh => self.look_for_ssh(deadline),
            WaitFor::CloudInit => self.look_for_cloud_init(),
        }
    }

    fn look_for_ssh(&self, deadline: Instant) -> Result<Result<Option<String>, String>, Error> {
        let mut last = "no address is known".to_owned();
        for address in reach::addresses(self.client, &self.id)? {
            match reach::greets(address) {
                Ok(()) => return Ok(Ok(Some(address.to_string()))),
                Err(why) => last = format!("{address}: {why}"),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Ok(Err(last))
    }

    fn look_for_cloud_init(&self) -> Result<Result<Option<String>, String>, Error> {
        let console = self.console()?;
        let Some(errors) = cloud_init_errors(since(&console, &self.before)) else {
            return Ok(Err("its end is not in the console log".to_owned()));
        };
        if !errors.is_empty() {
            let (id, errors) = (&self.id, errors.join("; "));
            return Err(Error::Answered(format!("cloud-init of {id} reports errors: {errors}")));
        }
        let address = reach::addresses(self.client, &self.id)?.into_iter().next();
        Ok(Ok(address.map(|address| address.to_string())))
    }

    /// Ends with an event of the guest, or after this time; never at once.
    fn pause(&self, after: &mut Value, time: Duration) {
        let began = Instant::now();
        let mut params = json!({ "guest": self.id, "timeout": time.as_secs().max(1) });
        if !after.is_null() {
            params["after"] = after.clone();
        }
        match self.client.call("Libvirt.WaitEvents", &json!([params])) {
            Ok(mut page) => *after = page["next"].take(),
            // Other callers wait, or the agent is away.
            Err(_) => thread::sleep(time),
        }
        thread::sleep(WAIT_PAUSE_MIN.saturating_sub(began.elapsed()));
    }

    fn console(&self) -> Result<String, Error> {
        Ok(self.call("Console")?["console"].as_str().unwrap_or_default().to_owned())
    }

    fn call(&self, method: &str) -> Result<Value, Error> {
        let guest = json!([{ "guest": { "id": self.id } }]);
        self.client.call(&format!("Libvirt.{method}"), &guest)
    }
}

/// The most failures of cloud-init that an error names, and the most characters of each.
pub(super) const ERRORS_MAX: usize = 8;
pub(super) const ERROR_CHARS: usize = 200;
/// How the kernel's first line begins.
const KERNEL: &str = "] Linux version ";

/// What the log says since the guest was started.
pub(super) fn since<'l>(log: &'l str, before: &Before) -> &'l str {
    match before {
        Before::Log(before) => after(log, before),
        Before::Running => log.rfind(KERNEL).map_or(log, |at| &log[at..]),
    }
}

/// The part of a log that is not in an earlier reading of it. Only the end of a log is read, so its beginning may have
/// gone since; all of it is new where nothing of the earlier reading is left.
fn after<'l>(log: &'l str, before: &str) -> &'l str {
    const HEAD_CHARS: usize = 64;
    // A character that was cut in two.
    let whole = log.trim_start_matches(char::REPLACEMENT_CHARACTER);
    let end = whole.char_indices().nth(HEAD_CHARS).map_or(whole.len(), |(at, _)| at);
    let mut ends = before.char_indices().map(|(at, _)| &before[at..]);
    let rest = ends.find_map(|earlier| {
        earlier.starts_with(&whole[..end]).then(|| whole.strip_prefix(earlier)).flatten()
    });
    rest.or_else(|| log.strip_prefix(before)).unwrap_or(log)
}

/// The failures of cloud-init in this part of a console log, at most [`ERRORS_MAX`]; `None` where it has not ended.
///
/// The end is cloud-init's own `final_message`, or what systemd says of the target or of the last service. Modules
/// that fail are warnings of cloud-init's log, which it also writes to the console.
pub(super) fn cloud_init_errors(log: &str) -> Option<Vec<String>> {
    const FAILURES: [&str; 5] = [
        ".py[CRITICAL]: ",
        ".py[ERROR]: ",
        ".py[WARNING]: Failed running ",
        ".py[WARNING]: Failed to run ",
        ".py[WARNING]: Running module ",
    ];
    let (mut has_ended, mut errors) = (false, Vec::new());
    for line in log.lines() {
        let has = |all: &[&str]| all.iter().all(|text| line.contains(text));
        let is_final = has(&["Cloud-init v. ", " finished at "]);
        let failed = has(&["FAILED", "Failed to start "]);
        let is_last = ["cloud-final.", "user/final scripts", "cloud-init-main."];
        let is_last = is_last.iter().any(|unit| line.contains(unit));
        let is_target = ["cloud-init.target", "Cloud-init target"];
        let is_target =
            is_target.iter().any(|unit| line.contains(unit)) && has(&["Reached target"]);
        has_ended |= is_final || is_target || failed && is_last;
        let is_error = is_final && has(&["DataSourceNone"])
            || failed && (is_last || line.contains("cloud-"))
            || FAILURES.iter().any(|mark| line.contains(mark));
        if is_error && errors.len() < ERRORS_MAX {
            errors.push(printable(line.trim()).chars().take(ERROR_CHARS).collect());
        }
    }
    has_ended.then_some(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL_LINE: &str = "[    0.000000] Linux version 6.1.0-32-cloud-amd64\r\n";
    const FINAL: &str = "[   31.4] cloud-init[511]: Cloud-init v. 22.4.2 finished at Mon, 30 Nov 2026 17:00:00 \
                         +0000. Datasource DataSourceNoCloud [seed=/dev/sda][dsmode=net].  Up 31.40 seconds\r\n";
    const TARGET: &str = "[\u{1b}[0;32m  OK  \u{1b}[0m] Reached target \u{1b}[0;1;39mcloud-init.target\u{1b}[0m - \
                          Cloud-init target.\r\n";
    const NOT_FINAL: &str = "[\u{1b}[0;1;31mFAILED\u{1b}[0m] Failed to start \u{1b}[0;1;39mcloud-final.service\u{1b}[0m - \
                             Execute cloud user/final scripts.\r\n";
    const NO_CONFIG: &str =
        "[FAILED] Failed to start Apply the settings specified in cloud-config.\r\n";
    const MODULE: &str = "[   30.1] cloud-init[511]: 2026-11-30 17:00:00,000 - util.py[WARNING]: Running module \
                          scripts-user (<module>) failed\r\n";

    #[test]
    fn cloud_init_has_ended_when_the_console_says_so() {
        let errors = |parts: &[&str]| cloud_init_errors(&parts.concat()).map(|errors| errors.len());
        assert_eq!(errors(&[KERNEL_LINE, MODULE]), None);
        assert_eq!(errors(&["root@web:~# grep finished at Cloud-init\r\n"]), None);
        for end in [FINAL, TARGET] {
            assert_eq!(errors(&[KERNEL_LINE, end]), Some(0));
            assert_eq!(errors(&[KERNEL_LINE, MODULE, end]), Some(1));
        }
        assert_eq!(errors(&[NO_CONFIG]), None);
        assert_eq!(errors(&[NO_CONFIG, TARGET]), Some(1));
        assert_eq!(errors(&[MODULE, NOT_FINAL]), Some(2));
        let none = FINAL.replace("DataSourceNoCloud", "DataSourceNone");
        assert_eq!(errors(&[&none]), Some(1));
        let other = "[FAILED] Failed to start ssh.service - OpenBSD Secure Shell server.\r\n";
        assert_eq!(errors(&[other, FINAL]), Some(0));
        assert_eq!(errors(&[&MODULE.repeat(30), FINAL]), Some(8));
    }

    #[test]
    fn an_earlier_boots_log_does_not_count() {
        let first = [KERNEL_LINE, FINAL, TARGET, &"login: \r\n".repeat(90)].concat();
        let off = Before::Log(first.clone());
        assert_eq!(since(&first, &off), "");
        let second = [&first[..], KERNEL_LINE].concat();
        assert_eq!(since(&second, &off), KERNEL_LINE);
        // The answer has the end of the log alone.
        for lost in [1, 50, 300, first.len() - 200] {
            assert_eq!(since(&second[lost..], &off), KERNEL_LINE, "{lost}");
        }
        let cut = ["\u{fffd}", &second[3..]].concat();
        assert_eq!(since(&cut, &off), KERNEL_LINE);
        // A log that was rotated has nothing of the earlier boot.
        assert_eq!(since(FINAL, &off), FINAL);
        assert_eq!(since(&second, &Before::Log(String::new())), second);
        // A guest that was running: since the kernel's first line.
        assert_eq!(cloud_init_errors(since(&second, &Before::Running)), None);
        assert_eq!(since(FINAL, &Before::Running), FINAL);
    }
}
