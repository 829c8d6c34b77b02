//! The journal in processes of their own: killed at any write, on a full disk, out of descriptors.
//! Such a process is this test binary again, with one test and a directory in its environment.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use mistify_libvirt::config::{HostConfig, JournalLimits};
use mistify_libvirt::guest::wire::Guest;
use mistify_libvirt::journal::{Error, Journal, JournalEntry, Scope, Step, Verb};

use crate::harness::skip::{Skip, require};
use crate::harness::support::{Scratch, test_path};

const DIRECTORY: &str = "MISTIFY_TEST_JOURNAL";
const STOP_AT: &str = "MISTIFY_STOP_AT";

/// The directory that this process is to work in; `None` in the process that starts others.
fn directory() -> Option<PathBuf> {
    env::var_os(DIRECTORY).map(PathBuf::from)
}

/// This test binary again, with the one test.
fn again(test: &str, directory: &Path) -> Command {
    let mut command = Command::new(env::current_exe().expect("a test has a program"));
    command.args(["--exact", &test_path(module_path!(), test), "--nocapture"]);
    command.env(DIRECTORY, directory).env_remove(STOP_AT);
    command
}

/// The same in a shell, which runs `script` first.
fn again_after(mut shell: Command, script: &str, test: &str, directory: &Path) -> Command {
    let command = again(test, directory);
    shell.args(["-c", &format!(r#"{script}; exec "$@""#), "sh"]).arg(command.get_program());
    shell.args(command.get_args()).env(DIRECTORY, directory).env_remove(STOP_AT);
    shell
}

/// How the test in the other process ended; a success is one of the test, not of none.
fn run(command: &mut Command) -> ExitStatus {
    let Output { status, stdout, stderr } = command.output().expect("the program can be started");
    let (said, errors) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    print!("{said}{errors}");
    assert!(!status.success() || said.contains("1 passed"));
    status
}

fn open(directory: &Path) -> Result<Journal, Error> {
    Journal::open(directory, Scope::from(&HostConfig::default()), &JournalLimits::default())
}

fn begin(journal: &Journal) -> Result<JournalEntry, Error> {
    journal.begin(Verb::CreateGuest, "web-1", &Guest::default())
}

fn network(number: usize) -> Step {
    Step::NetworkDefined(format!("02:00:00:00:00:{number:02x}"))
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).expect("the directory is there").count()
}

#[test]
fn journal_killed_at_any_write_knows_noted_steps() {
    if let Some(directory) = directory() {
        let mut entry = begin(&open(&directory).unwrap()).unwrap();
        entry.note(network(0)).unwrap();
        entry.note(network(1)).unwrap();
        entry.complete().unwrap();
        return;
    }
    let test = "journal_killed_at_any_write_knows_noted_steps";
    for (stop, left) in [
        ("before:1", None),
        ("after:1", Some(0)),
        ("before:2", Some(0)),
        ("after:2", Some(1)),
        ("before:3", Some(1)),
        ("after:3", Some(2)),
        ("before:4", Some(2)),
        ("after:4", None),
    ] {
        let scratch = Scratch::new();
        let status = run(again(test, scratch.path()).env(STOP_AT, stop));
        assert_eq!(status.signal(), Some(9), "{stop}: {status}");
        let journal = open(scratch.path()).unwrap();
        let entry = journal.open_of("web-1");
        let steps = entry.as_ref().map(|entry| entry.intent().steps.len());
        assert_eq!(steps, left, "{stop}");
        assert_eq!(entries(&scratch.path().join("set-aside")), 0, "{stop}");
    }
    let scratch = Scratch::new();
    assert!(run(again(test, scratch.path()).env(STOP_AT, "before:5")).success(), "four writes");
}

#[test]
fn a_full_disk_is_a_clear_error_and_loses_nothing() {
    if let Some(directory) = directory() {
        return on_a_full_disk(&directory);
    }
    let scratch = Scratch::new();
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "/bin/sh"]);
    let mount = r#"mount -t tmpfs -o size=64k,mode=700 tmpfs "$MISTIFY_TEST_JOURNAL" || exit 77"#;
    let test = "a_full_disk_is_a_clear_error_and_loses_nothing";
    let status = run(&mut again_after(unshare, mount, test, scratch.path()));
    let status = match status.code() {
        // unshare's own failure, and the script's.
        Some(1 | 77) => Err(Skip(format!("no tmpfs can be mounted: {status}"))),
        _ => Ok(status),
    };
    let Some(status) = require("mount", status) else { return };
    assert!(status.success(), "{status}");
}

fn on_a_full_disk(directory: &Path) {
    let no_space = |error: Option<Error>| {
        let text = error.expect("the disk is full").to_string();
        assert!(text.starts_with("journal: cannot write /"), "{text}");
        assert!(text.ends_with(": no space left on device"), "{text}");
    };
    let long = |text: &str| Step::NetworkDefined(text.repeat(8192));
    let filler = directory.join("filler");
    let fill = || {
        let mut file = File::create(&filler).expect("a name takes no space");
        while file.write_all(&[0; 1024]).is_ok() {}
    };
    let journal = open(directory).expect("there is space");
    fill();
    no_space(begin(&journal).err());
    assert_eq!(entries(&directory.join("intents")), 0);
    fs::remove_file(&filler).expect("the filler is there");
    let mut entry = begin(&journal).expect("there is space");
    entry.note(network(0)).expect("there is space");
    fill();
    // More than the free space in the file's last page: a part is written.
    no_space(entry.note(long("x")).err());
    entry.note(network(1)).expect("this fits into the last page");
    no_space(entry.note(long("y")).err());
    drop((entry, journal));
    let journal = open(directory).expect("a start takes no space");
    let entry = journal.open_of("web-1").expect("it is open");
    assert_eq!(entry.intent().steps, [network(0), network(1)]);
    // What frees space needs none.
    entry.complete().expect("an end takes no space");
    assert_eq!(entries(&directory.join("intents")), 0);
}

#[test]
fn without_descriptors_journal_sets_nothing_aside() {
    let Some(directory) = directory() else {
        let scratch = Scratch::new();
        let test = "without_descriptors_journal_sets_nothing_aside";
        let shell = Command::new("/bin/sh");
        let status = run(&mut again_after(shell, "ulimit -n 64", test, scratch.path()));
        assert!(status.success(), "{status}");
        return;
    };
    let mut entry = begin(&open(&directory).unwrap()).unwrap();
    let mut taken = take_all_descriptors();
    let refused = entry.note(network(0)).unwrap_err().to_string();
    assert!(refused.contains("Too many open files"), "{refused}");
    taken.pop();
    entry.note(network(0)).unwrap();
    taken.clear();
    drop(entry);
    let mut refusals = 0;
    loop {
        let mut taken = take_all_descriptors();
        taken.truncate(taken.len() - refusals);
        match open(&directory) {
            Ok(journal) => break assert_eq!(journal.open_intents().len(), 1),
            Err(_) => refusals += 1,
        }
    }
    assert!(refusals >= 3, "the lock, the directory and the intent need one each");
    assert_eq!(entries(&directory.join("set-aside")), 0);
}

/// Up to the limit of the process.
fn take_all_descriptors() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}
