//! The text of an intent's file.
//!
//! Lines of a checksum, a space and JSON: first a header with the request, then one line a step.
//! The checksum is that of all JSON so far, so that a line which is changed, lost, doubled or
//! another file's is told from one that was written.

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::intent::{Intent, Scope, Step, Verb};
use crate::config::JournalLimits;
use crate::guest::wire::Guest;
use crate::os::files::{CHECKSUM_START, checksum};

/// Of the format; a file of another one is not understood.
const VERSION: u32 = 1;
/// Hexadecimal digits of a checksum.
const SUM_DIGITS: usize = 16;

/// What an intent's file says, and where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) intent: Intent,
    pub(super) tail: Tail,
}

/// Where the next line of a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// Bytes of all complete lines.
    pub(super) bytes: u64,
    /// Checksum of their JSON.
    sum: u64,
}

/// Why a file is not an intent that can be followed.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It is not a file of the journal.
    Foreign(&'static str),
    /// It has more steps than any intent.
    Steps(usize),
    /// The line of this number, from 1, is not what was written.
    Line(usize),
    /// It is of another format.
    Version(u32),
    /// It is about another host.
    Scope(Box<Scope>),
    /// The system does not let it be read.
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
    begun_ms: u64,
    request: Guest,
}

impl Tail {
    const START: Self = Self { bytes: 0, sum: CHECKSUM_START };

    /// The next line, and the tail after it.
    pub(super) fn line(&self, content: &impl Serialize) -> (Vec<u8>, Self) {
        let json = serde_json::to_vec(content)
            .expect("texts, whole numbers, lists, and maps by text have a form in JSON");
        let tail = self.after(&json);
        let mut line = format!("{:016x} ", tail.sum).into_bytes();
        line.extend(json);
        line.push(b'\n');
        (line, tail)
    }

    /// The JSON of a line that is the next one, and the tail after it.
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

impl Record {
    /// A record without steps, and its header line.
    pub(super) fn begin(
        scope: &Scope,
        begun: SystemTime,
        verb: Verb,
        guest: &str,
        request: &Guest,
    ) -> (Self, Vec<u8>) {
        let since_1970 = begun.duration_since(SystemTime::UNIX_EPOCH);
        let header = Header {
            version: VERSION,
            scope: scope.clone(),
            verb,
            guest: guest.to_owned(),
            begun_ms: u64::try_from(since_1970.unwrap_or_default().as_millis()).unwrap_or_default(),
            request: request.clone(),
        };
        let (line, tail) = Tail::START.line(&header);
        (Self { intent: header.intent(), tail }, line)
    }

    /// Reads a file's content. A last line without an end was being written when the agent ended:
    /// its step was never begun, and it is not part of the record.
    pub(super) fn read(
        content: &[u8],
        scope: &Scope,
        limits: &JournalLimits,
    ) -> Result<Self, Unfit> {
        let mut lines = content.split_inclusive(|byte| *byte == b'\n');
        let header = lines.next().ok_or(Unfit::Line(1))?;
        let (header, mut tail) = Tail::START.read(header).ok_or(Unfit::Line(1))?;
        let mut intent = read_header(header, scope)?.intent();
        for (line, number) in lines.filter(|line| line.ends_with(b"\n")).zip(2..) {
            if intent.steps.len() >= limits.steps {
                return Err(Unfit::Steps(limits.steps));
            }
            let (json, after) = tail.read(line).ok_or(Unfit::Line(number))?;
            let step: Step = serde_json::from_slice(json).map_err(|_| Unfit::Line(number))?;
            intent.steps.push(step);
            tail = after;
        }
        Ok(Self { intent, tail })
    }
}

/// The version comes first: a header of another one may have any other shape.
fn read_header(json: &[u8], scope: &Scope) -> Result<Header, Unfit> {
    let Versioned { version } = serde_json::from_slice(json).map_err(|_| Unfit::Line(1))?;
    if version != VERSION {
        return Err(Unfit::Version(version));
    }
    let header: Header = serde_json::from_slice(json).map_err(|_| Unfit::Line(1))?;
    if header.scope != *scope {
        return Err(Unfit::Scope(Box::new(header.scope)));
    }
    Ok(header)
}

impl Header {
    fn intent(self) -> Intent {
        let begun = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.begun_ms));
        Intent {
            verb: self.verb,
            guest: self.guest,
            begun: begun.unwrap_or(SystemTime::UNIX_EPOCH),
            request: self.request,
            steps: Vec::new(),
        }
    }
}

impl fmt::Display for Unfit {
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
