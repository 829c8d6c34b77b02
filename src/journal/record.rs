//! The text of an intent's file.
//!
//! A line is a checksum, a space and JSON: first a header with the request, then one line for each
//! step. The checksum covers all JSON so far, so it detects a line that is changed, lost, doubled
//! or from another file.

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::intent::{Intent, Scope, Step, Verb};
use crate::config::JournalLimits;
use crate::guest::wire::Guest;
use crate::os::files::{CHECKSUM_START, checksum};

/// The version of the format; files of other versions are refused.
const VERSION: u32 = 1;
/// Hexadecimal digits of a checksum.
const SUM_DIGITS: usize = 16;

/// The content of an intent's file, and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IntentRecord {
    pub(super) intent: Intent,
    pub(super) tail: Tail,
}

/// The position of the next line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// The size of all complete lines in bytes.
    pub(super) bytes: u64,
    /// The checksum of their JSON.
    sum: u64,
}

/// Why a file is not a usable intent.
#[derive(Debug)]
pub(super) enum InvalidIntent {
    /// It is not a file of the journal.
    Foreign(&'static str),
    /// It has more steps than the limit.
    Steps(usize),
    /// The line with this number, from 1, was changed.
    Line(usize),
    /// It has another format.
    Version(u32),
    /// It belongs to another host.
    Scope(Box<Scope>),
    /// The system cannot read it.
    Io(io::Error),
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    scope: Scope,
    verb: Verb,
    guest: String,
    /// Milliseconds since 1970.
    #[serde(rename = "begun_ms")]
    started_ms: u64,
    request: Guest,
}

impl Tail {
    const START: Self = Self { bytes: 0, sum: CHECKSUM_START };

    /// Returns the next line, and the tail after it.
    pub(super) fn line(&self, content: &impl Serialize) -> (Vec<u8>, Self) {
        let json = serde_json::to_vec(content)
            .expect("texts, whole numbers, lists, and maps by text have a form in JSON");
        let tail = self.after(&json);
        let mut line = format!("{:016x} ", tail.sum).into_bytes();
        line.extend(json);
        line.push(b'\n');
        (line, tail)
    }

    /// Returns the JSON of the next line, and the tail after it, if the checksum matches.
    fn read<'l>(&self, line: &'l [u8]) -> Option<(&'l [u8], Self)> {
        let (sum, rest) = line.split_at_checked(SUM_DIGITS)?;
        let json = rest.strip_prefix(b" ")?.strip_suffix(b"\n")?;
        let tail = self.after(json);
        (sum == format!("{:016x}", tail.sum).as_bytes()).then_some((json, tail))
    }

    fn after(&self, json: &[u8]) -> Self {
        // usize is at most 64 bits wide.
        let length = u64::try_from(SUM_DIGITS + 2 + json.len()).unwrap_or(u64::MAX);
        Self {
            bytes: self.bytes.saturating_add(length),
            sum: checksum(checksum(self.sum, json), b"\n"),
        }
    }
}

impl IntentRecord {
    /// Returns a record without steps, and its header line.
    pub(super) fn begin(
        scope: &Scope,
        started: SystemTime,
        verb: Verb,
        guest: &str,
        request: &Guest,
    ) -> (Self, Vec<u8>) {
        let since_1970 = started.duration_since(SystemTime::UNIX_EPOCH);
        let header = Header {
            version: VERSION,
            scope: scope.clone(),
            verb,
            guest: guest.to_owned(),
            started_ms: u64::try_from(since_1970.unwrap_or_default().as_millis())
                .unwrap_or_default(),
            request: request.clone(),
        };
        let (line, tail) = Tail::START.line(&header);
        (Self { intent: header.intent(), tail }, line)
    }

    /// Parses a file's content. A last line without an end was being written when the agent ended:
    /// its step never started, and it is not part of the record.
    pub(super) fn read(
        content: &[u8],
        scope: &Scope,
        limits: &JournalLimits,
    ) -> Result<Self, InvalidIntent> {
        let mut lines = content.split_inclusive(|byte| *byte == b'\n');
        let header = lines.next().ok_or(InvalidIntent::Line(1))?;
        let (header, mut tail) = Tail::START.read(header).ok_or(InvalidIntent::Line(1))?;
        let mut intent = read_header(header, scope)?.intent();
        for (line, number) in lines.filter(|line| line.ends_with(b"\n")).zip(2..) {
            if intent.steps.len() >= limits.steps {
                return Err(InvalidIntent::Steps(limits.steps));
            }
            let (json, after) = tail.read(line).ok_or(InvalidIntent::Line(number))?;
            let step: Step =
                serde_json::from_slice(json).map_err(|_| InvalidIntent::Line(number))?;
            intent.steps.push(step);
            tail = after;
        }
        Ok(Self { intent, tail })
    }
}

/// Parses the version first: the header of another version may have any other form.
fn read_header(json: &[u8], scope: &Scope) -> Result<Header, InvalidIntent> {
    let Versioned { version } = serde_json::from_slice(json).map_err(|_| InvalidIntent::Line(1))?;
    if version != VERSION {
        return Err(InvalidIntent::Version(version));
    }
    let header: Header = serde_json::from_slice(json).map_err(|_| InvalidIntent::Line(1))?;
    if header.scope != *scope {
        return Err(InvalidIntent::Scope(Box::new(header.scope)));
    }
    Ok(header)
}

impl Header {
    fn intent(self) -> Intent {
        let started = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.started_ms));
        Intent {
            verb: self.verb,
            guest: self.guest,
            started: started.unwrap_or(SystemTime::UNIX_EPOCH),
            request: self.request,
            steps: Vec::new(),
        }
    }
}

impl fmt::Display for InvalidIntent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(what) => f.write_str(what),
            Self::Steps(steps) => write!(f, "it has more than {steps} steps"),
            Self::Line(number) => write!(f, "line {number} is damaged"),
            Self::Version(version) => write!(f, "its format version {version} is unknown"),
            Self::Scope(scope) => write!(f, "it belongs to {scope}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
