//! Status, Run, Poweroff, Reboot and Restart (contract section 5), and Suspend, Resume and Reset, which the original has not: the verbs that look a domain up, act by its state, and answer
//! with the state that follows.

use std::thread;
use std::time::Instant;

use crate::config::HostConfig;
use crate::config::fixed::{WAKE, WAKE_LOOK};
use crate::guest::domain::VirDomain;
use crate::guest::state::{Condition, State};
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::libvirt::{self, Code, Connection, Domain, XmlKind};
use crate::ops::start::start;
use crate::ops::{Error, Libvirt, Question, Session, named_guest, respond};
use crate::pool::Lane;

/// What a verb does with a domain whose state is known.
type Action = fn(&Domain, State) -> Result<(), libvirt::Error>;

impl Libvirt {
    /// The guest's state, nothing changed. `virDomainGetState`.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; what libvirt says, a missing domain among it.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read).
    pub fn status(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.ask(self.status_question(request)?)
    }

    /// What [`Libvirt::status`] asks.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; an argument that cannot be understood.
    pub fn status_question(&self, request: GuestRequest) -> Result<Question<GuestResponse>, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.read_deadline(&request.args)?;
        Ok(Question::new("Status", guest.id.clone(), deadline, |session| {
            let (state, reason) = session.state(&guest.id)?;
            Ok(answer(guest, Condition::from_codes(state, reason)))
        }))
    }

    /// Reboots the guest's system. `virDomainReboot`.
    ///
    /// # Errors
    /// As [`Libvirt::status`]; a guest that is off cannot be rebooted.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change); returns when asked, not done.
    pub fn reboot(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.domain_wrapper("Reboot", Lane::Control, request, |domain, _| domain.reboot())
    }

    /// The same as [`Libvirt::reboot`], under the name that the original has for it too.
    ///
    /// # Errors
    /// As [`Libvirt::reboot`].
    pub fn restart(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.reboot(request)
    }

    /// Pulls the guest's power cord; a guest that is off already is a success. `virDomainDestroy`.
    ///
    /// Waits for no other verb of the guest: destroying is what frees one that hangs.
    ///
    /// # Errors
    /// As [`Libvirt::status`].
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change): 10 s where the emulator hangs.
    pub fn poweroff(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.domain_wrapper("Poweroff", Lane::Urgent, request, |domain, state| match state {
            State::Shutoff => Ok(()),
            _ => destroy(domain),
        })
    }

    /// Stops the guest's processors where they are; a guest that is paused already is a success. One whose start
    /// is under way is paused after it. `virDomainSuspend`.
    ///
    /// # Errors
    /// As [`Libvirt::status`]; a guest that is off cannot be paused.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn suspend(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.domain_wrapper("Suspend", Lane::Control, request, |domain, state| match state {
            State::Paused if !condition(domain)?.is_starting() => Ok(()),
            _ => domain.suspend(),
        })
    }

    /// Lets a paused guest go on, and wakes one that has suspended itself; a guest that runs is a
    /// success. Unlike Run it starts none that is off. `virDomainResume`, `virDomainPMWakeup`.
    ///
    /// # Errors
    /// As [`Libvirt::status`]; a guest that is neither.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn resume(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.domain_wrapper("Resume", Lane::Control, request, |domain, state| match state {
            State::Running => Ok(()),
            State::Suspended => wake(domain),
            _ => resume(domain),
        })
    }

    /// Presses the guest's reset button: its system begins anew at once, without being asked. Each
    /// call is one more. A guest that is paused stays so. `virDomainReset`.
    ///
    /// # Errors
    /// As [`Libvirt::status`]; a guest that is off cannot be reset.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn reset(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.domain_wrapper("Reset", Lane::Control, request, |domain, _| domain.reset())
    }

    /// Starts the guest, resumes it where it is paused, wakes it where it suspended itself; a running one
    /// is left alone. Somebody else's start under way is waited for.
    ///
    /// Each NIC of the request is matched with the domain's by its MAC: `device` becomes the
    /// host's device, an empty `name` the alias. A NIC without a match keeps its values. `vnc`
    /// becomes the port of a display on TCP; one on a Unix socket has none, and `vnc` stays. A port
    /// that is taken is no error: libvirt chooses another.
    ///
    /// # Errors
    /// As [`Libvirt::status`]; [`Error::Panicked`]; a disk that lies where none may, by now; whatever keeps
    /// the emulator from starting, with the disks that are not there.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn run(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = named_guest(request.guest)?;
        let deadline = self.change_deadline(&request.args)?;
        let (id, host) = (guest.id.clone(), self.host.clone());
        let (condition, xml) = self.change("Run", &guest.id, deadline, move |session| {
            let domain = session.domain(&id)?;
            start_or_resume(session.connection()?, &domain, &host)?;
            Ok((condition(&domain)?, domain.xml(XmlKind::Live)?))
        })?;
        fill_from_live(&mut guest, &xml);
        Ok(answer(guest, condition))
    }

    /// Looks the guest's domain and state up, lets `action` act, and answers with the state after.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; the first error of the lookup, the action or the second
    /// reading of the state.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn domain_wrapper(
        &self,
        verb: &'static str,
        lane: Lane,
        request: GuestRequest,
        action: Action,
    ) -> Result<GuestResponse, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.change_deadline(&request.args)?;
        let id = guest.id.clone();
        let work = move |session: &mut Session| {
            let domain = session.domain(&id)?;
            action(&domain, get_state(&domain)?)?;
            Ok(condition(&domain)?)
        };
        let condition = match lane {
            Lane::Urgent => self.urgent(verb, &guest.id, deadline, work)?,
            _ => self.change(verb, &guest.id, deadline, work)?,
        };
        Ok(answer(guest, condition))
    }
}

/// What the domain is doing now (the owner's `GetState`). `virDomainGetState`.
///
/// # Errors
/// As [`Domain::state`].
///
/// # Blocking
/// One round trip.
pub fn get_state(domain: &Domain) -> Result<State, libvirt::Error> {
    domain.state().map(|(state, _)| State::from_code(state))
}

/// Destroys a domain; one that went off by itself meanwhile is what was wanted.
pub(super) fn destroy(domain: &Domain) -> Result<(), libvirt::Error> {
    match domain.destroy() {
        Err(error) if error.code == Code::OPERATION_INVALID && !domain.is_active()? => Ok(()),
        outcome => outcome,
    }
}

/// Resumes a domain; one that runs meanwhile, as after a start that was under way, is what was wanted.
fn resume(domain: &Domain) -> Result<(), libvirt::Error> {
    match domain.resume() {
        Err(error)
            if error.code == Code::OPERATION_INVALID && get_state(domain)? == State::Running =>
        {
            Ok(())
        }
        outcome => outcome,
    }
}

/// Wakes a guest that suspended itself, and waits until libvirt knows that it runs: qemu tells so some
/// milliseconds later.
///
/// # Errors
/// As [`Domain::wake`].
///
/// # Blocking
/// Up to [`WAKE`] for that.
fn wake(domain: &Domain) -> Result<(), libvirt::Error> {
    domain.wake()?;
    let until = Instant::now() + WAKE;
    while get_state(domain)? == State::Suspended && Instant::now() < until {
        thread::sleep(WAKE_LOOK);
    }
    Ok(())
}

/// The table of contract section 5 for Run, but for two states: libvirt resumes no guest that suspended
/// itself, it wakes it; and a guest that panicked does not run.
fn start_or_resume(
    connection: &Connection,
    domain: &Domain,
    host: &HostConfig,
) -> Result<(), Error> {
    let mut found = condition(domain)?;
    if found.is_starting() {
        start(connection, domain, host)?;
        found = condition(domain)?;
    }
    match found.state {
        State::Running | State::Other(_) => Ok(()),
        State::Paused => Ok(resume(domain)?),
        State::Suspended => Ok(wake(domain)?),
        State::Crashed => Err(Error::Panicked { id: domain.name()? }),
        State::Shutdown | State::Shutoff | State::Blocked | State::Unknown => {
            start(connection, domain, host)
        }
    }
}

/// Takes each NIC's device, its alias where the caller gave no name, and the port of a display on
/// TCP from the live XML.
pub(super) fn fill_from_live(guest: &mut Guest, xml: &str) {
    let live = match VirDomain::from_xml(xml) {
        Ok(live) => live,
        Err(error) => {
            log::warn!("cannot parse the running domain's XML; guest={:?}: {error}", guest.id);
            return;
        }
    };
    if let Some(port) = live.devices.graphics.vnc_port() {
        guest.vnc = port;
    }
    for nic in &mut guest.nics {
        let Some(found) = live.interface_by_mac(&nic.mac) else { continue };
        nic.device.clone_from(&found.target.device);
        if nic.name.is_empty() {
            nic.name.clone_from(&found.alias.name);
        }
    }
}

/// The same with its reason.
///
/// # Errors
/// As [`Domain::state`].
pub(super) fn condition(domain: &Domain) -> Result<Condition, libvirt::Error> {
    let (state, reason) = domain.state()?;
    Ok(Condition::from_codes(state, reason))
}

/// The answer with a guest that is in this condition.
pub(super) fn answer(mut guest: Guest, condition: Condition) -> GuestResponse {
    guest.state = condition.state.name().to_owned();
    guest.reason = condition.reason.to_owned();
    respond(guest)
}
