//! The methods on guests.
//!
//! - `create`, `machine`, `seeds`, `seed_files`: a new guest, the machine of its profile, its seed.
//! - `lifecycle`, `start`, `shutdown`, `saved_memory`: Run, Shutdown, Suspend and others; guests with saved memory.
//! - `settings`, `device_limits`, `update`, `resize`, `media`, `devices`: changes of a guest that exists.
//! - `inventory`, `screens`: List and Describe; Console and Screenshot.
//! - `delete`, `undefine`: the end of a guest.
//! - `host_start`, `host_stop`: guests that start and stop with the host.

pub(super) mod create;
pub(super) mod delete;
mod device_limits;
pub(super) mod devices;
pub(super) mod host_start;
pub(super) mod host_stop;
mod inventory;
pub(super) mod lifecycle;
pub(super) mod machine;
mod media;
mod resize;
mod saved_memory;
pub(super) mod screens;
pub(super) mod seed_files;
pub(super) mod seeds;
mod settings;
mod shutdown;
mod start;
pub(super) mod undefine;
mod update;
