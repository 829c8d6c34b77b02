//! The wait for a started guest: until its SSH server sends its greeting, or cloud-init has finished.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::connection::Client;
use crate::client::output::{printable, word};
use crate::client::verbs::of_guest;
use crate::client::{Error, reach};
use crate::config::fixed::{CONSOLE_BYTES, SSH_AGAIN, SSH_LOOK, WAIT_INTERVAL};

/// The state of a started guest for which `create --wait` waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// Its SSH server sends its greeting.
    Ssh,
    /// cloud-init reports on the serial console that it has finished.
    CloudInit,
}

/// A wait for a guest.
pub(super) struct Wait<'c> {
    client: &'c Client,
    id: String,
    what: WaitFor,
    /// The title of the wait, for people.
    pub(super) title: String,
    /// The console log up to the guest's start.
    before: String,
}

impl<'c> Wait<'c> {
    /// Prepares the wait, before the guest is started.
    ///
    /// # Errors
    /// A guest without a console log, if the wait needs it; as [`Client::call`].
    pub(super) fn before_run(client: &'c Client, id: &str, what: WaitFor) -> Result<Self, Error> {
        let name = if what == WaitFor::Ssh { "an SSH server" } else { "cloud-init" };
        let title = printable(&format!("waiting for {name} of {id}"));
        let mut wait = Self { client, id: id.to_owned(), what, title, before: String::new() };
        if what == WaitFor::CloudInit {
            let is_running = wait.call("Status")?["guest"]["state"] == "running";
            wait.before = word_of(&wait.call("Console")?["console"]);
            if is_running {
                let length = before_boot(&wait.before).len();
                wait.before.truncate(length);
            }
        }
        Ok(wait)
    }

    /// Waits for at most `limit`; returns the address at which the guest is reachable, empty if none is known.
    ///
    /// # Errors
    /// A guest that is off or deleted, and failures of cloud-init, at once. After `limit` the last error:
    /// [`Error::Unreached`] if the agent was unreachable. A failed call is repeated, because the agent may be busy, or
    /// restart meanwhile.
    ///
    /// # Blocking
    /// Up to `limit`, and as long as the last poll takes.
    pub(super) fn until_done(&self, limit: Duration) -> Result<String, Error> {
        let deadline = Instant::now() + limit;
        loop {
            let began = Instant::now();
            let last = match self.look() {
                Ok(outcome) => return outcome,
                Err(error @ Error::NotFound(_)) => return Err(error),
                Err(error) => error,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (title, seconds) = (&self.title, limit.as_secs());
                let why = format!("timed out after {seconds} s {title}: {last}");
                let why = why.trim_end_matches([';', ' ']).to_owned();
                let is_unreached = matches!(last, Error::Unreached(_));
                return Err(if is_unreached {
                    Error::Unreached(why)
                } else {
                    Error::Answered(why)
                });
            }
            // A poll that has tried to connect the whole time is followed by the next after a short pause.
            let pause = WAIT_INTERVAL.saturating_sub(began.elapsed()).max(SSH_AGAIN);
            thread::sleep(left.min(pause));
        }
    }

    /// Polls once. Returns the outcome if the wait is over: the address, or the reason for which it cannot succeed.
    ///
    /// # Errors
    /// The unmet condition.
    fn look(&self) -> Result<Result<String, Error>, Error> {
        let status = self.call("Status")?;
        let (state, reason) = (word(&status["guest"]["state"]), word(&status["guest"]["reason"]));
        match state.as_str() {
            "running" => {}
            "shutoff" | "crashed" => {
                let why = format!("{} went {state} while {} {reason}", self.id, self.title);
                return Ok(Err(Error::Answered(why.trim_end().to_owned())));
            }
            _ => return Err(Error::Answered(format!("the guest is {state} {reason}"))),
        }
        if self.what == WaitFor::CloudInit {
            let console = word_of(&self.call("Console")?["console"]);
            let Some(errors) = cloud_init_errors(after(&console, &self.before)) else {
                let kib = CONSOLE_BYTES / 1024;
                let why = format!("its end is not in the last {kib} KiB of the console log");
                return Err(Error::Answered(why));
            };
            if !errors.is_empty() {
                let why = format!("cloud-init of {} reports errors: {errors}", self.id);
                return Ok(Err(Error::Answered(why)));
            }
        }
        let addresses = reach::usable(&self.call("GuestInfo")?["addresses"]);
        if self.what == WaitFor::CloudInit {
            return Ok(Ok(addresses.first().map(IpAddr::to_string).unwrap_or_default()));
        }
        let end = Instant::now() + SSH_LOOK;
        loop {
            match reach::first_that_greets(&addresses) {
                Ok(address) => return Ok(Ok(address.to_string())),
                Err(why) if addresses.is_empty() || Instant::now() > end => {
                    return Err(Error::Answered(why));
                }
                // The SSH server starts with the guest, and connections are refused until then.
                Err(_) => thread::sleep(SSH_AGAIN),
            }
        }
    }

    fn call(&self, method: &str) -> Result<Value, Error> {
        self.client.call(&format!("Libvirt.{method}"), &of_guest(&self.id))
    }
}

/// Returns a text with all of its characters.
pub(super) fn word_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A part of the kernel's first line.
const KERNEL: &str = "] Linux version ";

/// Returns the part of a running guest's log before its last start. Console returns only the end of a log: if that lacks
/// the kernel's first line, the whole text belongs to the last start, and the part before it is empty.
pub(super) fn before_boot(log: &str) -> &str {
    let boot = log.split(KERNEL).last().unwrap_or_default();
    log.strip_suffix(boot).unwrap_or_default()
}

/// The maximum number of failures of cloud-init that an error names.
pub(super) const ERRORS_MAX: usize = 8;
/// The maximum number of characters of each failure.
pub(super) const ERROR_CHARS: usize = 200;

/// Returns the part of a log that an earlier reading does not contain. Each reading has only the end of the log, so the
/// beginning of the earlier one may be missing. If the readings do not overlap, the whole log is new.
pub(super) fn after<'l>(log: &'l str, before: &str) -> &'l str {
    const HEAD_CHARS: usize = 64;
    // A multi-byte character may be cut in two.
    let whole = log.trim_start_matches(char::REPLACEMENT_CHARACTER);
    let end = whole.char_indices().nth(HEAD_CHARS).map_or(whole.len(), |(at, _)| at);
    let mut ends = before.char_indices().map(|(at, _)| &before[at..]);
    let rest = ends.find_map(|earlier| {
        earlier.starts_with(&whole[..end]).then(|| whole.strip_prefix(earlier)).flatten()
    });
    rest.or_else(|| log.strip_prefix(before)).unwrap_or(log)
}

/// Returns the failures of cloud-init in this part of a console log, at most [`ERRORS_MAX`], each followed by `; `;
/// `None` if cloud-init has not finished.
///
/// cloud-init has finished when its `final_message` appears, or systemd's message about the target or the last service.
/// Modules that fail are warnings in cloud-init's log, which it also writes to the console.
pub(super) fn cloud_init_errors(log: &str) -> Option<String> {
    const LAST: [&str; 3] = ["cloud-final.", "user/final scripts", "cloud-init-main."];
    const FAILURES: [&str; 5] = [
        ".py[CRITICAL]: ",
        ".py[ERROR]: ",
        ".py[WARNING]: Failed running ",
        ".py[WARNING]: Failed to run ",
        ".py[WARNING]: Running module ",
    ];
    let (mut has_ended, mut count, mut errors) = (false, 0, String::new());
    for line in log.lines() {
        let has = |text: &str| line.contains(text);
        let has_any = |all: &[&str]| all.iter().any(|text| line.contains(text));
        let is_final = has("Cloud-init v. ") && has(" finished at ");
        let failed = has("FAILED") && has("Failed to start ");
        let is_last = failed && has_any(&LAST);
        has_ended |= is_final || is_last;
        has_ended |= has("Reached target") && has_any(&["cloud-init.target", "Cloud-init target"]);
        let is_error = is_final && has("DataSourceNone") || failed && has("cloud-");
        if (is_error || is_last || has_any(&FAILURES)) && count < ERRORS_MAX {
            count += 1;
            errors.extend(printable(line.trim()).chars().take(ERROR_CHARS));
            errors += "; ";
        }
    }
    has_ended.then_some(errors)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::config::Config;

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
        let errors =
            |parts: &[&str]| cloud_init_errors(&parts.concat()).map(|it| it.matches("; ").count());
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
        assert_eq!(after(&first, &first), "");
        let second = [&first[..], KERNEL_LINE].concat();
        assert_eq!(after(&second, &first), KERNEL_LINE);
        // The answer contains only the end of the log.
        for lost in [1, 50, 300, first.len() - 200] {
            assert_eq!(after(&second[lost..], &first), KERNEL_LINE, "{lost}");
        }
        let cut = ["\u{fffd}", &second[3..]].concat();
        assert_eq!(after(&cut, &first), KERNEL_LINE);
        // A rotated log contains nothing of the earlier boot.
        assert_eq!(after(FINAL, &first), FINAL);
        assert_eq!(after(&second, ""), second);
        // For a guest that was running: the log since the kernel's first line.
        assert_eq!(cloud_init_errors(after(&second, before_boot(&second))), None);
        assert_eq!(after(FINAL, before_boot(FINAL)), FINAL);
    }

    /// Returns the error of a wait with an agent that sends these answers one after the other, and then stops.
    fn ended(answers: &'static [&str], limit: Duration) -> Error {
        let agent = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = Config { listen: vec![agent.local_addr().unwrap()], ..Config::default() };
        let serving = thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = agent.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    let mut part = [0; 1024];
                    let read = stream.read(&mut part).unwrap();
                    request.extend_from_slice(&part[..read]);
                }
                let length = answer.len();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                stream.write_all((head + answer).as_bytes()).unwrap();
            }
        });
        let client = Client::new(&config).unwrap();
        let wait = Wait::before_run(&client, "web-1", WaitFor::Ssh).unwrap();
        let error = wait.until_done(limit).unwrap_err();
        serving.join().unwrap();
        error
    }

    #[test]
    fn wait_continues_until_it_cannot_succeed() {
        const BUSY: &str = r#"{"error":{"code":-32005,"message":"too many calls"}}"#;
        const OFF: &str = r#"{"result":{"guest":{"state":"shutoff"}}}"#;
        const GONE: &str = r#"{"error":{"code":-32001,"message":"Domain not found"}}"#;
        let long = Duration::from_secs(60);
        let off = "web-1 went shutoff while waiting for an SSH server of web-1";
        assert_eq!(ended(&[BUSY, BUSY, OFF], long), Error::Answered(off.to_owned()));
        assert_eq!(ended(&[BUSY, GONE], long), Error::NotFound("Domain not found".to_owned()));
        let late = ended(&[BUSY], Duration::ZERO);
        assert!(late.to_string().ends_with("of web-1: too many calls"), "{late}");
        assert_eq!(late.status(), 1);
        // As if the agent was stopped meanwhile.
        assert_eq!(ended(&[BUSY], Duration::from_secs(1)).status(), 3);
    }
}
