//! Disks of guests: their sources, their volumes, and which domain uses which.
//!
//! - `sources`: where a disk's source may lie, and what it is.
//! - `volumes`, `volume_owners`, `owner_marks`: volumes of guests, whose they are, and the marks of older agents.
//! - `domain_uses`, `backing_chain`, `path_uses`: what the definitions of all domains use; the files below a disk.

pub(super) mod backing_chain;
pub(super) mod domain_uses;
mod owner_marks;
pub(super) mod path_uses;
pub(super) mod sources;
pub(super) mod volume_owners;
pub(super) mod volumes;
