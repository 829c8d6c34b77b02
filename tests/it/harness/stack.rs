//! A private libvirtd with qemu, in namespaces that end with the test process.
//!
//! `tests/stack/up.sh` makes them. Processes outside reach libvirtd's socket through
//! `/proc/<init>/root`, where `<init>` is the first process of the namespaces.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;

use super::boot_sector;
use super::cost::slow;
use super::skip::Skip;
use super::support::{Scratch, poll, wait_for, wait_until};

/// Longer than a loaded machine needs to get an emulated guest to its boot sector.
const BOOT: Duration = Duration::from_secs(120);
/// The limit for a guest on KVM; without hardware support it may never get to its boot sector.
const BOOT_ON_KVM: Duration = Duration::from_secs(20);
/// Longer than a loaded machine needs for work of some milliseconds.
const SOON: Duration = Duration::from_secs(60);

/// The cgroups that libvirtd sees.
#[derive(Clone, Copy)]
pub(crate) enum Cgroup {
    /// cgroup v2 alone: today's hosts. `virDomainGetCPUStats` fails.
    V2,
    /// The cpu and cpuacct controllers of v1, if this machine has them.
    V1,
}

/// The kind of the bridge `mistify0`.
#[derive(Clone, Copy)]
pub(crate) enum Bridge {
    /// A bridge of the kernel.
    Linux,
    /// A bridge of Open vSwitch, in userspace.
    OpenVSwitch,
}

/// A private libvirtd, a qemu driver, a bridge `mistify0` and a loopback.
pub(crate) struct Stack {
    unshare: Child,
    /// The first process of the namespaces, as the tests' namespace numbers it.
    init: u32,
    control: Mutex<Option<Control>>,
}

struct Control {
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Stack {
    /// Returns the stack that the tests of this process share; each test needs its own names for guests.
    pub(crate) fn shared() -> Result<&'static Self, Skip> {
        slow("uses real libvirtd and qemu");
        static SHARED: OnceLock<Result<Stack, Skip>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().map_err(Skip::clone)
    }

    /// Returns the stack that the tests share which kill agents. libvirtd 9.0 can crash when a client dies, so
    /// these tests have a stack apart from the others, and wait for libvirtd after a death ([`wait_for_libvirt`]).
    pub(crate) fn for_kills() -> Result<&'static Self, Skip> {
        slow("uses real libvirtd and qemu");
        static FOR_KILLS: OnceLock<Result<Stack, Skip>> = OnceLock::new();
        FOR_KILLS.get_or_init(Self::start).as_ref().map_err(Skip::clone)
    }

    /// Starts a stack for one test, for tests that stop libvirtd.
    pub(crate) fn start() -> Result<Self, Skip> {
        Self::start_with(Cgroup::V2, Bridge::Linux)
    }

    pub(crate) fn start_with(cgroup: Cgroup, bridge: Bridge) -> Result<Self, Skip> {
        Self::start_as("root", cgroup, bridge)
    }

    /// Starts a stack whose emulators run as this user, in the group of the same name.
    pub(crate) fn start_as(user: &str, cgroup: Cgroup, bridge: Bridge) -> Result<Self, Skip> {
        if fs::metadata("/proc/self").is_ok_and(|me| me.uid() != 0) {
            return Err(Skip("only root can make the namespaces".to_owned()));
        }
        let mut programs = vec!["libvirtd", "virtlogd", "virsh", "qemu-system-x86_64", "ip"];
        let bridge = match bridge {
            Bridge::Linux => "linux",
            Bridge::OpenVSwitch => {
                programs.extend(["ovsdb-server", "ovs-vswitchd", "ovs-vsctl"]);
                "openvswitch"
            }
        };
        for program in programs {
            if !installed(program) {
                return Err(Skip(format!("{program} is not installed")));
            }
        }
        slow("starts a libvirtd of its own");
        let mode = match cgroup {
            Cgroup::V2 => "v2",
            Cgroup::V1 => "v1",
        };
        // qemu's capabilities depend on its user, who may be unable to open /dev/kvm.
        let cache = format!("{}/qemu-capabilities-of-{user}", env!("CARGO_TARGET_TMPDIR"));
        let mut unshare = Command::new("unshare")
            .args(["-m", "-n", "-p", "--fork", "--mount-proc", "--kill-child"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stack/up.sh"))
            .env("STACK_CGROUP", mode)
            .env("STACK_BRIDGE", bridge)
            .env("STACK_USER", user)
            .env("STACK_CACHE", cache)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| Skip(format!("unshare does not start: {e}")))?;
        let mut control = Control {
            commands: unshare.stdin.take().expect("standard input was piped"),
            answers: BufReader::new(unshare.stdout.take().expect("standard output was piped")),
        };
        let answer = control.answer();
        if answer != "ready" {
            drop(control);
            // Only the end of the process matters: the reason is in the answer or on standard error.
            let _ = unshare.wait();
            return Err(Skip(format!("tests/stack/up.sh: {answer}")));
        }
        let init = child_of(unshare.id());
        Ok(Self { unshare, init, control: Mutex::new(Some(control)) })
    }

    /// Returns the URI for libvirt's clients outside the namespaces.
    pub(crate) fn uri(&self) -> String {
        let socket = self.path("/run/libvirt/libvirt-sock");
        format!("qemu:///system?socket={}", socket.display())
    }

    /// Returns an absolute path in the stack as a path for the test's process; also for sockets.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// Returns a command of a program in the namespaces: there libvirt is `qemu:///system`, the pid
    /// files are right, and the loopback is the stack's. The program ends with the stack. Its working
    /// directory is `/`. The spawned child is nsenter, which ends with the program's status; send
    /// signals to the [`child_of`] nsenter.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.init.to_string();
        command.args(["-m", "-n", "-p", "-t", &target, "--"]).arg(program);
        command
    }

    /// Returns such a command in the tests' own network, where tests can connect to the program.
    pub(crate) fn command_outside_network(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.init.to_string();
        command.args(["-m", "-p", "-t", &target, "--"]).arg(program);
        command
    }

    /// Runs a virsh command from outside.
    pub(crate) fn virsh(&self, arguments: &[&str]) -> Output {
        let mut virsh = Command::new("virsh");
        virsh.args(["-q", "-c", &self.uri()]).args(arguments).env("LC_ALL", "C");
        virsh.stdin(Stdio::null()).output().expect("virsh starts")
    }

    /// Runs a virsh command that must succeed; returns its standard output.
    pub(crate) fn virsh_ok(&self, arguments: &[&str]) -> String {
        let output = self.virsh(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "virsh {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Returns the emulator's process, for signals from outside; `None` if the guest is off.
    pub(crate) fn qemu_pid(&self, domain: &str) -> Option<u32> {
        let file = self.path(&format!("/run/libvirt/qemu/{domain}.pid"));
        let inside = fs::read_to_string(file).ok()?;
        self.outside_pid(inside.trim())
    }

    /// Returns the pid in the tests' namespace of the process with the pid `inside` in the stack.
    pub(crate) fn outside_pid(&self, inside: &str) -> Option<u32> {
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", self.init)).ok()?;
        fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            let same = fs::read_link(entry.path().join("ns/pid")).is_ok_and(|at| at == namespace);
            let found = same && numbers.split_whitespace().last() == Some(inside);
            found.then(|| entry.file_name().to_str()?.parse().ok()).flatten()
        })
    }

    /// Sends libvirtd a signal by name: `STOP`, `CONT`; after `KILL` and `TERM`, libvirtd has ended.
    pub(crate) fn signal_libvirtd(&self, name: &str) {
        self.send(&format!("signal-libvirtd {name}"));
    }

    /// Starts libvirtd again and returns when it answers.
    pub(crate) fn start_libvirtd(&self) {
        self.send("start-libvirtd");
    }

    fn send(&self, command: &str) {
        let mut control = self.control.lock();
        let control = control.as_mut().expect("open until drop");
        writeln!(control.commands, "{command}").expect("the stack lives");
        let answer = control.answer();
        assert_eq!(answer, "ok", "{command}");
    }

    /// Returns `kvm` if a guest on KVM reaches its boot sector, else `qemu`. Determined once for each process, in some
    /// seconds: a test that does not depend on the type uses `qemu`.
    pub(crate) fn domain_type(&self) -> Result<&'static str, Skip> {
        static TYPE: OnceLock<Result<&str, Skip>> = OnceLock::new();
        TYPE.get_or_init(|| {
            // Without these features /dev/kvm may run a boot sector, but no current operating system.
            let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let is_whole = cpuinfo.split_whitespace().any(|word| ["vmx", "svm"].contains(&word));
            if !is_whole || !Path::new("/dev/kvm").exists() {
                return Ok("qemu");
            }
            slow("waits for a guest on KVM, which may hang");
            let (name, disk) = ("mistify-kvm-probe", BlockDevice::bootable(1 << 20)?);
            let xml = guest_xml("kvm", name, disk.path());
            let boots = self.with_xml("create", &xml).status.success()
                && poll(BOOT_ON_KVM, || (self.writes(name) > 0).then_some(())).is_some();
            // The domain is absent if it did not start.
            self.virsh(&["destroy", name]);
            Ok(if boots { "kvm" } else { "qemu" })
        })
        .clone()
    }

    /// Defines and starts a boot-sector guest and returns when it writes to its disk.
    pub(crate) fn boot(&self, kind: &str, name: &str, disk: &BlockDevice) {
        slow("waits for a real guest boot");
        let defined = self.with_xml("define", &guest_xml(kind, name, disk.path()));
        assert!(defined.status.success(), "define: {defined:?}");
        self.virsh_ok(&["start", name]);
        wait_until("the guest writes to its disk", BOOT, || self.writes(name) > 0);
    }

    /// Runs a virsh command that takes a file with XML: `define`, `create`, `net-define`.
    pub(crate) fn with_xml(&self, command: &str, xml: &str) -> Output {
        let scratch = Scratch::new();
        let file = scratch.path().join("it.xml");
        fs::write(&file, xml).expect("scratch is writable");
        self.virsh(&[command, file.to_str().expect("scratch paths are UTF-8")])
    }

    /// Returns the number of write requests of the guest's first disk so far.
    pub(crate) fn writes(&self, domain: &str) -> u64 {
        let stats = self.virsh_ok(&["domblkstat", domain, "vda"]);
        let count = stats.lines().find_map(|line| line.strip_prefix("vda wr_req "));
        count.and_then(|count| count.trim().parse().ok()).expect("domblkstat counts writes")
    }
}

/// Waits until libvirt answers at this URI. After the death of a client, libvirtd has closed that client by then, and
/// does not crash any more.
pub(crate) fn wait_for_libvirt(uri: &str) {
    let mut virsh = Command::new("virsh");
    virsh.args(["-q", "-c", uri, "uri"]).env("LC_ALL", "C").stdin(Stdio::null());
    wait_until("libvirt answers", SOON, || virsh.output().expect("virsh starts").status.success());
}

impl Drop for Stack {
    fn drop(&mut self) {
        // The script ends at the end of its input.
        self.control.get_mut().take();
        // Nothing can be done if the wait fails.
        let _ = self.unshare.wait();
    }
}

impl Control {
    fn answer(&mut self) -> String {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => "it ended; see its standard error".to_owned(),
            Ok(_) => line.trim_end().to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

/// A loop device over an unlinked file. The kernel frees the device when neither this value nor a guest has it open,
/// also after a kill of the test process.
pub(crate) struct BlockDevice {
    path: PathBuf,
    _open: File,
}

impl BlockDevice {
    /// Makes a device of `bytes` (a multiple of 512) that boots the guest of [`boot_sector`].
    pub(crate) fn bootable(bytes: u64) -> Result<Self, Skip> {
        let scratch = Scratch::new();
        let image = scratch.path().join("disk");
        boot_sector::write_image(&image, bytes).expect("scratch is writable");
        let path = losetup(&["--find".as_ref(), "--show".as_ref(), image.as_os_str()])?;
        let open = File::open(&path).map_err(|e| Skip(format!("open {path}: {e}")))?;
        // The kernel detaches an open device at its last close.
        losetup(&["--detach".as_ref(), path.as_ref()])?;
        Ok(Self { path: path.into(), _open: open })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn losetup(arguments: &[&OsStr]) -> Result<String, Skip> {
    let output = Command::new("losetup").args(arguments).output();
    let output = output.map_err(|e| Skip(format!("losetup does not start: {e}")))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(Skip(format!("no loop device: {}", why.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Waits for the only child of a process, and returns it: the program that `unshare --fork` or `nsenter -p`
/// runs.
pub(crate) fn child_of(parent: u32) -> u32 {
    wait_for("the process in the namespaces", SOON, || {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        children.ok()?.split_whitespace().next()?.parse().ok()
    })
}

pub(crate) fn installed(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|at| Path::new(at).join(program).exists())
}

/// Returns the domains and networks selected by `ours` with their autostart, one for each line.
pub(crate) fn in_libvirt(
    virsh: impl Fn(&[&str]) -> String,
    ours: impl Fn(&str) -> bool,
) -> Vec<String> {
    let lists = [&["list", "--all", "--name"][..], &["net-list", "--all"]].map(virsh);
    let lines = lists.iter().flat_map(|list| list.lines()).filter(|line| ours(line));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Returns the XML of a guest with one vCPU, 32 MiB and a disk `vda`; the guest obeys the power button.
pub(crate) fn guest_xml(kind: &str, name: &str, disk: &Path) -> String {
    format!(
        "<domain type='{kind}'>
           <name>{name}</name>
           <memory unit='MiB'>32</memory>
           <vcpu>1</vcpu>
           <os><type>hvm</type></os>
           <features><acpi/></features>
           <devices>
             <disk type='block' device='disk'>
               <driver name='qemu' type='raw'/>
               <source dev='{}'/>
               <target dev='vda' bus='virtio'/>
             </disk>
           </devices>
         </domain>",
        disk.display()
    )
}

/// Returns the XML of a guest for measurements, with a shareable disk and a NIC on `mistify0`.
pub(crate) fn measured_guest_xml(name: &str, index: usize, disk: &Path) -> String {
    let disk = disk.display();
    format!(
        "<domain type='qemu'>
           <name>{name}</name>
           <memory unit='MiB'>16</memory>
           <vcpu>1</vcpu>
           <os><type>hvm</type></os>
           <features><acpi/></features>
           <devices>
             <disk type='block' device='disk'>
               <driver name='qemu' type='raw'/>
               <source dev='{disk}'/>
               <target dev='vda' bus='virtio'/>
               <shareable/>
             </disk>
             <interface type='bridge'>
               <source bridge='mistify0'/>
               <mac address='02:00:00:00:40:{index:02x}'/>
               <model type='rtl8139'/>
             </interface>
             <memballoon model='virtio'/>
           </devices>
         </domain>"
    )
}
