//! A whole Debian as a guest (`tests/linux/debian.sh`): boots take minutes without KVM, so `make verify` runs
//! these.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::PROGRAM;
use crate::harness::cost::slow;
use crate::harness::linux::{Console, debian};
use crate::harness::pid_namespace::Inside;
use crate::harness::skip::require;
use crate::harness::stack::{Bridge, Cgroup, Stack};
use crate::harness::support::{Scratch, wait_for, wait_until};

const MAC: &str = "02:00:00:00:42:01";
const HOST: &str = "192.0.2.1";
const GUEST: &str = "192.0.2.2";
/// Longer than a loaded machine without KVM needs to boot Debian.
const BOOT: Duration = Duration::from_secs(600);

/// A stack with a DHCP server, an agent, and a disk with Debian.
struct Bed {
    inside: Inside,
    files: Scratch,
    image: PathBuf,
    disk: PathBuf,
    key: PathBuf,
    dhcp: Child,
    stack: Stack,
}

impl Bed {
    /// With this kernel: `cloud-amd64` or `amd64`. None where it cannot be had here.
    fn new(flavour: &str) -> Option<Self> {
        let image = require("qemu", debian(flavour))?;
        let stack = require("qemu", Stack::start_with(Cgroup::V2, Bridge::Linux))?;
        let files = Scratch::new();
        let disk = files.path().join("debian.raw");
        let convert = ["convert", "-f", "qcow2", "-O", "raw"];
        let converted = Command::new("qemu-img").args(convert).arg(&image).arg(&disk).status();
        assert!(converted.is_ok_and(|status| status.success()), "qemu-img");
        let address = ["addr", "add", &format!("{HOST}/24"), "dev", "mistify0"];
        assert!(stack.command("ip").args(address).status().is_ok_and(|status| status.success()));
        let dhcp = stack
            .command("dnsmasq")
            .args(["--keep-in-foreground", "--port=0", "--interface=mistify0", "--bind-interfaces"])
            .args(["--dhcp-range=192.0.2.2,192.0.2.9", &format!("--dhcp-host={MAC},{GUEST}")])
            .args([
                "--dhcp-leasefile=/run/leases",
                "--pid-file=",
                "--user=root",
                "--conf-file=/dev/null",
            ])
            .stdin(Stdio::null())
            .spawn()
            .expect("dnsmasq starts");
        let directory = files.path().display().to_string();
        let store = format!("directory:{directory}/store");
        let socket = format!("{directory}/socket");
        let flags =
            ["--libvirt-uri", "qemu:///system", "--bridge-type", "linux", "--socket", &socket];
        let flags = [&flags[..], &["--allow-disk-path", &directory, "--storage", &store]].concat();
        // Where libvirt's logs of consoles are.
        let inside = Inside::start(&stack, &flags);
        let key = image.with_file_name("id_ed25519");
        Some(Self { inside, files, image, disk, key, dhcp, stack })
    }

    /// What a command of the program writes, run where guests have addresses, with this on its standard input.
    fn shell(&self, words: &[&str], input: &str) -> Output {
        let directory = self.files.path().display();
        let mut command = self.stack.command(PROGRAM);
        command.args(["--config", "/dev/null", "--socket", &format!("{directory}/socket")]);
        command.args(["--storage", &format!("directory:{directory}/store")]).args(words);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("stdin was piped");
        // Who does not read it has ended already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("it is our child")
    }

    /// The JSON that such a command answers.
    fn ask(&self, words: &[&str], input: &str) -> Value {
        let output = self.shell(words, input);
        assert!(output.status.success(), "{words:?}: {output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Creates and runs the guest with these members; it once root can log in by SSH.
    fn running(&self, id: &str, members: &Value) -> Value {
        slow("boots a whole Debian");
        let mut guest = json!({
            "id": id, "type": "qemu", "memory": 1024, "cpu": 1,
            "disks": [{ "source": self.disk }],
            "nics": [{ "network": "mistify0", "mac": MAC }],
        });
        for (name, value) in members.as_object().expect("members") {
            guest[name] = value.clone();
        }
        self.inside.agent.ok("CreateGuest", &guest);
        self.inside.agent.ok("Run", &guest);
        wait_until("root logs in by SSH", BOOT, || self.ssh("true").is_some());
        guest
    }

    /// What a command of root in the guest writes, if it ends well.
    fn ssh(&self, command: &str) -> Option<String> {
        self.ssh_as("root", command)
    }

    fn ssh_as(&self, user: &str, command: &str) -> Option<String> {
        let mut ssh = self.stack.command("ssh");
        ssh.args(["-q", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]);
        ssh.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i"]);
        let output = ssh.arg(&self.key).arg(format!("{user}@{GUEST}")).arg(command).output();
        let output = output.expect("ssh starts");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Fails where a command's output has not this text.
    fn shows(&self, command: &str, text: &str) {
        let output = self.ssh(command).unwrap_or_else(|| panic!("{command} fails"));
        assert!(output.contains(text), "{command}: {output}");
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // It ends with its stack anyway.
        let _ = self.dhcp.kill();
        let _ = self.dhcp.wait();
    }
}

/// Fails where fio in the guest, after 5 s, does not read or write this much a second to within 10 %.
fn fio(bed: &Bed, direction: &str, block: &str, figure: &str, limit: f64) {
    let measured = measured_by_fio(bed, direction, block, figure);
    let share = measured / limit;
    println!("{direction} of {block}: {measured} {figure}, {share:.3} of the limit");
    assert!((0.9..=1.1).contains(&share), "{direction} of {block}: {measured} {figure}");
}

/// A figure of fio's on the second disk in 15 s, after 5 s.
fn measured_by_fio(bed: &Bed, direction: &str, block: &str, figure: &str) -> f64 {
    let output = bed.ssh(&format!(
        "fio --name=limits --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=8 --rw=rand{direction} \
         --bs={block} --time_based --runtime=15 --ramp_time=5 --output-format=json"
    ));
    let output: Value = serde_json::from_str(&output.expect("fio succeeds")).expect("JSON");
    output["jobs"][0][direction][figure].as_f64().expect("a figure")
}

fn data_disk(files: &Scratch, name: &str) -> PathBuf {
    let path = files.path().join(name);
    File::create(&path).and_then(|file| file.set_len(8 << 20)).expect("a disk");
    path
}

#[test]
fn root_logs_into_a_debian_with_secure_boot_by_ssh() {
    let Some(bed) = Bed::new("cloud-amd64") else { return };
    slow("boots a whole Debian");
    let import = bed.shell(&["image", "import", &bed.image.display().to_string(), "debian-12"], "");
    assert!(import.status.success(), "{import:?}");
    let key_file = bed.key.with_extension("pub").display().to_string();
    let network = format!("mistify0,mac={MAC}");
    let options = [
        "--image",
        "debian-12",
        "--size",
        "3G",
        "--memory",
        "1G",
        "--type",
        "qemu",
        "--network",
        &network,
        "--firmware",
        "uefi-secure",
        "--ssh-key",
        &key_file,
        "--user",
        "alice",
        "--hostname",
        "seeded",
    ];
    let mut request = bed.ask(&[&["create", "debian", "-o", "json"], &options[..]].concat(), "");
    // Besides, what has no option.
    let guest = &mut request["guest"];
    guest["tpm"] = json!(true);
    guest["disks"][0]["boot_order"] = json!(1);
    let more = [
        json!({ "source": data_disk(&bed.files, "virtio.raw"), "serial": "DATA-7" }),
        json!({ "source": data_disk(&bed.files, "scsi.raw"), "bus": "scsi", "serial": "SCSI-8" }),
    ];
    guest["disks"].as_array_mut().expect("disks").extend(more);
    let (guest, request) = (guest.clone(), request.to_string());
    let wait = |what| ["create", "-", "--run", "--wait", what];
    let created = bed.ask(&wait("ssh"), &request);
    assert_eq!(
        (&created["address"], &created["guest"]["state"]),
        (&json!(GUEST), &json!("running"))
    );
    // The same again is the same guest, which runs already.
    let ready = bed.ask(&wait("cloud-init"), &request);
    assert_eq!(ready, created);
    bed.shows("cat /run/cloud-init/result.json", r#""errors": []"#);
    logs_in_by_the_subcommand(&bed);
    bed.shows("mokutil --sb-state", "SecureBoot enabled");
    bed.shows("cat /sys/class/tpm/tpm0/tpm_version_major", "2");
    bed.shows("ls /dev/disk/by-id", "virtio-DATA-7");
    bed.shows("ls /dev/disk/by-id", "SCSI-8");
    bed.shows("lspci", "Virtio");
    bed.shows("systemctl is-active qemu-guest-agent", "active");
    // cloud-init has obeyed the seed.
    bed.shows("cloud-init status", "done");
    let root = bed.ssh_as("alice", "sudo -n id -un");
    assert_eq!(
        root.as_deref(),
        Some("root\n"),
        "alice logs in with the key, and is an administrator"
    );
    // So has its guest agent.
    bed.ssh("useradd --create-home bob").expect("a user");
    let bob = |method: &str, member: &str, value: Value| {
        let params = json!({ "guest": { "id": "debian" }, "user": "bob", member: value });
        assert_eq!(bed.inside.agent.call_with(method, &params)["error"], Value::Null, "{params}");
    };
    let key = fs::read_to_string(&key_file).expect("a public key");
    bob("SetSshKeys", "ssh_keys", json!([key.trim()]));
    assert_eq!(bed.ssh_as("bob", "id -un").as_deref(), Some("bob\n"));
    bob("SetPassword", "password", json!("correct horse"));
    let su = "echo correct horse | su bob -c 'id -un'";
    assert_eq!(bed.ssh_as("alice", su).as_deref(), Some("bob\n"), "bob has the password");
    assert_eq!(bed.ssh_as("alice", &su.replace("horse", "hose")), None, "and no other");
    bed.inside.agent.ok("Trim", &guest);
    let mut console = Console::log_in(&bed.stack, "debian");
    assert_eq!(console.run("hostname"), "seeded\n", "and at its console");
    bed.inside.agent.ok("Shutdown", &guest);
    wait_until("it is off", BOOT, || bed.inside.agent.state("debian") == "shutoff");
    bed.inside.agent.ok("Delete", &guest);
}

/// `mistify-libvirt ssh` is ssh(1) to the guest's address, which knows the host key by the guest's uuid.
fn logs_in_by_the_subcommand(bed: &Bed) {
    let known = bed.files.path().join("known_hosts");
    let (key, hosts) = (bed.key.display(), format!("UserKnownHostsFile={}", known.display()));
    let key = key.to_string();
    let ssh = |words: &[&str]| {
        let options = [
            "-q",
            "-i",
            &key,
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=accept-new",
            "-o",
            &hosts,
        ];
        bed.shell(&[&["ssh", "debian", "--"], &options[..], &["-l", "alice"], words].concat(), "")
    };
    let root = ssh(&["sudo", "-n", "id", "-un"]);
    assert_eq!((root.status.code(), &root.stdout[..]), (Some(0), &b"root\n"[..]), "{root:?}");
    assert_eq!(ssh(&["exit 7"]).status.code(), Some(7), "its status is the command's");
    let uuid = bed.stack.virsh_ok(&["domuuid", "debian"]);
    // The file has hashes of names.
    let is_known = |name: &str| {
        let find = Command::new("ssh-keygen").args(["-F", name, "-f"]).arg(&known).output();
        find.expect("ssh-keygen starts").status.success()
    };
    assert!(is_known(uuid.trim()) && !is_known(GUEST), "by its uuid, not by its address");
}

#[test]
fn a_full_kernel_drives_sata_e1000e_and_the_watchdog() {
    let Some(bed) = Bed::new("amd64") else { return };
    let members = json!({
        "disks": [{ "source": bed.disk, "bus": "sata" }],
        "nics": [{ "network": "mistify0", "mac": MAC, "model": "e1000e" }],
        "watchdog": "poweroff",
    });
    let guest = bed.running("windows-like", &members);
    bed.shows("lspci -k", "Kernel driver in use: ahci");
    bed.shows("lspci -k", "Kernel driver in use: e1000e");
    bed.shows("findmnt -no SOURCE /", "/dev/sda1");
    // Nobody tells it again that the system is alive.
    bed.shows(
        "modprobe i6300esb heartbeat=2 nowayout=1 && echo 1 >/dev/watchdog && echo set",
        "set",
    );
    let off = || (bed.inside.agent.state("windows-like") == "shutoff").then_some(());
    wait_for("the watchdog expires", BOOT, off);
    bed.inside.agent.ok("Delete", &guest);
}

#[test]
fn fio_in_a_debian_stays_within_limits_of_its_disk() {
    let Some(bed) = Bed::new("cloud-amd64") else { return };
    let limits = json!({ "total_bytes_s": 2 << 20, "total_iops": 100 });
    let data = data_disk(&bed.files, "data.raw");
    let disks = json!([{ "source": bed.disk }, { "source": data, "limits": limits }]);
    let guest = bed.running("limited", &json!({ "disks": disks }));
    let set = |limits: Value| {
        let disk = json!({ "device": "vdb", "limits": limits });
        let answer = bed.inside.agent.ok("SetLimits", &json!({ "id": "limited", "disks": [disk] }));
        assert_eq!(answer["live"], true, "{answer}");
    };
    fio(&bed, "read", "64k", "bw_bytes", f64::from(2 << 20));
    fio(&bed, "write", "4k", "iops", 100.0);
    set(json!({ "write_bytes_s": 1 << 20, "read_iops": 50 }));
    fio(&bed, "write", "64k", "bw_bytes", f64::from(1 << 20));
    fio(&bed, "read", "4k", "iops", 50.0);
    set(json!({}));
    let free = measured_by_fio(&bed, "read", "4k", "iops");
    assert!(free > 200.0, "{free} without a limit");
    bed.inside.agent.ok("Delete", &guest);
}
