//! Allowed paths of disk sources and console logs. Checks paths only; opens no file.

use std::path::{Path, PathBuf};

use crate::config::{HostConfig, Store};
use crate::os::paths::lexically_normal;

/// The directory of console logs.
const CONSOLE_LOGS: &str = "/var/log/libvirt/qemu/";
/// libvirt's directory of UEFI variables.
const NVRAM: &str = "/var/lib/libvirt/qemu/nvram/";
const CONSOLE_LOG_END: &str = ".tty";

/// Returns the directories that may contain the `source` of a disk on this host.
pub fn disk_roots(host: &HostConfig) -> Vec<PathBuf> {
    zvols(host).into_iter().chain(directories(host)).collect()
}

/// Returns the directory of the pool's volumes; `None` without a store.
pub fn zvols(host: &HostConfig) -> Option<PathBuf> {
    (host.store != Store::None).then(|| Path::new("/dev/zvol").join(&host.zpool))
}

/// Returns the other directories that may contain the `source` of a disk.
pub fn directories(host: &HostConfig) -> Vec<PathBuf> {
    let store = match &host.store {
        Store::Zfs | Store::None => None,
        Store::Directory(directory) => Some(directory.clone()),
    };
    store.into_iter().chain(host.allow_disk_paths.iter().cloned()).collect()
}

/// Returns the file in which virtlogd stores the output of a guest's serial console, next to libvirt's log of the
/// guest; `None` if libvirt is not the local qemu driver.
pub fn console_log(id: &str, host: &HostConfig) -> Option<String> {
    // Not `.log`, because another guest's log may have that name. With the suffix of virtlogd, the longest id still
    // fits into a file name.
    is_of_host(host).then(|| format!("{CONSOLE_LOGS}{id}{CONSOLE_LOG_END}"))
}

/// Returns the file of the UEFI variables of the domain with this uuid, in libvirt's directory; empty if libvirt is not
/// the local qemu driver. libvirt's default is a file by the domain's name, which stays when the domain is renamed: the
/// next guest of that name would start with it.
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

/// Returns whether a file is the console log of any guest of this agent.
pub fn is_console_log(file: &str) -> bool {
    let name = file.strip_prefix(CONSOLE_LOGS).and_then(|name| name.strip_suffix(CONSOLE_LOG_END));
    name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

/// Returns whether `path` is below one of `roots`, compared by component: `/dev/zvol/tank2` is not below
/// `/dev/zvol/tank`.
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
