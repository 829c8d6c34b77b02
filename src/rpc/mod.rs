//! JSON in, JSON out: the envelopes, the table of methods, and the texts of errors. The only module
//! that knows the shape of answers.

mod audit;
mod dry_run;
pub mod envelope;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod given;
mod jobs;
pub mod json;
mod post;
mod strange;
mod subject;
mod table;
mod texts;
mod v2;

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Instant;

use log::kv::Value;
use log::{Level, log_enabled, warn};
use serde_json::value::RawValue;

use crate::guest::members::noting;
use crate::guest::wire::images::SnapshotRequest;
use crate::jobs::reached;
use crate::ops::{self, Error, Libvirt};
use crate::os::memory;
use crate::os::peer::Share;
use crate::pool::{self, CallShare, JobName, NoPermit, Permit, Ration, current};
use crate::rpc::envelope::{Lookup, Refusal, Request};
use crate::rpc::json::Writer;
use crate::storage;
use audit::{Call, Outcome, log_call, milliseconds};
use given::{Given, given};
use subject::{About, Subject};
use table::Effect::{Changes, Reads};
use table::{Entry, Method};

pub use audit::{Asking, Audit, Behalf, Inbound};
pub use jobs::Workers;
use jobs::{Turn, When};
pub use post::post;
pub use table::Service;
pub use v2::answer as answer_v2;
#[cfg(any(test, fuzzing))]
pub(crate) use v2::fuzz_calls;

/// A request beyond this leaves so much free memory behind that it is worth giving back: a guest of
/// common size takes 2 KiB.
const LARGE_BYTES: usize = 8 * 1024;
/// No guest's id or dataset is longer, in bytes.
const KEY_BYTES_MAX: usize = 512;

/// What comes of one request.
#[derive(Debug)]
pub struct Answered {
    /// The method that was called, with its service: none where nobody knows it.
    pub method: Option<String>,
    /// What goes back.
    pub answer: Answer,
}

/// What goes back for one request.
#[derive(Debug)]
pub enum Answer {
    /// A result or a method's error: status 200 with this body.
    Result(Vec<u8>),
    /// The request was a notification: status 200 and no body.
    Nothing,
    /// The request could not be understood: status 400 with this line.
    Refused(String),
}

/// Carries out the request in `body`, for a method of `service`. A call that changes something is
/// audited, also one that is refused.
///
/// # Blocking
/// Up to the deadline of the method that it calls.
pub fn answer(agent: &Libvirt, service: Service, body: &[u8], by: Behalf<'_>) -> Answered {
    let desk = Desk::new(agent, by);
    let began = desk.by.arrived();
    let mut named = None;
    let outcome = envelope::decode(body, |name, method| {
        let found = lookup(service, name, method);
        if let Lookup::Found(callee) = found {
            named = Some(callee);
        }
        found
    });
    let outcome = outcome.and_then(|request| desk.dispatch(&request, request.method, began));
    if let (Err(refusal), Some(callee)) = (&outcome, named) {
        desk.refused(callee, &refusal.text, began);
    }
    let answer = match outcome {
        Ok(Some(answer)) => Answer::Result(answer),
        Ok(None) => Answer::Nothing,
        Err(refusal) => Answer::Refused(refusal.text),
    };
    give_back_after(body);
    Answered { method: named.map(Callee::full_name), answer }
}

/// Gives back what a large request leaves free.
fn give_back_after(body: &[u8]) {
    if body.len() > LARGE_BYTES {
        memory::give_back();
    }
}

/// What goes back for a snapshot that is to be downloaded.
pub enum Download {
    /// Its content: status 200.
    Stream(Box<dyn Read + Send>),
    /// This status with this line.
    Refused(u16, String),
}

/// Opens the snapshot that the request in `body` names: a `SnapshotRequest` without an envelope.
///
/// # Blocking
/// As [`Libvirt::send_snapshot`].
pub fn download(agent: &Libvirt, body: &[u8], by: Behalf<'_>) -> Download {
    let began = by.arrived();
    let request: SnapshotRequest = match envelope::decode_bare(body) {
        Ok(request) => request,
        Err(refusal) => return Download::Refused(Refusal::STATUS, refusal.text),
    };
    let (service, method) = (Service::ImageStore, "DownloadSnapshot");
    let share = share(Ration::Store, by.caller.share(), &request.subject().key());
    let admitted = Desk::new(agent, by).admit(share, None, method, began);
    let outcome = match admitted {
        // Nobody gets this answer.
        Ok(None) => return Download::Refused(503, String::new()),
        Ok(Some(_permit)) => current::carry_out(began, || agent.send_snapshot(&request)),
        Err(error) => Err(error),
    };
    agent.calls().count(service.name(), method, outcome.is_ok(), began.elapsed());
    log_read(service, method, &request.subject(), false, began, outcome.as_ref().err());
    outcome.map_or_else(
        |error| {
            let status = match &error {
                Error::Storage(storage::Error::NotFound { .. }) => 404,
                Error::Refused(_) | Error::Storage(storage::Error::Invalid(_)) => 400,
                Error::Pool(pool::Error::Busy { .. } | pool::Error::Stopping) => 503,
                _ => 500,
            };
            Download::Refused(status, texts::on_old_path(&error))
        },
        Download::Stream,
    )
}

/// A method with its service.
#[derive(Clone, Copy)]
struct Callee {
    service: Service,
    entry: Entry,
}

impl Callee {
    /// Its name, as callers write it.
    fn full_name(self) -> String {
        self.service.full_name(self.entry.0)
    }

    /// What a call of it is counted for; nothing where it asks neither libvirt nor the store.
    fn share(self, user: Share, subject: &Subject, waits: bool) -> Option<CallShare> {
        let (name, effect, method) = self.entry;
        let ration = match method {
            Method::Job(_) if effect == Changes => return Some(jobs::file_share(user)),
            Method::Events(_) | Method::Job(_) | Method::Jobs(_) => return None,
            Method::Leftovers(_) if effect == Reads => return None,
            _ if self.service == Service::ImageStore => Ration::Store,
            _ if name == "Poweroff" || name == "Thaw" => Ration::Urgent,
            _ if name == "Delete" => Ration::Delete,
            _ if name == "Trim" => Ration::Trim,
            Method::Shutdown if waits => Ration::Shutdown,
            Method::GuestInfo(_) | Method::Login(_) => Ration::Agent,
            _ if effect == Changes => Ration::Change,
            _ if matches!(method, Method::Metrics(..) | Method::Screenshot(_)) => Ration::Metrics,
            _ => Ration::Read,
        };
        Some(share(ration, user, &subject.key()))
    }
}

/// A method that is served on the port of `port`.
fn lookup(port: Service, name: &str, method: &str) -> Lookup<Callee> {
    let Some(service) = port.at_port().iter().copied().find(|service| service.name() == name)
    else {
        return Lookup::NoService;
    };
    let mut methods = service.methods().iter().copied();
    let found = methods.find(|(name, ..)| *name == method);
    found.map_or(Lookup::NoMethod, |entry| Lookup::Found(Callee { service, entry }))
}

/// A call as its envelope has it: how its parameter is given and its outcome is written.
trait Asked {
    /// The parameter as it was written, where there is one, which may have these members.
    ///
    /// # Errors
    /// If it has others, where that counts.
    fn params(&self, known: &[&str]) -> Result<Option<&RawValue>, Refusal>;

    /// Refuses or logs unknown members.
    ///
    /// # Errors
    /// Where they are refused.
    fn unknown(&self, callee: Callee, members: &[String]) -> Result<(), Refusal>;

    /// Whether members that would be replaced are refused.
    fn is_strict(&self) -> bool;

    /// The refusal of a parameter that is not what the method takes.
    fn unfit(&self, error: &serde_json::Error) -> Refusal;

    /// When it is to be carried out where it may become a job, as far as the envelope says that.
    ///
    /// # Errors
    /// If that is said in a way that cannot be understood.
    fn when(&self) -> Result<When<'_>, Refusal>;

    /// The answer, if it gets one: with the result that is written, or the error of a call that was
    /// about this.
    fn answer(&self, outcome: Result<Writer<'_>, &Error>, subject: &Subject) -> Option<Vec<u8>>;
}

impl Asked for Request<Callee> {
    fn params(&self, _: &[&str]) -> Result<Option<&RawValue>, Refusal> {
        Ok(Request::params(self))
    }

    /// Passed over, as by the original (contract section 9).
    fn unknown(&self, callee: Callee, members: &[String]) -> Result<(), Refusal> {
        for member in members {
            let method = callee.entry.0;
            warn!(method; "ignoring a member of the request: {member}");
        }
        Ok(())
    }

    fn is_strict(&self) -> bool {
        false
    }

    fn unfit(&self, error: &serde_json::Error) -> Refusal {
        envelope::unfit(error)
    }

    fn when(&self) -> Result<When<'_>, Refusal> {
        Ok(When::Now)
    }

    fn answer(&self, outcome: Result<Writer<'_>, &Error>, _: &Subject) -> Option<Vec<u8>> {
        let id = self.id.as_ref()?;
        Some(match outcome {
            Ok(write) => envelope::encode_success(write, id),
            Err(error) => envelope::encode_error(&texts::on_old_path(error), id),
        })
    }
}

/// Where calls are carried out for one caller.
#[derive(Clone, Copy)]
struct Desk<'a> {
    agent: &'a Libvirt,
    by: Behalf<'a>,
    /// Whether its calls wait for their permits on its thread, as those of a batch or a job.
    waits: bool,
}

impl<'a> Desk<'a> {
    fn new(agent: &'a Libvirt, by: Behalf<'a>) -> Self {
        Self { agent, by, waits: by.inbound.is_none() }
    }

    /// The permit of a call that arrived then; none where its request waits for it without this thread, and is
    /// not to be answered.
    ///
    /// # Errors
    /// Where too many calls wait, the agent stops, or the deadline came: none of the call is done.
    ///
    /// # Blocking
    /// Up to the call's deadline, where its calls wait on their thread.
    fn admit(
        self,
        share: CallShare,
        args: Option<&BTreeMap<String, String>>,
        what: &str,
        arrived: Instant,
    ) -> Result<Option<Permit>, Error> {
        let pool = self.agent.pool();
        // What cannot be understood is for the verb to refuse.
        let own = args.and_then(|args| ops::timeout(args).ok().flatten());
        let default = match share.ration {
            Ration::Read | Ration::Metrics | Ration::Agent => self.agent.deadlines().read,
            _ => self.agent.deadlines().change,
        };
        let deadline = arrived + own.unwrap_or(default);
        let inbound = self.by.inbound.filter(|inbound| !self.waits && inbound.can_park());
        let permit = match inbound.and_then(Inbound::take_permit) {
            Some(Ok(permit)) if permit.is_for(&share) => Ok(permit),
            Some(Err(why)) => Err(why),
            Some(Ok(_)) | None => match (pool.permit(&share), inbound) {
                (Some(permit), _) => Ok(permit),
                (None, Some(inbound)) => {
                    inbound.park(Asking { share, deadline });
                    return Ok(None);
                }
                (None, None) => {
                    reached("wait for a permit of the pool");
                    pool.wait_for_permit(&share, deadline)
                }
            },
        };
        // A verb that begins late would only say so, and may have done something before.
        let in_time = permit.and_then(|permit| match Instant::now() < deadline {
            true => Ok(permit),
            false => Err(NoPermit::Late),
        });
        in_time.map(Some).map_err(|why| {
            let what = match share.ration {
                Ration::Batch => what.to_owned(),
                _ => JobName::new(what, share.guest.as_ref()).to_string(),
            };
            Error::Pool(pool.no_permit(why, &share, &what, arrived))
        })
    }

    /// Carries a call out; its answer, if it gets one.
    fn dispatch(
        self,
        asked: &dyn Asked,
        callee: Callee,
        began: Instant,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        match callee.entry.2 {
            Method::Guest(verb) | Method::Status(verb, _) => {
                self.call(asked, callee, began, &mut given(&verb))
            }
            Method::WithDryRun(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Metrics(verb, _) => self.call(asked, callee, began, &mut given(&verb)),
            Method::AllMetrics(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::List(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Describe(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Leftovers(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Autostart(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Setting(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Disk(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Nic(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Console(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::GuestInfo(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Login(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Shutdown => {
                let gone = || self.by.may_be_abandoned();
                let verb = |agent: &Libvirt, request| agent.shutdown(request, &gone);
                self.call(asked, callee, began, &mut given(&verb))
            }
            Method::Screenshot(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Events(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Image(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Clone(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Volume(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Snapshot(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Job(verb) => self.call(asked, callee, began, &mut given(&verb)),
            Method::Jobs(verb) => self.call(asked, callee, began, &mut given(&verb)),
        }
    }

    /// Runs the verb, writes the outcome down, one line a call, and answers it; or makes a job of the
    /// call, whose line comes when that is carried out.
    fn call(
        self,
        asked: &dyn Asked,
        callee: Callee,
        began: Instant,
        given: &mut dyn Given,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let names = given.names();
        // What a secret stands in for is not repeated.
        let hushed = |refusal: Refusal| match callee.entry.2 {
            Method::Login(_) => {
                let names = names.join(", ");
                let why = format!("expected an object with {names}; its content is secret");
                asked.unfit(&serde::de::Error::custom(why))
            }
            _ => refusal,
        };
        let written = asked.params(names).map_err(hushed)?;
        if let Some(written) = written {
            let (read, unknown) = noting(|| given.read(written.get()));
            read.map_err(|error| hushed(asked.unfit(&error)))?;
            asked.unknown(callee, &strange::in_words(&unknown))?;
        }
        let params = given.about();
        let waits = params.waits();
        params.set_strict(asked.is_strict());
        let mut subject = params.subject();
        let is_dry_run = params.is_dry_run();
        if waits && self.waits {
            let why = "wait and force_after cannot be in a batch, as the batch would wait, too";
            let error = Error::Invalid(why.to_owned());
            return Ok(self.refuse(asked, callee, (subject, is_dry_run), began, &error));
        }
        if let (true, Some((guest, args))) = (callee.may_be_job(), params.for_job()) {
            let when = asked.when()?;
            subject.job = when.job();
            match self.as_job(callee, when, guest, args, written, (is_dry_run, waits, began)) {
                Ok(Turn::Now) => {}
                Ok(Turn::Waits) => return Ok(None),
                Ok(Turn::Later(accepted)) => {
                    return Ok(asked.answer(Ok(&|out| json::write(out, &*accepted)), &subject));
                }
                Err(error) => {
                    return Ok(self.refuse(asked, callee, (subject, is_dry_run), began, &error));
                }
            }
        }
        let permit = match callee.share(self.by.caller.share(), &subject, waits) {
            None => None,
            Some(share) => match self.admit(share, params.args(), callee.entry.0, began) {
                Ok(Some(permit)) => Some(permit),
                Ok(None) => return Ok(None),
                Err(error) => {
                    return Ok(self.refuse(asked, callee, (subject, is_dry_run), began, &error));
                }
            },
        };
        // A job has waited for nobody, and has all of its time from here on.
        let arrived = if subject.job.is_some() { Instant::now() } else { began };
        let doing = self.begin(callee, subject, is_dry_run, began);
        let run = || current::carry_out(arrived, || given.carry_out(self.agent));
        let outcome = current::of_caller(self.by.caller.share(), run);
        drop(permit);
        let subject = doing.end(self.agent, outcome.as_ref().err());
        Ok(match &outcome {
            Ok(write) => asked.answer(Ok(&**write), &subject),
            Err(error) => asked.answer(Err(error), &subject),
        })
    }

    /// Answers a call with an error before its verb, and writes that down.
    fn refuse(
        self,
        asked: &dyn Asked,
        callee: Callee,
        (subject, is_dry_run): (Subject, bool),
        began: Instant,
        error: &Error,
    ) -> Option<Vec<u8>> {
        let doing = self.begin(callee, subject, is_dry_run, began);
        let subject = doing.end(self.agent, Some(error));
        asked.answer(Err(error), &subject)
    }

    /// A call that is carried out from here on.
    fn begin(
        self,
        callee: Callee,
        subject: Subject,
        is_dry_run: bool,
        began: Instant,
    ) -> Doing<'a> {
        let what = match callee.entry.1 {
            Changes if !is_dry_run => {
                What::Change(Call::begin(self.by, callee.full_name(), Some(subject), began))
            }
            _ => What::Read { subject, is_dry_run },
        };
        Doing { callee, began, what }
    }

    /// Writes down a call that was refused before its verb, where the verb changes something.
    fn refused(self, callee: Callee, why: &str, began: Instant) {
        if callee.entry.1 == Changes {
            Call::begin(self.by, callee.full_name(), None, began).end(&Outcome::Refused(why));
        }
    }
}

/// What a call is counted for; a key that no guest has by its length is none.
fn share(ration: Ration, user: Share, key: &str) -> CallShare {
    CallShare {
        ration,
        user,
        guest: if key.len() <= KEY_BYTES_MAX { key.into() } else { "".into() },
    }
}

/// A call that is being carried out.
struct Doing<'a> {
    callee: Callee,
    began: Instant,
    what: What<'a>,
}

enum What<'a> {
    Change(Call<'a>),
    Read { subject: Subject, is_dry_run: bool },
}

impl Doing<'_> {
    /// Counts it and writes it down, by its error if it has one; what it was about.
    fn end(self, agent: &Libvirt, error: Option<&Error>) -> Subject {
        let Self { callee: Callee { service, entry: (method, ..) }, began, what } = self;
        agent.calls().count(service.name(), method, error.is_none(), began.elapsed());
        match what {
            What::Change(call) => call.end(&match error {
                None => Outcome::Ok,
                Some(error) if error.is_late() => Outcome::Late(error),
                Some(error) => Outcome::Error(error),
            }),
            What::Read { subject, is_dry_run } => {
                log_read(service, method, &subject, is_dry_run, began, error);
                subject
            }
        }
    }
}

/// Logs how a call went that changes nothing, be it one of a method that else does.
fn log_read(
    service: Service,
    method: &str,
    subject: &Subject,
    is_dry_run: bool,
    began: Instant,
    error: Option<&Error>,
) {
    if !log_enabled!(Level::Info) {
        return;
    }
    let error = error.map(ToString::to_string);
    let word = if error.is_none() { "ok" } else { "error" };
    let mut fields: Vec<_> = subject.fields().collect();
    let ms = Value::from(milliseconds(began.elapsed()));
    fields.extend(is_dry_run.then_some(("dry_run", Value::from(true))));
    fields.extend([("ms", ms), ("outcome", Value::from(word))]);
    fields.extend(error.as_deref().map(|error| ("error", Value::from(error))));
    log_call(&service.full_name(method), &fields);
}
