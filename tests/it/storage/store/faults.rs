//! What the zfs store makes of a `zfs` that fails, by a stand-in: a shell script.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use mistify_libvirt::config::StorageLimits;
use mistify_libvirt::storage::{
    Action, AdoptionRule, Error, Id, ImageSource, InUse, Maker, NewerSnapshots, PoolName,
    Recursion, Space, VolumeSelection, VolumeSpec, Volumes, ZfsStore,
};

use crate::harness::support::{Scratch, wait_until};

/// Longer than a loaded machine needs for any of these calls, deadline and grace together; what hangs
/// here hangs for 1,000 s.
const LONG: Duration = Duration::from_secs(120);
/// The time limit of a command that must be late.
const SHORT: Duration = Duration::from_secs(1);

/// A store whose `zfs` is a script. The script knows its directory as `$HERE`.
struct StandIn {
    store: ZfsStore,
    scratch: Scratch,
}

impl StandIn {
    fn new(script: &str) -> Self {
        Self::with(script, limits())
    }

    fn with(script: &str, limits: StorageLimits) -> Self {
        let scratch = Scratch::new();
        let here = scratch.path().display();
        let text = format!("#!/bin/sh\nHERE='{here}'\necho \"$@\" >>$HERE/calls\n{script}\n");
        let program = scratch.path().join("zfs");
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let pool = PoolName::parse("tank").unwrap();
        Self { store: ZfsStore::with_program(pool, limits, program), scratch }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.file("calls")).unwrap_or_default();
        calls.lines().map(|line| line.split(" -o").next().unwrap().to_owned()).collect()
    }

    fn wanted(&self) -> VolumeSpec {
        let guest = Id::parse("web-1").unwrap();
        VolumeSpec {
            volume: self.store.pool().guest_disk(&guest, 0).unwrap(),
            image: None,
            size_mib: 8,
            space: Space::Reserved,
            owner: Some(guest),
            maker: None,
            adoption: AdoptionRule::Any,
            unmarked: false,
            content: None,
        }
    }
}

/// Patient with a loaded machine, and short where what is waited for never comes.
fn limits() -> StorageLimits {
    StorageLimits {
        command: LONG,
        kill: LONG,
        device: Duration::from_millis(200),
        busy: Duration::from_millis(300),
        undo: LONG,
        progress: LONG,
        ..StorageLimits::default()
    }
}

fn soon() -> Instant {
    Instant::now() + LONG
}

/// Lines as `zfs list` prints them for the agent: the pool, its directories, and no guest.
const POOL: &str = "\
list_pool() {
  printf 'tank\\tfilesystem\\t1\\t99999999\\t-\\t-\\t0\\t1\\t1\\t-\\t1\\tnone\\t-\\t-\\t-\\t-\\t-\\n'
  printf 'tank/guests\\tfilesystem\\t1\\t99999999\\t-\\t-\\t0\\t1\\t1\\t-\\t2\\tnone\\t-\\t-\\t-\\t-\\t-\\n'
}
list_volume() {
  printf 'tank/guests/web-1\\tfilesystem\\t1\\t9\\t-\\t-\\t0\\t1\\t1\\t-\\t3\\tnone\\t-\\t-\\t-\\t-\\t-\\n'
  printf 'tank/guests/web-1/disk-0\\tvolume\\t1\\t9\\t8388608\\t8192\\t8\\t1\\t1\\t-\\t4\\t-\\t-\\t-\\t-\\t-\\tweb-1\\n'
}
# What is asked for: below the guest, or all.
list() {
  case \"$*\" in *' -r '*) ;; *) list_pool;; esac
  [ -e $HERE/made ] || absent
  list_volume
}
absent() { echo \"cannot open 'it': dataset does not exist\" >&2; exit 1; }
";

/// Runs every call that reaches `zfs` and gives their errors.
fn all_calls(zfs: &StandIn) -> Vec<Error> {
    let (store, volume) = (&zfs.store, zfs.wanted().volume);
    let guest = Id::parse("web-1").unwrap();
    let snapshot = volume.snapshot("monday").unwrap();
    let fill = ImageSource::Filled { size_bytes: 1, fill: &mut |_| Ok(()) };
    vec![
        store.usage(soon()).unwrap_err(),
        store.prepare(soon()).unwrap_err(),
        store.plan(&[zfs.wanted()], soon()).unwrap_err(),
        store
            .destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), soon())
            .unwrap_err(),
        store.grow(&volume, 9, soon()).unwrap_err(),
        store.volumes(None, soon()).unwrap_err(),
        store.volume(&volume, soon()).unwrap_err(),
        store.delete(&volume, Recursion::Below, &InUse::default(), soon()).unwrap_err(),
        store.create_snapshot(&snapshot, Recursion::Below, &Maker::call(), soon()).unwrap_err(),
        store.snapshots(None, soon()).unwrap_err(),
        store.snapshot(&snapshot, soon()).unwrap_err(),
        store.delete_snapshot(&snapshot, Recursion::Itself, soon()).unwrap_err(),
        store.rollback(&snapshot, NewerSnapshots::Keep, soon()).unwrap_err(),
        store.send(&snapshot, soon()).err().unwrap(),
        store.images(soon()).unwrap_err(),
        store.image(&guest, soon()).unwrap_err(),
        store.import_image(&guest, fill, &mut |_| {}).unwrap_err(),
        store.delete_image(&guest, soon()).unwrap_err(),
    ]
}

#[test]
fn without_zfs_every_call_says_so() {
    let zfs = StandIn::new("");
    fs::remove_file(zfs.file("zfs")).unwrap();
    for error in all_calls(&zfs) {
        assert_eq!(error.to_string(), "zfs is not installed");
    }
}

#[test]
fn without_the_pool_every_call_says_so() {
    let zfs = StandIn::new("echo \"cannot open 'tank': dataset does not exist\" >&2; exit 1");
    for error in all_calls(&zfs) {
        assert_eq!(error.to_string(), "pool tank does not exist");
    }
}

#[test]
fn other_zfs_refusals_are_reported_verbatim() {
    for text in [
        "cannot open 'tank': I/O error",
        "cannot open 'tank': permission denied",
        "The ZFS modules are not loaded.",
        "/dev/zfs and /proc/self/mounts are required.",
    ] {
        let zfs = StandIn::new(&format!("echo \"{text}\" >&2; exit 1"));
        for error in all_calls(&zfs) {
            assert!(matches!(&error, Error::Failed { .. }), "{error:?}");
            assert!(error.to_string().ends_with(text), "{error}");
        }
    }
}

#[test]
fn a_command_that_hangs_is_killed_at_its_deadline() {
    let script = "echo $$ >$HERE/pid; exec sleep 1000";
    let zfs = StandIn::new(script);
    let late = |time: Duration| {
        let begin = Instant::now();
        let error = zfs.store.volumes(None, begin + time).unwrap_err();
        assert!(matches!(error, Error::Late { .. }), "{error}");
        assert!(begin.elapsed() >= time && begin.elapsed() < LONG);
        assert!(error.to_string().starts_with("deadline: zfs list tank "), "{error}");
        // None where a loaded machine did not start it by then.
        fs::read_to_string(zfs.file("pid")).ok()
    };
    let pid = (0..5).find_map(|power| late(SHORT * (1 << power))).expect("it starts");
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "it is gone and reaped");

    // The bound of one command comes first where the caller has much time.
    let command = Duration::from_millis(400);
    let zfs = StandIn::with(script, StorageLimits { command, ..limits() });
    let begin = Instant::now();
    assert!(matches!(zfs.store.volumes(None, soon()), Err(Error::Late { .. })));
    assert!(begin.elapsed() >= command && begin.elapsed() < LONG);
}

#[test]
fn hung_command_with_closed_outputs_is_killed() {
    let zfs = StandIn::new("exec sleep 1000 >/dev/null 2>&1");
    let late = zfs.store.volumes(None, Instant::now() + SHORT);
    assert!(matches!(late, Err(Error::Late { .. })), "{late:?}");
}

#[test]
fn outputs_held_open_by_others_delay_nothing() {
    let zfs = StandIn::new(&format!("{POOL} sleep 1000 & echo $! >$HERE/pid; list_pool; exit 0"));
    let begin = Instant::now();
    assert_eq!(zfs.store.usage(soon()).unwrap().free_bytes, 99_999_999);
    assert!(begin.elapsed() < LONG);
    let pid: u32 = fs::read_to_string(zfs.file("pid")).unwrap().trim().parse().unwrap();
    crate::harness::support::signal(pid, "KILL");
}

#[test]
fn command_killed_by_others_is_reported() {
    let zfs = StandIn::new("kill -KILL $$");
    let error = zfs.store.volumes(None, soon()).unwrap_err();
    assert!(error.to_string().ends_with("signal: 9 (SIGKILL)"), "{error}");
}

#[test]
fn garbage_is_reported_with_its_first_line() {
    for (script, line) in [
        ("echo 'what is this'", "what is this"),
        ("printf 'tank\\tfilesystem\\t1\\tmuch\\n'", "tank\\tfilesystem\\t1\\tmuch"),
        ("printf '\\377\\376\\n'", "\u{fffd}\u{fffd}"),
        ("head -c 9000000 /dev/zero", "\\0\\0\\0"),
    ] {
        let zfs = StandIn::new(script);
        let error = zfs.store.volumes(None, soon()).unwrap_err();
        assert!(matches!(error, Error::Garbled { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(line) && text.len() < 800, "{script}: {text}");
    }
}

#[test]
fn ten_mebibytes_of_errors_are_read_and_truncated() {
    let zfs = StandIn::new(
        "echo first >&2; head -c 10485760 /dev/zero | tr '\\0' x >&2; echo done >$HERE/done; exit 1",
    );
    let error = zfs.store.volumes(None, soon()).unwrap_err();
    assert!(matches!(&error, Error::Failed { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(": first") && text.len() < 20_000, "{} bytes", text.len());
    assert!(zfs.file("done").exists(), "it was not blocked by a full pipe");
}

/// What making a volume answers when `zfs create` says `text`.
fn refused(text: &str, after: &str) -> (Error, Vec<String>) {
    let zfs = StandIn::new(&format!(
        "{POOL}
        case $1 in
          list) list \"$@\";;
          create) {after} echo \"{text}\" >&2; exit 1;;
          destroy) rm $HERE/made;;
        esac"
    ));
    let error = zfs.store.provision(&zfs.wanted(), soon()).unwrap_err();
    (error, zfs.calls())
}

#[test]
fn refused_create_is_explained_by_a_second_listing() {
    for text in [
        "cannot create 'tank/guests/web-1/disk-0': out of space",
        "cannot create 'tank/guests/web-1/disk-0': size is greater than available space",
    ] {
        let (error, calls) = refused(text, "");
        assert_eq!(error.to_string(), "no space left on device", "{calls:?}");
    }
    let (error, calls) = refused("cannot create 'it': dataset already exists", "touch $HERE/made;");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    assert!(!calls.iter().any(|call| call.starts_with("destroy")), "it is not ours: {calls:?}");
    let (error, _) = refused("cannot create 'it': permission denied", "");
    assert!(error.to_string().ends_with("permission denied"), "{error}");
}

#[test]
fn volumes_created_before_a_failure_are_undone() {
    let (error, calls) = refused("internal error", "touch $HERE/made;");
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    assert_eq!(calls.last().unwrap(), "destroy -r -- tank/guests/web-1");

    for (create, time, expected) in [
        // Made and then stuck, past the deadline; made, and its device never comes.
        ("exec sleep 1000", SHORT, "deadline: zfs create tank/guests/web-1/disk-0 "),
        ("exit 0", LONG, "no block device /dev/zvol/tank/guests/web-1/disk-0 after "),
    ] {
        let zfs = StandIn::new(&format!(
            "{POOL}
            case $1 in
              list) list \"$@\";;
              create) touch $HERE/made; {create};;
              destroy) rm $HERE/made;;
            esac"
        ));
        let plans = zfs.store.plan(&[zfs.wanted()], soon()).unwrap();
        let error = zfs.store.make(&plans[0], Instant::now() + time).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(!zfs.file("made").exists(), "{:?}", zfs.calls());
    }
}

#[test]
fn the_commands_of_a_plan_are_those_that_are_run() {
    let script = format!(
        "{POOL}
        case $1 in
          list) list \"$@\";;
          create) touch $HERE/made;;
          destroy) rm $HERE/made;;
        esac"
    );
    let zfs = StandIn::new(&script);
    let run = |verb: &str| {
        let calls = fs::read_to_string(zfs.file("calls")).unwrap();
        let calls = calls.lines().filter(|call| call.starts_with(verb));
        calls.map(|call| format!("zfs {call}")).collect::<Vec<_>>()
    };
    let commands = |actions: &[Action]| {
        actions.iter().map(|action| action.command.join(" ")).collect::<Vec<_>>()
    };
    let plans = zfs.store.plan(&[zfs.wanted()], soon()).unwrap();
    let making = commands(&zfs.store.making(&plans[0]));
    assert_eq!(run("create"), [""; 0]);
    // Its device never comes: then what was made is destroyed, as a guest's volumes are.
    zfs.store.make(&plans[0], soon()).unwrap_err();
    assert_eq!((run("create"), making.len()), (making, 1));
    let guest = Id::parse("web-1").unwrap();
    fs::write(zfs.file("made"), "").unwrap();
    let removing = zfs.store.destroying_guest(&guest, &InUse::default(), soon()).unwrap();
    assert_eq!(removing.actions[0].with, ["tank/guests/web-1/disk-0"]);
    assert!(zfs.file("made").exists());
    let before = run("destroy").len();
    zfs.store.destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), soon()).unwrap();
    assert_eq!(run("destroy")[before..], commands(&removing.actions));
}

#[test]
fn failed_undo_is_named() {
    let zfs = StandIn::new(&format!(
        "{POOL}
        case $1 in
          list) list \"$@\";;
          create) touch $HERE/made; exit 0;;
          destroy) echo \"cannot destroy '$3': dataset is busy\" >&2; exit 1;;
        esac"
    ));
    let error = zfs.store.provision(&zfs.wanted(), soon()).unwrap_err();
    assert!(matches!(error, Error::NotUndone { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("left behind: tank/guests/web-1/disk-0 is in use"), "{text}");
}

#[test]
fn a_busy_volume_is_tried_again_until_patience_ends() {
    let script = |tries: u32| {
        format!(
            "{POOL}
            case $1 in
              list) [ -e $HERE/gone ] && absent; list_volume;;
              destroy)
                echo >>$HERE/tries
                [ $(wc -l <$HERE/tries) -gt {tries} ] && {{ touch $HERE/gone; exit 0; }}
                echo \"cannot destroy '$3': dataset is busy\" >&2; exit 1;;
            esac"
        )
    };
    let guest = Id::parse("web-1").unwrap();
    let zfs = StandIn::with(&script(3), StorageLimits { busy: LONG, ..limits() });
    let removal = zfs
        .store
        .destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), soon())
        .unwrap();
    assert_eq!(removal.complete().unwrap(), ["tank/guests/web-1/disk-0"]);

    let zfs = StandIn::new(&script(1000));
    let begin = Instant::now();
    let removal = zfs
        .store
        .destroy_guest(&guest, VolumeSelection::Marked, &InUse::default(), soon())
        .unwrap();
    let error = removal.complete().unwrap_err();
    let busy = "cannot destroy datasets: tank/guests/web-1/disk-0 is in use";
    assert_eq!(error.to_string(), busy);
    assert!(begin.elapsed() < LONG);
}

#[test]
fn a_stream_that_stops_or_fails_is_no_end() {
    use std::io::Read;
    for (send, expected) in [
        ("echo some; exec sleep 1000", "deadline: "),
        (
            "echo some; echo 'cannot send: broken' >&2; exit 1",
            "exit status: 1: cannot send: broken",
        ),
        ("echo some; exit 0", ""),
    ] {
        let snapshot = "printf 'tank/a@b\\tsnapshot\\t1\\t-\\t9\\t-\\t-\\t1\\t1\\t0\\t4\\t-\\t-\\t-\\t-\\t-\\t-\\n'";
        let script = format!("case $1 in list) {snapshot};; send) {send};; esac");
        // Time enough for a loaded machine to print the first line.
        let progress = if expected == "deadline: " { 3 * SHORT } else { LONG };
        let zfs = StandIn::with(&script, StorageLimits { progress, ..limits() });
        let name = zfs.store.pool().snapshot("a@b").unwrap();
        let mut text = String::new();
        let outcome = zfs.store.send(&name, soon()).unwrap().read_to_string(&mut text);
        assert_eq!(text, "some\n");
        match outcome {
            Ok(_) => assert!(expected.is_empty()),
            Err(error) => {
                assert!(!expected.is_empty() && error.to_string().contains(expected), "{error}");
            }
        }
    }
}

#[test]
fn a_stream_that_is_dropped_ends_its_command() {
    let snapshot = "printf 'tank/a@b\\tsnapshot\\t1\\t-\\t9\\t-\\t-\\t1\\t1\\t0\\t4\\t-\\t-\\t-\\t-\\t-\\t-\\n'";
    let zfs = StandIn::new(&format!(
        "case $1 in list) {snapshot};; send) echo $$ >$HERE/pid; exec sleep 1000;; esac"
    ));
    let name = zfs.store.pool().snapshot("a@b").unwrap();
    let stream = zfs.store.send(&name, soon()).unwrap();
    let pid = || fs::read_to_string(zfs.file("pid")).unwrap_or_default();
    wait_until("it runs", LONG, || pid().ends_with('\n'));
    drop(stream);
    assert!(!Path::new("/proc").join(pid().trim()).exists());
}

/// A pool that shows what an import left whose process has ended. A receive lasts until `$HERE/go` is there.
const DEAD_IMPORT: &str = r"
case $1 in
list)
  printf 'tank\tfilesystem\t1\t99999999\t-\t-\t0\t1\t1\t-\t1\tnone\t-\t-\t-\t-\t-\n'
  for it in images guests; do
    printf 'tank/%s\tfilesystem\t1\t99999999\t-\t-\t0\t1\t1\t-\t2\tnone\t-\t-\t-\t-\t-\n' $it
  done
  [ -e $HERE/gone ] ||
    printf 'tank/images/a\tvolume\t1\t9\t1048576\t8192\t0\t1\t1\t-\t4\t-\t-\t-\t-\t-\t@import:0:0:0\n'
  ;;
destroy) touch $HERE/gone;;
receive) until [ -e $HERE/go ]; do sleep 0.05; done; exit 1;;
*) exit 1;;
esac";

#[test]
fn no_import_destroys_the_image_of_another_one() {
    let locks = Scratch::new();
    let locks = locks.path().join("locks");
    fs::write(&locks, "").unwrap();
    let stand_in = || {
        let StandIn { store, scratch } = StandIn::new(DEAD_IMPORT);
        StandIn { store: store.with_locks(locks.clone()), scratch }
    };
    // Both list what the same import has left.
    let (first, second) = (stand_in(), stand_in());
    let id = |text: &str| Id::parse(text).unwrap();
    let file = File::open("/dev/null").unwrap();
    let import = |zfs: &StandIn, id: Id| {
        zfs.store.import_image(&id, ImageSource::ZfsStream(&file), &mut |_| {}).unwrap_err()
    };
    fs::write(second.file("go"), "").unwrap();
    thread::scope(|threads| {
        let running = threads.spawn(|| import(&first, id("a")));
        wait_until("the first receives", LONG, || {
            first.calls().iter().any(|call| call.starts_with("receive"))
        });
        for error in
            [import(&second, id("a")), second.store.delete_image(&id("a"), soon()).unwrap_err()]
        {
            assert!(matches!(error, Error::Busy { .. }), "{error}");
        }
        second.store.prepare(soon()).unwrap();
        assert!(!second.file("gone").exists(), "{:?}", second.calls());
        let other = import(&second, id("b"));
        assert!(!matches!(other, Error::Busy { .. }), "another id: {other}");
        fs::write(first.file("go"), "").unwrap();
        running.join().unwrap();
    });
    import(&second, id("a"));
    assert!(second.file("gone").exists(), "the lock is free again");
}
