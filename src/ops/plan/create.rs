//! The dry run of CreateGuest.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{HostConfig, Store};
use crate::guest::capabilities::Capabilities;
use crate::guest::check::{self, is_mac};
use crate::guest::domain::{DiskTarget, SourceKind, VirDomain};
use crate::guest::invalid::Invalid;
use crate::guest::network::Network as Wiring;
use crate::guest::profile;
use crate::guest::wire::verbs::PlanStep;
use crate::guest::wire::{Guest, GuestRequest};
use crate::libvirt::Connection;
use crate::ops::create::{complete, same_or_exists};
use crate::ops::domains::sources;
use crate::ops::networks::Standing;
use crate::ops::plan::{Forecast, Problem, step_of};
use crate::ops::seeds::{May, unsaid};
use crate::ops::uses::Uses;
use crate::ops::volumes::{fill, wants_volumes};
use crate::ops::{
    Error, Libvirt, Promised, args, bridges, disks, machine, named_guest, nat, networks,
};
use crate::pool::{JobName, Lane};
use crate::storage::{self, Adopts, Maker, Plans, Volumes};

impl Libvirt {
    /// Returns what [`Libvirt::create_guest`] would do with the same request.
    ///
    /// # Errors
    /// [`Error::NoGuest`]; if the agent is too busy, or the deadline has passed.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn plan_create_guest(&self, request: GuestRequest) -> Result<Forecast, Error> {
        let mut guest = named_guest(request.guest)?;
        let deadline = args::plan_deadline(&request.args, self.deadlines.change)?;
        let faults = check::faults(&guest, &self.host);
        let replaced = complete(&mut guest, request.is_strict, &self.host);
        self.fingerprint_seed(&mut guest, May::Read)?;
        let mut forecast = self.forecast(guest);
        let mut is_begun = faults.is_empty();
        let can_be_looked_at = faults.iter().all(Invalid::is_of_a_part);
        forecast.problems.extend(faults.into_iter().map(|fault| Problem::Error(fault.into())));
        if can_be_looked_at {
            let request = forecast.guest.clone();
            self.add_seed(&mut forecast.guest);
            is_begun &= self.foresee_guest(&mut forecast, request, replaced, deadline)?;
            forecast.guest.disks.retain(|disk| !disk.is_seed);
        }
        if !is_begun {
            forecast.plan.steps.clear();
        }
        Ok(forecast)
    }

    /// Adds the plan of a guest whose parts may be invalid. Returns whether CreateGuest would start at all: it does not
    /// if another guest has the id.
    fn foresee_guest(
        &self,
        forecast: &mut Forecast,
        request: Guest,
        replaced: Option<String>,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let (asked, host) = (request.clone(), self.host.clone());
        let uses = Arc::clone(&self.uses);
        let look = move |connection: &Connection| look_for(connection, &asked, &host, &uses);
        let seen = self.read(Lane::Read, "plan CreateGuest", &request.id, deadline, look);
        let Seen { there, steps, refused, taken, offer, missing, promised } =
            forecast.unless_failed("libvirt", seen)?.unwrap_or_default();
        forecast.problems.extend(refused.into_iter().map(Problem::Error));
        forecast.problems.extend(taken.into_iter().map(Problem::Words));
        forecast.problems.extend(missing.into_iter().map(|fault| Problem::Error(fault.into())));
        let is_free = matches!(there, There::Nobody);
        if is_free {
            let refused = replaced.map(Error::Invalid).into_iter().chain(unsaid(&request));
            forecast.problems.extend(refused.map(Problem::Error));
        }
        let (places, another) = match there {
            There::Same(places, uuid) => (Some((places, uuid)), None),
            There::Another(error) => (None, Some(error)),
            There::Nobody | There::Unknown => (None, None),
        };
        if places.is_some() {
            // The existing guest keeps its seed, which may be named after a former id.
            forecast.guest.disks.retain(|disk| !disk.is_seed);
        }
        let is_begun = another.is_none();
        let fresh = match another {
            // The agent must not look at another guest's volumes.
            Some(error) => {
                forecast.problems.push(Problem::Error(error));
                BTreeSet::new()
            }
            None => {
                let uuid = places.as_ref().map(|(_, uuid)| uuid.as_str());
                self.foresee_volumes(forecast, uuid, deadline)?
            }
        };
        forecast.plan.steps.extend(steps);
        forecast.plan.warnings.extend(bridges::warnings(&request, &self.host));
        if let Some((places, _)) = places {
            for (disk, place) in forecast.guest.disks.iter_mut().zip(places) {
                DiskTarget { device: disk.device, bus: disk.bus } = place;
            }
            if forecast.plan.steps.is_empty() && forecast.problems.is_empty() {
                "the guest already exists; there is nothing to do"
                    .clone_into(&mut forecast.plan.message);
            }
            return Ok(is_begun);
        }
        let inserted =
            self.resolve_cdrom_images("plan CreateGuest", &mut forecast.guest, None, deadline);
        if forecast.unless_failed("disks", inserted)?.is_none() {
            return Ok(is_begun);
        }
        let handed_in = sources(&request);
        let refused =
            self.refused_sources("plan CreateGuest", &request.id, handed_in, None, deadline);
        let refused = forecast.unless_failed("sources", refused)?.unwrap_or_default();
        forecast.problems.extend(refused.into_iter().map(Problem::Error));
        let sources = self.foresee_sources(forecast, &fresh, deadline)?;
        let id = request.id.clone();
        if let Some(sources) = sources.filter(|_| is_free) {
            let (guest, host) = (forecast.guest.clone(), self.host.clone());
            // The domain gets its uuid only when it is defined.
            let files = self.own_seed_files(&guest, "UUID");
            let files = forecast.unless_failed("seed", files)?.flatten();
            let items = files.as_ref().map(|files| files.items(&guest)).unwrap_or_default();
            let define = move || {
                let definition =
                    machine::definition(&guest, request, &host, &sources, (offer, ""))?;
                Ok(VirDomain { fw_cfg: items, ..definition })
            };
            let what = JobName::new("plan CreateGuest", format!("{id}: definition"));
            let domain = match self.aside(Lane::Read, what, deadline, define)? {
                Ok(domain) => domain,
                Err(fault) => {
                    forecast.problems.push(Problem::Error(fault));
                    return Ok(is_begun);
                }
            };
            let promised = promised.map(|promised| promised.with(&domain));
            if let Some(promised) = promised.filter(|promised| promised.is_too_much()) {
                let Promised { guests_mib, host_mib } = promised;
                forecast.plan.warnings.push(format!(
                    "with this guest running guests may use {guests_mib} MiB of memory; the host has {host_mib} MiB"
                ));
            }
            forecast.plan.steps.extend(files.map(|files| PlanStep {
                what: "create files",
                name: files.directory().display().to_string(),
                ..PlanStep::default()
            }));
            forecast.plan.steps.push(PlanStep {
                what: "define domain",
                name: domain.name.clone(),
                xml: domain.domain_xml(),
                ..PlanStep::default()
            });
        }
        Ok(is_begun)
    }

    /// Adds the volumes of disks without a source. Returns which disks would get new volumes.
    fn foresee_volumes(
        &self,
        forecast: &mut Forecast,
        uuid: Option<&str>,
        deadline: Instant,
    ) -> Result<BTreeSet<usize>, Error> {
        let mut fresh = BTreeSet::new();
        if !wants_volumes(&forecast.guest) {
            return Ok(fresh);
        }
        let (mut indices, mut wanted) = (Vec::new(), Vec::new());
        let (maker, adopts) = match uuid {
            Some(uuid) => (Maker::domain(uuid), Adopts::Any),
            // The domain gets its uuid only when it is defined.
            None => (Maker::domain("UUID"), Adopts::Unwritten),
        };
        for (index, each) in self.wanted_each(&forecast.guest, &maker, &adopts) {
            match each {
                Ok(each) => {
                    indices.push(index);
                    wanted.push(each);
                }
                Err(error) => forecast.problems.push(of_disk(index, error)),
            }
        }
        let what = JobName::new("plan CreateGuest", forecast.guest.id.as_str());
        let plan = move |volumes: &dyn Volumes| volumes.plans(&wanted, deadline);
        let plans = self.ask_storage(what, deadline, plan);
        let Some(plans) = forecast.unless_failed("storage", plans)? else { return Ok(fresh) };
        if let Err(error) = plans.fit() {
            forecast.problems.push(Problem::Part("disks".to_owned(), error.into()));
        }
        let Plans { each, .. } = plans;
        let planned = each.iter().filter_map(|planned| planned.as_ref().ok());
        let others = match self.users_of("plan CreateGuest", &forecast.guest.id, planned, deadline)
        {
            Err(error @ Error::Pool(_)) => return Err(error),
            // The problem is in the list already.
            others => others.unwrap_or_default(),
        };
        for (index, planned) in indices.into_iter().zip(each) {
            let planned = planned.map_err(Error::from).and_then(|planned| {
                self.check_one(&planned, uuid.is_some(), &others)?;
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
                    forecast.problems.push(of_disk(index, error));
                    continue;
                }
            };
            forecast.plan.steps.extend(self.volumes.making(&planned).into_iter().map(step_of));
            if planned.found.is_none() {
                fresh.insert(index);
            }
            if let Some(disk) = forecast.guest.disks.get_mut(index) {
                fill(disk, planned.size_mib(), &planned.wanted.volume, &planned.device);
            }
        }
        Ok(fresh)
    }

    /// Returns the kinds of the disks' sources, for `fresh` disks the future ones; `None` if one of them is invalid.
    fn foresee_sources(
        &self,
        forecast: &mut Forecast,
        fresh: &BTreeSet<usize>,
        deadline: Instant,
    ) -> Result<Option<Vec<SourceKind>>, Error> {
        let (guest, host) = (forecast.guest.clone(), self.host.clone());
        let look = move || {
            let judged = disks::judge_each(&guest, &host);
            judged
                .zip(&guest.disks)
                .map(|(it, disk)| (it, disks::is_missing(&disk.source)))
                .collect()
        };
        let what = JobName::new("plan CreateGuest", format!("{}: disks", forecast.guest.id));
        let judged: Vec<(Result<SourceKind, Error>, bool)> =
            self.aside(Lane::Read, what, deadline, look)?;
        let made = match self.host.store {
            Store::Zfs | Store::None => SourceKind::Block,
            Store::Directory(_) => SourceKind::File,
        };
        let mut kinds = Vec::with_capacity(judged.len());
        for (index, (judged, is_missing)) in judged.into_iter().enumerate() {
            let Some(disk) = forecast.guest.disks.get(index) else { continue };
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
                        forecast
                            .plan
                            .warnings
                            .push(format!("disks[{index}].source {source} {why}"));
                    }
                }
                Err(error) => forecast.problems.push(Problem::Error(error)),
            }
        }
        Ok(Some(kinds).filter(|kinds| kinds.len() == forecast.guest.disks.len()))
    }
}

/// The owner of the id of the new guest.
#[derive(Default)]
enum There {
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
    there: There,
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
    promised: Option<Promised>,
}

fn look_for(
    connection: &Connection,
    guest: &Guest,
    host: &HostConfig,
    uses: &Uses,
) -> Result<Seen, Error> {
    let there = match connection.find_domain(&guest.id)? {
        None => There::Nobody,
        Some(domain) => match same_or_exists(connection, &domain, guest) {
            Ok(places) => There::Same(places, domain.uuid()?),
            Err(error @ Error::Exists { .. }) => There::Another(error),
            Err(error) => return Err(error),
        },
    };
    let mut seen = Seen { there, ..Seen::default() };
    if let There::Nobody = seen.there {
        let profile = profile::of(guest, host.profile);
        let (offer, missing) = machine::look(connection, guest, profile)?;
        if offer.is_some() {
            // Another guest that does not answer is no problem of this one.
            seen.promised = uses.promised_kib(connection).ok().and_then(Promised::beside_host);
        }
        seen.offer = offer;
        seen.missing = missing;
    }
    let uuid = match &seen.there {
        There::Same(_, uuid) => uuid.clone(),
        _ => String::new(),
    };
    (seen.steps, seen.refused) = nat::plan(connection, &guest.nics, host.bridge_type)?;
    // An invalid MAC address is in the list of problems already.
    for nic in guest.nics.iter().filter(|nic| is_mac(&nic.mac)) {
        let wanted = Wiring::for_nic(nic, host.bridge_type, &guest.id, &uuid);
        let step = |what| PlanStep { what, name: nic.mac.clone(), ..PlanStep::default() };
        match networks::standing(connection, &wanted, &guest.id)? {
            Standing::Absent => {
                let (xml, detail) = (
                    wanted.network_xml(),
                    "libvirtd starts it when it starts (autostart)".to_owned(),
                );
                seen.steps.push(PlanStep { xml, detail, ..step("define network") });
                seen.steps.push(step("start network"));
            }
            Standing::Ours(network) if network.is_active()? => {}
            Standing::Ours(_) => seen.steps.push(step("start network")),
            Standing::Taken => seen.taken.push(format!(
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
