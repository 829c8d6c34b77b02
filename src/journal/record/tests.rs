use proptest::prelude::*;

use super::*;
use crate::guest::wire::{GuestDisk, Nic};

fn scope() -> Scope {
    Scope {
        libvirt_uri: "qemu:///system".to_owned(),
        store: "zfs".to_owned(),
        zpool: "tank".to_owned(),
    }
}

fn read(content: &[u8]) -> Result<IntentRecord, InvalidIntent> {
    IntentRecord::read(content, &scope(), &JournalLimits::default())
}

/// Returns the lines of a file, and its record.
fn written(guest: &str, steps: &[Step]) -> (Vec<Vec<u8>>, IntentRecord) {
    let nic = Nic { mac: "02:00:00:00:00:01".to_owned(), vlans: Some(vec![7]), ..Nic::default() };
    let disk =
        GuestDisk { image: "debian\n12".to_owned(), size_mib: u64::MAX, ..GuestDisk::default() };
    let request =
        Guest { id: guest.to_owned(), nics: vec![nic], disks: vec![disk], ..Guest::default() };
    let (mut record, header) =
        IntentRecord::begin(&scope(), SystemTime::now(), Verb::CreateGuest, guest, &request);
    let mut lines = vec![header];
    for step in steps {
        let (line, tail) = record.tail.line(step);
        lines.push(line);
        record.tail = tail;
        record.intent.steps.push(step.clone());
    }
    (lines, record)
}

fn sample() -> Vec<Step> {
    vec![
        Step::Volume {
            name: "tank/guests/web-1/disk-0".to_owned(),
            made_parent: true,
            maker: Some("6a1f2c7e-5b1d-4f0e-9a51-0c8f6c1d2e3f".to_owned()),
        },
        Step::NetworkDefined("02:00:00:00:00:01".to_owned()),
        Step::NetworkStarted("02:00:00:00:00:01".to_owned()),
        Step::SeedFiles("6a1f2c7e-5b1d-4f0e-9a51-0c8f6c1d2e3f".to_owned()),
        Step::Domain { uuid: None },
        Step::Frozen("6a1f2c7e-5b1d-4f0e-9a51-0c8f6c1d2e3f".to_owned()),
        Step::Leaving {
            networks: vec!["02:00:00:00:00:01".to_owned()],
            volumes: true,
            expected: false,
            supplied: vec!["/dev/sdb".to_owned()],
        },
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (any::<String>(), any::<bool>()).prop_map(|(name, made_parent)| Step::Volume {
            name,
            made_parent,
            maker: None
        }),
        any::<String>().prop_map(Step::NetworkDefined),
        any::<String>().prop_map(Step::NetworkStarted),
        any::<String>().prop_map(Step::SeedFiles),
        any::<Option<String>>().prop_map(|uuid| Step::Domain { uuid }),
        (proptest::collection::vec(any::<String>(), 0..3), any::<bool>()).prop_map(
            |(networks, volumes)| Step::Leaving {
                networks,
                volumes,
                expected: !volumes,
                supplied: Vec::new(),
            }
        ),
    ];
    proptest::collection::vec(step, 0..6)
}

/// Returns whether a file's content is a part of what was written.
fn says_less(read: Result<IntentRecord, InvalidIntent>, written: &IntentRecord) -> bool {
    let Ok(read) = read else { return true };
    let whole = Intent { steps: written.intent.steps.clone(), ..read.intent.clone() };
    whole == written.intent && written.intent.steps.starts_with(&read.intent.steps)
}

#[test]
fn the_format_is_text_that_people_can_read() {
    let (lines, _) = written("web-1", &sample());
    let lines: Vec<&str> = lines.iter().map(|line| std::str::from_utf8(line).unwrap()).collect();
    let begin = concat!(
        r#"{"version":1,"scope":{"libvirt_uri":"qemu:///system","store":"zfs","zpool":"tank"},"#,
        r#""verb":"CreateGuest","guest":"web-1","begun_ms":"#,
    );
    assert!(lines[0][SUM_DIGITS + 1..].starts_with(begin), "{}", lines[0]);
    let steps = lines[1..].iter().map(|line| line[SUM_DIGITS + 1..].trim_end());
    let expected = [
        concat!(
            r#"{"volume":{"name":"tank/guests/web-1/disk-0","made_parent":true,"#,
            r#""maker":"6a1f2c7e-5b1d-4f0e-9a51-0c8f6c1d2e3f"}}"#,
        ),
        r#"{"network_defined":"02:00:00:00:00:01"}"#,
        r#"{"network_started":"02:00:00:00:00:01"}"#,
        r#"{"seed_files":"6a1f2c7e-5b1d-4f0e-9a51-0c8f6c1d2e3f"}"#,
        r#"{"domain":{"uuid":null}}"#,
        r#"{"frozen":"6a1f2c7e-5b1d-4f0e-9a51-0c8f6c1d2e3f"}"#,
        concat!(
            r#"{"leaving":{"networks":["02:00:00:00:00:01"],"volumes":true,"expected":false,"#,
            r#""kept":["/dev/sdb"]}}"#,
        ),
    ];
    assert!(steps.eq(expected), "{lines:?}");
}

#[test]
fn a_delete_of_a_former_version_expects_its_volumes() {
    let step = r#"{"leaving":{"networks":[],"volumes":true}}"#;
    let expected =
        Step::Leaving { networks: vec![], volumes: true, expected: true, supplied: Vec::new() };
    assert_eq!(serde_json::from_str::<Step>(step).unwrap(), expected);
}

// The checksum was computed from the definition of FNV-1a in another language.
#[test]
fn the_checksum_is_fnv_1a_of_all_json_so_far() {
    assert_eq!(Tail::START.after(b"foobar").sum, 0x3453_16a7_168b_8506);
    let both = Tail::START.after(b"foo\nbar");
    assert_eq!(Tail::START.after(b"foo").after(b"bar").sum, both.sum);
}

#[test]
fn lost_duplicate_and_foreign_lines_are_detected() {
    let (mut lines, _) = written("web-1", &sample());
    assert!(read(&lines.concat()).is_ok());
    let lost = [&lines[..2], &lines[3..]].concat().concat();
    assert!(matches!(read(&lost), Err(InvalidIntent::Line(3))));
    let doubled = [&lines[..3], &lines[2..]].concat().concat();
    assert!(matches!(read(&doubled), Err(InvalidIntent::Line(4))));
    let (other, _) = written("web-2", &sample());
    lines[5] = other[5].clone();
    assert!(matches!(read(&lines.concat()), Err(InvalidIntent::Line(6))));
}

#[test]
fn another_version_and_another_scope_are_named() {
    let file = |content: serde_json::Value| Tail::START.line(&content).0;
    let newer = file(serde_json::json!({"version": 2, "verbs": []}));
    assert!(matches!(read(&newer), Err(InvalidIntent::Version(2))));
    let unknown = file(serde_json::json!({"version": 1, "verb": "Fly"}));
    assert!(matches!(read(&unknown), Err(InvalidIntent::Line(1))));
    let (lines, _) = written("web-1", &[]);
    for other in [
        Scope { libvirt_uri: "test:///default".to_owned(), ..scope() },
        Scope { store: "directory:/srv".to_owned(), ..scope() },
        Scope { zpool: "pond".to_owned(), ..scope() },
    ] {
        let read = IntentRecord::read(&lines.concat(), &other, &JournalLimits::default());
        let Err(InvalidIntent::Scope(found)) = read else { panic!("{read:?}") };
        assert_eq!(*found, scope());
    }
}

#[test]
fn a_step_that_is_not_known_is_not_passed_over() {
    let (lines, record) = written("web-1", &[]);
    let (step, _) = record.tail.line(&serde_json::json!({"filter_defined": "a"}));
    assert!(matches!(read(&[lines.concat(), step].concat()), Err(InvalidIntent::Line(2))));
}

#[test]
fn too_many_steps_are_refused() {
    let limits = JournalLimits { steps: 4, ..JournalLimits::default() };
    let (lines, _) = written("web-1", &sample());
    let read = |lines: &[Vec<u8>]| IntentRecord::read(&lines.concat(), &scope(), &limits);
    assert!(read(&lines[..5]).is_ok());
    assert!(matches!(read(&lines), Err(InvalidIntent::Steps(4))));
}

#[test]
fn truncated_file_yields_complete_steps_or_nothing() {
    let (lines, record) = written("web-1", &sample());
    let content = lines.concat();
    let ends: Vec<usize> = (1..=lines.len()).map(|n| lines[..n].concat().len()).collect();
    for cut in 0..=content.len() {
        let complete = ends.iter().filter(|end| **end <= cut).count();
        match read(&content[..cut]) {
            Ok(read) => {
                assert_eq!(read.intent.steps, record.intent.steps[..complete - 1], "cut at {cut}");
                assert_eq!(read.tail.bytes, u64::try_from(ends[complete - 1]).unwrap());
            }
            Err(unfit) => assert!(complete == 0, "cut at {cut}: {unfit}"),
        }
    }
}

#[test]
fn changed_byte_never_yields_an_unwritten_record() {
    crate::cost::slow("changes each byte of a record");
    let (lines, record) = written("web-1", &sample());
    let content = lines.concat();
    for at in 0..content.len() {
        for flip in 1..=u8::MAX {
            let mut changed = content.clone();
            changed[at] ^= flip;
            let read = read(&changed);
            // Only a change of the last byte looks like a torn line; every other change is
            // detected.
            assert_eq!(read.is_ok(), at == content.len() - 1, "byte {at}, flipped by {flip}");
            assert!(says_less(read, &record), "byte {at}, flipped by {flip}");
        }
    }
}

proptest! {
    #[test]
    fn written_text_is_read_back(guest in any::<String>(), steps in steps()) {
        let (lines, record) = written(&guest, &steps);
        let content = lines.concat();
        prop_assert_eq!(u64::try_from(content.len()).unwrap(), record.tail.bytes);
        prop_assert_eq!(read(&content).unwrap(), record);
    }

    #[test]
    fn no_bytes_are_an_intent_by_chance(
        content in proptest::collection::vec(any::<u8>(), 0..200),
        whole in 0_usize..3,
    ) {
        prop_assert!(read(&content).is_err());
        // Random bytes after valid lines add nothing to them, either.
        let (lines, record) = written("web-1", &sample());
        let mixed = [lines[..whole].concat(), content].concat();
        prop_assert!(says_less(read(&mixed), &record));
    }

    #[test]
    fn no_json_with_a_right_sum_makes_the_reader_panic(json in "\\PC*") {
        let line = |json: &str| {
            let sum = Tail::START.after(json.as_bytes()).sum;
            format!("{sum:016x} {json}\n").into_bytes()
        };
        prop_assert!(read(&line(&json)).is_err());
        prop_assert!(read(&line(&"[".repeat(json.len() * 100))).is_err());
    }
}
