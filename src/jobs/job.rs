//! The data of a job, for callers and for its file.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::Progress;
use crate::os::clock;
use crate::os::peer::{Caller, Origin, Peer};

/// A job, as callers see it. Times are RFC 3339, in UTC.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Job {
    /// Its id, which no other job gets: digits only.
    pub id: String,
    /// The method that was called, with its service's name.
    pub method: String,
    /// The id of its guest.
    pub guest: String,
    /// Its state.
    pub state: JobState,
    /// When the call arrived.
    pub created: String,
    /// When the job started.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub started: String,
    /// When it ended.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ended: String,
    /// The present or last step.
    #[serde(skip_serializing_if = "Progress::is_empty")]
    pub progress: Progress,
    /// The result of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// The error of the call; only a `message` for a lost job, and for an error that is too long to
    /// store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<RawValue>>,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It waits for its start.
    #[default]
    Queued,
    /// It is running.
    Running,
    /// It has a result.
    Done,
    /// It has failed with an error.
    Failed,
    /// It was cancelled before its start.
    Cancelled,
    /// The agent ended before the job did.
    Lost,
}

impl JobState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Cancelled, Self::Lost];

    /// Returns its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    /// Returns whether the state is final.
    pub fn is_end(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A page of jobs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JobPage {
    /// The jobs without their results, the oldest first.
    pub jobs: Vec<Job>,
    /// The `after` of the next page; absent at the end.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// The request of a job.
#[derive(Clone, Debug)]
pub struct JobCall {
    /// The parameter of its method, as the caller wrote it.
    pub params: Box<RawValue>,
    /// The caller.
    pub caller: Caller,
}

/// The outcome of a job.
#[derive(Debug)]
pub enum JobOutcome {
    /// The call succeeded with this result.
    Done(Box<RawValue>),
    /// The call failed with this error.
    Failed(Box<RawValue>),
    /// The job was cancelled before its start.
    Cancelled,
    /// The agent ended during the job; the text tells what is known.
    Lost(String),
}

/// A job as its file has it.
#[derive(Clone, Debug)]
pub(super) struct JobRecord {
    /// The time of its present state, in milliseconds since 1970; a running job keeps the time of
    /// the former state.
    pub(super) at_ms: u64,
    pub(super) job: Job,
    /// `None` after the start.
    pub(super) request: Option<JobCall>,
}

impl JobRecord {
    pub(super) fn queued(
        number: u64,
        method: &str,
        guest: &str,
        request: JobCall,
        at: SystemTime,
    ) -> Self {
        let job = Job {
            id: number.to_string(),
            method: method.to_owned(),
            guest: guest.to_owned(),
            created: clock::rfc3339_utc(at),
            ..Job::default()
        };
        Self { at_ms: milliseconds(at), job, request: Some(request) }
    }

    pub(super) fn end(&mut self, outcome: JobOutcome, at: SystemTime) {
        let job = &mut self.job;
        job.state = match outcome {
            JobOutcome::Done(result) => {
                job.result = Some(result);
                JobState::Done
            }
            JobOutcome::Failed(error) => {
                job.error = Some(error);
                JobState::Failed
            }
            JobOutcome::Cancelled => JobState::Cancelled,
            JobOutcome::Lost(message) => {
                job.error = error_of(&message);
                JobState::Lost
            }
        };
        job.ended = clock::rfc3339_utc(at);
        self.at_ms = milliseconds(at);
        self.request = None;
    }

    /// Returns the whole record as texts, in the order in which [`JobRecord::read`] takes them.
    pub(super) fn texts(&self) -> Vec<String> {
        let job = self.job.clone();
        let json = |value: Option<Box<RawValue>>| value.map_or_else(String::new, text);
        let mut texts = vec![
            self.at_ms.to_string(),
            job.id,
            job.method,
            job.guest,
            job.state.name().to_owned(),
            job.created,
            job.started,
            job.ended,
            job.progress.steps.to_string(),
            job.progress.step,
            json(job.result),
            json(job.error),
        ];
        if let Some(JobCall { params, caller: Caller { origin, peer } }) = self.request.clone() {
            let beyond = matches!(origin, Origin::Network(_));
            let number = |number: Option<u32>| number.map_or_else(String::new, |it| it.to_string());
            texts.push(text(params));
            texts.push(origin.address().map_or_else(String::new, |address| address.to_string()));
            texts.push(if beyond { "beyond" } else { "here" }.to_owned());
            texts.extend([peer.map(|peer| peer.uid), peer.and_then(|peer| peer.pid)].map(number));
        }
        texts
    }

    /// Parses the texts of a record; returns `None` for all other texts, even if they are readable.
    pub(super) fn read(texts: &[String]) -> Option<Self> {
        let [at_ms, id, method, guest, state, created, started, ended, steps, step, rest @ ..] =
            texts
        else {
            return None;
        };
        let [result, error, request @ ..] = rest else { return None };
        let job = Job {
            id: id.clone(),
            method: method.clone(),
            guest: guest.clone(),
            state: JobState::ALL.into_iter().find(|it| it.name() == state)?,
            created: created.clone(),
            started: started.clone(),
            ended: ended.clone(),
            progress: Progress { steps: steps.parse().ok()?, step: step.clone() },
            result: raw(result),
            error: raw(error),
        };
        let request = match request {
            [] => None,
            [params, address, origin_kind, uid, pid] => {
                let address = (!address.is_empty()).then(|| address.parse()).transpose().ok()?;
                let origin = match address {
                    None => Origin::Socket,
                    Some(address) if origin_kind == "beyond" => Origin::Network(address),
                    Some(address) => Origin::Host(address),
                };
                let peer = uid.parse().ok().map(|uid| Peer { uid, pid: pid.parse().ok() });
                Some(JobCall { params: raw(params)?, caller: Caller { origin, peer } })
            }
            _ => return None,
        };
        let record = Self { at_ms: at_ms.parse().ok()?, job, request };
        (record.texts() == texts).then_some(record)
    }
}

fn text(json: Box<RawValue>) -> String {
    Box::<str>::from(json).into_string()
}

/// Parses JSON; an empty text is an absent value.
fn raw(text: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(text.to_owned()).ok()
}

/// Returns an error with only this message.
pub(super) fn error_of(message: &str) -> Option<Box<RawValue>> {
    raw(&json!({ "message": message }).to_string())
}

fn milliseconds(at: SystemTime) -> u64 {
    let since_1970 = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
