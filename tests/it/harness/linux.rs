//! Real Linux guests: the images of `tests/linux/`, and a user at their serial console.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use super::cost::slow;
use super::skip::Skip;
use super::stack::Stack;
use super::support::{Scratch, poll, wait_until};

/// The memory of the small guest, in MiB.
pub(crate) const SMALL_MIB: u64 = 256;
/// Longer than a loaded machine without KVM needs to boot the small guest (8 s on an idle machine).
const BOOT: Duration = Duration::from_secs(120);
/// Longer than a command takes in a guest on a loaded machine.
const COMMAND: Duration = Duration::from_secs(60);

/// Runs a script of `tests/linux/`; returns its image, which is made once for all checkouts.
fn recipe(script: &str, flavour: &str) -> Result<PathBuf, Skip> {
    slow("makes or finds an image of a Linux guest");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/linux/").to_owned() + script;
    let output = Command::new(path).env("FLAVOUR", flavour).stdin(Stdio::null()).output();
    let output = output.map_err(|e| Skip(format!("{script} does not start: {e}")))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().into()),
        false => Err(Skip(format!("{script}: {}", String::from_utf8_lossy(&output.stderr)))),
    }
}

/// Returns the small guest's disk image, raw, 64 MiB.
pub(crate) fn small() -> Result<PathBuf, Skip> {
    static IMAGE: OnceLock<Result<PathBuf, Skip>> = OnceLock::new();
    IMAGE.get_or_init(|| recipe("small.sh", "")).clone()
}

/// Returns an ISO image from which the small guest starts: `hybrid` or `plain`.
pub(crate) fn iso(flavour: &str) -> Result<PathBuf, Skip> {
    recipe("iso.sh", flavour)
}

/// Returns the qcow2 disk image of a complete Debian with this kernel; root's key is beside the image.
pub(crate) fn debian(flavour: &str) -> Result<PathBuf, Skip> {
    recipe("debian.sh", flavour)
}

/// Copies the small guest's disk into a directory of the test.
pub(crate) fn small_disk(directory: &Scratch) -> Result<PathBuf, Skip> {
    let disk = directory.path().join("linux.raw");
    // Sparse stays sparse.
    let copied = Command::new("cp").arg("--sparse=always").arg(small()?).arg(&disk).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp");
    Ok(disk)
}

/// A running guest's serial console, at which root is logged in.
pub(crate) struct Console {
    terminal: File,
    /// What was read since the last command.
    read: String,
    /// The whole console output of the guest.
    all: String,
    /// How many times slower the guest is than on this machine.
    slowness: u32,
}

impl Drop for Console {
    /// Shows the console output after a failure.
    fn drop(&mut self) {
        if thread::panicking() {
            println!("the console of the guest: {:?}", self.all);
        }
    }
}

impl Console {
    /// Waits for the guest's login prompt, and logs in as root with the password `debian`.
    pub(crate) fn log_in(stack: &Stack, id: &str) -> Self {
        Self::open(stack, id).logged_in()
    }

    /// Logs in at this terminal of a guest that is `slowness` times slower than a guest on this machine.
    pub(crate) fn log_in_at(terminal: &Path, slowness: u32) -> Self {
        Self::at(terminal, slowness).logged_in()
    }

    fn logged_in(mut self) -> Self {
        assert!(self.sees_prompt(BOOT), "its kernel panics: {:?}", self.read);
        self.enter();
        self
    }

    /// Opens the serial console of a running guest.
    pub(crate) fn open(stack: &Stack, id: &str) -> Self {
        let path = stack.virsh_ok(&["ttyconsole", id]);
        Self::at(&stack.path(path.trim()), 1)
    }

    fn at(path: &Path, slowness: u32) -> Self {
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(path)
            .expect("the guest's terminal");
        Self { terminal, read: String::new(), all: String::new(), slowness }
    }

    /// Waits for the login prompt of a guest that boots; returns whether it appears. Without KVM on a busy machine the
    /// kernel sometimes panics, because its timer is too slow.
    pub(crate) fn sees_prompt(&mut self, limit: Duration) -> bool {
        slow("waits for a real guest boot");
        // A prompt from before this terminal was opened is lost; an empty line makes the guest write another one.
        self.read_until(&["login: ", "Kernel panic"], limit, Some("\n")) == 0
    }

    /// Logs in at the prompt as root with the password `debian`.
    pub(crate) fn enter(&mut self) {
        self.type_in("root\n");
        self.read_until(&["assword: "], COMMAND, None);
        self.type_in("debian\n");
        self.read_until(&["# "], COMMAND, None);
        // Neither the shell nor the kernel writes anything between the outputs of commands. A starting shell may drop
        // typed characters: so it writes READY only if it has read BEGIN from its first character.
        const BEGIN: &str = "stty -echo && A=READY; dmesg -n 1; PS1=; echo $A\n";
        self.type_in("exec env PS1= sh\n");
        self.type_in(BEGIN);
        self.read_until(&["READY\r\n"], COMMAND, Some(BEGIN));
        // BEGIN may have been typed several times.
        self.run("true");
    }

    /// Types a command, which must succeed; returns its output.
    pub(crate) fn run(&mut self, command: &str) -> String {
        self.read.clear();
        // The shell composes the marks, so that an echo of the typed text does not contain them.
        let end = "echo END-''$?";
        self.type_in(&format!("echo BEGIN-''; {command}\n{end}\n"));
        // With the end of the line: else the output of the next command would begin with it.
        self.read_until(&["END-0\r\n"], COMMAND, None);
        let (output, _) = self.read.rsplit_once("END-0").expect("its end");
        let (_, output) = output.split_once("BEGIN-\r\n").expect("its beginning");
        // The echo may be on again: the guest's login program, which waits for the shell, sometimes turns it on. Then
        // the shell echoes the line, and queries the position of the cursor.
        output.replace("\x1b[6n", "").replace('\r', "").replace(&format!("{end}\n"), "")
    }

    /// Types a command until its output has this text.
    pub(crate) fn wait_for(&mut self, command: &str, text: &str) {
        wait_until(&format!("{text} in {command}"), COMMAND * self.slowness, || {
            self.run(command).contains(text)
        });
    }

    fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).expect("the guest's terminal takes it");
    }

    /// Reads until one of the texts appears, and types `again` at intervals; returns the number of the text.
    fn read_until(&mut self, texts: &[&str], limit: Duration, again: Option<&str>) -> usize {
        let mut turns = 0_u32;
        let limit = limit * self.slowness;
        let found = poll(limit, || {
            turns += 1;
            let mut bytes = [0; 4096];
            match self.terminal.read(&mut bytes) {
                Ok(count) => {
                    let text = String::from_utf8_lossy(&bytes[..count]);
                    self.read.push_str(&text);
                    self.all.push_str(&text);
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            if let Some(again) = again.filter(|_| turns % 1000 == 0) {
                self.type_in(again);
            }
            texts.iter().position(|text| self.read.contains(text))
        });
        found.unwrap_or_else(|| panic!("waited {limit:?} in vain for {texts:?} in {:?}", self.read))
    }
}

/// Fails if `trim` returns less than 90 % of the space to the host that a file system on the guest's second disk frees;
/// `used` returns the space of the disk on the host, in bytes.
pub(crate) fn discarded_space_is_freed(
    console: &mut Console,
    mib: u64,
    trim: impl FnOnce(),
    used: impl Fn() -> u64,
) {
    console
        .run("mke2fs /dev/vdb >/dev/null && mkdir -p /mnt && mount -t ext4 /dev/vdb /mnt && sync");
    let empty = used();
    console.run(&format!("dd if=/dev/urandom of=/mnt/file bs=1M count={mib} 2>/dev/null && sync"));
    let full = used();
    assert!(full >= empty + (mib << 20), "{empty} {full}");
    console.run("rm /mnt/file && sync");
    trim();
    console.run("sync && umount /mnt");
    let freed = full.saturating_sub(used());
    println!("{freed} bytes of {full} freed, {empty} before");
    assert!(freed >= (mib << 20) / 10 * 9, "{freed} bytes of {full}");
}
