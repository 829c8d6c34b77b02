use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use serde_json::{Value, json};

use super::*;
use crate::os::peer::{Origin, Peer};

const PATIENCE: Duration = Duration::from_secs(20);

/// The file of a test, removed at its end.
struct Log(PathBuf);

impl Log {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("mistify-audit-{}-{number}", std::process::id())))
    }

    fn open(&self) -> io::Result<Arc<Audit>> {
        Audit::open(&AuditConfig { log: Some(self.0.clone()), ..AuditConfig::default() })
            .map(Arc::new)
    }

    fn mode(&self) -> u32 {
        fs::metadata(&self.0).unwrap().permissions().mode() & 0o7777
    }

    /// Returns all lines, after the audit has written its queue.
    fn lines(&self, audit: &Audit) -> Vec<Value> {
        assert!(audit.flush(PATIENCE), "it writes what is queued");
        let text = fs::read_to_string(&self.0).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Not every test creates the file.
        let _ = fs::remove_file(&self.0);
    }
}

fn root() -> Caller {
    Caller { origin: Origin::Socket, peer: Some(Peer { uid: 0, pid: Some(7) }) }
}

fn begin(audit: &Arc<Audit>, caller: &Caller, guest: &str) -> AuditedCall {
    let target = Target { guest: Some(guest.to_owned()), ..Target::default() };
    let by = CallContext { caller, audit, inbound: None };
    AuditedCall::begin(by, "Libvirt.Run".to_owned(), Some(target), Instant::now())
}

#[test]
fn line_has_the_caller_method_and_outcome() {
    let log = Log::new();
    let audit = log.open().unwrap();
    begin(&audit, &root(), "web-1").end(&Outcome::Ok);
    let host = Caller {
        origin: Origin::Host("127.0.0.1:4711".parse().unwrap()),
        peer: Some(Peer { uid: 3_999_999_999, pid: None }),
    };
    begin(&audit, &host, "web-1").end(&Outcome::Error(&"first\nsecond"));
    let network = Caller { origin: Origin::Network("192.0.2.1:5".parse().unwrap()), peer: None };
    let by = CallContext { caller: &network, audit: &audit, inbound: None };
    let call = AuditedCall::begin(by, "ImageStore.CloneImage".to_owned(), None, Instant::now());
    call.end(&Outcome::Refused("params[0]: no"));
    begin(&audit, &root(), "web-1").end(&Outcome::Late(&"deadline: x"));

    let mut lines = log.lines(&audit);
    for line in &mut lines {
        assert!(line["time"].take().as_str().is_some_and(|time| time.ends_with('Z')));
        assert!(line["ms"].take().as_f64().is_some_and(|ms| ms < 60_000.0));
    }
    assert_eq!(
        lines,
        [
            json!({ "time": null, "method": "Libvirt.Run", "guest": "web-1", "address": "unix",
                    "uid": 0, "user": "root", "pid": 7, "outcome": "ok", "ms": null }),
            json!({ "time": null, "method": "Libvirt.Run", "guest": "web-1",
                    "address": "127.0.0.1:4711", "uid": 3_999_999_999_u32,
                    "outcome": "error", "error": "first", "ms": null }),
            json!({ "time": null, "method": "ImageStore.CloneImage", "address": "192.0.2.1:5",
                    "outcome": "refused", "error": "params[0]: no", "ms": null }),
            json!({ "time": null, "method": "Libvirt.Run", "guest": "web-1", "address": "unix",
                    "uid": 0, "user": "root", "pid": 7,
                    "outcome": "late", "error": "deadline: x", "ms": null }),
        ]
    );
}

#[test]
fn caller_text_stays_on_one_bounded_line() {
    let log = Log::new();
    let audit = log.open().unwrap();
    let hostile = format!("\n{{\"method\":\"x\"}}\n\"{}", "\u{1}".repeat(1 << 20));
    begin(&audit, &root(), &hostile).end(&Outcome::Error(&hostile.trim_start()));
    let lines = log.lines(&audit);
    assert_eq!(lines.len(), 1);
    let guest = lines[0]["guest"].as_str().unwrap();
    assert_eq!(guest.chars().count(), audit.limits.name_chars + 1, "and a mark");
    assert!(hostile.starts_with(guest.trim_end_matches('…')));
    assert!(fs::metadata(&log.0).unwrap().len() < 8192);
}

#[test]
fn a_call_that_panics_is_written_down() {
    let log = Log::new();
    let audit = log.open().unwrap();
    let caller = root();
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let _call = begin(&audit, &caller, "web-1");
        panic::resume_unwind(Box::new("as a verb would"));
    }));
    assert!(outcome.is_err());
    assert_eq!(log.lines(&audit)[0]["outcome"], "panic");
}

#[test]
fn new_file_is_private_existing_one_is_unchanged() {
    let log = Log::new();
    let first = log.open().unwrap();
    begin(&first, &root(), "a").end(&Outcome::Ok);
    assert_eq!((log.mode(), log.lines(&first).len()), (0o600, 1));
    fs::set_permissions(&log.0, Permissions::from_mode(0o640)).unwrap();
    let second = log.open().unwrap();
    begin(&second, &root(), "b").end(&Outcome::Ok);
    assert_eq!((log.mode(), log.lines(&second).len()), (0o640, 2));
}

#[test]
fn irregular_file_is_refused() {
    let log = Log::new();
    symlink("/dev/null", &log.0).unwrap();
    assert!(log.open().is_err(), "a link");
    for path in ["/dev/null", "/tmp", "/absent/audit"] {
        let config = AuditConfig { log: Some(path.into()), ..AuditConfig::default() };
        assert!(Audit::open(&config).is_err(), "{path}");
    }
}

/// A file system that hangs until the test releases it.
struct Hanging {
    started: Sender<()>,
    go: Receiver<()>,
    written: Arc<parking_lot::Mutex<Vec<u8>>>,
}

impl io::Write for Hanging {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.started.send(()).map_err(io::Error::other)?;
        let _ = self.go.recv();
        self.written.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes an audit into a file that hangs; returns the signal that it hangs, its release, and its
/// content.
#[expect(clippy::type_complexity, reason = "parts of one fixture, each used by name")]
fn hanging(
    limits: &AuditConfig,
) -> (Arc<Audit>, Receiver<()>, Sender<()>, Arc<parking_lot::Mutex<Vec<u8>>>) {
    let ((begin, started), (go, gone)) = (unbounded(), bounded(0));
    let written = Arc::new(parking_lot::Mutex::default());
    let file = Hanging { started: begin, go: gone, written: Arc::clone(&written) };
    let sink = Sink::new("/absent/audit".into(), Box::new(file));
    let audit =
        Arc::new(Audit::start(limits, Some(sink), |_| Ok(Some("somebody".to_owned()))).unwrap());
    (audit, started, go, written)
}

fn guests(written: &[u8]) -> Vec<String> {
    let lines = written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let records = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
    records.map(|record| record["guest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_hanging_file_costs_records_and_no_call() {
    let limits = AuditConfig { queue: 2, ..AuditConfig::default() };
    let (audit, started, go, written) = hanging(&limits);
    begin(&audit, &root(), "hangs").end(&Outcome::Ok);
    started.recv_timeout(PATIENCE).expect("the writer hangs");
    // Each of these would wait forever.
    for guest in ["a", "b", "c", "d", "e"] {
        begin(&audit, &root(), guest).end(&Outcome::Ok);
    }
    audit.reopen();
    assert!(!audit.flush(Duration::ZERO));
    let lost = || audit.writer.as_ref().unwrap().lost();
    assert_eq!(lost(), 3);
    drop(go);
    assert!(audit.flush(PATIENCE));
    begin(&audit, &root(), "after").end(&Outcome::Ok);
    assert!(audit.flush(PATIENCE));
    assert_eq!(guests(&written.lock()), ["hangs", "a", "b", "after"]);
    assert_eq!(lost(), 3, "the others are written");
}

#[test]
fn a_file_that_fails_counts_each_record_as_lost() {
    let log = Log::new();
    fs::write(&log.0, "").unwrap();
    // Opened for reading only.
    let file = fs::File::open(&log.0).unwrap();
    let sink = Sink::new(log.0.clone(), Box::new(file));
    let audit = Arc::new(Audit::start(&AuditConfig::default(), Some(sink), |_| Ok(None)).unwrap());
    (0..3).for_each(|_| drop(begin(&audit, &root(), "a").end(&Outcome::Ok)));
    assert!(audit.flush(PATIENCE));
    assert_eq!(audit.writer.as_ref().unwrap().lost(), 3);
}

#[test]
fn reopen_follows_the_earlier_records() {
    let log = Log::new();
    let audit = log.open().unwrap();
    let old = Log::new();
    for guest in ["a", "b"] {
        begin(&audit, &root(), guest).end(&Outcome::Ok);
    }
    // Only after the first record is written; otherwise the file would not exist for the rename.
    assert_eq!(log.lines(&audit).len(), 2);
    fs::rename(&log.0, &old.0).unwrap();
    begin(&audit, &root(), "c").end(&Outcome::Ok);
    audit.reopen();
    begin(&audit, &root(), "d").end(&Outcome::Ok);
    let new: Vec<_> = log.lines(&audit).into_iter().map(|line| line["guest"].clone()).collect();
    assert_eq!((old.lines(&audit).len(), new), (3, vec![json!("d")]));
}

#[test]
fn a_reopen_is_not_lost_when_the_queue_is_full() {
    let limits = AuditConfig { queue: 1, ..AuditConfig::default() };
    let ((begin_write, started), (go, gone)) = (unbounded(), bounded(0));
    let file = Hanging { started: begin_write, go: gone, written: Arc::default() };
    let log = Log::new();
    let sink = Sink::new(log.0.clone(), Box::new(file));
    let audit = Arc::new(Audit::start(&limits, Some(sink), |_| Ok(None)).unwrap());
    begin(&audit, &root(), "hangs").end(&Outcome::Ok);
    started.recv_timeout(PATIENCE).expect("the writer hangs");
    begin(&audit, &root(), "fills").end(&Outcome::Ok);
    audit.reopen();
    drop(go);
    assert!(audit.flush(PATIENCE));
    begin(&audit, &root(), "after").end(&Outcome::Ok);
    let guests: Vec<_> = log.lines(&audit).into_iter().map(|line| line["guest"].clone()).collect();
    assert!(guests.ends_with(&[json!("after")]), "{guests:?}");
}

#[test]
fn a_hanging_user_database_costs_names_and_no_call() {
    let log = Log::new();
    let (go, gone) = bounded::<()>(0);
    let name_of = move |_| {
        let _ = gone.recv();
        Ok(Some("late".to_owned()))
    };
    let limits = AuditConfig { user_wait: Duration::from_millis(1), ..AuditConfig::default() };
    let sink = Sink::open(&log.0).unwrap();
    let audit = Arc::new(Audit::start(&limits, Some(sink), name_of).unwrap());
    for guest in ["a", "b"] {
        begin(&audit, &root(), guest).end(&Outcome::Ok);
    }
    for line in log.lines(&audit) {
        assert_eq!((&line["uid"], line.get("user")), (&json!(0), None), "{line}");
    }
    drop(go);
    let until = Instant::now() + PATIENCE;
    loop {
        begin(&audit, &root(), "c").end(&Outcome::Ok);
        if log.lines(&audit).last().is_some_and(|line| line["user"] == "late") {
            return;
        }
        assert!(Instant::now() < until, "the name is used once it is known");
        thread::yield_now();
    }
}
