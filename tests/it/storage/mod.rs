//! Volumes and images: both stores, and the paths of disks.

mod backing_chains;
mod disk_paths;
pub(crate) mod images;
mod ownership;
mod same_source;
pub(crate) mod store;
mod volumes;
