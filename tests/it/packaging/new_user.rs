//! "Getting started", as a new operator follows it on a bare Debian 12 with Rust: `make test-new-user`.
//!
//! The page's commands are run as it shows them, in their order, under systemd, with nothing done in between.
//! Its image is the Debian of `tests/linux/debian.sh`, which has cloud-init as the image of the page has.
//! Then the commands of all documents that need systemd are run, an upgrade, and the purge. What is not shown: a
//! guest under KVM, and a pool (`make test-systemd` has one).

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::documents::commands::{GETTING_STARTED, Shown, for_systemd, read, shown};
use crate::harness::linux::debian;
use crate::harness::skip::{Skip, require};
use crate::harness::support::Scratch;

const SETUP: &str = concat!(include_str!("new_user.sh"), include_str!("../documents/downloads.sh"));

/// Named in a sentence, and run when all else is done.
const PURGE: &str = "apt purge mistify-libvirt";

/// How a command that begins like this is typed; the first that fits counts.
const COMMANDS: [(&str, &str); 13] = [
    ("apt-get ", ". $it"),
    ("make deb", ". $it"),
    ("apt install ", ". $it; soon answers /healthz"),
    ("systemctl restart ", ". $it; soon answers /readyz 200"),
    ("mistify-libvirt check", ". $it"),
    // Debian's server cannot be reached from every machine that runs this.
    ("curl -fLO ", "downloads ../given/disk"),
    ("sha512sum ", ". $it"),
    ("mistify-libvirt image import ", ". $it"),
    ("ssh-keygen ", ". $it"),
    ("mistify-libvirt create ", ". $it; after_the_first_guest"),
    ("mistify-libvirt console ", "soon says 'END SSH HOST KEY FINGERPRINTS'"),
    ("mistify-libvirt ssh ", "logs_in"),
    // A disk and a NIC more; the list of guests.
    ("mistify-libvirt ", ". $it"),
];

fn how(command: &str) -> &'static str {
    let known = COMMANDS.iter().find(|(begin, _)| command.starts_with(begin));
    known.unwrap_or_else(|| panic!("a new user cannot run this: {command}")).1
}

/// Writes what the bare machine is given: the script, its files, and this disk image.
fn write_walk(directory: &Path, all: &[Shown], image: &Path) {
    let mut script = SETUP.to_owned();
    for (number, it) in all.iter().enumerate() {
        let name = format!("it-{number}");
        let write = |text: &str| fs::write(directory.join(&name), text).expect("it can be written");
        match it {
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
    for (number, command) in for_systemd().into_iter().enumerate() {
        let name = format!("systemd-{number}");
        fs::write(directory.join(&name), command).expect("it can be written");
        script += &format!("it=/root/given/{name}; echo; cat $it; echo; under_systemd\n");
    }
    script += &format!("as_installed\nupgrade\n{PURGE}\nafter_the_purge\necho all of it ran\n");
    fs::write(directory.join("script"), script).expect("it can be written");
    fs::copy(image, directory.join("disk")).expect("it can be copied");
}

#[test]
fn getting_started_works_on_a_bare_debian() {
    let asked = env::var("MISTIFY_TEST_BARE").map_err(|_| Skip("make test-new-user".to_owned()));
    let Some(_) = require("bare", asked) else { return };
    let Some(image) = require("bare", debian("cloud-amd64")) else { return };
    let directory = Scratch::new();
    write_walk(directory.path(), &shown(&read(GETTING_STARTED)), &image);
    let log = directory.path().with_extension("log");
    let file = fs::File::create(&log).expect("it can be made");
    let both = file.try_clone().expect("it can be");
    let mut run = Command::new("tests/bare/run.sh");
    run.arg(directory.path()).stdin(Stdio::null()).stdout(file).stderr(both);
    let status = run.status().expect("it starts");
    let text = String::from_utf8_lossy(&fs::read(&log).expect("it is there")).into_owned();
    let _ = fs::remove_file(&log);
    assert!(status.success() && text.contains("all of it ran"), "{status}\n{text}");
}

#[test]
fn a_new_user_can_run_every_command() {
    let page = read(GETTING_STARTED);
    let all = shown(&page);
    let commands =
        all.iter().filter(|it| matches!(it, Shown::Command(text, _) if !how(text).is_empty()));
    assert!(commands.count() >= 10);
    assert!(page.contains(&format!("`{PURGE}`")));
}

#[test]
fn the_readme_has_the_first_guest_of_the_page() {
    let (readme, page) = (read("README.md"), shown(&read(GETTING_STARTED)));
    let section = readme.split("\n## ").find(|it| it.starts_with("Create a first guest\n"));
    let all = shown(section.expect("a section"));
    assert!(all.len() >= 5, "{all:?}");
    let places = all.iter().map(|it| {
        page.iter().position(|other| other == it).unwrap_or_else(|| panic!("not there: {it:?}"))
    });
    assert!(places.is_sorted(), "in the same order");
}
