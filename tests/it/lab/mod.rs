//! What needs real volumes: these tests run in the virtual machine of `tests/lab` (`make
//! test-lab`) and are skipped elsewhere.
//!
//! They run side by side: each keeps to a [`Directory`] of the machine's pool, or to a [`Pool`] of its
//! own where it fills, removes or lists one. `guests` runs once more with Debian's own `qemu.conf`, and
//! `linux` only there.

mod check;
mod clock;
mod crash;
mod datasets;
mod deletes;
mod documents;
mod failing_disk;
mod figures;
mod guests;
mod linux;
mod metrics;
mod pools;
mod sources;
mod systemd;

use crate::harness::zpool::{
    Directory, LIBVIRT, Pool, SOON, device, fresh, is_block_device, listing, quietly, run, virsh,
    zfs, zpool_sync,
};
