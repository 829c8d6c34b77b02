//! Volumes of libvirt's own storage pools, which disks of domains can use.

use std::ffi::c_int;
use std::ptr::NonNull;

use log::warn;

use crate::libvirt::c_string::{OwnedCString, argument};
use crate::libvirt::connection::Connection;
use crate::libvirt::error::{Error, check_int, check_ptr};
use crate::sys;

/// A reference to a pool or a volume, and the call that frees it.
struct Reference<T> {
    raw: NonNull<T>,
    free: unsafe extern "C" fn(*mut T) -> c_int,
    /// The name of that call.
    call: &'static str,
}

impl<T> Drop for Reference<T> {
    fn drop(&mut self) {
        // SAFETY: live, ours, and freed only here.
        let freed = unsafe { (self.free)(self.raw.as_ptr()) };
        if let Err(why) = check_int(freed, self.call) {
            warn!("cannot free a storage handle: {why}");
        }
    }
}

impl Connection {
    /// Returns the path of a volume of a libvirt storage pool (`virStorageVolGetPath`): of a file or a device, or the
    /// equivalent for the pool's type.
    ///
    /// # Errors
    /// A pool or a volume that does not exist, or a pool that is not active.
    ///
    /// # Blocking
    /// Three round trips.
    pub fn volume_path(&self, pool: &str, volume: &str) -> Result<String, Error> {
        let call = "virStoragePoolLookupByName";
        let name = argument(pool, call)?;
        // SAFETY: the connection is live, the name NUL-terminated; the reference is ours to free.
        let raw = unsafe { sys::virStoragePoolLookupByName(self.raw.as_ptr(), name.as_ptr()) };
        let (raw, free) = (check_ptr(raw, call)?, sys::virStoragePoolFree);
        let pool = Reference { raw, free, call: "virStoragePoolFree" };
        let call = "virStorageVolLookupByName";
        let name = argument(volume, call)?;
        // SAFETY: the pool is live, the name NUL-terminated; the reference is ours to free.
        let raw = unsafe { sys::virStorageVolLookupByName(pool.raw.as_ptr(), name.as_ptr()) };
        let (raw, free) = (check_ptr(raw, call)?, sys::virStorageVolFree);
        let volume = Reference { raw, free, call: "virStorageVolFree" };
        // SAFETY: the volume is live.
        let path = unsafe { sys::virStorageVolGetPath(volume.raw.as_ptr()) };
        // SAFETY: NULL or a string from malloc(3) that is ours.
        let path = unsafe { OwnedCString::take(path, "virStorageVolGetPath") }?;
        Ok(path.to_text())
    }
}
