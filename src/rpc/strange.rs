//! Texts about unknown members of a request.

use crate::guest::members::{Members, Unknown};
use crate::guest::wire::{Disk, Guest, Nic};
use crate::rpc::as_job::ASYNC;

/// Which members they are, and which were meant.
pub(super) fn in_words(unknown: &[Unknown]) -> Vec<String> {
    // A parameter beside those of the method, which the envelope reads.
    let is_strange = |member: &&Unknown| member.place() != ASYNC;
    unknown.iter().filter(is_strange).map(describe).collect()
}

fn describe(unknown: &Unknown) -> String {
    let mut text = format!("unknown member {:?}", unknown.place());
    if let Some(nearest) = unknown.nearest() {
        text += &format!("; did you mean {nearest:?}?");
    } else if let Some(owner) = owner(unknown.name()) {
        text += &format!("; {:?} is a member of {owner}", unknown.name());
    }
    text
}

/// What of a guest a member belongs to that stands somewhere else.
fn owner(name: &str) -> Option<&'static str> {
    let owners: [(&str, &[&str]); 3] =
        [("guest", Guest::NAMES), ("nics", Nic::NAMES), ("disks", Disk::NAMES)];
    let found = owners.into_iter().find(|(_, names)| names.contains(&name));
    found.map(|(owner, _)| owner)
}
