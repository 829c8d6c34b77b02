//! The target of a call, for the log and the audit.

use std::borrow::Cow;
use std::collections::BTreeMap;

use log::kv::Value;
use serde::Serialize;

use crate::guest::wire::agent::LoginRequest;
use crate::guest::wire::events::EventsRequest;
use crate::guest::wire::images::{ImageRequest, SnapshotRequest, VolumeRequest};
use crate::guest::wire::jobs::{JobRequest, JobsRequest};
use crate::guest::wire::metrics::GuestMetricsRequest;
use crate::guest::wire::verbs::{
    AutostartRequest, DiskRequest, ListRequest, NicRequest, PlanRequest, ShutdownRequest,
};
use crate::guest::wire::{Guest, GuestRequest};
use crate::rpc::dry_run;

/// The target of a call: one of the names, as the caller wrote it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dataset: Option<String>,
    /// What the call makes from the target, such as a snapshot's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dest: Option<String>,
    /// The job that is the target, or the job that runs the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<String>,
}

impl Target {
    /// Returns the members, for log lines.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, Value<'_>)> {
        let Self { guest, image, dataset, dest, job } = self;
        let all = [
            ("guest", guest),
            ("image", image),
            ("dataset", dataset),
            ("dest", dest),
            ("job", job),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, Value::from(value.as_deref()?))))
    }

    /// Returns the name of the dataset, image or guest; `None` if the caller named none.
    pub(super) fn name(&self) -> Option<&str> {
        let names = [&self.dataset, &self.image, &self.guest].into_iter().flatten();
        names.map(String::as_str).find(|name| !name.is_empty())
    }

    /// Returns the name whose concurrent calls are bounded ([`CallShare::guest`]): the guest's id, also for a dataset
    /// of a guest.
    ///
    /// [`CallShare::guest`]: crate::pool::CallShare::guest
    pub(super) fn key(&self) -> String {
        match (&self.guest, &self.dataset, &self.image) {
            (Some(guest), ..) => guest.clone(),
            (None, Some(dataset), _) => {
                let of_guest = dataset.strip_prefix("guests/");
                let name = of_guest.and_then(|rest| rest.split(['/', '@']).next());
                name.unwrap_or(dataset).to_owned()
            }
            (None, None, image) => image.clone().unwrap_or_default(),
        }
    }

    /// Returns the bytes of the names.
    pub(super) fn bytes(&self) -> usize {
        let Self { guest, image, dataset, dest, job } = self;
        [guest, image, dataset, dest, job].into_iter().flatten().map(String::len).sum()
    }

    /// Returns the target with at most `chars` characters of each name.
    pub(super) fn cut(&self, chars: usize) -> Self {
        let cut = |text: &Option<String>| text.as_ref().map(|text| cut(text, chars).into_owned());
        Self {
            guest: cut(&self.guest),
            image: cut(&self.image),
            dataset: cut(&self.dataset),
            dest: cut(&self.dest),
            job: cut(&self.job),
        }
    }
}

/// A request that has a target.
pub(super) trait Targeted {
    fn target(&self) -> Target;

    /// Returns the guest and the arguments, if a job can be made from the request.
    fn for_job(&mut self) -> Option<(Option<&Guest>, &mut BTreeMap<String, String>)> {
        None
    }

    /// Returns the arguments, if the request has some.
    fn args(&self) -> Option<&BTreeMap<String, String>> {
        None
    }

    /// Sets whether members that would be replaced are refused.
    fn set_strict(&mut self, _is_strict: bool) {}

    /// Returns whether the answer waits for the requested state of the guest, longer than a call's
    /// deadline.
    fn waits(&self) -> bool {
        false
    }

    /// Returns whether the request changes nothing although its method does.
    fn is_dry_run(&self) -> bool {
        false
    }
}

fn guest_target(guest: Option<&Guest>) -> Target {
    let id = guest.map(|guest| guest.id.clone()).unwrap_or_default();
    Target { guest: Some(id), ..Target::default() }
}

/// Requests about one guest with arguments, from which jobs can be made; each with its additional methods.
macro_rules! guest_requests {
    ($($request:ty $({ $($besides:tt)* })?),*) => {$(
        impl Targeted for $request {
            fn target(&self) -> Target {
                guest_target(self.guest.as_ref())
            }

            fn for_job(&mut self) -> Option<(Option<&Guest>, &mut BTreeMap<String, String>)> {
                Some((self.guest.as_ref(), &mut self.args))
            }

            fn args(&self) -> Option<&BTreeMap<String, String>> {
                Some(&self.args)
            }

            $($($besides)*)?
        }
    )*};
}

guest_requests!(
    GuestRequest,
    AutostartRequest,
    DiskRequest,
    NicRequest,
    PlanRequest {
        fn set_strict(&mut self, is_strict: bool) {
            self.is_strict = is_strict;
        }

        fn is_dry_run(&self) -> bool {
            dry_run::is_asked(self).unwrap_or(false)
        }
    },
    ShutdownRequest {
        fn waits(&self) -> bool {
            self.wait.is_some() || self.force_after.is_some()
        }
    }
);

impl Targeted for GuestMetricsRequest {
    fn target(&self) -> Target {
        guest_target(self.guest.as_ref())
    }

    fn args(&self) -> Option<&BTreeMap<String, String>> {
        Some(&self.args)
    }
}

/// No job can be made from it: the job's file would contain its secrets.
impl Targeted for LoginRequest {
    fn target(&self) -> Target {
        guest_target(self.guest.as_ref())
    }

    fn args(&self) -> Option<&BTreeMap<String, String>> {
        Some(&self.args)
    }
}

/// All guests: an empty name, as in the metrics of all.
impl Targeted for ListRequest {
    fn target(&self) -> Target {
        guest_target(None)
    }
}

impl Targeted for EventsRequest {
    fn target(&self) -> Target {
        let guest = Some(self.guest.clone()).filter(|guest| !guest.is_empty());
        Target { guest, ..Target::default() }
    }
}

impl Targeted for JobRequest {
    fn target(&self) -> Target {
        Target { job: Some(self.id.clone()), ..Target::default() }
    }
}

impl Targeted for JobsRequest {
    fn target(&self) -> Target {
        let guest = Some(self.guest.clone()).filter(|guest| !guest.is_empty());
        Target { guest, ..Target::default() }
    }
}

impl Targeted for ImageRequest {
    fn target(&self) -> Target {
        Target { image: Some(self.id.clone()), ..Target::default() }
    }
}

impl Targeted for VolumeRequest {
    fn target(&self) -> Target {
        Target { dataset: Some(self.id.clone()), ..Target::default() }
    }
}

impl Targeted for SnapshotRequest {
    fn target(&self) -> Target {
        let (dataset, dest) = (Some(self.id.clone()), Some(self.dest.clone()));
        Target { dataset, dest, ..Target::default() }
    }
}

/// Returns the text, or its first `chars` characters with a mark for the omitted rest.
pub(super) fn cut(text: &str, chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}
