//! What the agent defines, as a real Linux guest sees it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::linux::{Console, discarded_space_is_freed};
use crate::harness::linux_bed::{Bed, text, trim};
use crate::harness::scrape::scrape;
use crate::harness::support::wait_until;

/// Longer than a loaded machine needs for what takes a second.
const SOON: Duration = Duration::from_secs(90);

#[test]
fn root_logs_in_at_the_console_of_a_real_linux() {
    let Some(bed) = Bed::new(&["--guest-profile", "classic"]) else { return };
    let guest = bed.guest("classic", &json!({}));
    let mut console = bed.running(&guest);
    assert_eq!(console.run("hostname"), "small\n");
    assert!(!console.run("cat /proc/cpuinfo").contains("avx2"), "qemu64");
    bed.agent.ok("Delete", &guest);
}

#[test]
fn a_modern_guest_sees_a_modern_machine() {
    let Some(bed) = Bed::new(&[]) else { return };
    let nics = json!([{ "network": "mistify0", "mac": "02:00:00:00:40:01" }]);
    let guest = bed.guest("modern", &json!({ "nics": nics, "max_cpu": 2 }));
    let mut console = bed.running(&guest);
    let flags = console.run("cat /proc/cpuinfo");
    for flag in [" sse4_2 ", " avx2 ", " aes "] {
        assert!(flags.contains(flag), "{flag} in {flags}");
    }
    for (command, what) in [
        ("cat /sys/class/dmi/id/product_name", "Standard PC (Q35 + ICH9, 2009)"),
        ("basename $(readlink /sys/class/net/eth0/device/driver)", "virtio_net"),
        ("cat /sys/class/net/eth0/mtu", "1500"),
        ("cat /sys/block/vda/serial", "-vda"),
        ("cat /sys/class/virtio-ports/*/name", "org.qemu.guest_agent.0"),
        ("cat /sys/bus/acpi/devices/*/hid", "QEMU0001"),
        ("cat /sys/bus/acpi/devices/*/hid", "QEMUVGID"),
        ("cat /sys/devices/system/cpu/possible", "0-1"),
    ] {
        let output = console.run(command);
        assert!(output.contains(what), "{command}: {output}");
    }
    memory_is_reported(&bed, "modern");
    let described = bed.agent.ok("Describe", &guest);
    let hardware = &described["hardware"];
    assert_eq!(hardware["cpu_model"], "maximum", "{described}");
    assert_eq!((&hardware["firmware"], &described["pending"]), (&json!("bios"), &Value::Null));

    let live = bed.agent.ok("SetCPU", &json!({ "id": "modern", "cpu": 2 }));
    assert_eq!(live["live"], true, "{live}");
    let online = "echo 1 >/sys/devices/system/cpu/cpu1/online; nproc";
    console.wait_for("ls /sys/devices/system/cpu", "cpu1");
    assert_eq!(console.run(online), "2\n");
    sixteen_devices_come(&bed, &mut console);
    let disk = bed.files.path().join("hot-1.raw");
    let used = || fs::metadata(&disk).expect("the disk").blocks() * 512;
    discarded_space_is_freed(&mut console, 40, || trim(&bed.agent, "modern"), used);

    let updated = bed.agent.ok("Update", &json!({ "id": "modern", "firmware": "uefi" }));
    assert_eq!(updated["message"], "saved for the next start");
    assert_eq!(bed.agent.ok("Describe", &guest)["pending"], json!(["firmware"]));
    let off = bed.agent.call_with("Shutdown", &json!({ "guest": { "id": "modern" }, "wait": 90 }));
    assert_eq!(off["result"]["guest"]["state"], "shutoff", "{off}");
    let changed = json!({ "guest": { "id": "modern", "firmware": "bios" } });
    let why = bed.agent.call_with("Update", &changed)["error"].take();
    assert!(why.as_str().is_some_and(|why| why.contains("NVRAM")), "{why}");
    bed.agent.ok("Delete", &guest);
}

#[test]
fn a_guest_of_others_is_asked_for_its_memory() {
    let Some(bed) = Bed::new(&["--guest-profile", "classic", "--no-touch"]) else { return };
    let guest = bed.guest("silent", &json!({}));
    bed.agent.ok("CreateGuest", &guest);
    bed.agent.ok("Run", &guest);
    let rss = "libvirt_domain_memory_stats_rss_bytes{domain=\"silent\"}";
    wait_until("a sample", SOON, || scrape(&bed.agent).get(rss).is_some());
    let is_asked = || bed.stack.virsh_ok(&["dumpxml", "silent"]).contains("<stats period='10'/>");
    assert!(!is_asked(), "--no-touch");
    let uri = bed.stack.uri();
    let bed = Bed { agent: Agent::start(&["--libvirt-uri", &uri]), ..bed };
    memory_is_reported(&bed, "silent");
    assert!(bed.stack.virsh_ok(&["dumpxml", "silent"]).contains("<stats period='10'/>"));
    bed.agent.ok("Delete", &guest);
}

/// Every 10 s, as the balloon's period says.
fn memory_is_reported(bed: &Bed, id: &str) {
    let series = |name: &str| format!("libvirt_domain_memory_stats_{name}{{domain=\"{id}\"}}");
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let began = now();
    wait_until("a report that is younger than this test", SOON, || {
        let found = scrape(&bed.agent);
        let reported = found.get(&series("last_update_timestamp_seconds"));
        reported.is_some_and(|reported| reported >= began.floor() && reported <= now() + 1.0)
            && found.get(&series("usable_bytes")).is_some_and(|bytes| bytes > 0.0)
    });
}

/// q35 has a port for each of them.
fn sixteen_devices_come(bed: &Bed, console: &mut Console) {
    for number in 1..=8 {
        let source = bed.files.path().join(format!("hot-{number}.raw"));
        let size = if number == 1 { 64 << 20 } else { 1 << 20 };
        File::create(&source).and_then(|file| file.set_len(size)).expect("a disk");
        let disk = json!({ "guest": { "id": "modern" }, "disk": { "source": source } });
        let attached = bed.agent.call_with("AttachDisk", &disk);
        assert_eq!(attached["result"]["live"], true, "{attached}");
        let mac = format!("02:00:00:00:41:{number:02x}");
        let nic = json!({ "network": "mistify0", "mac": mac });
        let nic = json!({ "guest": { "id": "modern" }, "nic": nic });
        let attached = bed.agent.call_with("AttachNic", &nic);
        assert_eq!(attached["result"]["live"], true, "{attached}");
    }
    console.wait_for("ls /sys/block", "vdi");
    console.wait_for("ls /sys/class/net", "eth8");
    assert!(console.run("cat /sys/block/vdi/serial").contains("-vdi"));
    let gone = json!({ "guest": { "id": "modern" }, "disk": { "device": "vdi" } });
    let detached = bed.agent.call_with("DetachDisk", &gone);
    assert_eq!(detached["result"]["live"], true, "{detached}");
    assert!(!console.run("ls /sys/block").contains("vdi"), "the guest has let it go");
    let gone = json!({ "guest": { "id": "modern" }, "nic": { "mac": "02:00:00:00:41:08" } });
    let detached = bed.agent.call_with("DetachNic", &gone);
    assert_eq!(detached["result"]["live"], true, "{detached}");
    for device in ["vdi", "02:00:00:00:41:08"] {
        wait_until("its removal is an event", SOON, || {
            events(bed, "modern", "device-removed").iter().any(|event| event["device"] == device)
        });
    }
}

/// The events of a guest with this name since the agent started.
fn events(bed: &Bed, id: &str, name: &str) -> Vec<Value> {
    let asked = json!({ "guest": id, "after": 1, "timeout": 0 });
    let page = bed.agent.call_with("WaitEvents", &asked)["result"].take();
    let events = page["events"].as_array().cloned().unwrap_or_default();
    events.into_iter().filter(|event| event["event"] == name).collect()
}

/// The processors of each thread that is a virtual CPU, as the kernel has them.
fn processors_of(bed: &Bed, id: &str) -> Vec<String> {
    let pid = bed.stack.qemu_pid(id).expect("it runs");
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let of = |thread: fs::DirEntry| {
        let read = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        let is_cpu = read("comm").starts_with("CPU ");
        let status = read("status");
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        allowed.filter(|_| is_cpu).map(|cpus| cpus.trim().to_owned())
    };
    threads.flatten().filter_map(of).collect()
}

#[test]
fn a_guest_runs_where_it_is_placed() {
    let Some(bed) = Bed::new(&[]) else { return };
    let guest = bed.guest("placed", &json!({ "cpu_pinning": ["1"], "numa": "0" }));
    let made = bed.agent.ok("CreateGuest", &guest)["guest"].take();
    assert_eq!(bed.agent.ok("CreateGuest", &made)["guest"], made, "the same again");
    bed.agent.ok("Run", &guest);
    assert_eq!(processors_of(&bed, "placed"), ["1"]);
    let pid = bed.stack.qemu_pid("placed").expect("it runs");
    let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).expect("its memory");
    assert!(maps.lines().any(|line| line.contains(" bind:0 ")), "{maps}");
    let hardware = bed.agent.ok("Describe", &guest)["hardware"].take();
    assert_eq!((&hardware["cpu_pinning"], &hardware["numa"]), (&json!(["1"]), &json!("0")));
    let moved = bed.agent.ok("Update", &json!({ "id": "placed", "cpu_pinning": ["0"] }));
    assert_eq!(moved["message"], "saved for the next start");
    assert_eq!(bed.agent.ok("Describe", &guest)["pending"], json!(["cpu_pinning"]));
    bed.agent.ok("Poweroff", &guest);
    bed.agent.ok("Run", &guest);
    assert_eq!(processors_of(&bed, "placed"), ["0"]);
    bed.agent.ok("Delete", &guest);
}

/// The host's file system of its disk is full: the guest is paused, and all clients get the reason.
#[test]
fn a_guest_without_space_is_paused_with_a_reason() {
    let Some(bed) = Bed::new(&[]) else { return };
    let directory = bed.files.path().join("small");
    let data = directory.join("data.raw");
    fs::create_dir(&directory).expect("a directory");
    File::create(&data).and_then(|file| file.set_len(64 << 20)).expect("a disk");
    // libvirt sees another file system there.
    let script = "mount -t tmpfs -o size=8m tmpfs \"$1\" && truncate -s 64M \"$1/data.raw\"";
    let made = bed.stack.command("sh").args(["-ec", script, "sh", &text(&directory)]).output();
    assert!(made.as_ref().is_ok_and(|it| it.status.success()), "{made:?}");
    let disks = json!([{ "source": bed.disk }, { "source": data, "cache": "writeback" }]);
    let guest = bed.guest("full", &json!({ "disks": disks }));
    let mut console = bed.running(&guest);
    console.run("dd if=/dev/zero of=/dev/vdb bs=1M count=32 >/dev/null 2>&1 &");
    wait_until("it is paused", SOON, || bed.agent.state("full") == "paused");
    assert_eq!(bed.agent.ok("Status", &guest)["guest"]["reason"], "io-error");
    let listed = bed.agent.call_with("List", &json!({}))["result"]["guests"].take();
    let mut listed = listed.as_array().expect("guests").iter();
    let full = listed.find(|it| it["id"] == "full").expect("it is listed");
    assert_eq!(full["reason"], "io-error");
    wait_until("an event tells the disk", SOON, || {
        let reported = events(&bed, "full", "io-error");
        reported.iter().any(|event| event["device"] == "vdb" && event["reason"] == "enospc")
    });
    let reason = "mistify_guest_state_reason{domain=\"full\",reason=\"io-error\"}";
    wait_until("a scrape tells it", SOON, || scrape(&bed.agent).get(reason) == Some(1.0));
    bed.agent.ok("Delete", &guest);
    let unmounted = bed.stack.command("umount").args(["-l", &text(&directory)]).status();
    assert!(unmounted.is_ok_and(|status| status.success()), "umount");
}

#[test]
fn a_guest_boots_by_uefi_and_leaves_no_variables() {
    let Some(bed) = Bed::new(&[]) else { return };
    let data = bed.files.path().join("data.raw");
    File::create(&data).and_then(|file| file.set_len(1 << 20)).expect("a disk");
    let disks = json!([
        { "source": data, "bus": "scsi", "serial": "DATA-1", "read_only": true },
        { "source": bed.disk, "boot_order": 1 },
    ]);
    let members = json!({ "disks": disks, "firmware": "uefi", "tpm": true, "display": true });
    let guest = bed.guest("uefi", &members);
    let mut console = bed.running(&guest);
    for (command, what) in [
        ("ls /sys/firmware/efi/efivars", "BootOrder-"),
        // The attributes of the variable, then its value.
        ("od -An -tx1 /sys/firmware/efi/efivars/SecureBoot-*", "06 00 00 00 00"),
        ("cat /sys/class/tpm/tpm0/tpm_version_major", "2"),
        ("cat /sys/block/sda/ro", "1"),
        ("cat /sys/block/sda/device/vpd_pg80 | strings", "DATA-1"),
        ("cat /sys/class/dmi/id/bios_vendor", "EFI Development Kit"),
        ("cat /proc/bus/input/devices", "Tablet"),
    ] {
        let output = console.run(command);
        assert!(output.contains(what), "{command}: {output}");
    }
    let image = bed.agent.ok("Screenshot", &guest);
    assert!(image["data"].as_str().is_some_and(|data| data.starts_with("iVBOR")), "a PNG");
    let nvram = variables(&bed, "uefi");
    let uuid = bed.stack.virsh_ok(&["domuuid", "uefi"]);
    let tpm = bed.stack.path(&format!("/var/lib/libvirt/swtpm/{}", uuid.trim()));
    assert!(nvram.exists() && tpm.exists(), "{nvram:?} {tpm:?}");
    bed.agent.ok("Delete", &guest);
    assert!(!nvram.exists() && !tpm.exists(), "{nvram:?} {tpm:?}");
}

/// The file of a running domain's UEFI variables.
fn variables(bed: &Bed, id: &str) -> PathBuf {
    let xml = bed.stack.virsh_ok(&["dumpxml", id]);
    let nvram = xml.split("<nvram").nth(1).and_then(|rest| rest.split(['>', '<']).nth(1));
    bed.stack.path(nvram.expect("a file of variables"))
}

#[test]
fn a_renamed_uefi_guest_keeps_its_own_variables() {
    let Some(bed) = Bed::new(&[]) else { return };
    let former = bed.guest("variables-old", &json!({ "disks": [], "firmware": "uefi" }));
    let file_of = |guest: &Value| {
        bed.agent.ok("Run", guest);
        let file = variables(&bed, guest["id"].as_str().expect("an id"));
        bed.agent.ok("Poweroff", guest);
        assert!(file.exists(), "{file:?}");
        file
    };
    bed.agent.ok("CreateGuest", &former);
    let before = file_of(&former);
    bed.stack.virsh_ok(&["domrename", "variables-old", "variables-new"]);
    let renamed = json!({ "id": "variables-new" });
    // Another guest gets the former name.
    bed.agent.ok("CreateGuest", &former);
    let (own, others) = (file_of(&renamed), file_of(&former));
    assert_eq!(own, before);
    assert_ne!(own, others, "nobody else gets them");
    bed.agent.ok("Delete", &renamed);
    assert!(!own.exists() && others.exists(), "{own:?} {others:?}");
    bed.agent.ok("Delete", &former);
    assert!(!others.exists(), "{others:?}");
}

#[test]
fn missing_host_features_are_named_before_any_change() {
    let Some(bed) = Bed::new(&[]) else { return };
    for (members, begins) in [
        (
            json!({ "cpu_model": "host-passthrough" }),
            "invalid argument: cpu_model: \"host-passthrough\" is not \
            available on this host: available are maximum, host-model, ",
        ),
        (json!({ "cpu_model": "None" }), "invalid argument: cpu_model: "),
        (json!({ "machine": "q36" }), "invalid argument: machine: \"q36\" is not available"),
        (
            json!({ "video": "cga" }),
            "invalid argument: video: \"cga\" is not available on this host: ",
        ),
        (
            json!({ "firmware": "uefi-secure", "machine": "pc" }),
            "invalid argument: firmware does not match \
            machine",
        ),
        (json!({ "max_cpu": 4096 }), "invalid argument: max_cpu: 4096 is above the limit"),
        (
            json!({ "cpu_pinning": ["0-999"] }),
            "invalid argument: cpu_pinning[0]: \"0-999\" is not available on this host: it has the CPUs ",
        ),
        (
            json!({ "cpu_pinning": ["a"] }),
            "invalid argument: cpu_pinning[0]: \"a\" is not supported",
        ),
        (json!({ "cpu_pinning": ["0", "0"] }), "invalid argument: cpu_pinning does not match "),
        (json!({ "numa": "77" }), "invalid argument: numa: \"77\" is not available on this host: "),
        (json!({ "hugepages": 12 }), "invalid argument: hugepages: \"12\" is not available on"),
    ] {
        let guest = bed.guest("lacks", &members);
        let why = bed.agent.error("CreateGuest", &guest);
        assert!(why.starts_with(begins), "{members}: {why}");
        let asked = json!({ "guest": guest, "dry_run": true });
        let plan = bed.agent.call_with("CreateGuest", &asked)["result"]["plan"].take();
        assert_eq!(plan["problems"], json!([why]), "{members}");
    }
    assert!(!bed.stack.virsh_ok(&["list", "--all", "--name"]).contains("lacks"));
}

/// What this machine's processor cannot run is shown by the definition alone.
#[test]
fn every_member_is_defined_and_described() {
    let Some(bed) = Bed::new(&[]) else { return };
    let topology = json!({ "sockets": 1, "cores": 2, "threads": 2 });
    for (profile, members) in [
        ("classic", json!({ "cpu_topology": topology })),
        ("classic", json!({ "hyperv": true, "max_memory": 511 })),
        ("classic", json!({ "machine": "q35", "firmware": "uefi-secure", "tpm": true })),
        ("modern", json!({ "cpu_model": "Nehalem", "cpu_topology": topology, "max_cpu": 4 })),
        (
            "modern",
            json!({ "hyperv": true, "clock": "localtime", "display": true, "video": "vga" }),
        ),
        ("modern", json!({ "max_memory": 512, "cpu_pinning": ["0"], "max_cpu": 2 })),
        ("modern", json!({ "on_crash": "preserve", "watchdog": "event", "guest_agent": false })),
        ("modern", json!({ "cpu_pinning": ["", "0"], "cpu_topology": topology, "max_cpu": 4 })),
        ("classic", json!({ "cpu_pinning": ["0"], "numa": "0", "hugepages": 2048 })),
        ("modern", json!({ "machine": "pc", "on_crash": "restart", "watchdog": "reset" })),
    ] {
        let mut guest = bed.guest("members", &members);
        guest["profile"] = json!(profile);
        let made = bed.agent.ok("CreateGuest", &guest)["guest"].take();
        assert_eq!(bed.agent.ok("CreateGuest", &made)["guest"], made, "the same again");
        let described = bed.agent.ok("Describe", &guest);
        for (name, value) in members.as_object().expect("members") {
            let found = match name.as_str() {
                "machine" => continue,
                "max_cpu" => &described["vcpu_max"],
                "max_memory" => &json!(described["memory_max"].as_u64().map(|kib| kib / 1024)),
                "display" => &json!(described["devices"]["graphics"]["type"] == "vnc"),
                "guest_agent" => &json!(described["hardware"]["guest_agent"] == true),
                name => &described["hardware"][name],
            };
            assert_eq!(found, value, "{name}: {described}");
        }
        let mut other = guest.clone();
        other["clock"] = json!(if members["clock"] == "localtime" { "utc" } else { "localtime" });
        assert!(bed.agent.error("CreateGuest", &other).contains("already exists"), "{other}");
        bed.agent.ok("Delete", &guest);
    }
}

#[test]
fn every_setting_of_disks_and_nics_is_defined() {
    let Some(bed) = Bed::new(&[]) else { return };
    let file = |name: &str| {
        let path = bed.files.path().join(name);
        File::create(&path).and_then(|file| file.set_len(1 << 20)).expect("a disk");
        path
    };
    let mut disks: Vec<Value> = (0..9)
        .map(|index| json!({ "bus": "scsi", "source": file(&format!("scsi-{index}")) }))
        .collect();
    disks.push(json!({ "bus": "sata", "source": file("sata"), "boot_order": 2, "serial": "S1" }));
    disks.push(json!({
        "source": file("file"), "cache": "writeback", "io": "threads", "discard": "ignore",
        "read_only": true, "boot_order": 1,
    }));
    let nics = json!([
        { "network": "mistify0", "mac": "02:00:00:00:43:01", "queues": 4, "mtu": 1400, "boot_order": 3 },
        { "network": "mistify0", "mac": "02:00:00:00:43:02", "queues": 1, "model": "e1000e" },
    ]);
    let guest = bed.guest("settings", &json!({ "disks": disks, "nics": nics }));
    let made = bed.agent.ok("CreateGuest", &guest)["guest"].take();
    assert_eq!(made["disks"][8]["device"], "sdi");
    assert_eq!(made["disks"][9]["device"], "sdj", "SATA disks are counted with them");
    assert_eq!(bed.agent.ok("CreateGuest", &made)["guest"], made, "the same again");
    let xml = bed.stack.virsh_ok(&["dumpxml", "settings"]);
    for part in [
        "<controller type='scsi' index='1' model='virtio-scsi'>",
        "cache='writeback' io='threads' discard='ignore'/>",
        "<serial>S1</serial>",
        "<readonly/>",
        "<driver queues='4'/>",
        "<mtu size='1400'/>",
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
    assert!(!xml.contains("lsilogic"), "{xml}");
    let twice = json!({ "disks": [{ "source": bed.disk, "boot_order": 1 }], "nics": nics });
    let mut twice = bed.guest("twice", &twice);
    twice["nics"][0]["boot_order"] = json!(1);
    let why = bed.agent.error("CreateGuest", &twice);
    assert_eq!(why, "invalid argument: boot_order: 1 is used twice");
    let room = json!({ "guest": { "id": "settings" }, "disk": { "bus": "scsi", "device": "sdp", "source": file("p") } });
    let why = bed.agent.call_with("AttachDisk", &room)["error"].take();
    assert!(why.as_str().is_some_and(|why| why.contains("no SCSI controller for sdp")), "{why}");
    let again = json!({ "guest": { "id": "settings" }, "disk": { "source": file("file"), "cache": "none" } });
    let why = bed.agent.call_with("AttachDisk", &again)["error"].take();
    assert!(why.as_str().is_some_and(|why| why.contains("with other settings")), "{why}");
    bed.agent.ok("Delete", &guest);
}
