//! Where a disk's `source` may lie, and a console's log, by the path alone: no file is looked at.

use std::path::{Path, PathBuf};

use crate::config::{HostConfig, Store};
use crate::os::paths::lexically_normal;

/// Where console logs lie, and how their names end.
const CONSOLE_LOGS: &str = "/var/log/libvirt/qemu/";
/// Where libvirt keeps the UEFI variables of domains.
const NVRAM: &str = "/var/lib/libvirt/qemu/nvram/";
const CONSOLE_LOG_END: &str = ".tty";

/// The directories below which a disk's `source` may lie on this host.
pub fn disk_roots(host: &HostConfig) -> Vec<PathBuf> {
    zvols(host).into_iter().chain(directories(host)).collect()
}

/// The directory of the pool's volumes; none without a store.
pub fn zvols(host: &HostConfig) -> Option<PathBuf> {
    (host.store != Store::None).then(|| Path::new("/dev/zvol").join(&host.zpool))
}

/// The directories beside it.
pub fn directories(host: &HostConfig) -> Vec<PathBuf> {
    let store = match &host.store {
        Store::Zfs | Store::None => None,
        Store::Directory(directory) => Some(directory.clone()),
    };
    store.into_iter().chain(host.allow_disk_paths.iter().cloned()).collect()
}

/// The file in which virtlogd keeps what a guest writes to its serial console, beside libvirt's own
/// of the guest; `None` where libvirt is not the qemu driver of this host.
pub fn console_log(id: &str, host: &HostConfig) -> Option<String> {
    // Not `.log`, as another guest's own may be named so. With what virtlogd adds to it the longest
    // id is still a file's name.
    is_of_host(host).then(|| format!("{CONSOLE_LOGS}{id}{CONSOLE_LOG_END}"))
}

/// The file of the UEFI variables of the domain with this uuid, in libvirt's directory of them; empty where libvirt
/// is not the qemu driver of this host. libvirt's own choice is a file by the domain's name, which it leaves
/// behind when the domain is renamed: the next guest of that name would start with it.
pub fn nvram(uuid: &str, host: &HostConfig) -> String {
    match is_of_host(host) && !uuid.is_empty() {
        true => format!("{NVRAM}{uuid}_VARS.fd"),
        false => String::new(),
    }
}

fn is_of_host(host: &HostConfig) -> bool {
    let uri = host.libvirt_uri.split('?').next().unwrap_or_default();
    uri.starts_with("qemu") && uri.ends_with(":///system")
}

/// Whether a file is the console log that this agent gives to a guest, whichever.
pub fn is_console_log(file: &str) -> bool {
    let name = file.strip_prefix(CONSOLE_LOGS).and_then(|name| name.strip_suffix(CONSOLE_LOG_END));
    name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

/// Whether `path` lies under one of `roots`, component by component: `/dev/zvol/tank2` does not lie
/// under `/dev/zvol/tank`.
pub fn allowed(path: &Path, roots: &[PathBuf]) -> bool {
    let Some(path) = lexically_normal(path) else { return false };
    roots.iter().filter_map(|root| lexically_normal(root)).any(|root| path.starts_with(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_local_qemu_driver_keeps_a_console() {
        let log = |uri: &str| {
            console_log("a", &HostConfig { libvirt_uri: uri.into(), ..HostConfig::default() })
        };
        for uri in ["qemu:///system", "qemu+unix:///system?socket=/run/x"] {
            assert_eq!(log(uri).as_deref(), Some("/var/log/libvirt/qemu/a.tty"), "{uri}");
        }
        for uri in ["qemu:///session", "qemu+ssh://host/system", "test:///default", "xen:///system"]
        {
            assert_eq!(log(uri), None, "{uri}");
        }
    }

    #[test]
    fn allowed_path_is_below_a_root_by_components() {
        let host = HostConfig {
            zpool: "tank".into(),
            allow_disk_paths: vec!["/srv/vm/".into()],
            ..HostConfig::default()
        };
        let roots = disk_roots(&host);
        let allowed = |path: &str| allowed(Path::new(path), &roots);
        assert!(allowed("/dev/zvol/tank/guests/a/disk-0"));
        assert!(allowed("/srv/vm/a.raw"));
        assert!(allowed("/srv/x/../vm/a.raw"));
        assert!(!allowed("/dev/zvol/tank2/guests/a/disk-0"));
        assert!(!allowed("/dev/zvol/tank/../../sda"));
        assert!(!allowed("/srv/vm2/a.raw"));
        assert!(!allowed("/etc/shadow"));
        assert!(!allowed("srv/vm/a.raw"));
        assert!(!allowed(""));
    }

    #[test]
    fn path_of_a_directory_store_is_allowed() {
        let store = Store::Directory("/srv/store".into());
        let roots = disk_roots(&HostConfig { store, ..HostConfig::default() });
        assert!(allowed(Path::new("/srv/store/mistify/guests/a/disk-0"), &roots));
        assert!(!allowed(Path::new("/srv/store2/a"), &roots));
    }

    #[test]
    fn without_a_store_the_flags_alone_allow() {
        let allow_disk_paths = vec!["/dev/vg".into()];
        let host = HostConfig { store: Store::None, allow_disk_paths, ..HostConfig::default() };
        let roots = disk_roots(&host);
        assert!(allowed(Path::new("/dev/vg/a"), &roots));
        assert!(!allowed(Path::new("/dev/zvol/mistify/guests/a/disk-0"), &roots));
    }

    #[test]
    fn root_directory_allows_every_absolute_path() {
        let roots = [PathBuf::from("/")];
        assert!(allowed(Path::new("/etc/shadow"), &roots));
        assert!(!allowed(Path::new("etc/shadow"), &roots));
    }
}
