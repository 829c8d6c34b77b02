//! CreateGuest makes a guest's volumes, networks and domain in one transaction. Create only defines and starts a domain.

use std::sync::Arc;
use std::time::Instant;

use log::warn;

use crate::config::{GUEST_DEFINITION_BYTES, HostConfig, Profile};
use crate::events::EventKind;
use crate::guest::capabilities::Capabilities;
use crate::guest::check::machine::overwritten;
use crate::guest::check::{check_definition, check_definition_with_networks};
use crate::guest::domain::{DiskTarget, SourceKind, VirDomain};
use crate::guest::known::answered;
use crate::guest::profile;
use crate::guest::same::{same_as_domain, same_guest, same_machine};
use crate::guest::seed::files::given;
use crate::guest::state::Condition;
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::journal::{Step, Verb};
use crate::libvirt::{Connection, Domain, XmlKind};
use crate::ops::disks::domain_uses::sources;
use crate::ops::disks::sources;
use crate::ops::disks::volumes::wants_volumes;
use crate::ops::guests::lifecycle::{answer, condition};
use crate::ops::guests::seed_files::SeedFiles;
use crate::ops::guests::seeds::{KeyAccess, missing_seed};
use crate::ops::guests::start::start;
use crate::ops::guests::{machine, screens};
use crate::ops::networks::{bridges, guest_networks};
use crate::ops::requests::respond;
use crate::ops::transaction::Transaction;
use crate::ops::{Error, Guests, Session};
use crate::os::random;
use crate::pool::{GuestLock, Lane};
use crate::storage::{AdoptionRule, Maker};

impl Guests {
    /// Makes a guest's volumes and networks and defines its domain, but does not start it (contract section 5).
    ///
    /// A request for the same guest again succeeds with the same answer.
    ///
    /// # Errors
    /// [`Error::Invalid`] names what this host cannot provide; [`Error::Exists`] for another guest of that id;
    /// [`Error::Step`] names the step that failed, after the agent undid all steps before it.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change). A guest that is complete only after the deadline
    /// is removed again; it stays if only the journal was late.
    pub fn create_guest(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = request.guest.ok_or(Error::NoGuest)?;
        check_definition_with_networks(&guest, &self.core.host)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let replaced = complete(&mut guest, request.is_strict, &self.core.host);
        // Without a state directory, ignition and credentials fail before anything is made.
        self.core.own_seed_files(&guest, "")?;
        self.fingerprint_seed(&mut guest, KeyAccess::Make)?;
        let lock =
            self.core.lock_with_sources("CreateGuest", &guest.id, &sources(&guest), deadline)?;
        let asked = guest.clone();
        self.make_guest(&mut guest, replaced, &lock, deadline)
            .map_err(|cause| self.core.undone(&asked, cause, &lock))?;
        self.core.events.note(&guest.id, EventKind::Created);
        let warnings = bridges::warnings(&guest, &self.core.host);
        warnings.iter().for_each(|warning| warn!(guest = guest.id; "{warning}"));
        Ok(GuestResponse { warnings, ..respond(guest) })
    }

    /// Runs the steps of CreateGuest. After an error the journal holds them for the rollback.
    fn make_guest(
        &self,
        guest: &mut Guest,
        replaced: Option<String>,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        // The guest as its caller knows it: complete, but without the disk of its seed.
        let request = guest.clone();
        self.add_seed(guest);
        let made = self.make_with_seed(guest, request, replaced, lock, deadline);
        // Callers see only their own disks.
        guest.disks.retain(|disk| !disk.is_seed);
        made
    }

    /// Runs the steps for a guest that has the disk of its seed among its disks.
    fn make_with_seed(
        &self,
        guest: &mut Guest,
        request: Guest,
        replaced: Option<String>,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.resolve_cdrom_images("CreateGuest", guest, Some(lock), deadline)?;
        let mut transaction = Transaction::begin(&self.core.journal, Verb::CreateGuest, &request);
        let handed_in = sources(guest);
        self.core.check_sources("CreateGuest", &guest.id, handed_in.clone(), lock, deadline)?;
        let (mut uuid, mut unclaimed) = (random::uuid(), Vec::new());
        let (mut wanted, mut is_there) = (Vec::new(), false);
        if wants_volumes(guest) {
            // First of all: the agent must not look at another guest's volumes, let alone adopt them.
            let (asked, host, replaced) =
                (request.clone(), self.core.host.clone(), replaced.clone());
            let look = move |session: &mut Session| {
                let existing = find_existing(session, &asked)?;
                if existing.is_none() {
                    // Fails before anything is made.
                    check_new(session.connection()?, &asked, replaced, &host)?;
                }
                Ok(existing)
            };
            let exists = self.core.run_locked("CreateGuest", deadline, lock, look, |_, _| {})?;
            if exists.is_some() {
                // An existing guest keeps its seed, which may be named after a former id.
                guest.disks.retain(|disk| !disk.is_seed);
            }
            let adoption = match &exists {
                // The definition names the volumes, whatever their marks say.
                Some(ExistingGuest { uuid: own, .. }) => {
                    uuid.clone_from(own);
                    AdoptionRule::Any
                }
                None => AdoptionRule::Unwritten,
            };
            wanted = self.core.wanted(guest, &Maker::domain(&uuid), &adoption)?;
            is_there = exists.is_some();
            if !is_there {
                self.set_seed_content(guest, &uuid, &mut wanted)?;
            }
        }
        // Before the first step: an error here leaves nothing to undo.
        let files = self.core.own_seed_files(guest, &uuid)?;
        if !wanted.is_empty() {
            (transaction, unclaimed) =
                self.core.make_volumes(guest, wanted, is_there, transaction, lock, deadline)?;
        }
        let (made, host, domain_uuid) = (guest.clone(), self.core.host.clone(), uuid.clone());
        let work = move |session: &mut Session, transaction: &mut Transaction| {
            Ok(define(session, &made, (request, domain_uuid, replaced, files), &host, transaction)?)
        };
        let (targets, transaction) =
            self.core.run_steps(Lane::Control, transaction, lock, deadline, work)?;
        self.core.commit(transaction, lock, deadline)?;
        let maker = Maker::domain(&uuid);
        self.core.claim("CreateGuest", unclaimed, maker.clone(), lock, deadline);
        let handed_in = if targets.is_empty() { handed_in } else { Vec::new() };
        self.core.claim_sources("CreateGuest", handed_in, &maker, lock, deadline);
        for (disk, target) in guest.disks.iter_mut().zip(targets) {
            DiskTarget { device: disk.device, bus: disk.bus } = target;
        }
        Ok(())
    }

    /// Defines a domain from the request and starts it; makes no networks (contract section 5).
    ///
    /// A request for the same guest again starts it if it is off. A definition whose start fails stays, with its disks.
    /// So there is nothing to undo, and a repeated call continues from whatever a killed agent left.
    ///
    /// # Errors
    /// As [`Guests::create_guest`]; any error that keeps the emulator from starting.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn create(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = request.guest.ok_or(Error::NoGuest)?;
        check_definition(&guest, &self.core.host)?;
        if let Some(member) = given(&guest).first() {
            let why = format!("{member}: Create makes no seed; call CreateGuest");
            return Err(Error::Invalid(why));
        }
        let deadline = self.core.change_deadline(&request.args)?;
        let handed_in = sources(&guest);
        let lock = self.core.lock_with_sources("Create", &guest.id, &handed_in, deadline)?;
        self.resolve_cdrom_images("Create", &mut guest, Some(&lock), deadline)?;
        let (made, host) = (guest.clone(), self.core.host.clone());
        self.core.check_sources("Create", &guest.id, handed_in.clone(), &lock, deadline)?;
        let (events, marks) = (Arc::clone(&self.core.events), self.core.status.marks());
        let work = move |session: &mut Session| {
            let (domain, is_new) = match session.find(&made.id)? {
                Some(domain) => {
                    same_or_exists(session.connection()?, &domain, &made)?;
                    (domain, false)
                }
                None => {
                    if let Some(why) = missing_seed(&made) {
                        return Err(why);
                    }
                    let sources = sources::judge(&made, &host)?;
                    (new_domain(session.connection()?, &made, &host, &sources)?, true)
                }
            };
            let uuid = domain.uuid()?;
            let started = running(session.connection()?, &domain, &host);
            if is_new || started.is_ok() {
                events.note(&made.id, EventKind::Created);
            }
            Ok((uuid, started))
        };
        let late = move |_: &mut Session, _: Result<_, Error>| marks.wake();
        let outcome = self.core.run_locked("Create", deadline, &lock, work, late);
        let is_lost = outcome.as_ref().is_err_and(Error::is_unreachable);
        if is_lost && !handed_in.is_empty() {
            // The domain may exist.
            self.core.status.marks().wake();
        }
        let (uuid, started) = outcome?;
        // Also if the guest does not start: its definition stays.
        self.core.claim_sources("Create", handed_in, &Maker::domain(&uuid), &lock, deadline);
        Ok(answer(guest, started?))
    }
}

/// Starts a domain that is off, or waits for a start that is under way. Returns its condition afterwards.
fn running(
    connection: &Connection,
    domain: &Domain,
    host: &HostConfig,
) -> Result<Condition, Error> {
    let mut found = condition(domain)?;
    if found.is_starting() || !domain.is_active()? {
        start(connection, domain, host)?;
        found = condition(domain)?;
    }
    Ok(found)
}

/// Completes a request as contract section 5 says. Logs the members that it replaces; with `is_strict`, returns the
/// first replaced member as an error text instead.
pub(in crate::ops) fn complete(
    guest: &mut Guest,
    is_strict: bool,
    host: &HostConfig,
) -> Option<String> {
    let asked = guest.clone();
    guest.complete(is_strict || profile::of(guest, host.profile) == Profile::Modern);
    let mut replaced = overwritten(&asked, guest);
    if is_strict {
        return replaced.drain(..).next();
    }
    for member in replaced {
        warn!(guest = guest.id; "ignoring a member of the request: {member}");
    }
    None
}

/// Checks a guest that does not exist yet, before the agent makes any part.
///
/// # Errors
/// [`Error::Invalid`] for a member that would be replaced; as [`machine::offer`].
fn check_new(
    connection: &Connection,
    guest: &Guest,
    replaced: Option<String>,
    host: &HostConfig,
) -> Result<Option<Capabilities>, Error> {
    if let Some(why) = missing_seed(guest) {
        return Err(why);
    }
    match replaced {
        Some(why) => Err(Error::Invalid(why)),
        None => machine::offer(connection, guest, profile::of(guest, host.profile)),
    }
}

/// Returns the guest, if it exists already.
///
/// # Errors
/// [`Error::Exists`] if another guest has its id.
fn find_existing(session: &mut Session, guest: &Guest) -> Result<Option<ExistingGuest>, Error> {
    let Some(domain) = session.find(&guest.id)? else { return Ok(None) };
    let targets = same_or_exists(session.connection()?, &domain, guest)?;
    Ok(Some(ExistingGuest { targets, uuid: domain.uuid()? }))
}

/// A guest that exists already.
struct ExistingGuest {
    /// The targets of its disks.
    targets: Vec<DiskTarget>,
    /// The uuid of its domain.
    uuid: String,
}

/// Runs the libvirt job of CreateGuest. Stores `request` with the domain, which gets `uuid`. For a guest that exists,
/// returns the targets of its disks: disks may have been attached and detached since, so the request may name others.
fn define(
    session: &mut Session,
    guest: &Guest,
    (request, uuid, replaced, files): (Guest, String, Option<String>, Option<SeedFiles>),
    host: &HostConfig,
    transaction: &mut Transaction,
) -> Result<Vec<DiskTarget>, Error> {
    let exists = find_existing(session, &request)?;
    let xml = match exists {
        Some(_) => String::new(),
        None => {
            let sources = sources::judge(guest, host)?;
            let offer = check_new(session.connection()?, guest, replaced, host)?;
            let mut definition =
                machine::definition(guest, request, host, &sources, (offer, &uuid))?;
            if let Some(files) = &files {
                files.check_access(session.connection()?, &guest.kind)?;
                definition.fw_cfg = files.items(guest);
            }
            let xml = definition.domain_xml();
            check_size(&xml)?;
            xml
        }
    };
    if let (None, Some(files)) = (&exists, &files) {
        transaction.record(Step::SeedFiles(uuid.clone()))?;
        let written = files.write(guest).map_err(Error::Seed);
        written.map_err(|cause| failed_to("create the files of the seed".to_owned(), cause))?;
    }
    // Also for an existing guest: somebody may have removed or stopped one of its networks.
    let domain = exists.as_ref().map_or(&uuid, |existing| &existing.uuid);
    for nic in &guest.nics {
        let connection = session.connection()?;
        guest_networks::ensure(connection, (&guest.id, domain), nic, host.bridge_type, transaction)
            .map_err(|cause| failed_to(format!("create network {}", nic.mac), cause))?;
    }
    if let Some(ExistingGuest { targets, .. }) = exists {
        return Ok(targets);
    }
    transaction.record(Step::Domain { uuid: Some(uuid) })?;
    let defined = session.connection()?.define_domain(&xml);
    match defined {
        Ok(_) => {
            // A former guest of this name, renamed since, may have left a console log.
            screens::forget_console(&guest.id, host);
            Ok(Vec::new())
        }
        Err(cause) => Err(failed_to(format!("define domain {}", guest.id), cause.into())),
    }
}

/// Refuses a definition so large that libvirt might not return it again.
fn check_size(xml: &str) -> Result<(), Error> {
    match xml.len() {
        bytes if bytes > GUEST_DEFINITION_BYTES => Err(Error::Invalid(format!(
            "the guest's definition has {bytes} bytes; the limit is {GUEST_DEFINITION_BYTES}"
        ))),
        _ => Ok(()),
    }
}

pub(super) fn failed_to(step: String, cause: Error) -> Error {
    Error::Step { step, cause: Box::new(cause), left: Vec::new() }
}

/// Defines the guest's domain (the owner's `NewDomain`). `sources` has the kind of each disk's source, in order; the
/// default for missing ones is a block device.
///
/// # Errors
/// As [`Connection::define_domain`]; [`Error::Invalid`] for a member that this host cannot provide, and for a
/// definition that is too large.
///
/// # Blocking
/// As [`Connection::define_domain`] and [`Connection::domain_capabilities`].
pub fn new_domain(
    connection: &Connection,
    guest: &Guest,
    host: &HostConfig,
    sources: &[SourceKind],
) -> Result<Domain, Error> {
    let offer = machine::offer(connection, guest, profile::of(guest, host.profile))?;
    // The agent chooses the uuid, so that the metadata can name the domain that it belongs to.
    let uuid = random::uuid();
    let domain = machine::definition(guest, guest.clone(), host, sources, (offer, &uuid))?;
    let xml = domain.domain_xml();
    check_size(&xml)?;
    Ok(connection.define_domain(&xml)?)
}

/// Checks that an existing domain is the requested guest (contract section 9). Returns the targets of its disks, in the
/// guest's order.
///
/// # Errors
/// [`Error::Exists`] if it is another guest.
pub(in crate::ops) fn same_or_exists(
    connection: &Connection,
    domain: &Domain,
    guest: &Guest,
) -> Result<Vec<DiskTarget>, Error> {
    let other = Error::Exists { id: guest.id.clone(), uuid: domain.uuid()? };
    let Ok(found) = VirDomain::from_xml(&domain.xml(XmlKind::Inactive)?) else {
        return Err(other);
    };
    let is_same = match &found.metadata.guest {
        // A caller may repeat its request, or send the guest that it got as the answer.
        Some(request) => {
            (same_guest(guest, request) || same_guest(guest, &answered(request, &found)))
                && same_machine(guest, request, &found)
        }
        // The original agent stored no request: the domain XML and the networks decide.
        None => same_as_domain(guest, &found, &guest_networks::nic_networks(connection, &found)?),
    };
    match found.metadata.guest {
        _ if !is_same => Err(other),
        Some(request) => {
            let targets = request.disks.into_iter().map(|disk| {
                let own = found.devices.disks.iter().find(|own| own.target.device == disk.device);
                let asked = DiskTarget { device: disk.device, bus: disk.bus };
                own.map_or(asked, |own| own.target.clone())
            });
            Ok(targets.collect())
        }
        None => Ok(found.devices.disks.into_iter().map(|disk| disk.target).collect()),
    }
}
