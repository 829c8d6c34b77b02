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
    ("Create", Changes, Method::Guest(Libvirt::create)),
    ("Delete", Changes, Method::WithDryRun(dry_run::delete_or_plan)),
    ("Restart", Changes, Method::Guest(Libvirt::restart)),
    ("Reboot", Changes, Method::Guest(Libvirt::reboot)),
    ("Poweroff", Changes, Method::Guest(Libvirt::poweroff)),
    ("Shutdown", Changes, Method::Shutdown(Libvirt::begin_shutdown)),
    ("Run", Changes, Method::Guest(Libvirt::run)),
    ("Status", Reads, Method::Status(Libvirt::status_question)),
    ("CPUMetrics", Reads, Method::Metrics(Libvirt::cpu_question)),
    ("DiskMetrics", Reads, Method::Metrics(Libvirt::disk_question)),
    ("NicMetrics", Reads, Method::Metrics(Libvirt::nic_question)),
    ("AllMetrics", Reads, Method::AllMetrics(Libvirt::all_metrics)),
    ("WaitEvents", Reads, Method::Events(Libvirt::begin_wait_events)),
    ("ResizeDisk", Changes, Method::Guest(Libvirt::resize_disk)),
    ("List", Reads, Method::List(Libvirt::list_guests)),
    ("Describe", Reads, Method::Describe(Libvirt::describe)),
    ("Leftovers", Reads, Method::Leftovers(Libvirt::leftovers)),
    ("RemoveLeftovers", Changes, Method::Leftovers(Libvirt::remove_leftovers)),
    ("Suspend", Changes, Method::Guest(Libvirt::suspend)),
    ("Resume", Changes, Method::Guest(Libvirt::resume)),
    ("Reset", Changes, Method::Guest(Libvirt::reset)),
    ("DiscardSaved", Changes, Method::Guest(Libvirt::discard_saved)),
    ("SetMetadata", Changes, Method::Guest(Libvirt::set_metadata)),
    ("SetSeed", Changes, Method::Guest(Libvirt::set_seed)),
    ("SetAutostart", Changes, Method::Autostart(Libvirt::set_autostart)),
    ("SetMemory", Changes, Method::Setting(Libvirt::set_memory)),
    ("SetCPU", Changes, Method::Setting(Libvirt::set_cpu)),
    ("SetLimits", Changes, Method::Setting(Libvirt::set_limits)),
    ("Update", Changes, Method::Setting(Libvirt::update)),
    ("AttachDisk", Changes, Method::Disk(Libvirt::attach_disk)),
    ("DetachDisk", Changes, Method::Disk(Libvirt::detach_disk)),
    ("InsertMedia", Changes, Method::Disk(Libvirt::insert_media)),
    ("EjectMedia", Changes, Method::Disk(Libvirt::eject_media)),
    ("AttachNic", Changes, Method::Nic(Libvirt::attach_nic)),
    ("DetachNic", Changes, Method::Nic(Libvirt::detach_nic)),
    ("Console", Reads, Method::Console(Libvirt::console)),
    ("GuestInfo", Reads, Method::GuestInfo(Libvirt::guest_info)),
    ("SetPassword", Changes, Method::Login(Libvirt::set_password)),
    ("SetSshKeys", Changes, Method::Login(Libvirt::set_ssh_keys)),
    ("Trim", Changes, Method::Guest(Libvirt::trim)),
    ("Freeze", Changes, Method::Guest(Libvirt::freeze)),
    ("Thaw", Changes, Method::Guest(Libvirt::thaw)),
    ("Screenshot", Reads, Method::Screenshot(Libvirt::screenshot)),
];

const JOB: [Entry; 3] = [
    ("Get", Reads, Method::Job(Libvirt::get_job)),
    ("List", Reads, Method::Jobs(Libvirt::list_jobs)),
    ("Cancel", Changes, Method::Job(Libvirt::cancel_job)),
];

const IMAGE_STORE: [Entry; 18] = [
    ("VerifyDisks", Reads, Method::Guest(Libvirt::verify_disks)),
    ("CreateGuestDisks", Changes, Method::Guest(Libvirt::create_guest_disks)),
    ("DeleteGuestsDisks", Changes, Method::Guest(Libvirt::delete_guest_disks)),
    // The name of this method in the original's documents.
    ("DeleteGuestDisks", Changes, Method::Guest(Libvirt::delete_guest_disks)),
    ("CreateVolume", Changes, Method::Volume(Libvirt::create_volume)),
    ("GetVolume", Reads, Method::Volume(Libvirt::get_volume)),
    ("ListVolumes", Reads, Method::Volume(Libvirt::list_volumes)),
    ("DeleteDataset", Changes, Method::Volume(Libvirt::delete_dataset)),
    ("CreateSnapshot", Changes, Method::Snapshot(Libvirt::create_snapshot)),
    ("GetSnapshot", Reads, Method::Snapshot(Libvirt::get_snapshot)),
    ("ListSnapshots", Reads, Method::Snapshot(Libvirt::list_snapshots)),
    ("DeleteSnapshot", Changes, Method::Snapshot(Libvirt::delete_snapshot)),
    ("RollbackSnapshot", Changes, Method::Snapshot(Libvirt::rollback_snapshot)),
    ("ListImages", Reads, Method::Image(Libvirt::list_images)),
    ("GetImage", Reads, Method::Image(Libvirt::get_image)),
    ("CloneImage", Changes, Method::Clone(Libvirt::clone_image)),
    ("DeleteImage", Changes, Method::Image(Libvirt::delete_image)),
    ("RequestImage", Changes, Method::Image(Libvirt::request_image)),
];
