//! Calls that run after their request was answered: on threads of their own, by the same dispatcher
//! as all other calls, for the caller that made the request.
//!
//! A job's thread waits for the permit of its call, so no handler waits.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::audit::{Audit, CallContext};
use super::dispatch::Dispatcher;
use super::envelope::Lookup;
use super::table::{Callee, Service};
use super::v2;
use crate::jobs::RunningJob;
use crate::ops::Libvirt;

/// The threads that run jobs.
pub struct Workers {
    agent: Arc<Libvirt>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts the threads; jobs that an earlier run of the agent left start at once.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(agent: &Arc<Libvirt>, audit: &Arc<Audit>) -> io::Result<Self> {
        let mut workers = Self { agent: Arc::clone(agent), threads: Vec::new() };
        for index in 0..agent.core.jobs().limits().at_once {
            let (agent, audit) = (Arc::clone(agent), Arc::clone(audit));
            let thread = thread::Builder::new().name(format!("job-{index}"));
            let thread = thread.spawn(move || work(&agent, &audit));
            workers.threads.push(thread.inspect_err(|_| workers.request_stop())?);
        }
        Ok(workers)
    }

    /// Stops the start of jobs, and refuses new ones.
    pub fn request_stop(&self) {
        self.agent.core.jobs().close();
    }

    /// Waits for the running jobs; returns whether all have ended.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub fn stop(self, deadline: Instant) -> bool {
        self.request_stop();
        let ended = self.agent.core.jobs().wait_for_ends(deadline);
        if ended {
            for thread in self.threads {
                thread.join().expect("panics of calls are caught");
            }
        }
        ended
    }
}

/// Runs one job after the other until the agent stops.
fn work(agent: &Libvirt, audit: &Arc<Audit>) {
    while let Some(started) = agent.core.jobs().next() {
        carry_out(agent, audit, &started);
    }
}

fn carry_out(agent: &Libvirt, audit: &Arc<Audit>, started: &RunningJob) {
    let caller = started.request.caller;
    let dispatcher =
        Dispatcher { agent, by: CallContext { caller: &caller, audit, inbound: None } };
    let outcome = match agent.core.jobs().may_begin(started) {
        Ok(()) => {
            started.tracked(|| v2::carry_out_job(dispatcher, callee(&started.method), started))
        }
        Err(error) => v2::failed(&error.into(), started),
    };
    agent.core.end_job(started, outcome);
}

/// Returns the method of a job; `None` if this version no longer has it.
fn callee(name: &str) -> Option<Callee> {
    let (service, method) = name.split_once('.')?;
    match Callee::find(Service::Libvirt, service, method) {
        Lookup::Found(callee) if callee.may_be_job() => Some(callee),
        _ => None,
    }
}
