//! Files among the intents that are not usable.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, symlink};
use std::os::unix::net::UnixListener;

use super::*;
use crate::config::Store;

/// Replaces the first intent's file and opens the journal, which must set the replacement aside
/// unchanged.
fn is_set_aside(what: &str, put: impl FnOnce(&Path)) {
    let home = Home::new();
    drop(begin(&home.open(), "web-1", 2));
    put(&home.first());
    let before = fs::symlink_metadata(home.first()).unwrap();
    let journal = home.open();
    assert_eq!(journal.open_intents(), [], "{what}");
    assert_eq!(home.names("intents"), [""; 0], "{what}");
    assert_eq!(home.names("set-aside"), ["00000001.intent"], "{what}");
    let after = fs::symlink_metadata(home.0.join("set-aside/00000001.intent")).unwrap();
    assert_eq!((before.ino(), before.len()), (after.ino(), after.len()), "{what}");
    // The journal still works.
    begin(&journal, "web-1", 1).complete().unwrap();
}

#[test]
fn unfollowable_entry_is_set_aside() {
    is_set_aside("empty", |path| fs::write(path, "").unwrap());
    is_set_aside("no intent", |path| fs::write(path, "hello\n").unwrap());
    is_set_aside("a torn header", |path| {
        let header = fs::read(path).unwrap().iter().position(|byte| *byte == b'\n').unwrap();
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(u64::try_from(header).unwrap()).unwrap();
    });
    is_set_aside("a changed step", |path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace("02:00:00:00:00:00", "02:00:00:00:00:07")).unwrap();
    });
    is_set_aside("too large", |path| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(JournalLimits::default().file_bytes + 1).unwrap();
    });
}

#[test]
fn irregular_file_is_set_aside_unopened() {
    is_set_aside("a link to an intent", |path| {
        let elsewhere = path.ancestors().nth(2).unwrap().join("elsewhere");
        fs::rename(path, &elsewhere).unwrap();
        symlink(&elsewhere, path).unwrap();
    });
    is_set_aside("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    });
    is_set_aside("a pipe", |path| {
        fs::remove_file(path).unwrap();
        let made = process::Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success() && fs::metadata(path).unwrap().file_type().is_fifo());
    });
    is_set_aside("a socket", |path| {
        fs::remove_file(path).unwrap();
        drop(UnixListener::bind(path).unwrap());
    });
}

#[test]
fn intents_about_another_host_are_set_aside() {
    let store = Store::Directory("/srv/disks".into());
    for other in [
        HostConfig::default(),
        HostConfig { libvirt_uri: scope().libvirt_uri, store, ..HostConfig::default() },
    ] {
        let home = Home::new();
        drop(begin(&home.open(), "web-1", 1));
        let journal = Journal::open(&home.0, (&other).into(), &JournalLimits::default()).unwrap();
        assert!(journal.open_of("web-1").is_none());
        assert_eq!(home.names("set-aside"), ["00000001.intent"]);
    }
}

#[test]
fn strange_names_are_set_aside_and_drafts_removed() {
    let home = Home::new();
    drop(home.open());
    let strange = ["1.intent", "00000001.json", "README", "99999999999999999999.intent"];
    let highest = format!("{}.intent", u64::MAX);
    for round in 0..2 {
        for name in strange.into_iter().chain([&*highest]) {
            fs::write(home.0.join("intents").join(name), format!("{round}")).unwrap();
        }
        fs::write(home.0.join("intents/00000007.new"), "").unwrap();
        drop(begin(&home.open(), "web-1", 0));
        let journal = home.open();
        journal.open_of("web-1").unwrap().complete().unwrap();
    }
    assert_eq!(home.names("intents"), [""; 0]);
    assert_eq!(home.names("set-aside").len(), 2 * (strange.len() + 1));
    let read = |name: &str| fs::read_to_string(home.0.join("set-aside").join(name)).unwrap();
    assert_eq!((read("README"), read("README.1")), ("0".to_owned(), "1".to_owned()));
}

#[test]
fn file_that_cannot_be_set_aside_is_not_overwritten() {
    let home = Home::new();
    drop(home.open());
    fs::write(home.first(), "precious").unwrap();
    for number in 0..1000 {
        let name = if number == 0 { String::new() } else { format!(".{number}") };
        fs::write(home.0.join(format!("set-aside/00000001.intent{name}")), "").unwrap();
    }
    let journal = home.open();
    assert_eq!(journal.open_intents(), []);
    drop(begin(&journal, "web-1", 0));
    assert_eq!(fs::read_to_string(home.first()).unwrap(), "precious");
    assert_eq!(home.names("intents"), ["00000001.intent", "00000002.intent"]);
}

#[test]
fn somebodys_home_is_not_swept() {
    let home = Home::new();
    DirBuilder::new().mode(0o755).create(&home.0).unwrap();
    fs::write(home.0.join("letter"), "dear").unwrap();
    drop(home.open());
    assert_eq!(home.names(""), ["intents", "letter", "lock", "set-aside"]);
    assert_eq!(fs::metadata(&home.0).unwrap().mode() & 0o777, 0o755);
}
