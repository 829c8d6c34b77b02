//! Status, Run, Poweroff, Reboot and Restart (contract section 5), and Suspend, Resume and Reset, which the original
//! does not have. These methods look a domain up, act by its state, and return the state that follows.

use std::thread;
use std::time::Instant;

use crate::config::HostConfig;
use crate::config::fixed::{WAKE, WAKE_LOOK};
use crate::guest::domain::VirDomain;
use crate::guest::state::{Condition, State};
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::libvirt::{self, Code, Connection, Domain, XmlKind};
use crate::ops::guests::start::start;
use crate::ops::requests::{named_guest, respond};
use crate::ops::{Error, Guests, Question, Session};
use crate::pool::Lane;

/// The action of a method on a domain in a known state.
pub type DomainAction = fn(&Domain, State) -> Result<(), libvirt::Error>;

impl Guests {
    /// Returns the guest's state, and changes nothing. `virDomainGetState`.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; errors of libvirt, including a missing domain.
    ///
    /// # Blocking
    /// Up to [`Deadlines::read`](crate::config::Deadlines::read).
    pub fn status(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.core.ask(self.status_question(request)?)
    }

    /// Returns the question of [`Guests::status`].
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; invalid arguments.
    pub fn status_question(&self, request: GuestRequest) -> Result<Question<GuestResponse>, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.core.read_deadline(&request.args)?;
        Ok(Question::new("Status", guest.id.clone(), deadline, |session| {
            let (state, reason) = session.state(&guest.id)?;
            Ok(answer(guest, Condition::from_codes(state, reason)))
        }))
    }

    /// Reboots the guest's system. `virDomainReboot`.
    ///
    /// # Errors
    /// As [`Guests::status`]; a guest that is off cannot be rebooted.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change); returns after the request, and does not wait for
    /// the reboot.
    pub fn reboot(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.domain_wrapper("Reboot", Lane::Control, request, |domain, _| domain.reboot())
    }

    /// Does the same as [`Guests::reboot`], under the second name that the original has for it.
    ///
    /// # Errors
    /// As [`Guests::reboot`].
    pub fn restart(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.reboot(request)
    }

    /// Forces the guest off; succeeds if it is off already. `virDomainDestroy`.
    ///
    /// Waits for no other method of the guest: destroying the domain frees a method that hangs.
    ///
    /// # Errors
    /// As [`Guests::status`].
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change); 10 s if the emulator hangs.
    pub fn poweroff(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.domain_wrapper("Poweroff", Lane::Urgent, request, |domain, state| match state {
            State::Shutoff => Ok(()),
            _ => destroy(domain),
        })
    }

    /// Pauses the guest's processors; succeeds if it is paused already. If the guest is starting, pauses it after the
    /// start. `virDomainSuspend`.
    ///
    /// # Errors
    /// As [`Guests::status`]; a guest that is off cannot be paused.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn suspend(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.domain_wrapper("Suspend", Lane::Control, request, |domain, state| match state {
            State::Paused if !condition(domain)?.is_starting() => Ok(()),
            _ => domain.suspend(),
        })
    }

    /// Resumes a paused guest, and wakes a guest that has suspended itself; succeeds if the guest runs. Unlike Run,
    /// does not start a guest that is off. `virDomainResume`, `virDomainPMWakeup`.
    ///
    /// # Errors
    /// As [`Guests::status`]; a guest in any other state.
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

    /// Resets the guest like its reset button: its system restarts at once, without a shutdown. Each call is a further
    /// reset. A paused guest stays paused. `virDomainReset`.
    ///
    /// # Errors
    /// As [`Guests::status`]; a guest that is off cannot be reset.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn reset(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        self.domain_wrapper("Reset", Lane::Control, request, |domain, _| domain.reset())
    }

    /// Starts the guest, resumes it if it is paused, wakes it if it suspended itself; does nothing if it runs. Waits
    /// for a start of another caller that is under way.
    ///
    /// The MAC of each NIC of the request finds the domain's NIC: `device` becomes the host's device, an empty `name`
    /// the alias. A NIC without a match keeps its values. `vnc` becomes the port of a display on TCP; it stays for a
    /// display on a Unix socket. A port that is in use is no error: libvirt chooses another.
    ///
    /// # Errors
    /// As [`Guests::status`]; [`Error::Panicked`]; a disk at a path that is no longer allowed; any error that keeps
    /// the emulator from starting, with the names of missing disks.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn run(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = named_guest(request.guest)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let (id, host) = (guest.id.clone(), self.core.host.clone());
        let (condition, xml) = self.core.change("Run", &guest.id, deadline, move |session| {
            let domain = session.domain(&id)?;
            start_or_resume(session.connection()?, &domain, &host)?;
            Ok((condition(&domain)?, domain.xml(XmlKind::Live)?))
        })?;
        fill_from_live(&mut guest, &xml);
        Ok(answer(guest, condition))
    }

    /// Looks up the guest's domain and state, runs `action`, and returns the state afterwards.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; the first error of the lookup, the action or the second query of the state.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn domain_wrapper(
        &self,
        verb: &'static str,
        lane: Lane,
        request: GuestRequest,
        action: DomainAction,
    ) -> Result<GuestResponse, Error> {
        let guest = named_guest(request.guest)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let id = guest.id.clone();
        let work = move |session: &mut Session| {
            let domain = session.domain(&id)?;
            action(&domain, get_state(&domain)?)?;
            Ok(condition(&domain)?)
        };
        let condition = match lane {
            Lane::Urgent => self.core.urgent(verb, &guest.id, deadline, work)?,
            _ => self.core.change(verb, &guest.id, deadline, work)?,
        };
        Ok(answer(guest, condition))
    }
}

/// Returns the present state of the domain (the owner's `GetState`). `virDomainGetState`.
///
/// # Errors
/// As [`Domain::state`].
///
/// # Blocking
/// One round trip.
pub fn get_state(domain: &Domain) -> Result<State, libvirt::Error> {
    domain.state().map(|(state, _)| State::from_code(state))
}

/// Destroys a domain; succeeds if it went off by itself meanwhile.
pub(in crate::ops) fn destroy(domain: &Domain) -> Result<(), libvirt::Error> {
    match domain.destroy() {
        Err(error) if error.code == Code::OPERATION_INVALID && !domain.is_active()? => Ok(()),
        outcome => outcome,
    }
}

/// Resumes a domain; succeeds if it runs meanwhile, as after a start that was under way.
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

/// Wakes a guest that suspended itself, and waits until libvirt reports it as running: qemu sends that event some
/// milliseconds later.
///
/// # Errors
/// As [`Domain::wake`].
///
/// # Blocking
/// Up to [`WAKE`] for that event.
fn wake(domain: &Domain) -> Result<(), libvirt::Error> {
    domain.wake()?;
    let until = Instant::now() + WAKE;
    while get_state(domain)? == State::Suspended && Instant::now() < until {
        thread::sleep(WAKE_LOOK);
    }
    Ok(())
}

/// Acts by the table of contract section 5 for Run, with two exceptions: libvirt wakes a guest that suspended itself
/// and cannot resume it, and a guest that panicked does not run.
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

/// Copies each NIC's device, its alias if the caller gave no name, and the port of a display on TCP from the live XML.
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

/// Returns the state of a domain with its reason.
///
/// # Errors
/// As [`Domain::state`].
pub(super) fn condition(domain: &Domain) -> Result<Condition, libvirt::Error> {
    let (state, reason) = domain.state()?;
    Ok(Condition::from_codes(state, reason))
}

/// Returns the answer for a guest in this condition.
pub(in crate::ops) fn answer(mut guest: Guest, condition: Condition) -> GuestResponse {
    guest.state = condition.state.name().to_owned();
    guest.reason = condition.reason.to_owned();
    respond(guest)
}
