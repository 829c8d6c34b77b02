use std::io::Read;

use super::*;

fn guest() -> Guest {
    let nic = |mac: &str, address: &str, netmask: &str, gateway: &str| Nic {
        mac: mac.to_owned(),
        address: address.to_owned(),
        netmask: netmask.to_owned(),
        gateway: gateway.to_owned(),
        ..Nic::default()
    };
    Guest {
        id: "web-1".to_owned(),
        nics: vec![
            nic("02:00:00:00:00:AB", "192.0.2.7", "255.255.255.0", "192.0.2.1"),
            nic("02:00:00:00:00:02", "", "", ""),
            nic("02:00:00:00:00:03", "2001:db8::7/64", "", "2001:db8::1"),
            // Callers may store any text there.
            nic("02:00:00:00:00:04", "ten", "255.0.255.0", "none"),
        ],
        ..Guest::default()
    }
}

/// Returns the files of the disk. The test `seeds` in tests/it shows that Linux reads them too.
fn files(cloud_init: &CloudInit, guest: &Guest) -> Vec<(String, String)> {
    let disk = cloud_init.disk(guest, "uuid-1").unwrap();
    let files = fatfs::FileSystem::new(Cursor::new(disk), fatfs::FsOptions::new()).unwrap();
    assert_eq!(files.volume_label(), "CIDATA");
    let read = |entry: io::Result<fatfs::DirEntry<'_, _>>| {
        let (entry, mut text) = (entry.unwrap(), String::new());
        entry.to_file().read_to_string(&mut text).unwrap();
        (entry.file_name(), text)
    };
    let files = files.root_dir().iter().filter(|it| it.as_ref().unwrap().is_file()).map(read);
    files.collect()
}

#[test]
fn whole_documents_are_on_the_disk_as_they_were_sent() {
    let cloud_init = CloudInit {
        user_data: "#!/bin/sh\necho \u{e4}\n".to_owned(),
        meta_data: "instance-id: i-1\n".to_owned(),
        network_config: "version: 1\n".to_owned(),
        vendor_data: "#cloud-config\n".to_owned(),
        ..CloudInit::default()
    };
    let expected = [
        ("meta-data", "instance-id: i-1\n"),
        ("user-data", "#!/bin/sh\necho \u{e4}\n"),
        ("network-config", "version: 1\n"),
        ("vendor-data", "#cloud-config\n"),
    ];
    let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(files(&cloud_init, &guest()), expected);
}

#[test]
fn omitted_members_are_derived_from_the_guest() {
    let files = files(&CloudInit::default(), &guest());
    let json = |index: usize| serde_json::from_str::<Value>(&files[index].1).unwrap();
    assert_eq!(json(0), json!({ "instance-id": "uuid-1", "local-hostname": "web-1" }));
    assert_eq!(files[1], ("user-data".to_owned(), "#cloud-config\n{}\n".to_owned()));
    let ethernets = json!({
        "nic0": {
            "match": { "macaddress": "02:00:00:00:00:ab" },
            "addresses": ["192.0.2.7/24"], "gateway4": "192.0.2.1",
        },
        "nic1": { "match": { "macaddress": "02:00:00:00:00:02" }, "dhcp4": true },
        "nic2": {
            "match": { "macaddress": "02:00:00:00:00:03" },
            "addresses": ["2001:db8::7/64"], "gateway6": "2001:db8::1",
        },
        "nic3": { "match": { "macaddress": "02:00:00:00:00:04" }, "dhcp4": true },
    });
    assert_eq!(json(2), json!({ "version": 2, "ethernets": ethernets }));
    assert_eq!(files.len(), 3);
}

#[test]
fn the_short_form_is_the_images_user_or_a_named_one() {
    let user_data = |cloud_init: &CloudInit| {
        let files = files(cloud_init, &Guest::default());
        let (head, rest) = files[1].1.split_once('\n').unwrap();
        assert_eq!(head, "#cloud-config");
        serde_json::from_str::<Value>(rest).unwrap()
    };
    let mut cloud_init = CloudInit {
        ssh_keys: vec!["ssh-ed25519 AAAA a@b".to_owned()],
        password_hash: "$6$salt$hash".to_owned(),
        ..CloudInit::default()
    };
    assert_eq!(
        user_data(&cloud_init),
        json!({
            "ssh_authorized_keys": ["ssh-ed25519 AAAA a@b"],
            "password": "$6$salt$hash", "chpasswd": { "expire": false },
        })
    );
    cloud_init.user = "alice".to_owned();
    assert_eq!(
        user_data(&cloud_init)["users"],
        json!([{
            "name": "alice", "sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/bash",
            "ssh_authorized_keys": ["ssh-ed25519 AAAA a@b"],
            "passwd": "$6$salt$hash", "lock_passwd": false,
        }])
    );
}

#[test]
fn debug_text_omits_the_content_of_a_seed() {
    let cloud_init = CloudInit { user_data: "hunter2".to_owned(), ..CloudInit::default() };
    let guest = Guest { cloud_init: Some(cloud_init), ..Guest::default() };
    let debug = format!("{guest:?}");
    assert!(debug.contains("CloudInit(secret)") && !debug.contains("hunter2"), "{debug}");
    let json = serde_json::to_string(&guest).unwrap();
    assert!(!json.contains("hunter2") && !json.contains("cloud_init"), "{json}");
}

#[test]
fn invalid_member_is_named_without_its_text() {
    let faults = |cloud_init: CloudInit| {
        let found = cloud_init.faults();
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let secret = "hunter2".to_owned();
    let odd = CloudInit {
        user_data: secret.clone(),
        meta_data: secret.clone(),
        hostname: secret.clone(),
        user: secret.clone() + "\n",
        ssh_keys: vec![secret.clone()],
        password_hash: secret,
        ..CloudInit::default()
    };
    assert_eq!(
        faults(odd),
        "invalid argument: cloud_init.user has a tab or a line break (U+000A)\n\
         invalid argument: cloud_init.password_hash must be a hash of MD5, SHA or bcrypt, such as one of mkpasswd --method=sha-512\n\
         invalid argument: cloud_init.ssh_keys must not be set with user_data\n\
         invalid argument: cloud_init.user must not be set with user_data\n\
         invalid argument: cloud_init.password_hash must not be set with user_data\n\
         invalid argument: cloud_init.hostname must not be set with meta_data"
    );
    let large = CloudInit { user_data: "x".repeat(SEED_BYTES_MAX), ..CloudInit::default() };
    assert!(faults(large).starts_with("invalid argument: cloud_init"));
}

#[test]
fn the_largest_seed_fits_its_disk() {
    let mut cloud_init = CloudInit::default();
    cloud_init.user_data = "x".repeat(SEED_BYTES_MAX - cloud_init.canonical().len());
    assert!(cloud_init.faults().is_empty());
    assert_eq!(cloud_init.disk(&guest(), "uuid-1").unwrap().len(), 1 << 20);
    // JSON doubles each character of this key.
    let rest = cloud_init.user_data.len() - cloud_init.canonical().len() % 8 - 16;
    let quotes = CloudInit { ssh_keys: vec!["\"".repeat(rest)], ..CloudInit::default() };
    assert!(quotes.faults().is_empty());
    assert_eq!(quotes.disk(&guest(), "uuid-1").unwrap().len(), 1 << 20);
}

#[test]
fn a_seed_is_behind_the_disks_of_its_guest() {
    let disk = |buses: &[&str], seed_bus: &str, is_modern| {
        let disks =
            buses.iter().map(|bus| GuestDisk { bus: (*bus).to_owned(), ..GuestDisk::default() });
        let guest = Guest {
            disks: disks.collect(),
            seed: "hmac".to_owned(),
            seed_bus: seed_bus.to_owned(),
            ..Guest::default()
        };
        let disk = super::disk(&guest, is_modern).unwrap();
        (disk.bus, disk.device)
    };
    let is = |found: (String, String), bus: &str, device: &str| {
        assert_eq!(found, (bus.to_owned(), device.to_owned()));
    };
    is(disk(&["virtio", "virtio"], "", true), "scsi", "sda");
    is(disk(&["virtio", "scsi", "sata"], "", true), "scsi", "sdc");
    is(disk(&["virtio"], "", false), "virtio", "vdb");
    is(disk(&["virtio"], "virtio", true), "virtio", "vdb");
    assert_eq!(super::disk(&Guest::default(), true), None);
}

#[test]
fn seeds_that_differ_have_different_texts() {
    let text = |hostname: &str, user: &str, keys: &[&str]| {
        let ssh_keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let (hostname, user) = (hostname.to_owned(), user.to_owned());
        CloudInit { hostname, user, ssh_keys, ..CloudInit::default() }.canonical()
    };
    assert_eq!(text("a", "b", &["c"]), text("a", "b", &["c"]));
    assert_ne!(text("ab", "", &[]), text("a", "b", &[]));
    assert_ne!(text("", "", &["a", "b"]), text("", "", &["ab"]));
}
