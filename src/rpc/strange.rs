//! Texts about unknown members of a request.

use crate::guest::members::{Members, Unknown};
use crate::guest::wire::{Guest, GuestDisk, Nic};
use crate::rpc::as_job::ASYNC;

/// Returns a text for each unknown member, with the member that was probably meant.
pub(super) fn in_words(unknown: &[Unknown]) -> Vec<String> {
    // The envelope reads this parameter, which belongs to no method.
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

/// Returns the part of a guest to which a misplaced member belongs.
fn owner(name: &str) -> Option<&'static str> {
    let owners: [(&str, &[&str]); 3] =
        [("guest", Guest::NAMES), ("nics", Nic::NAMES), ("disks", GuestDisk::NAMES)];
    let found = owners.into_iter().find(|(_, names)| names.contains(&name));
    found.map(|(owner, _)| owner)
}
