//! The README, as somebody follows it who has a bare Debian 12 with Rust: `make test-new-user`.
//!
//! The commands of its sections up to the first guest are run as they stand there and in that order,
//! under systemd, with nothing done in between; then an upgrade and the purge. What is not shown: a
//! guest under KVM, and a pool (`make test-systemd` has one).

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::boot_sector;
use crate::documents::{Shown, read, shown};
use crate::skip::{Skip, require};
use crate::support::Scratch;

const SETUP: &str = include_str!("new_user.sh");
/// From the first of these titles to the end of the second's section.
const SECTIONS: [&str; 2] = ["\n## Two commands\n", "\n## A first guest\n"];

/// Named in a sentence, and run when all else is done.
const PURGE: &str = "apt purge mistify-libvirt";

/// How a command that begins like this is typed; the first that fits counts.
const COMMANDS: [(&str, &str); 13] = [
    // Steps of the gate by themselves.
    ("make test", ":"),
    ("make demo", "until_ctrl_c \"grep -q 'until Ctrl-C' until.log\""),
    // Nothing answers for libvirt yet.
    ("target/release/mistify-libvirt", "until_ctrl_c 'answers /healthz 503'"),
    ("apt-get ", ". $it"),
    ("cargo build --release", ". $it"),
    ("make deb", ". $it"),
    ("apt install ", ". $it; soon answers /healthz"),
    ("systemctl restart ", ". $it; soon answers /readyz 200"),
    ("ip link add ", ". $it"),
    // The image is the user's own.
    ("mistify-libvirt image import ", "qemu-img convert -O qcow2 ../given/disk disk.qcow2; . $it"),
    ("mistify-libvirt create ", ". $it"),
    ("mistify-libvirt status ", ". $it; after_the_first_guest"),
    // A disk and a NIC more.
    ("mistify-libvirt call ", ". $it"),
];

fn how(command: &str) -> &'static str {
    let known = COMMANDS.iter().find(|(begin, _)| command.starts_with(begin));
    known.unwrap_or_else(|| panic!("a new user cannot run this: {command}")).1
}

/// The README from the first command to the first guest.
fn walk() -> String {
    let readme = read("README.md");
    let [from, last] = SECTIONS.map(|title| readme.find(title).expect(title));
    let rest = &readme[last + 1..];
    let end = rest.find("\n## ").expect("more sections");
    readme[from..=last + end].to_owned()
}

/// A machine without KVM has guests of the other type, as the README says.
fn emulated(guest: &str) -> String {
    guest.replace(r#""kvm""#, r#""qemu""#)
}

/// Writes what the bare machine is given: the script, its files, and a disk.
fn write_walk(folder: &Path, all: &[Shown]) {
    let mut script = SETUP.to_owned();
    for (number, it) in all.iter().enumerate() {
        let name = format!("it-{number}");
        let write = |text: &str| fs::write(folder.join(&name), text).expect("it can be written");
        match it {
            Shown::Json(text) => {
                write(&emulated(text));
                script += &format!("cp /root/given/{name} web-1.json\n");
            }
            // A drop-in is for hosts that want another port or group; this one keeps what it has.
            Shown::File(path, _) if path.contains(".d/") => {}
            Shown::File(path, text) => {
                write(text);
                script += &format!("cp /root/given/{name} {path}\n");
            }
            Shown::Command(text, _) => {
                write(text);
                let lines = how(text);
                script += &format!("it=/root/given/{name}; echo; cat $it; echo; {lines}\n");
            }
        }
    }
    script += &format!("upgrade\n{PURGE}\nafter_the_purge\necho all of it ran\n");
    fs::write(folder.join("script"), script).expect("it can be written");
    boot_sector::write_image(&folder.join("disk"), 4 << 20).expect("it can be written");
}

#[test]
fn the_readme_leads_from_a_bare_debian_to_a_running_guest_and_a_purge_leaves_it() {
    let asked = env::var("MISTIFY_TEST_BARE").map_err(|_| Skip("make test-new-user".to_owned()));
    let Some(_) = require("bare", asked) else { return };
    let folder = Scratch::new();
    write_walk(folder.path(), &shown(&walk()));
    let log = folder.path().with_extension("log");
    let file = fs::File::create(&log).expect("it can be made");
    let both = file.try_clone().expect("it can be");
    let mut run = Command::new("tests/bare/run.sh");
    run.arg(folder.path()).stdin(Stdio::null()).stdout(file).stderr(both);
    let status = run.status().expect("it starts");
    let text = String::from_utf8_lossy(&fs::read(&log).expect("it is there")).into_owned();
    let _ = fs::remove_file(&log);
    assert!(status.success() && text.contains("all of it ran"), "{status}\n{text}");
}

#[test]
fn every_command_up_to_the_first_guest_is_known() {
    let all = shown(&walk());
    let commands =
        all.iter().filter(|it| matches!(it, Shown::Command(text, _) if how(text) != ":"));
    assert!(commands.count() >= 10);
    assert!(walk().contains(&format!("`{PURGE}`")));
}
