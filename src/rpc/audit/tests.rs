use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::os::peer::{Origin, Peer};

/// A file of one test, removed at its end.
struct Log(PathBuf);

impl Log {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("mistify-audit-{}-{number}", std::process::id())))
    }

    fn open(&self) -> io::Result<Audit> {
        Audit::open(&AuditConfig { log: Some(self.0.clone()), ..AuditConfig::default() })
    }

    fn mode(&self) -> u32 {
        fs::metadata(&self.0).unwrap().permissions().mode() & 0o7777
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.0).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Not every test makes it.
        let _ = fs::remove_file(&self.0);
    }
}

fn root() -> Caller {
    Caller { origin: Origin::Socket, peer: Some(Peer { uid: 0, pid: Some(7) }) }
}

fn begin<'a>(audit: &'a Audit, caller: &'a Caller, guest: &str) -> Call<'a> {
    let subject = Subject { guest: Some(guest.to_owned()), ..Subject::default() };
    let by = Behalf { caller, audit };
    Call::begin(by, "Libvirt.Run".to_owned(), Some(subject), Instant::now())
}

#[test]
fn a_line_says_who_what_and_how_it_went() {
    let log = Log::new();
    let audit = log.open().unwrap();
    begin(&audit, &root(), "web-1").end(&Outcome::Ok);
    let host = Caller {
        origin: Origin::Host("127.0.0.1:4711".parse().unwrap()),
        peer: Some(Peer { uid: 3_999_999_999, pid: None }),
    };
    begin(&audit, &host, "web-1").end(&Outcome::Error(&"first\nsecond"));
    let network = Caller { origin: Origin::Network("192.0.2.1:5".parse().unwrap()), peer: None };
    let by = Behalf { caller: &network, audit: &audit };
    let call = Call::begin(by, "ImageStore.CloneImage".to_owned(), None, Instant::now());
    call.end(&Outcome::Refused("params[0]: no"));
    begin(&audit, &root(), "web-1").end(&Outcome::Late(&"deadline: x"));

    let mut lines = log.lines();
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
fn what_a_caller_writes_stays_on_one_line_of_bounded_length() {
    let log = Log::new();
    let audit = log.open().unwrap();
    let hostile = format!("\n{{\"method\":\"x\"}}\n\"{}", "\u{1}".repeat(1 << 20));
    begin(&audit, &root(), &hostile).end(&Outcome::Error(&hostile.trim_start()));
    let lines = log.lines();
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
    assert_eq!(log.lines()[0]["outcome"], "panic");
}

#[test]
fn a_new_file_is_for_its_owner_alone_and_another_keeps_its_mode_and_content() {
    let log = Log::new();
    begin(&log.open().unwrap(), &root(), "a").end(&Outcome::Ok);
    assert_eq!(log.mode(), 0o600);
    fs::set_permissions(&log.0, Permissions::from_mode(0o640)).unwrap();
    begin(&log.open().unwrap(), &root(), "b").end(&Outcome::Ok);
    assert_eq!((log.mode(), log.lines().len()), (0o640, 2));
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let log = Log::new();
    symlink("/dev/null", &log.0).unwrap();
    assert!(log.open().is_err(), "a link");
    for path in ["/dev/null", "/tmp", "/absent/audit"] {
        let config = AuditConfig { log: Some(path.into()), ..AuditConfig::default() };
        assert!(Audit::open(&config).is_err(), "{path}");
    }
}

#[test]
fn names_of_users_are_asked_for_once_in_a_while_and_few_are_kept() {
    let limits = AuditConfig { users: 4, ..AuditConfig::default() };
    let audit = Audit { limits, ..Audit::default() };
    assert_eq!(audit.user_name(0).as_deref(), Some("root"));
    audit.names.lock().insert(0, (Instant::now(), Some("kept".to_owned())));
    assert_eq!(audit.user_name(0).as_deref(), Some("kept"));
    for uid in 3_999_999_000..3_999_999_010 {
        assert_eq!(audit.user_name(uid), None);
        assert!(audit.names.lock().len() <= 4);
    }
    let forgetful =
        Audit { limits: AuditConfig { user: Duration::ZERO, ..audit.limits }, ..Audit::default() };
    forgetful.names.lock().insert(0, (Instant::now(), Some("kept".to_owned())));
    assert_eq!(forgetful.user_name(0).as_deref(), Some("root"));
}
