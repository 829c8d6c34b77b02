//! The steps that the agent could not undo or finish, for operators.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use log::warn;

use crate::guest::wire::GuestRequest;
use crate::guest::wire::verbs::{Leftovers, LeftoversResponse};
use crate::journal::{IntentState, Step, Summary, Verb};
use crate::libvirt;
use crate::ops::{Core, Error};
use crate::os::clock;
use crate::sorted::IntoSorted;
use crate::sorted::OrderBy;
use crate::storage::LeftoverVolume;

impl Core {
    /// Returns the leftovers of one guest or of all guests, from memory.
    ///
    /// # Errors
    /// If the arguments are invalid.
    pub fn leftovers(&self, request: GuestRequest) -> Result<LeftoversResponse, Error> {
        self.read_deadline(&request.args)?;
        Ok(self.listed(&guest_of(&request)))
    }

    /// Tries again to undo or finish the leftovers of one guest or of all guests. An object that another domain uses by
    /// now stays, and is no leftover any more. Returns the remaining leftovers.
    ///
    /// # Errors
    /// If the arguments are invalid, or libvirt does not answer.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn remove_leftovers(&self, request: GuestRequest) -> Result<LeftoversResponse, Error> {
        let deadline = self.change_deadline(&request.args)?;
        let wanted = guest_of(&request);
        self.opener.health().may_answer()?;
        let guests: BTreeSet<String> =
            self.listed(&wanted).leftovers.into_iter().map(|left| left.guest).into_set();
        for guest in guests {
            if Instant::now() >= deadline {
                break;
            }
            // The answer says why each leftover remains.
            if let Err(error) = self.remove_leftovers_of(&guest, deadline) {
                warn!("cannot remove leftovers; guest={guest:?}: {error}");
            }
        }
        Ok(self.listed(&wanted))
    }

    fn remove_leftovers_of(&self, guest: &str, deadline: Instant) -> Result<(), Error> {
        let lock = self.pool.lock_guest(guest, deadline)?;
        let open = self.recover_open(&lock, deadline);
        let leftovers = self.journal.leftovers_of(lock.guest(), None);
        let left = self.recover_leftovers(leftovers, &lock, deadline);
        open.and(left.map(drop))
    }

    fn listed(&self, guest: &str) -> LeftoversResponse {
        let open = self.journal.open_intents().into_iter();
        let mut found: Vec<Summary> = open.chain(self.journal.leftovers()).collect();
        found.retain(|summary| guest.is_empty() || summary.guest == guest);
        found.order_by(&|a, b| a.since.cmp(&b.since));
        LeftoversResponse { leftovers: found.into_iter().map(shown).collect() }
    }
}

/// Returns the guest of the request; empty for all guests.
fn guest_of(request: &GuestRequest) -> String {
    request.guest.as_ref().map(|guest| guest.id.clone()).unwrap_or_default()
}

fn shown(summary: Summary) -> Leftovers {
    Leftovers {
        guest: summary.guest,
        method: summary.verb.to_string(),
        since: clock::rfc3339_utc(summary.since),
        state: match summary.state {
            IntentState::Running | IntentState::Open { .. } => "open",
            IntentState::Leftover { .. } => "left",
        },
        objects: summary.left,
        why: summary.why.unwrap_or_default(),
        tries: summary.tries,
    }
}

/// An object that recovery did not remove, and why. `Display` names both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    kind: Kind,
    /// Its name and the reason why it stays; its kind comes first, except for a volume.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Volume,
    Other,
}

impl Leftover {
    /// Returns the leftover of a guest's step.
    pub(super) fn of(step: &Step, guest: &str, why: &Error) -> Self {
        let text = match step {
            Step::Domain { .. } => format!("domain {guest}: {why}"),
            step => format!("{step}: {why}"),
        };
        Self { kind: Kind::Other, text }
    }

    /// Returns the leftover of a network.
    pub(super) fn network(name: &str, why: &libvirt::Error) -> Self {
        Self { kind: Kind::Other, text: format!("network {name}: {why}") }
    }

    /// Returns the leftover of a volume.
    pub(super) fn volume(left: &LeftoverVolume) -> Self {
        Self { kind: Kind::Volume, text: left.to_string() }
    }

    /// Returns its name and the reason why it stays, for a volume without its kind.
    pub(in crate::ops) fn reason(&self) -> String {
        self.text.clone()
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Volume => write!(f, "volume {}", self.text),
            Kind::Other => f.write_str(&self.text),
        }
    }
}

/// Returns the error that names the leftovers of a change.
pub(super) fn error_of(verb: Verb, left: Vec<Leftover>) -> Error {
    if verb == Verb::Delete && left.iter().all(|left| left.kind == Kind::Volume) {
        return Error::VolumesLeft(left.into_iter().map(|left| left.text).collect());
    }
    Error::Left(left.iter().map(ToString::to_string).collect())
}
