//! The dry run of CreateGuest.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{HostConfig, Store};
use crate::guest::capabilities::Capabilities;
use crate::guest::check::{self, is_mac};
use crate::guest::domain::{DiskTarget, SourceKind, VirDomain};
use crate::guest::invalid::Invalid;
use crate::guest::network::NetworkDefinition;
use crate::guest::profile;
use crate::guest::wire::verbs::PlanStep;
use crate::guest::wire::{Guest, GuestRequest};
use crate::libvirt::Connection;
use crate::ops::disks::path_uses::PathUses;
use crate::ops::disks::volumes::{fill, wants_volumes};
use crate::ops::disks::{domain_uses, sources};
use crate::ops::guests::create::{complete, same_or_exists};
use crate::ops::guests::machine;
use crate::ops::guests::seeds::{KeyAccess, missing_seed};
use crate::ops::networks::guest_networks::{self, NetworkState};
use crate::ops::networks::{bridges, nat};
use crate::ops::plan::{OperationPlan, Problem, step_of};
use crate::ops::requests::named_guest;
use crate::ops::{CommittedMemory, Error, Guests, args};
use crate::pool::{JobName, Lane};
use crate::storage::{self, AdoptionRule, Maker, VolumePlans, Volumes};

impl Guests {
    /// Returns what [`Guests::create_guest`] would do with the same request.
    ///
    /// # Errors
    /// [`Error::NoGuest`]; if the agent is too busy, or the deadline has passed.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn plan_create_guest(&self, request: GuestRequest) -> Result<OperationPlan, Error> {
        let mut guest = named_guest(request.guest)?;
        let deadline = args::plan_deadline(&request.args, self.core.deadlines.change)?;
        let faults = check::faults(&guest, &self.core.host);
        let replaced = complete(&mut guest, request.is_strict, &self.core.host);
        self.fingerprint_seed(&mut guest, KeyAccess::Read)?;
        let mut operation = self.new_plan(guest);
        let mut is_started = faults.is_empty();
        let can_be_looked_at = faults.iter().all(Invalid::is_of_a_part);
        operation.problems.extend(faults.into_iter().map(|fault| Problem::Error(fault.into())));
        if can_be_looked_at {
            let request = operation.guest.clone();
            self.add_seed(&mut operation.guest);
            is_started &= self.plan_guest(&mut operation, request, replaced, deadline)?;
            operation.guest.disks.retain(|disk| !disk.is_seed);
        }
        if !is_started {
            operation.plan.steps.clear();
        }
        Ok(operation)
    }

    /// Adds the plan of a guest whose parts may be invalid. Returns whether CreateGuest would start at all: it does not
    /// if another guest has the id.
    fn plan_guest(
        &self,
        operation: &mut OperationPlan,
        request: Guest,
        replaced: Option<String>,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let (asked, host) = (request.clone(), self.core.host.clone());
        let uses = Arc::clone(&self.core.uses);
        let look = move |connection: &Connection| look_for(connection, &asked, &host, &uses);
        let seen = self.core.read(Lane::Read, "plan CreateGuest", &request.id, deadline, look);
        let Seen { owner, steps, refused, taken, offer, missing, promised } =
            operation.unless_failed("libvirt", seen)?.unwrap_or_default();
        operation.problems.extend(refused.into_iter().map(Problem::Error));
        operation.problems.extend(taken.into_iter().map(Problem::Words));
        operation.problems.extend(missing.into_iter().map(|fault| Problem::Error(fault.into())));
        let is_free = matches!(owner, IdOwner::Nobody);
        if is_free {
            let refused = replaced.map(Error::Invalid).into_iter().chain(missing_seed(&request));
            operation.problems.extend(refused.map(Problem::Error));
        }
        let (existing, another) = match owner {
            IdOwner::Same(targets, uuid) => (Some((targets, uuid)), None),
            IdOwner::Another(error) => (None, Some(error)),
            IdOwner::Nobody | IdOwner::Unknown => (None, None),
        };
        if existing.is_some() {
            // The existing guest keeps its seed, which may be named after a former id.
            operation.guest.disks.retain(|disk| !disk.is_seed);
        }
        let is_started = another.is_none();
        let fresh = match another {
            // The agent must not look at another guest's volumes.
            Some(error) => {
                operation.problems.push(Problem::Error(error));
                BTreeSet::new()
            }
            None => {
                let uuid = existing.as_ref().map(|(_, uuid)| uuid.as_str());
                self.plan_volumes(operation, uuid, deadline)?
            }
        };
        operation.plan.steps.extend(steps);
        operation.plan.warnings.extend(bridges::warnings(&request, &self.core.host));
        if let Some((targets, _)) = existing {
            for (disk, target) in operation.guest.disks.iter_mut().zip(targets) {
                DiskTarget { device: disk.device, bus: disk.bus } = target;
            }
            if operation.plan.steps.is_empty() && operation.problems.is_empty() {
                "the guest already exists; there is nothing to do"
                    .clone_into(&mut operation.plan.message);
            }
            return Ok(is_started);
        }
        let inserted =
            self.resolve_cdrom_images("plan CreateGuest", &mut operation.guest, None, deadline);
        if operation.unless_failed("disks", inserted)?.is_none() {
            return Ok(is_started);
        }
        let supplied = domain_uses::sources(&request);
        let refused =
            self.core.refused_sources("plan CreateGuest", &request.id, supplied, None, deadline);
        let refused = operation.unless_failed("sources", refused)?.unwrap_or_default();
        operation.problems.extend(refused.into_iter().map(Problem::Error));
        let kinds = self.plan_sources(operation, &fresh, deadline)?;
        let id = request.id.clone();
        if let Some(kinds) = kinds.filter(|_| is_free) {
            let (guest, host) = (operation.guest.clone(), self.core.host.clone());
            // The domain gets its uuid only when it is defined.
            let files = self.core.own_seed_files(&guest, "UUID");
            let files = operation.unless_failed("seed", files)?.flatten();
            let items = files.as_ref().map(|files| files.items(&guest)).unwrap_or_default();
            let define = move || {
                let definition = machine::definition(&guest, request, &host, &kinds, (offer, ""))?;
                Ok(VirDomain { fw_cfg: items, ..definition })
            };
            let what = JobName::new("plan CreateGuest", format!("{id}: definition"));
            let domain = match self.core.aside(Lane::Read, what, deadline, define)? {
                Ok(domain) => domain,
                Err(fault) => {
                    operation.problems.push(Problem::Error(fault));
                    return Ok(is_started);
                }
            };
            let promised = promised.map(|promised| promised.with(&domain));
            if let Some(promised) = promised.filter(|promised| promised.is_too_much()) {
                let CommittedMemory { guests_mib, host_mib } = promised;
                operation.plan.warnings.push(format!(
                    "with this guest running guests may use {guests_mib} MiB of memory; the host has {host_mib} MiB"
                ));
            }
            operation.plan.steps.extend(files.map(|files| PlanStep {
                what: "create files",
                name: files.directory().display().to_string(),
                ..PlanStep::default()
            }));
            operation.plan.steps.push(PlanStep {
                what: "define domain",
                name: domain.name.clone(),
                xml: domain.domain_xml(),
                ..PlanStep::default()
            });
        }
        Ok(is_started)
    }

    /// Adds the volumes of disks without a source. Returns which disks would get new volumes.
    fn plan_volumes(
        &self,
        operation: &mut OperationPlan,
        uuid: Option<&str>,
        deadline: Instant,
    ) -> Result<BTreeSet<usize>, Error> {
        let mut fresh = BTreeSet::new();
        if !wants_volumes(&operation.guest) {
            return Ok(fresh);
        }
        let (mut indices, mut wanted) = (Vec::new(), Vec::new());
        let (maker, adoption) = match uuid {
            Some(uuid) => (Maker::domain(uuid), AdoptionRule::Any),
            // The domain gets its uuid only when it is defined.
            None => (Maker::domain("UUID"), AdoptionRule::Unwritten),
        };
        for (index, each) in self.core.wanted_each(&operation.guest, &maker, &adoption) {
            match each {
                Ok(each) => {
                    indices.push(index);
                    wanted.push(each);
                }
                Err(error) => operation.problems.push(of_disk(index, error)),
            }
        }
        let what = JobName::new("plan CreateGuest", operation.guest.id.as_str());
        let plan = move |volumes: &dyn Volumes| volumes.plans(&wanted, deadline);
        let plans = self.core.ask_storage(what, deadline, plan);
        let Some(plans) = operation.unless_failed("storage", plans)? else { return Ok(fresh) };
        if let Err(error) = plans.fit() {
            operation.problems.push(Problem::Part("disks".to_owned(), error.into()));
        }
        let VolumePlans { each, .. } = plans;
        let planned = each.iter().filter_map(|planned| planned.as_ref().ok());
        let others =
            match self.core.users_of("plan CreateGuest", &operation.guest.id, planned, deadline) {
                Err(error @ Error::Pool(_)) => return Err(error),
                // The problem is in the list already.
                others => others.unwrap_or_default(),
            };
        for (index, planned) in indices.into_iter().zip(each) {
            let planned = planned.map_err(Error::from).and_then(|planned| {
                self.core.check_one(&planned, uuid.is_some(), &others)?;
                match planned.found {
                    // As in CreateGuest itself: a new, empty disk would look like the guest's own.
                    None if uuid.is_some() => {
                        let name = planned.wanted.volume.to_string();
                        Err(storage::Error::NotFound { name }.into())
                    }
                    _ => Ok(planned),
                }
            });
            let planned = match planned {
                Ok(planned) => planned,
                Err(error) => {
                    operation.problems.push(of_disk(index, error));
                    continue;
                }
            };
            operation
                .plan
                .steps
                .extend(self.core.volumes.making(&planned).into_iter().map(step_of));
            if planned.found.is_none() {
                fresh.insert(index);
            }
            if let Some(disk) = operation.guest.disks.get_mut(index) {
                fill(disk, planned.size_mib(), &planned.wanted.volume, &planned.device);
            }
        }
        Ok(fresh)
    }

    /// Returns the kinds of the disks' sources, for `fresh` disks the future ones; `None` if one of them is invalid.
    fn plan_sources(
        &self,
        operation: &mut OperationPlan,
        fresh: &BTreeSet<usize>,
        deadline: Instant,
    ) -> Result<Option<Vec<SourceKind>>, Error> {
        let (guest, host) = (operation.guest.clone(), self.core.host.clone());
        let look = move || {
            let judged = sources::judge_each(&guest, &host);
            judged
                .zip(&guest.disks)
                .map(|(it, disk)| (it, sources::is_missing(&disk.source)))
                .collect()
        };
        let what = JobName::new("plan CreateGuest", format!("{}: disks", operation.guest.id));
        let judged: Vec<(Result<SourceKind, Error>, bool)> =
            self.core.aside(Lane::Read, what, deadline, look)?;
        let made = match self.core.host.store {
            Store::Zfs | Store::None => SourceKind::Block,
            Store::Directory(_) => SourceKind::File,
        };
        let mut kinds = Vec::with_capacity(judged.len());
        for (index, (judged, is_missing)) in judged.into_iter().enumerate() {
            let Some(disk) = operation.guest.disks.get(index) else { continue };
            let (source, is_cdrom) = (disk.source.as_str(), disk.is_cdrom());
            match judged {
                // The problem of its volume is in the list already.
                Ok(kind) if source.is_empty() && is_cdrom => kinds.push(kind),
                _ if source.is_empty() => {}
                Ok(_) if fresh.contains(&index) => kinds.push(made),
                Ok(kind) => {
                    kinds.push(kind);
                    if is_missing {
                        let why = "does not exist; the guest cannot start";
                        operation
                            .plan
                            .warnings
                            .push(format!("disks[{index}].source {source} {why}"));
                    }
                }
                Err(error) => operation.problems.push(Problem::Error(error)),
            }
        }
        Ok(Some(kinds).filter(|kinds| kinds.len() == operation.guest.disks.len()))
    }
}

/// The owner of the id of the new guest.
#[derive(Default)]
enum IdOwner {
    /// libvirt did not answer.
    #[default]
    Unknown,
    Nobody,
    /// The same guest, with the targets of its disks and its domain's uuid.
    Same(Vec<DiskTarget>, String),
    Another(Error),
}

/// libvirt's data for the new guest.
#[derive(Default)]
struct Seen {
    owner: IdOwner,
    /// The steps for its missing networks.
    steps: Vec<PlanStep>,
    /// The errors of the network with NAT.
    refused: Vec<Error>,
    /// The networks that belong to others, as sentences.
    taken: Vec<String>,
    /// libvirt's offer for a new guest.
    offer: Option<Capabilities>,
    /// The members of the guest that this host cannot provide.
    missing: Vec<Invalid>,
    /// The memory of the running guests; `None` if libvirt's driver reports no capabilities.
    promised: Option<CommittedMemory>,
}

fn look_for(
    connection: &Connection,
    guest: &Guest,
    host: &HostConfig,
    uses: &PathUses,
) -> Result<Seen, Error> {
    let owner = match connection.find_domain(&guest.id)? {
        None => IdOwner::Nobody,
        Some(domain) => match same_or_exists(connection, &domain, guest) {
            Ok(targets) => IdOwner::Same(targets, domain.uuid()?),
            Err(error @ Error::Exists { .. }) => IdOwner::Another(error),
            Err(error) => return Err(error),
        },
    };
    let mut seen = Seen { owner, ..Seen::default() };
    if let IdOwner::Nobody = seen.owner {
        let profile = profile::of(guest, host.profile);
        let (offer, missing) = machine::look(connection, guest, profile)?;
        if offer.is_some() {
            // Another guest that does not answer is no problem of this one.
            seen.promised =
                uses.promised_kib(connection).ok().and_then(CommittedMemory::beside_host);
        }
        seen.offer = offer;
        seen.missing = missing;
    }
    let uuid = match &seen.owner {
        IdOwner::Same(_, uuid) => uuid.clone(),
        _ => String::new(),
    };
    (seen.steps, seen.refused) = nat::plan(connection, &guest.nics, host.bridge_type)?;
    // An invalid MAC address is in the list of problems already.
    for nic in guest.nics.iter().filter(|nic| is_mac(&nic.mac)) {
        let wanted = NetworkDefinition::for_nic(nic, host.bridge_type, &guest.id, &uuid);
        let step = |what| PlanStep { what, name: nic.mac.clone(), ..PlanStep::default() };
        match guest_networks::network_state(connection, &wanted, &guest.id)? {
            NetworkState::Absent => {
                let (xml, detail) = (
                    wanted.network_xml(),
                    "libvirtd starts it when it starts (autostart)".to_owned(),
                );
                seen.steps.push(PlanStep { xml, detail, ..step("define network") });
                seen.steps.push(step("start network"));
            }
            NetworkState::Ours(network) if network.is_active()? => {}
            NetworkState::Ours(_) => seen.steps.push(step("start network")),
            NetworkState::Taken => seen.taken.push(format!(
                "network {} exists, but has other settings or is another guest's",
                nic.mac
            )),
        }
    }
    Ok(seen)
}

fn of_disk(index: usize, error: Error) -> Problem {
    // The text of this error has no name, so the part names the volume.
    let part = match &error {
        Error::Storage(storage::Error::NotFound { name }) => format!("disks[{index}]: {name}"),
        _ => format!("disks[{index}]"),
    };
    Problem::Part(part, error)
}
