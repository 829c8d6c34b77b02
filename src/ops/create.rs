//! CreateGuest and Create: a guest's networks and domain, made or taken back as one.

use std::time::Instant;

use log::{info, warn};

use crate::config::HostConfig;
use crate::guest::check::{check_definition, check_definition_with_networks};
use crate::guest::domain::{SourceKind, VirDomain};
use crate::guest::network::Network;
use crate::guest::same::{same_as_domain, same_guest};
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::libvirt::{self, Code, Connection, Domain, XmlKind};
use crate::ops::lifecycle::get_state;
use crate::ops::networks::{self, Change};
use crate::ops::start::start;
use crate::ops::volumes::{Made, wants_volumes};
use crate::ops::{Error, Libvirt, Session, disks, respond};
use crate::pool::{self, Hold};

impl Libvirt {
    /// Defines a guest's networks and domain; it is not started (contract section 5).
    ///
    /// The same guest again is a success with the same answer.
    ///
    /// # Errors
    /// [`Error::Invalid`] names what cannot be; [`Error::Exists`] for another guest of that id;
    /// [`Error::Step`] names the step that failed: everything made before it has been taken back.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change). A guest that is finished
    /// later than that is taken back.
    pub fn create_guest(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = request.guest.ok_or(Error::NoGuest)?;
        check_definition_with_networks(&guest, &self.host)?;
        let deadline = self.change_deadline(&request.args)?;
        guest.complete();
        let hold = self.hold(&guest.id, deadline)?;
        let request = guest.clone();
        if !wants_volumes(&guest) {
            self.define_guest(&guest, request, None, &hold, deadline)?;
            return Ok(respond(guest));
        }
        // First: another guest's volumes are not to be looked at, let alone adopted.
        let asked = guest.clone();
        let look = move |session: &mut Session| is_there(session, &asked);
        let exists = self.held("CreateGuest", deadline, &hold, look, |_, _| {})?;
        let wanted = self.wanted(&guest)?;
        let made = self.make_volumes(&mut guest, wanted, exists, &hold, deadline)?;
        match self.define_guest(&guest, request, Some(made.clone()), &hold, deadline) {
            Ok(()) => Ok(respond(guest)),
            // The job runs on and takes its volumes back itself when it returns.
            Err(late @ Error::Pool(pool::Error::Late { .. })) => Err(late),
            Err(cause) => {
                let left = self.take_volumes_back(&guest.id, made, &hold);
                Err(with_volumes_left(&guest.id, cause, left))
            }
        }
    }

    /// The libvirt job of CreateGuest. `request` is kept with the domain; `volumes` are taken back
    /// when the job ends after its caller was told that it is late.
    fn define_guest(
        &self,
        guest: &Guest,
        request: Guest,
        volumes: Option<Made>,
        hold: &Hold,
        deadline: Instant,
    ) -> Result<(), Error> {
        let (made, host, id) = (guest.clone(), self.host.clone(), guest.id.clone());
        let work = move |session: &mut Session| make(session, &made, request, &host);
        let late = move |session: &mut Session, outcome: Result<Defined, Error>| {
            if let Ok(defined) = outcome {
                take_back(session, &id, &defined);
            }
            if let Some(volumes) = volumes {
                volumes.take_back(&id);
            }
        };
        self.held("CreateGuest", deadline, hold, work, late).map(drop)
    }

    /// Defines a domain as the request has it and starts it; makes no networks (contract section 5).
    ///
    /// The same guest again is started if it is off. A definition whose start fails stays.
    ///
    /// # Errors
    /// As [`Libvirt::create_guest`]; whatever keeps the emulator from starting.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn create(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = request.guest.ok_or(Error::NoGuest)?;
        check_definition(&guest, &self.host)?;
        let deadline = self.change_deadline(&request.args)?;
        let (made, host) = (guest.clone(), self.host.clone());
        let state = self.change("Create", &guest.id, deadline, move |session| {
            let domain = match session.find(&made.id)? {
                Some(domain) => {
                    same_or_exists(session.connection()?, &domain, &made)?;
                    domain
                }
                None => {
                    let sources = disks::judge(&made, &host)?;
                    new_domain(session.connection()?, &made, &host, &sources)?
                }
            };
            if !domain.is_active()? {
                start(session.connection()?, &domain)?;
            }
            Ok(get_state(&domain)?)
        })?;
        guest.state = state.name().to_owned();
        Ok(respond(guest))
    }
}

/// The error of a verb whose volumes were taken back, with what could not be.
fn with_volumes_left(id: &str, cause: Error, more: Vec<String>) -> Error {
    match cause {
        Error::Step { step, cause, mut left } => {
            left.extend(more);
            Error::Step { step, cause, left }
        }
        other => Error::Step { step: format!("define {id}"), cause: Box::new(other), left: more },
    }
}

/// Whether the guest is there already.
///
/// # Errors
/// [`Error::Exists`] where another one has its id.
fn is_there(session: &mut Session, guest: &Guest) -> Result<bool, Error> {
    let Some(domain) = session.find(&guest.id)? else { return Ok(false) };
    same_or_exists(session.connection()?, &domain, guest)?;
    Ok(true)
}

/// What the libvirt job of a CreateGuest made, to be taken back if nobody hears of it. `None`: the
/// guest was there before.
type Defined = Option<Vec<Change>>;

fn make(
    session: &mut Session,
    guest: &Guest,
    request: Guest,
    host: &HostConfig,
) -> Result<Defined, Error> {
    if is_there(session, &request)? {
        // A network that somebody removed or stopped meanwhile belongs to "the guest is there".
        make_networks(session, guest, host)?;
        return Ok(None);
    }
    let sources = disks::judge(guest, host)?;
    let changes = make_networks(session, guest, host)?;
    let mut definition = VirDomain::for_guest(guest, host, &sources);
    definition.metadata.guest = Some(request);
    match session.connection()?.define_domain(&definition.domain_xml()) {
        Ok(_) => Ok(Some(changes)),
        Err(cause) => {
            Err(undone(session, format!("define domain {}", guest.id), cause.into(), &changes))
        }
    }
}

/// Sees to it that every NIC has its network; what was changed for that.
fn make_networks(
    session: &mut Session,
    guest: &Guest,
    host: &HostConfig,
) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    for nic in &guest.nics {
        let connection = session.connection()?;
        let outcome = networks::ensure(connection, &guest.id, nic, host.bridge_type, &mut changes);
        if let Err(cause) = outcome {
            let step = format!("make network {}", nic.mac);
            return Err(undone(session, step, cause.into(), &changes));
        }
    }
    Ok(changes)
}

/// Takes the changes back, over a new connection where the old one broke, and names the step that
/// failed.
fn undone(session: &mut Session, step: String, cause: Error, changes: &[Change]) -> Error {
    let left = match session.connection() {
        Ok(connection) => networks::undo(connection, changes),
        Err(error) => {
            warn!("{step}: undo: {error}");
            changes.iter().map(|change| format!("network {}", change.name())).collect()
        }
    };
    Error::Step { step, cause: Box::new(cause), left }
}

/// Defines the guest's domain (the owner's `NewDomain`). `sources` tells what each disk's source
/// is, in order; where it is short, a block device.
///
/// # Errors
/// As [`Connection::define_domain`].
///
/// # Blocking
/// As [`Connection::define_domain`].
pub fn new_domain(
    connection: &Connection,
    guest: &Guest,
    host: &HostConfig,
    sources: &[SourceKind],
) -> Result<Domain, libvirt::Error> {
    connection.define_domain(&VirDomain::for_guest(guest, host, sources).domain_xml())
}

/// Checks that an existing domain is the guest that is asked for (contract section 9).
fn same_or_exists(connection: &Connection, domain: &Domain, guest: &Guest) -> Result<(), Error> {
    let found = VirDomain::from_xml(&domain.xml(XmlKind::Inactive)?).ok();
    let same = match &found {
        Some(VirDomain { metadata, .. }) if metadata.guest.is_some() => {
            metadata.guest.as_ref().is_some_and(|request| {
                same_guest(guest, request)
                    || found
                        .as_ref()
                        .is_some_and(|found| same_guest(guest, &answered(request, found)))
            })
        }
        // The original agent kept no request: its XML and its networks tell.
        Some(found) => same_as_domain(guest, found, &wiring(connection, found)?),
        None => false,
    };
    if same {
        return Ok(());
    }
    Err(Error::Exists { id: guest.id.clone(), uuid: domain.uuid()? })
}

/// The guest as CreateGuest answered it: a caller may send either again.
fn answered(request: &Guest, found: &VirDomain) -> Guest {
    let mut guest = request.clone();
    for (disk, found) in guest.disks.iter_mut().zip(&found.devices.disks) {
        found.source.path().clone_into(&mut disk.source);
    }
    guest
}

/// The networks that a domain's interfaces name, as far as they are there.
fn wiring(connection: &Connection, domain: &VirDomain) -> Result<Vec<Network>, Error> {
    let mut found = Vec::new();
    for interface in &domain.devices.interfaces {
        match connection.lookup_network_by_name(&interface.source.network) {
            Ok(network) => found.extend(Network::from_xml(&network.xml()?).ok()),
            Err(error) if error.code == Code::NO_NETWORK => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Removes a guest whose caller was told that it is late.
fn take_back(session: &mut Session, id: &str, defined: &Defined) {
    let Some(changes) = defined else { return };
    let outcome = session.domain(id).and_then(|domain| Ok(domain.undefine()?));
    if let Err(error) = outcome {
        warn!("guest {id}: take back a late CreateGuest: {error}");
    }
    match session.connection() {
        Ok(connection) => {
            let left = networks::undo(connection, changes);
            info!("guest {id}: a late CreateGuest was taken back; left behind: {left:?}");
        }
        Err(error) => warn!("guest {id}: take back a late CreateGuest: {error}"),
    }
}
