//! The seed of a guest: the data that cloud-init reads at the guest's first boot, on a small disk of the datasource
//! NoCloud (<https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>).
//!
//! Its content is secret. [`CloudInit`] has no serializer, and its `Debug` omits the content, so that no answer,
//! journal or domain metadata can contain it.

pub mod files;

use std::io::{self, Cursor, Write};
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::guest::invalid::{Fault, Invalid};
use crate::guest::wire::seed::CloudInit;
use crate::guest::wire::{Guest, GuestDisk, Nic, disk_device, disk_prefix};

/// The size of a seed's volume in MiB.
pub const SEED_MIB: u64 = 1;
/// The maximum size of a seed's documents together, in bytes. They fit into the volume even if JSON doubles each
/// character.
pub const SEED_BYTES_MAX: usize = 384 << 10;
/// The supported buses of a seed: QEMU has no read-only SATA disk.
pub(super) const BUSES: [&str; 2] = ["virtio", "scsi"];
/// The label by which cloud-init finds the disk.
const LABEL: [u8; 11] = *b"CIDATA     ";
const MIB: usize = 1 << 20;
/// Prefixes of hashes that cloud-init accepts as hashes; it takes any other text for the password itself.
const HASHES: [&str; 5] = ["$1$", "$2a$", "$2y$", "$5$", "$6$"];

impl CloudInit {
    /// Returns the whole content as unique bytes, each part after its length, so that different seeds have different
    /// bytes.
    pub fn canonical(&self) -> Vec<u8> {
        let Self { user_data, meta_data, network_config, vendor_data, .. } = self;
        let Self { hostname, user, password_hash, .. } = self;
        let texts =
            [user_data, meta_data, network_config, vendor_data, hostname, user, password_hash];
        let mut bytes = Vec::new();
        for text in texts.into_iter().chain(&self.ssh_keys) {
            bytes.extend(text.len().to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    /// Returns the faults of the seed. No error repeats its content.
    pub fn faults(&self) -> Vec<Invalid> {
        let fault =
            |member: &str, fault| Invalid::Member { member: format!("cloud_init.{member}"), fault };
        let mut found = Vec::new();
        let lines = [("hostname", &self.hostname), ("user", &self.user)];
        let lines = lines.into_iter().chain([("password_hash", &self.password_hash)]);
        for (member, text) in lines.chain(self.ssh_keys.iter().map(|key| ("ssh_keys", key))) {
            if let Some(c) = text.chars().find(|c| c.is_control()) {
                found.push(fault(member, Fault::NotOneLine(c)));
            }
        }
        let is_hash = |method: &&str| self.password_hash.starts_with(*method);
        if !self.password_hash.is_empty() && !HASHES.iter().any(is_hash) {
            found.push(fault("password_hash", Fault::NotHash));
        }
        if !self.user_data.is_empty() {
            let short = [
                ("ssh_keys", self.ssh_keys.is_empty()),
                ("user", self.user.is_empty()),
                ("password_hash", self.password_hash.is_empty()),
            ];
            let given = short.into_iter().filter(|(_, is_empty)| !is_empty);
            found.extend(given.map(|(member, _)| fault(member, Fault::Beside("user_data"))));
        }
        if !self.meta_data.is_empty() && !self.hostname.is_empty() {
            found.push(fault("hostname", Fault::Beside("meta_data")));
        }
        let bytes = self.canonical().len();
        if bytes > SEED_BYTES_MAX {
            let fault = Fault::TooLarge { bytes, max: SEED_BYTES_MAX };
            found.push(Invalid::Member { member: "cloud_init".to_owned(), fault });
        }
        found
    }

    /// Returns the content of the seed's disk for this guest: a VFAT file system with the documents. A new instance id
    /// makes cloud-init treat the boot as the first one.
    ///
    /// # Errors
    /// If the documents do not fit.
    pub fn disk(&self, guest: &Guest, instance_id: &str) -> io::Result<Vec<u8>> {
        let mut disk = Cursor::new(vec![0; MIB]);
        fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new().volume_label(LABEL))?;
        let files = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new())?;
        for (name, text) in self.documents(guest, instance_id) {
            let mut file = files.root_dir().create_file(name)?;
            file.write_all(text.as_bytes())?;
            file.flush()?;
        }
        files.unmount()?;
        Ok(disk.into_inner())
    }

    /// Returns the documents by their file names. JSON is a subset of YAML.
    fn documents(&self, guest: &Guest, instance_id: &str) -> Vec<(&'static str, String)> {
        let or = |text: &str, made: Value| match text {
            "" => made.to_string() + "\n",
            text => text.to_owned(),
        };
        let hostname = if self.hostname.is_empty() { &guest.id } else { &self.hostname };
        let meta_data = json!({ "instance-id": instance_id, "local-hostname": hostname });
        let user_data = match self.user_data.as_str() {
            "" => format!("#cloud-config\n{}\n", self.user_config()),
            text => text.to_owned(),
        };
        let mut documents =
            vec![("meta-data", or(&self.meta_data, meta_data)), ("user-data", user_data)];
        if !guest.nics.is_empty() || !self.network_config.is_empty() {
            let config = or(&self.network_config, network_config(&guest.nics));
            documents.push(("network-config", config));
        }
        if !self.vendor_data.is_empty() {
            documents.push(("vendor-data", self.vendor_data.clone()));
        }
        documents
    }

    /// Returns the cloud-config for the short form.
    fn user_config(&self) -> Value {
        let mut config = Map::new();
        let set = |map: &mut Map<String, Value>, name: &str, value: Value| {
            map.insert(name.to_owned(), value);
        };
        if self.user.is_empty() {
            if !self.ssh_keys.is_empty() {
                set(&mut config, "ssh_authorized_keys", json!(self.ssh_keys));
            }
            if !self.password_hash.is_empty() {
                set(&mut config, "password", json!(self.password_hash));
                set(&mut config, "chpasswd", json!({ "expire": false }));
            }
            return Value::Object(config);
        }
        let mut user = Map::new();
        set(&mut user, "name", json!(self.user));
        set(&mut user, "sudo", json!("ALL=(ALL) NOPASSWD:ALL"));
        set(&mut user, "shell", json!("/bin/bash"));
        if !self.ssh_keys.is_empty() {
            set(&mut user, "ssh_authorized_keys", json!(self.ssh_keys));
        }
        if !self.password_hash.is_empty() {
            set(&mut user, "passwd", json!(self.password_hash));
            set(&mut user, "lock_passwd", json!(false));
        }
        set(&mut config, "users", json!([user]));
        Value::Object(config)
    }
}

/// Returns a network configuration of version 2 that matches each NIC by its MAC address.
fn network_config(nics: &[Nic]) -> Value {
    let ethernets = nics.iter().enumerate().map(|(index, nic)| {
        let mut ethernet = Map::new();
        let mac = nic.mac.to_ascii_lowercase();
        ethernet.insert("match".to_owned(), json!({ "macaddress": mac }));
        match address(nic) {
            Some(address) => ethernet.insert("addresses".to_owned(), json!([address])),
            None => ethernet.insert("dhcp4".to_owned(), json!(true)),
        };
        if let Ok(gateway) = nic.gateway.parse::<IpAddr>() {
            let name = if gateway.is_ipv4() { "gateway4" } else { "gateway6" };
            ethernet.insert(name.to_owned(), json!(gateway));
        }
        (format!("nic{index}"), Value::Object(ethernet))
    });
    json!({ "version": 2, "ethernets": ethernets.collect::<Map<_, _>>() })
}

/// Returns the address of a NIC with its prefix length, from `address` or `netmask`; `None` if the address is
/// incomplete, and then the NIC uses DHCP.
fn address(nic: &Nic) -> Option<String> {
    if let Some((address, prefix)) = nic.address.split_once('/') {
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        return (prefix <= bits(address)).then(|| format!("{address}/{prefix}"));
    }
    let address: IpAddr = nic.address.parse().ok()?;
    let mask: IpAddr = nic.netmask.parse().ok()?;
    let (mask, unused_bits) = match (address, mask) {
        (IpAddr::V4(_), IpAddr::V4(mask)) => (u128::from(mask.to_bits()) << 96, 96),
        (IpAddr::V6(_), IpAddr::V6(mask)) => (mask.to_bits(), 0),
        _ => return None,
    };
    // Ones without a gap, within the width of the address.
    let prefix = mask.leading_ones();
    (mask.count_ones() == prefix && prefix <= 128 - unused_bits)
        .then(|| format!("{address}/{prefix}"))
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Returns the disk of a guest's seed; `None` for a guest without a seed disk. The disk follows the guest's own disks,
/// so that these keep their names.
pub fn disk(guest: &Guest, is_modern: bool) -> Option<GuestDisk> {
    if !files::is_on_disk(&guest.seed) {
        return None;
    }
    let bus = match guest.seed_bus.as_str() {
        // The machine of the profile classic has no SCSI controller with a driver in cloud kernels.
        "" if is_modern => "scsi",
        "" => BUSES[0],
        bus => bus,
    };
    let prefix = disk_prefix(bus);
    let before = guest.disks.iter().filter(|disk| disk_prefix(&disk.bus) == prefix).count();
    Some(GuestDisk {
        bus: bus.to_owned(),
        device: disk_device(prefix, before),
        size_mib: SEED_MIB,
        read_only: true,
        is_seed: true,
        ..GuestDisk::default()
    })
}

#[cfg(test)]
mod tests;
