//! The structs of the verbs that the original lacks: the list of guests, their settings, console and screen.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::guest::members::members;
use crate::guest::wire::agent::Address;
use crate::guest::wire::{Guest, GuestDisk, GuestRequest, Nic};

/// The arguments of List. All members are optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListRequest {
    /// The id after which the page begins; empty for the first.
    pub after: String,
    /// Guests of a page; 0 is the default.
    pub limit: u64,
    /// A name of [`State`](crate::guest::state::State) that the guests are in; empty for any.
    pub state: String,
    /// What the guests' metadata has, among more.
    pub metadata: BTreeMap<String, String>,
    /// As those of [`GuestRequest`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
}

members!(ListRequest {
    "after" => after: value,
    "limit" => limit: value,
    "state" => state: value,
    "metadata" => metadata: dictionary,
    "args" => args: dictionary,
});

/// The answer of List.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListResponse {
    /// In the order of their ids, byte by byte.
    pub guests: Vec<ListedGuest>,
    /// What `after` is for the next page; absent at the end.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// A guest of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListedGuest {
    /// Name of the libvirt domain.
    pub id: String,
    /// A name of [`State`](crate::guest::state::State).
    pub state: String,
    /// Why it is in that state, where nobody asked for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Most memory that it can have until its next start, in whole MiB.
    #[serde(rename = "memory")]
    pub memory_mib: u64,
    /// Virtual CPUs that it has.
    pub cpu: u64,
    /// Whether it is off with saved memory, from which its next start goes on; left out where it is not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub saved: bool,
    /// Its addresses as last seen, those that reach beyond its link first; left out where none is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
}

/// The answer of Leftovers and RemoveLeftovers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftoversResponse {
    /// What is left over, the oldest first.
    pub leftovers: Vec<Leftovers>,
}

/// The objects that one call left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Leftovers {
    /// The guest's id.
    pub guest: String,
    /// The method that left it.
    pub method: String,
    /// When that was called: RFC 3339, in UTC.
    pub since: String,
    /// `open`: the guest's next change waits for it; or `left`.
    pub state: &'static str,
    /// The objects, each with what keeps it; empty before the agent has tried to remove them.
    pub objects: Vec<String>,
    /// Why the last try to remove them failed; empty before the first.
    pub why: String,
    /// How often the agent has tried since it started.
    pub tries: u32,
}

/// The arguments of CreateGuest and Delete, the verbs that support a dry run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlanRequest {
    /// The guest.
    pub guest: Option<Guest>,
    /// As that of [`GuestRequest`].
    pub action: String,
    /// As those of [`GuestRequest`]; `mistify.dry_run` is the same as `dry_run`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// Whether the answer contains the plan, and nothing is done.
    pub dry_run: bool,
    /// As that of [`GuestRequest`].
    #[serde(skip)]
    pub is_strict: bool,
}

members!(PlanRequest {
    "guest" => guest: value,
    "action" => action: value,
    "args" => args: dictionary,
    "dry_run" => dry_run: value,
});

impl From<PlanRequest> for GuestRequest {
    fn from(PlanRequest { guest, action, args, dry_run: _, is_strict }: PlanRequest) -> Self {
        Self { guest, action, args, is_strict }
    }
}

/// The answer of CreateGuest and Delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlanResponse {
    /// The guest as it is now; with a plan, as it would be answered.
    pub guest: Option<Guest>,
    /// What would be done, where nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// What keeps a guest that was made from its start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The plan of a verb.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The known steps, in this order; empty if the verb would not start.
    pub steps: Vec<PlanStep>,
    /// What would make the verb fail, each as its error would say it.
    pub problems: Vec<String>,
    /// What would not, and is worth knowing.
    pub warnings: Vec<String>,
    /// That there is nothing to do, and why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// One step of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlanStep {
    /// What is done, as in `define network`.
    pub what: &'static str,
    /// To what: the name of a domain, network or dataset, or a file's path.
    pub name: String,
    /// The command that does it, word by word, with the command's name first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// What libvirt is given.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub xml: String,
    /// Further details in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What goes along, by full name, as a volume's snapshots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
}

/// The answer of SetMemory, SetCPU and the verbs for devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SettingResponse {
    /// The request's guest; from the verbs for devices the guest as it is now.
    pub guest: Option<Guest>,
    /// Whether the change applies to the running guest too, and not only to its next start.
    pub live: bool,
    /// Why not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The answer of Console.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConsoleResponse {
    /// The request's guest.
    pub guest: Option<Guest>,
    /// The end of what it wrote to its serial console.
    pub console: String,
}

/// The answer of Screenshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScreenshotResponse {
    /// The request's guest.
    pub guest: Option<Guest>,
    /// `image/png`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The picture in base64 with padding (RFC 4648, section 4).
    pub data: String,
}

/// The arguments of SetAutostart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AutostartRequest {
    /// The guest.
    pub guest: Option<Guest>,
    /// Whether libvirt is to start it when the host starts; it has to be said.
    pub autostart: Option<bool>,
    /// As those of [`GuestRequest`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
}

members!(AutostartRequest {
    "guest" => guest: value,
    "autostart" => autostart: value,
    "args" => args: dictionary,
});

/// The arguments of Shutdown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShutdownRequest {
    /// The guest.
    pub guest: Option<Guest>,
    /// As that of [`GuestRequest`].
    pub action: String,
    /// As those of [`GuestRequest`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// For how many seconds the answer waits until the guest is off.
    pub wait: Option<u64>,
    /// After how many seconds a guest that is not off is forced off.
    pub force_after: Option<u64>,
}

members!(ShutdownRequest {
    "guest" => guest: value,
    "action" => action: value,
    "args" => args: dictionary,
    "wait" => wait: value,
    "force_after" => force_after: value,
});

/// The answer of SetAutostart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AutostartResponse {
    /// The request's guest.
    pub guest: Option<Guest>,
    /// As it is now.
    pub autostart: bool,
}

/// The arguments of AttachDisk and DetachDisk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskRequest {
    /// The guest.
    pub guest: Option<Guest>,
    /// The disk.
    pub disk: Option<GuestDisk>,
    /// As those of [`GuestRequest`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
}

members!(DiskRequest {
    "guest" => guest: value,
    "disk" => disk: value,
    "args" => args: dictionary,
});

/// The arguments of AttachNic and DetachNic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NicRequest {
    /// The guest.
    pub guest: Option<Guest>,
    /// The NIC.
    pub nic: Option<Nic>,
    /// As those of [`GuestRequest`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
}

members!(NicRequest {
    "guest" => guest: value,
    "nic" => nic: value,
    "args" => args: dictionary,
});
