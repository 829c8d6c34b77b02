//! What a call is about, for the log and the audit.

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

/// What a call is about: one of the names, as the caller wrote it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Subject {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dataset: Option<String>,
    /// What is to be made of it, such as a snapshot's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dest: Option<String>,
    /// A job, or the one that a call is carried out by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<String>,
}

impl Subject {
    /// Its members, for log lines.
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

    /// The name of the dataset, image or guest; none where the caller named none.
    pub(super) fn name(&self) -> Option<&str> {
        let names = [&self.dataset, &self.image, &self.guest].into_iter().flatten();
        names.map(String::as_str).find(|name| !name.is_empty())
    }

    /// What calls about it wait for one after the other: the guest's id, for a dataset of a guest as well.
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

    /// Bytes of its names.
    pub(super) fn bytes(&self) -> usize {
        let Self { guest, image, dataset, dest, job } = self;
        [guest, image, dataset, dest, job].into_iter().flatten().map(String::len).sum()
    }

    /// The same with at most so many characters of each name.
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

/// What a request is about.
pub(super) trait About {
    fn subject(&self) -> Subject;

    /// Its guest and its arguments, where a job can be made of it.
    fn for_job(&mut self) -> Option<(Option<&Guest>, &mut BTreeMap<String, String>)> {
        None
    }

    /// Its arguments, where it has some.
    fn args(&self) -> Option<&BTreeMap<String, String>> {
        None
    }

    /// Says whether members that would be replaced are refused.
    fn set_strict(&mut self, _is_strict: bool) {}

    /// Whether its answer waits for what it asks for, longer than a call's deadline.
    fn waits(&self) -> bool {
        false
    }

    /// Whether it changes nothing though its method does.
    fn is_dry_run(&self) -> bool {
        false
    }
}

fn about_guest(guest: Option<&Guest>) -> Subject {
    let id = guest.map(|guest| guest.id.clone()).unwrap_or_default();
    Subject { guest: Some(id), ..Subject::default() }
}

/// Requests about one guest with arguments, of which jobs can be made; each with what it has besides.
macro_rules! about_one_guest {
    ($($request:ty $({ $($besides:tt)* })?),*) => {$(
        impl About for $request {
            fn subject(&self) -> Subject {
                about_guest(self.guest.as_ref())
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

about_one_guest!(
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

impl About for GuestMetricsRequest {
    fn subject(&self) -> Subject {
        about_guest(self.guest.as_ref())
    }

    fn args(&self) -> Option<&BTreeMap<String, String>> {
        Some(&self.args)
    }
}

/// No job can be made of it: the job's file would have its secrets.
impl About for LoginRequest {
    fn subject(&self) -> Subject {
        about_guest(self.guest.as_ref())
    }

    fn args(&self) -> Option<&BTreeMap<String, String>> {
        Some(&self.args)
    }
}

/// All guests: an empty name, as in the metrics of all.
impl About for ListRequest {
    fn subject(&self) -> Subject {
        about_guest(None)
    }
}

impl About for EventsRequest {
    fn subject(&self) -> Subject {
        let guest = Some(self.guest.clone()).filter(|guest| !guest.is_empty());
        Subject { guest, ..Subject::default() }
    }
}

impl About for JobRequest {
    fn subject(&self) -> Subject {
        Subject { job: Some(self.id.clone()), ..Subject::default() }
    }
}

impl About for JobsRequest {
    fn subject(&self) -> Subject {
        let guest = Some(self.guest.clone()).filter(|guest| !guest.is_empty());
        Subject { guest, ..Subject::default() }
    }
}

impl About for ImageRequest {
    fn subject(&self) -> Subject {
        Subject { image: Some(self.id.clone()), ..Subject::default() }
    }
}

impl About for VolumeRequest {
    fn subject(&self) -> Subject {
        Subject { dataset: Some(self.id.clone()), ..Subject::default() }
    }
}

impl About for SnapshotRequest {
    fn subject(&self) -> Subject {
        let (dataset, dest) = (Some(self.id.clone()), Some(self.dest.clone()));
        Subject { dataset, dest, ..Subject::default() }
    }
}

/// The text, or so much of it with a mark that there was more.
pub(super) fn cut(text: &str, chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}
