use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use std::{env, process};

use super::*;
use crate::config::HostConfig;

mod aside;

/// A journal's directory, removed on drop.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("mistify-journal-{}-{number}", process::id()));
        // A killed test may have left one.
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self) -> Journal {
        self.open_with(&JournalLimits::default())
    }

    fn open_with(&self, limits: &JournalLimits) -> Journal {
        Journal::open(&self.0, scope(), limits).unwrap()
    }

    /// Returns the names in one of its directories, sorted.
    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(directory)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Returns the file of the very first intent.
    fn first(&self) -> PathBuf {
        self.0.join("intents/00000001.intent")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Remains in the directory for temporary files do no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn scope() -> Scope {
    Scope::from(&HostConfig { libvirt_uri: "test:///default".to_owned(), ..HostConfig::default() })
}

fn guest(id: &str) -> Guest {
    Guest { id: id.to_owned(), memory_mib: 64, ..Guest::default() }
}

fn network(number: usize) -> Step {
    Step::NetworkDefined(format!("02:00:00:00:00:{number:02x}"))
}

/// Starts a CreateGuest with this number of steps.
fn begin(journal: &Journal, id: &str, steps: usize) -> JournalEntry {
    let mut entry = journal.begin(Verb::CreateGuest, id, &guest(id)).unwrap();
    for number in 0..steps {
        entry.note(network(number)).unwrap();
    }
    entry
}

fn open_guests(journal: &Journal) -> Vec<String> {
    journal.open_intents().into_iter().map(|summary| summary.guest).collect()
}

#[test]
fn noted_steps_survive_the_agent() {
    let home = Home::new();
    let journal = home.open();
    let entry = begin(&journal, "web-1", 3);
    let intent = entry.intent().clone();
    assert_eq!(intent.steps, [network(0), network(1), network(2)]);
    assert_eq!((intent.verb, &intent.request), (Verb::CreateGuest, &guest("web-1")));
    assert!(intent.started <= SystemTime::now());
    assert!(intent.started > SystemTime::now() - Duration::from_secs(60));
    drop((entry, journal));
    let journal = home.open();
    let open = journal.open_intents();
    let [
        Summary {
            verb, guest, since, why: None, tries: 0, state: IntentState::Open { .. }, ..
        },
    ] = open.as_slice()
    else {
        panic!("one that is open: {open:?}")
    };
    assert_eq!((*verb, guest.as_str(), *since), (Verb::CreateGuest, "web-1", intent.started));
    assert_eq!(*journal.open_of("web-1").unwrap().intent(), intent);
}

#[test]
fn finished_entry_is_removed_for_good() {
    let home = Home::new();
    let journal = home.open();
    begin(&journal, "web-1", 1).complete().unwrap();
    assert_eq!(home.names("intents"), [""; 0]);
    assert!(journal.open_of("web-1").is_none());
    drop(journal);
    assert_eq!(home.open().open_intents(), []);
}

#[test]
fn dropped_entry_reopens_and_continues() {
    let home = Home::new();
    let journal = home.open();
    let entry = begin(&journal, "web-1", 1);
    assert!(journal.open_of("web-1").is_none(), "its verb runs");
    assert_eq!(journal.open_intents(), [], "its verb runs");
    drop(entry);
    assert_eq!(open_guests(&journal), ["web-1"]);
    assert!(journal.open_of("web-2").is_none());
    let mut entry = journal.open_of("web-1").unwrap();
    assert!(journal.open_of("web-1").is_none(), "it is being recovered");
    assert_eq!(open_guests(&journal), ["web-1"], "it is not recovered yet");
    entry.note(network(1)).unwrap();
    drop((entry, journal));
    let journal = home.open();
    let entry = journal.open_of("web-1").unwrap();
    assert_eq!(entry.intent().steps, [network(0), network(1)]);
    entry.complete().unwrap();
    assert_eq!(journal.open_intents(), []);
}

#[test]
fn an_intent_that_is_put_back_is_announced_once() {
    let home = Home::new();
    let journal = home.open();
    let is_announced = || journal.retained().try_recv().is_ok();
    begin(&journal, "web-1", 1).complete().unwrap();
    assert!(!is_announced(), "nothing is open");
    drop(begin(&journal, "web-1", 1));
    assert!(is_announced() && !is_announced());
    journal.open_of("web-1").unwrap().keep(Retained::open("no libvirt".to_owned()));
    assert!(is_announced() && !is_announced());
    let entry = journal.open_of("web-1").unwrap();
    let file = home.0.join("intents").join(&home.names("intents")[0]);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(entry.complete().is_err());
    assert!(is_announced() && !is_announced(), "it could not be removed");
}

#[test]
fn failed_recovery_is_shown_until_it_succeeds() {
    let home = Home::new();
    let journal = home.open();
    drop(begin(&journal, "web-1", 1));
    drop(begin(&journal, "web-2", 1));
    journal.open_of("web-2").unwrap().keep(Retained::open("no libvirt".to_owned()));
    let whys = |journal: &Journal| -> Vec<Option<String>> {
        journal.open_intents().into_iter().map(|summary| summary.why).collect()
    };
    assert_eq!(whys(&journal), [None, Some("no libvirt".to_owned())]);
    journal.open_of("web-2").unwrap().complete().unwrap();
    assert_eq!(whys(&journal), [None]);
}

/// Keeps an intent as a leftover.
fn leave(entry: JournalEntry, why: &str, retry: Option<Instant>) -> bool {
    let state = IntentState::Leftover { retry };
    let left = vec![why.to_owned()];
    entry.keep(Retained { why: why.to_owned(), left, tried: true, refused: true, state })
}

#[test]
fn leftovers_are_listed_and_not_open() {
    let home = Home::new();
    let journal = home.open();
    assert!(leave(begin(&journal, "web-1", 1), "in use", None), "a new reason");
    assert_eq!(journal.open_intents(), []);
    assert!(journal.open_of("web-1").is_none());
    let listed = journal.leftovers();
    assert_eq!((listed[0].left.as_slice(), listed[0].tries), (&["in use".to_owned()][..], 1));
    let name = "tank/guests/web-1/disk-0";
    assert_eq!(journal.verb_that_left(name, None), None);
    let mut entry = begin(&journal, "web-2", 1);
    entry.note(Step::Volume { name: name.to_owned(), made_parent: false, maker: None }).unwrap();
    leave(entry, "in use", None);
    assert!(journal.verb_that_left(name, None).is_some());
    assert_eq!(journal.verb_that_left(name, Some("another")), None);
    journal.leftovers_of("web-2", None).pop().unwrap().complete().unwrap();
    let mut again = journal.leftovers_of("web-1", None);
    assert!(journal.leftovers_of("web-1", None).is_empty(), "others have it");
    assert!(!leave(again.pop().unwrap(), "in use", None), "the same reason");
    assert_eq!(journal.leftovers()[0].tries, 2);
    drop(journal);
    assert_eq!(open_guests(&home.open()), ["web-1"], "a new agent tries it first");
}

#[test]
fn a_retry_is_due_at_its_time() {
    let home = Home::new();
    let journal = home.open();
    let now = Instant::now();
    let later = now + Duration::from_secs(60);
    leave(begin(&journal, "never", 1), "in use", None);
    leave(begin(&journal, "later", 1), "in use", Some(later));
    drop(begin(&journal, "open", 1));
    let _runs = begin(&journal, "runs", 1);
    let now = Instant::now();
    assert_eq!(journal.due(now), (BTreeSet::from(["open".to_owned()]), Some(later)));
    assert!(journal.leftovers_of("later", Some(now)).is_empty());
    assert_eq!(journal.leftovers_of("later", Some(later)).len(), 1);
    assert!(journal.leftovers_of("never", Some(later)).is_empty());
}

#[test]
fn the_oldest_of_too_many_leftovers_is_forgotten() {
    let home = Home::new();
    let limits = JournalLimits { files: 8, ..JournalLimits::default() };
    let journal = home.open_with(&limits);
    for number in 0..5 {
        leave(begin(&journal, &format!("web-{number}"), 1), "in use", None);
    }
    let guests: Vec<_> = journal.leftovers().into_iter().map(|it| it.guest).collect();
    assert_eq!(guests, ["web-1", "web-2", "web-3", "web-4"]);
    assert_eq!(home.names("intents").len(), 4);
}

#[test]
fn older_of_two_intents_is_first_despite_the_clock() {
    let home = Home::new();
    let journal = home.open();
    drop(begin(&journal, "web-1", 1));
    drop(journal);
    let journal = home.open();
    drop(begin(&journal, "web-1", 2));
    drop(journal);
    let journal = home.open();
    let (first, second) = (journal.open_of("web-1").unwrap(), journal.open_of("web-1").unwrap());
    assert_eq!(first.intent().steps.len(), 1);
    assert_eq!(second.intent().steps.len(), 2);
    assert!(journal.open_of("web-1").is_none());
    drop(first);
    second.complete().unwrap();
    assert_eq!(journal.open_of("web-1").unwrap().intent().steps.len(), 1);
}

#[test]
fn a_number_is_not_given_twice() {
    let home = Home::new();
    let journal = home.open();
    begin(&journal, "a", 0).complete().unwrap();
    drop(begin(&journal, "b", 0));
    drop(journal);
    let journal = home.open();
    drop(begin(&journal, "c", 0));
    assert_eq!(home.names("intents"), ["00000002.intent", "00000003.intent"]);
}

#[test]
fn any_id_of_a_guest_is_kept_and_none_is_a_path() {
    let home = Home::new();
    let long = "a".repeat(64 * 1024);
    let ids =
        ["", ".", "..", "../../etc/passwd", "/", "a/b", "\0\n\r\u{7f}", "\u{202e}ü😀", &*long];
    let journal = home.open();
    for id in ids {
        drop(begin(&journal, id, 1));
    }
    drop(journal);
    let journal = home.open();
    assert_eq!(open_guests(&journal), ids);
    for id in ids {
        let entry = journal.open_of(id).unwrap();
        assert_eq!((&*entry.intent().guest, &*entry.intent().request.id), (id, id));
        entry.complete().unwrap();
    }
    assert_eq!(home.names("intents"), [""; 0]);
    assert_eq!(home.names(""), ["intents", "lock", "set-aside"]);
}

#[test]
fn second_agent_is_refused_until_the_first_is_gone() {
    let home = Home::new();
    let refused = || Journal::open(&home.0, scope(), &JournalLimits::default()).unwrap_err();
    let journal = home.open();
    let entry = begin(&journal, "web-1", 0);
    let expected = format!("journal: {} is in use by process {}", home.0.display(), process::id());
    assert_eq!(refused().to_string(), expected);
    drop(journal);
    assert_eq!(refused().to_string(), expected);
    drop(entry);
    assert_eq!(open_guests(&home.open()), ["web-1"]);
}

#[test]
fn the_files_are_for_their_owner_alone() {
    let home = Home::new();
    drop(begin(&home.open(), "web-1", 1));
    let mode = |path: &str| fs::metadata(home.0.join(path)).unwrap().mode() & 0o777;
    for directory in ["", "intents", "set-aside"] {
        assert_eq!(mode(directory), 0o700, "{directory}");
    }
    for file in ["lock", "intents/00000001.intent"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}

#[test]
fn a_torn_line_is_ignored_and_cut_off_before_the_next() {
    let home = Home::new();
    drop(begin(&home.open(), "web-1", 2));
    let whole = fs::read(home.first()).unwrap();
    for torn in ["0123456789abcdef {\"volume\":{\"name\":\"tank/guests/other/disk-0\"", "\0", "0"] {
        let mut file = OpenOptions::new().append(true).open(home.first()).unwrap();
        file.write_all(torn.as_bytes()).unwrap();
        let journal = home.open();
        let mut entry = journal.open_of("web-1").unwrap();
        assert_eq!(entry.intent().steps, [network(0), network(1)]);
        entry.note(network(2)).unwrap();
        drop((entry, journal));
        let journal = home.open();
        let entry = journal.open_of("web-1").unwrap();
        assert_eq!(entry.intent().steps, [network(0), network(1), network(2)], "after {torn:?}");
        fs::write(home.first(), &whole).unwrap();
    }
}

#[test]
fn line_replaces_one_whose_write_failed() {
    let home = Home::new();
    let journal = home.open();
    let mut entry = begin(&journal, "web-1", 1);
    // As if the disk had taken a whole line, but reported an error.
    let line = [b'x'; 100].into_iter().chain([b'\n']).collect::<Vec<u8>>();
    journal.shared.directory.as_ref().unwrap().append(1, entry.record.tail.bytes, &line).unwrap();
    entry.note(network(1)).unwrap();
    drop((entry, journal));
    let steps = home.open().open_of("web-1").map(|entry| entry.intent().steps.clone());
    assert_eq!(steps, Some(vec![network(0), network(1)]));
}

#[test]
fn journal_is_full_when_next_start_cannot_read_all() {
    let home = Home::new();
    let limits = JournalLimits { files: 2, ..JournalLimits::default() };
    let journal = home.open_with(&limits);
    drop(begin(&journal, "a", 0));
    let running = begin(&journal, "b", 0);
    let refused = journal.begin(Verb::Delete, "c", &guest("c"));
    assert!(matches!(refused, Err(Error::Full { files: 2 })));
    assert_eq!(home.names("intents").len(), 2);
    running.complete().unwrap();
    drop(begin(&journal, "c", 0));
    drop(journal);
    // With a lower limit the youngest waits for a further start.
    let limits = JournalLimits { files: 1, ..limits };
    let journal = home.open_with(&limits);
    assert_eq!(open_guests(&journal), ["a"]);
    journal.open_of("a").unwrap().complete().unwrap();
    drop(journal);
    assert_eq!(open_guests(&home.open_with(&limits)), ["c"]);
}

#[test]
fn a_beginning_that_fails_takes_no_room() {
    let home = Home::new();
    let journal = home.open_with(&JournalLimits { files: 1, ..JournalLimits::default() });
    let (intents, away) = (home.0.join("intents"), home.0.join("away"));
    fs::rename(&intents, &away).unwrap();
    let refused = journal.begin(Verb::CreateGuestDisks, "a", &guest("a")).unwrap_err().to_string();
    assert!(refused.starts_with("journal: cannot write "), "{refused}");
    fs::rename(&away, &intents).unwrap();
    drop(begin(&journal, "a", 1));
    assert_eq!(open_guests(&journal), ["a"]);
}

#[test]
fn steps_and_bytes_of_an_intent_are_bounded() {
    let home = Home::new();
    let limits = JournalLimits { steps: 3, file_bytes: 1000, ..JournalLimits::default() };
    let journal = home.open_with(&limits);
    let huge = "x".repeat(1000);
    let started = journal.begin(Verb::Delete, &huge, &guest("web-1"));
    assert!(matches!(started, Err(Error::Size { bytes: 1000 })));
    assert_eq!(home.names("intents"), [""; 0]);
    let mut entry = begin(&journal, "web-1", 1);
    assert!(matches!(entry.note(Step::NetworkStarted(huge)), Err(Error::Size { .. })));
    entry.note(network(1)).unwrap();
    entry.note(network(2)).unwrap();
    assert!(matches!(entry.note(network(3)), Err(Error::Steps { steps: 3 })));
    drop((entry, journal));
    let journal = home.open_with(&limits);
    assert_eq!(journal.open_of("web-1").unwrap().intent().steps.len(), 3);
}

#[test]
fn removed_file_refuses_steps_and_is_finished() {
    let home = Home::new();
    let journal = home.open();
    let mut entry = begin(&journal, "web-1", 0);
    fs::remove_file(home.first()).unwrap();
    let refused = entry.note(network(0)).unwrap_err();
    assert!(refused.to_string().starts_with("journal: cannot write "), "{refused}");
    assert!(refused.to_string().contains("00000001.intent: "), "{refused}");
    assert_eq!(entry.intent().steps, []);
    entry.complete().unwrap();
    assert_eq!(journal.open_intents(), []);
}

#[test]
fn unremovable_entry_stays_open_with_its_reason() {
    let home = Home::new();
    let journal = home.open();
    let entry = begin(&journal, "web-1", 0);
    fs::remove_file(home.first()).unwrap();
    fs::create_dir(home.first()).unwrap();
    let error = entry.complete().unwrap_err().to_string();
    assert!(error.starts_with("journal: cannot remove "), "{error}");
    assert_eq!(journal.open_intents()[0].why, Some(error));
}

#[test]
fn unusable_directory_is_named() {
    let home = Home::new();
    fs::write(&home.0, "").unwrap();
    let error = Journal::open(&home.0, scope(), &JournalLimits::default()).unwrap_err();
    let begin = format!("journal: cannot create {}: ", home.0.display());
    assert!(error.to_string().starts_with(&begin), "{error}");
    fs::remove_file(&home.0).unwrap();
}

#[test]
fn many_threads_keep_many_intents() {
    let home = Home::new();
    let journal = home.open();
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let journal = &journal;
            threads.spawn(move || {
                for round in 0..8 {
                    let entry = begin(journal, &format!("{thread}-{round}"), 2);
                    if round % 2 == 0 {
                        entry.complete().unwrap();
                    }
                }
            });
        }
    });
    drop(journal);
    let journal = home.open();
    let mut guests = open_guests(&journal);
    guests.sort();
    let odd = |thread| [1, 3, 5, 7].map(|round| format!("{thread}-{round}"));
    assert_eq!(guests, [odd(0), odd(1), odd(2), odd(3)].concat());
}
