//! The table of methods: the name of each, whether it changes something, and its verb.

use std::collections::BTreeMap;

use crate::events::EventPage;
use crate::guest::domain::VirDomain;
use crate::guest::wire::agent::{GuestInfo, LoginRequest};
use crate::guest::wire::events::EventsRequest;
use crate::guest::wire::images::{ImageRequest, ImageResponse, SnapshotRequest};
use crate::guest::wire::images::{SnapshotResponse, VolumeRequest, VolumeResponse};
use crate::guest::wire::jobs::{JobRequest, JobsRequest};
use crate::guest::wire::metrics::{AllGuestMetrics, GuestMetricsRequest, GuestMetricsResponse};
use crate::guest::wire::verbs::{AutostartRequest, AutostartResponse, ConsoleResponse};
use crate::guest::wire::verbs::{DiskRequest, LeftoversResponse, NicRequest};
use crate::guest::wire::verbs::{ListRequest, ListResponse, PlanRequest, PlanResponse};
use crate::guest::wire::verbs::{ScreenshotResponse, SettingResponse, ShutdownRequest};
use crate::guest::wire::{GuestRequest, GuestResponse};
use crate::jobs::{self, Job};
use crate::ops::{Error, Libvirt, Question, Steps};
use crate::rpc::dry_run;
use crate::rpc::envelope::Lookup;

/// The services: guests and jobs on one port, the image store on another (contract sections 5 and
/// 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Guests.
    Libvirt,
    /// Disks, volumes, images and snapshots.
    ImageStore,
    /// Calls that outlive their request; on the port of guests.
    Job,
}

impl Service {
    /// Returns the part of a method's name before the dot, which is case-sensitive.
    pub fn name(self) -> &'static str {
        match self {
            Self::Libvirt => "Libvirt",
            Self::ImageStore => "ImageStore",
            Self::Job => "Job",
        }
    }

    /// Returns the services on the port of this one.
    pub fn at_port(self) -> &'static [Self] {
        match self {
            Self::Libvirt | Self::Job => &[Self::Libvirt, Self::Job],
            Self::ImageStore => &[Self::ImageStore],
        }
    }

    /// Returns the full name of one of its methods.
    pub(super) fn full_name(self, method: &str) -> String {
        format!("{}.{method}", self.name())
    }

    /// Returns the names of its methods, as callers write them after the dot.
    pub fn method_names(self) -> impl Iterator<Item = &'static str> {
        self.methods().iter().map(|(name, ..)| *name)
    }

    pub(super) fn methods(self) -> &'static [Entry] {
        match self {
            Self::Libvirt => &LIBVIRT,
            Self::ImageStore => &IMAGE_STORE,
            Self::Job => &JOB,
        }
    }
}

/// A verb with its types of request and answer.
pub(super) type Verb<P, R> = fn(&Libvirt, P) -> Result<R, Error>;

/// A verb that waits for events, in steps.
pub(super) type SteppedVerb<P, R> = Verb<P, Box<dyn Steps<R>>>;

/// A verb that is a single query to libvirt.
pub(super) type QueryVerb<P, R> = Verb<P, Question<R>>;

/// A method, by the kind of its verb.
#[derive(Clone, Copy)]
pub(super) enum Method {
    Guest(Verb<GuestRequest, GuestResponse>),
    WithDryRun(Verb<PlanRequest, PlanResponse>),
    Status(QueryVerb<GuestRequest, GuestResponse>),
    Metrics(QueryVerb<GuestMetricsRequest, GuestMetricsResponse>),
    AllMetrics(Verb<GuestMetricsRequest, BTreeMap<String, AllGuestMetrics>>),
    List(Verb<ListRequest, ListResponse>),
    Describe(Verb<GuestRequest, VirDomain>),
    Leftovers(Verb<GuestRequest, LeftoversResponse>),
    Autostart(Verb<AutostartRequest, AutostartResponse>),
    Setting(Verb<GuestRequest, SettingResponse>),
    Disk(Verb<DiskRequest, SettingResponse>),
    Nic(Verb<NicRequest, SettingResponse>),
    Console(Verb<GuestRequest, ConsoleResponse>),
    GuestInfo(Verb<GuestRequest, GuestInfo>),
    Login(Verb<LoginRequest, GuestResponse>),
    Shutdown(SteppedVerb<ShutdownRequest, GuestResponse>),
    Screenshot(Verb<GuestRequest, ScreenshotResponse>),
    Events(SteppedVerb<EventsRequest, EventPage>),
    Image(Verb<ImageRequest, ImageResponse>),
    Clone(Verb<ImageRequest, VolumeResponse>),
    Volume(Verb<VolumeRequest, VolumeResponse>),
    Snapshot(Verb<SnapshotRequest, SnapshotResponse>),
    Job(Verb<JobRequest, Job>),
    Jobs(Verb<JobsRequest, jobs::JobPage>),
}

impl Method {
    /// Returns the names of its types of request and answer, as `rpc.discover` has them.
    pub(super) fn types(self) -> (&'static str, &'static str) {
        match self {
            Self::Guest(_) | Self::Status(_) => ("GuestRequest", "GuestResponse"),
            Self::WithDryRun(_) => ("PlanRequest", "PlanResponse"),
            Self::Metrics(_) => ("GuestMetricsRequest", "GuestMetricsResponse"),
            Self::AllMetrics(_) => ("GuestMetricsRequest", "AllMetricsResponse"),
            Self::List(_) => ("ListRequest", "ListResponse"),
            Self::Describe(_) => ("GuestRequest", "Domain"),
            Self::Leftovers(_) => ("GuestRequest", "LeftoversResponse"),
            Self::Autostart(_) => ("AutostartRequest", "AutostartResponse"),
            Self::Setting(_) => ("GuestRequest", "SettingResponse"),
            Self::Disk(_) => ("DiskRequest", "SettingResponse"),
            Self::Nic(_) => ("NicRequest", "SettingResponse"),
            Self::Console(_) => ("GuestRequest", "ConsoleResponse"),
            Self::GuestInfo(_) => ("GuestRequest", "GuestInfo"),
            Self::Login(_) => ("LoginRequest", "GuestResponse"),
            Self::Shutdown(_) => ("ShutdownRequest", "GuestResponse"),
            Self::Screenshot(_) => ("GuestRequest", "ScreenshotResponse"),
            Self::Events(_) => ("EventsRequest", "EventsPage"),
            Self::Image(_) => ("ImageRequest", "ImageResponse"),
            Self::Clone(_) => ("ImageRequest", "VolumeResponse"),
            Self::Volume(_) => ("VolumeRequest", "VolumeResponse"),
            Self::Snapshot(_) => ("SnapshotRequest", "SnapshotResponse"),
            Self::Job(_) => ("JobRequest", "Job"),
            Self::Jobs(_) => ("JobsRequest", "JobsPage"),
        }
    }
}

/// Whether a method changes something, and therefore is audited.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Changes,
    Reads,
}
use Effect::{Changes, Reads};

/// A method's name, its effect, and its verb.
pub(super) type Entry = (&'static str, Effect, Method);

/// A method with its service.
#[derive(Clone, Copy)]
pub(super) struct Callee {
    pub(super) service: Service,
    pub(super) entry: Entry,
}

impl Callee {
    /// Finds a method that is served on the port of `port`.
    pub(super) fn find(port: Service, service: &str, method: &str) -> Lookup<Self> {
        let mut services = port.at_port().iter().copied();
        let Some(service) = services.find(|it| it.name() == service) else {
            return Lookup::NoService;
        };
        let mut methods = service.methods().iter().copied();
        let found = methods.find(|(name, ..)| *name == method);
        found.map_or(Lookup::NoMethod, |entry| Lookup::Found(Self { service, entry }))
    }

    /// Returns its full name, as callers write it.
    pub(super) fn full_name(self) -> String {
        self.service.full_name(self.entry.0)
    }

    /// Returns whether it changes something.
    pub(super) fn changes(self) -> bool {
        self.entry.1 == Changes
    }
}

const LIBVIRT: [Entry; 44] = [
    ("CreateGuest", Changes, Method::WithDryRun(dry_run::create_or_plan)),
    ("Create", Changes, Method::Guest(|agent, r| agent.guests.create(r))),
    ("Delete", Changes, Method::WithDryRun(dry_run::delete_or_plan)),
    ("Restart", Changes, Method::Guest(|agent, r| agent.guests.restart(r))),
    ("Reboot", Changes, Method::Guest(|agent, r| agent.guests.reboot(r))),
    ("Poweroff", Changes, Method::Guest(|agent, r| agent.guests.poweroff(r))),
    ("Shutdown", Changes, Method::Shutdown(|agent, r| agent.guests.begin_shutdown(r))),
    ("Run", Changes, Method::Guest(|agent, r| agent.guests.run(r))),
    ("Status", Reads, Method::Status(|agent, r| agent.guests.status_question(r))),
    ("CPUMetrics", Reads, Method::Metrics(|agent, r| agent.telemetry.cpu_question(r))),
    ("DiskMetrics", Reads, Method::Metrics(|agent, r| agent.telemetry.disk_question(r))),
    ("NicMetrics", Reads, Method::Metrics(|agent, r| agent.telemetry.nic_question(r))),
    ("AllMetrics", Reads, Method::AllMetrics(|agent, r| agent.telemetry.all_metrics(r))),
    ("WaitEvents", Reads, Method::Events(|agent, r| agent.core.begin_wait_events(r))),
    ("ResizeDisk", Changes, Method::Guest(|agent, r| agent.guests.resize_disk(r))),
    ("List", Reads, Method::List(|agent, r| agent.guests.list_guests(r))),
    ("Describe", Reads, Method::Describe(|agent, r| agent.guests.describe(r))),
    ("Leftovers", Reads, Method::Leftovers(|agent, r| agent.core.leftovers(r))),
    ("RemoveLeftovers", Changes, Method::Leftovers(|agent, r| agent.core.remove_leftovers(r))),
    ("Suspend", Changes, Method::Guest(|agent, r| agent.guests.suspend(r))),
    ("Resume", Changes, Method::Guest(|agent, r| agent.guests.resume(r))),
    ("Reset", Changes, Method::Guest(|agent, r| agent.guests.reset(r))),
    ("DiscardSaved", Changes, Method::Guest(|agent, r| agent.guests.discard_saved(r))),
    ("SetMetadata", Changes, Method::Guest(|agent, r| agent.guests.set_metadata(r))),
    ("SetSeed", Changes, Method::Guest(|agent, r| agent.guests.set_seed(r))),
    ("SetAutostart", Changes, Method::Autostart(|agent, r| agent.guests.set_autostart(r))),
    ("SetMemory", Changes, Method::Setting(|agent, r| agent.guests.set_memory(r))),
    ("SetCPU", Changes, Method::Setting(|agent, r| agent.guests.set_cpu(r))),
    ("SetLimits", Changes, Method::Setting(|agent, r| agent.guests.set_limits(r))),
    ("Update", Changes, Method::Setting(|agent, r| agent.guests.update(r))),
    ("AttachDisk", Changes, Method::Disk(|agent, r| agent.guests.attach_disk(r))),
    ("DetachDisk", Changes, Method::Disk(|agent, r| agent.guests.detach_disk(r))),
    ("InsertMedia", Changes, Method::Disk(|agent, r| agent.guests.insert_media(r))),
    ("EjectMedia", Changes, Method::Disk(|agent, r| agent.guests.eject_media(r))),
    ("AttachNic", Changes, Method::Nic(|agent, r| agent.guests.attach_nic(r))),
    ("DetachNic", Changes, Method::Nic(|agent, r| agent.guests.detach_nic(r))),
    ("Console", Reads, Method::Console(|agent, r| agent.guests.console(r))),
    ("GuestInfo", Reads, Method::GuestInfo(|agent, r| agent.guests.guest_info(r))),
    ("SetPassword", Changes, Method::Login(|agent, r| agent.guests.set_password(r))),
    ("SetSshKeys", Changes, Method::Login(|agent, r| agent.guests.set_ssh_keys(r))),
    ("Trim", Changes, Method::Guest(|agent, r| agent.guests.trim(r))),
    ("Freeze", Changes, Method::Guest(|agent, r| agent.guests.freeze(r))),
    ("Thaw", Changes, Method::Guest(|agent, r| agent.guests.thaw(r))),
    ("Screenshot", Reads, Method::Screenshot(|agent, r| agent.guests.screenshot(r))),
];

const JOB: [Entry; 3] = [
    ("Get", Reads, Method::Job(|agent, r| agent.core.get_job(r))),
    ("List", Reads, Method::Jobs(|agent, r| agent.core.list_jobs(r))),
    ("Cancel", Changes, Method::Job(|agent, r| agent.core.cancel_job(r))),
];

const IMAGE_STORE: [Entry; 18] = [
    ("VerifyDisks", Reads, Method::Guest(|agent, r| agent.images.verify_disks(r))),
    ("CreateGuestDisks", Changes, Method::Guest(|agent, r| agent.images.create_guest_disks(r))),
    ("DeleteGuestsDisks", Changes, Method::Guest(|agent, r| agent.images.delete_guest_disks(r))),
    // The name of this method in the original's documents.
    ("DeleteGuestDisks", Changes, Method::Guest(|agent, r| agent.images.delete_guest_disks(r))),
    ("CreateVolume", Changes, Method::Volume(|agent, r| agent.images.create_volume(r))),
    ("GetVolume", Reads, Method::Volume(|agent, r| agent.images.get_volume(r))),
    ("ListVolumes", Reads, Method::Volume(|agent, r| agent.images.list_volumes(r))),
    ("DeleteDataset", Changes, Method::Volume(|agent, r| agent.images.delete_dataset(r))),
    ("CreateSnapshot", Changes, Method::Snapshot(|agent, r| agent.images.create_snapshot(r))),
    ("GetSnapshot", Reads, Method::Snapshot(|agent, r| agent.images.get_snapshot(r))),
    ("ListSnapshots", Reads, Method::Snapshot(|agent, r| agent.images.list_snapshots(r))),
    ("DeleteSnapshot", Changes, Method::Snapshot(|agent, r| agent.images.delete_snapshot(r))),
    ("RollbackSnapshot", Changes, Method::Snapshot(|agent, r| agent.images.rollback_snapshot(r))),
    ("ListImages", Reads, Method::Image(|agent, r| agent.images.list_images(r))),
    ("GetImage", Reads, Method::Image(|agent, r| agent.images.get_image(r))),
    ("CloneImage", Changes, Method::Clone(|agent, r| agent.images.clone_image(r))),
    ("DeleteImage", Changes, Method::Image(|agent, r| agent.images.delete_image(r))),
    ("RequestImage", Changes, Method::Image(|agent, r| agent.images.request_image(r))),
];
