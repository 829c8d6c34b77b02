use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::ops::AgentUnavailable;
use crate::pool::QuotaExceeded;

#[test]
fn every_kind_has_one_code_of_its_own() {
    for (index, row) in TABLE.iter().enumerate() {
        assert!(std::ptr::eq(row.kind.row(), row), "{}", row.name);
        assert!(TABLE[..index].iter().all(|other| other.code != row.code), "{}", row.code);
        let standard = [-32700, -32600, -32601, -32602, -32603].contains(&row.code);
        assert_eq!(standard, index < 5, "{}", row.code);
        assert!(standard || (-32099..=-32000).contains(&row.code), "{}", row.code);
    }
    // The last of the enum, whose number shows that the table has all.
    assert_eq!(Kind::TooLarge as usize + 1, TABLE.len());
}

#[test]
fn method_error_has_retry_hint_and_libvirt_numbers() {
    let lost = |code| libvirt::Error {
        code,
        domain: libvirt::ErrorDomain::RPC,
        message: "gone".to_owned(),
        call: "virDomainCreate",
    };
    let target = Target { guest: Some("web-1".to_owned()), ..Target::default() };
    let cause = Box::new(Error::Libvirt(lost(Code::SYSTEM_ERROR)));
    let step = Error::Step { step: "define domain web-1".into(), cause, left: Vec::new() };
    let failure = serde_json::to_value(Failure::of(&step, &target)).unwrap();
    let expected = serde_json::json!({
        "code": -32009,
        "message": "cannot define domain web-1: gone; all earlier steps are undone",
        "data": {"libvirt_code": 38, "libvirt_domain": 7, "retryable": true, "guest": "web-1"},
    });
    assert_eq!(failure, expected);
    assert_eq!(Kind::of(&Error::Libvirt(lost(Code::NO_DOMAIN))), Kind::NotFound);
    assert_eq!(Kind::of(&Error::Libvirt(lost(Code::OPERATION_INVALID))), Kind::State);
    let full = storage::Error::NoSpace { needed_bytes: 2, free_bytes: 1 };
    let failure = serde_json::to_value(Failure::of(&full.into(), &Target::default())).unwrap();
    assert_eq!(
        (&failure["code"], &failure["data"]["retryable"]),
        (&(-32008).into(), &false.into())
    );
    assert_eq!(failure["data"]["libvirt_code"], serde_json::Value::Null);
}

fn refused(code: Code) -> Error {
    let domain = libvirt::ErrorDomain::REMOTE;
    Error::Libvirt(libvirt::Error { code, domain, message: "no".to_owned(), call: "virDomain" })
}

#[test]
fn libvirt_refusals_have_actionable_kinds() {
    for (code, kind) in [
        (Code::RPC, Kind::Unavailable),
        (Code::NO_CONNECT, Kind::Unavailable),
        (Code::NO_NETWORK, Kind::NotFound),
        (Code::NO_DOMAIN_METADATA, Kind::NotFound),
        (Code::DOM_EXIST, Kind::Exists),
        (Code::NETWORK_EXIST, Kind::Exists),
        (Code::RESOURCE_BUSY, Kind::InUse),
        (Code::OPERATION_TIMEOUT, Kind::Busy),
        (Code::OPERATION_DENIED, Kind::Denied),
        (Code::ACCESS_DENIED, Kind::Denied),
        (Code::AUTH_FAILED, Kind::Denied),
        (Code::NO_SUPPORT, Kind::Unsupported),
        (Code::OPERATION_UNSUPPORTED, Kind::Unsupported),
        (Code::ARGUMENT_UNSUPPORTED, Kind::Unsupported),
        (Code::CONFIG_UNSUPPORTED, Kind::Unsupported),
        (Code::INVALID_ARG, Kind::Params),
        (Code::XML_ERROR, Kind::Params),
        (Code::XML_DETAIL, Kind::Params),
        (Code::OPERATION_FAILED, Kind::Failed),
    ] {
        assert_eq!(Kind::of(&refused(code)), kind, "{code:?}");
    }
}

#[test]
fn storage_and_disk_refusals_have_actionable_kinds() {
    let io = |kind: io::ErrorKind| storage::Error::Io { what: String::new(), error: kind.into() };
    let name = || "mistify/images/a".to_owned();
    let (command, waited) = ("zfs list".to_owned(), Duration::from_secs(1));
    let failed = storage::Error::Failed {
        command: command.clone(),
        status: "exit status: 1".to_owned(),
        stderr: String::new(),
    };
    for (error, kind) in [
        (storage::Error::Invalid(String::new()), Kind::Params),
        (storage::Error::NotFound { name: name() }, Kind::NotFound),
        (storage::Error::Exists { name: name() }, Kind::Exists),
        (storage::Error::Busy { name: name(), holders: Vec::new() }, Kind::InUse),
        (storage::Error::HasClones { name: name(), clones: Vec::new() }, Kind::InUse),
        (storage::Error::HasNewer { name: name() }, Kind::InUse),
        (storage::Error::Left(Vec::new()), Kind::Left),
        (storage::Error::NoStore, Kind::Unsupported),
        (storage::Error::NotInstalled, Kind::Unavailable),
        (storage::Error::PoolMissing { pool: name() }, Kind::Unavailable),
        (storage::Error::Hung { commands: 8 }, Kind::Unavailable),
        (storage::Error::Late { command, waited }, Kind::Deadline),
        (storage::Error::NoDevice { path: name().into(), waited }, Kind::Failed),
        (failed, Kind::Failed),
        (io(io::ErrorKind::PermissionDenied), Kind::Denied),
        (io(io::ErrorKind::StorageFull), Kind::NoSpace),
        (io(io::ErrorKind::QuotaExceeded), Kind::NoSpace),
        (io(io::ErrorKind::NotADirectory), Kind::Failed),
    ] {
        let text = error.to_string();
        assert_eq!(Kind::of(&error.into()), kind, "{text}");
    }
}

#[test]
fn agent_refusals_have_actionable_kinds() {
    let full = || io::Error::from(io::ErrorKind::StorageFull);
    let (verb, path) = ("write", PathBuf::new());
    for (error, kind) in [
        (journal::Error::Full { files: 1 }.into(), Kind::Busy),
        (journal::Error::Steps { steps: 1 }.into(), Kind::Failed),
        (journal::Error::Size { bytes: 1 }.into(), Kind::Failed),
        (journal::Error::Io { verb, path: path.clone(), error: full() }.into(), Kind::NoSpace),
        (jobs::Error::Closed.into(), Kind::Busy),
        (jobs::Error::Size { bytes: 1 }.into(), Kind::Params),
        (jobs::Error::Io { verb, path, error: full() }.into(), Kind::NoSpace),
        (pool::Error::Stopping.into(), Kind::Busy),
        (pool::Error::Panicked { what: String::new() }.into(), Kind::Internal),
        (Error::Silent { age: Duration::ZERO }, Kind::Unavailable),
        (Error::AgentLeftAlone(AgentUnavailable::Busy("Trim")), Kind::Unavailable),
        (Error::AgentLeftAlone(AgentUnavailable::Frozen), Kind::Unavailable),
        (Error::NoSample(String::new()), Kind::Unavailable),
        (
            Error::StillRuns { id: String::new(), waited: Duration::ZERO, reason: String::new() },
            Kind::Late,
        ),
        (Error::Listeners(QuotaExceeded { limit: 8, is_own: false }), Kind::Busy),
        (Error::Left(Vec::new()), Kind::Left),
        (Error::VolumesLeft(Vec::new()), Kind::Left),
        (Error::InUse { dataset: String::new(), user: String::new(), why: "" }, Kind::InUse),
    ] {
        assert_eq!(Kind::of(&error), kind, "{error}");
    }
}

#[test]
fn error_names_the_undone_and_the_remaining() {
    let open = |cause| Error::Open { verb: journal::Verb::Delete, cause: Box::new(cause) };
    let target = Target::default();
    let failure = Failure::of(&open(refused(Code::OPERATION_INVALID)), &target);
    assert_eq!(failure.message, "cannot complete an earlier Delete: no");
    assert_eq!(failure.code, Kind::State.row().code);
    assert_eq!(failure.data.unwrap().libvirt_code, Some(55));
    let left = vec!["domain web-1".to_owned(), "volume a".to_owned()];
    let failure = Failure::of(&open(Error::Left(left.clone())), &target);
    let text = "cannot complete an earlier Delete: cannot remove leftovers: domain web-1, volume a";
    assert_eq!((failure.message.as_str(), failure.code), (text, Kind::Left.row().code));
    let cause = Box::new(refused(Code::NO_NETWORK));
    let step = Error::Step { step: "define domain web-1".to_owned(), cause, left };
    let failure = Failure::of(&step, &target);
    assert_eq!(
        failure.message,
        "cannot define domain web-1: no; left behind: domain web-1, volume a"
    );
}

#[test]
fn store_errors_name_their_object() {
    let target = |dataset: &str| Target { dataset: Some(dataset.to_owned()), ..Target::default() };
    let message = |error: &Error, dataset: &str| Failure::of(error, &target(dataset)).message;
    let size = Error::Refused("need a valid size");
    assert_eq!(message(&size, "guests/v"), "cannot use guests/v: need a valid size");
    assert_eq!(message(&Error::Refused("need an id"), ""), "invalid argument: need an id");
    let absent = storage::Error::NotFound { name: "tank/guests/v".to_owned() };
    let absent = Error::Storage(absent);
    assert_eq!(message(&absent, "guests/v"), "tank/guests/v: not found");
    assert_eq!(texts::on_old_path(&absent), "not found", "as contract section 8 fixes it");
    let step = Error::Step {
        step: "create volume tank/guests/w".to_owned(),
        cause: Box::new(absent),
        left: Vec::new(),
    };
    let text = message(&step, "guests/w");
    assert!(
        text.starts_with("cannot create volume tank/guests/w: tank/guests/v: not found"),
        "{text}"
    );
}
