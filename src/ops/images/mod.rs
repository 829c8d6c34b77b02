//! The image store.
//!
//! - `store`: its methods for volumes and images.
//! - `snapshots`: its methods for snapshots.
//! - `fetches`: downloads of images from the image service.

pub(super) mod fetches;
mod snapshots;
pub(super) mod store;
