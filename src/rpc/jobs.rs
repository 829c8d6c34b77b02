//! Calls that are carried out after their request was answered: on threads of their own, by the same
//! desk that carries out all others, for the caller that asked.
//!
//! A job's thread waits for the permit of its call: it keeps no handler waiting.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::audit::{Audit, Behalf};
use super::dispatch::Desk;
use super::envelope::Lookup;
use super::table::{Callee, Service};
use super::v2;
use crate::jobs::Begun;
use crate::ops::Libvirt;

/// The threads that carry jobs out.
pub struct Workers {
    agent: Arc<Libvirt>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts them; jobs that a former life of the agent left are begun at once.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(agent: &Arc<Libvirt>, audit: &Arc<Audit>) -> io::Result<Self> {
        let mut workers = Self { agent: Arc::clone(agent), threads: Vec::new() };
        for index in 0..agent.jobs().limits().at_once {
            let (agent, audit) = (Arc::clone(agent), Arc::clone(audit));
            let thread = thread::Builder::new().name(format!("job-{index}"));
            let thread = thread.spawn(move || work(&agent, &audit));
            workers.threads.push(thread.inspect_err(|_| workers.tell_to_stop())?);
        }
        Ok(workers)
    }

    /// From here on no job is begun, or taken.
    pub fn tell_to_stop(&self) {
        self.agent.jobs().close();
    }

    /// Waits for the jobs that run; whether all have ended.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub fn stop(self, deadline: Instant) -> bool {
        self.tell_to_stop();
        let ended = self.agent.jobs().wait_for_ends(deadline);
        if ended {
            for thread in self.threads {
                thread.join().expect("panics of calls are caught");
            }
        }
        ended
    }
}

/// Carries out one job after the other until none is begun any more.
fn work(agent: &Libvirt, audit: &Arc<Audit>) {
    while let Some(begun) = agent.jobs().next() {
        carry_out(agent, audit, &begun);
    }
}

fn carry_out(agent: &Libvirt, audit: &Arc<Audit>, begun: &Begun) {
    let caller = begun.request.caller;
    let desk = Desk { agent, by: Behalf { caller: &caller, audit, inbound: None } };
    let outcome = match agent.jobs().may_begin(begun) {
        Ok(()) => begun.tracked(|| v2::carry_out_job(desk, callee(&begun.method), begun)),
        Err(error) => v2::failed(&error.into(), begun),
    };
    agent.end_job(begun, outcome);
}

/// The method of a job; none that this version does not have any more.
fn callee(name: &str) -> Option<Callee> {
    let (service, method) = name.split_once('.')?;
    match Callee::find(Service::Libvirt, service, method) {
        Lookup::Found(callee) if callee.may_be_job() => Some(callee),
        _ => None,
    }
}
