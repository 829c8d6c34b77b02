//! `rpc.discover`: the methods of a service as an OpenRPC document (<https://spec.open-rpc.org>).
//!
//! The dispatcher's own table determines the methods and their types of request and answer.
//! Descriptions and examples are in `methods.json`, the members of requests and answers in
//! `schemas.json`. Tests compare the three with each other, with the wire's types and with real
//! answers of the agent.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::answers::success;
use super::errors::TABLE;
use crate::os::memory;
use crate::rpc::as_job::ASYNC;
use crate::rpc::encoder::Encoder;
use crate::rpc::envelope::Id;
use crate::rpc::inbound::Inbound;
use crate::rpc::json;
use crate::rpc::table::Effect;
use crate::rpc::{Answered, Callee, Service};

/// The method that returns this document, on both ports.
pub(super) const METHOD: &str = "rpc.discover";
/// The version of OpenRPC.
const OPENRPC: &str = "1.3.2";

const METHODS: &str = include_str!("methods.json");
const SCHEMAS: &str = include_str!("schemas.json");

/// Passes the document to `then`. It is long, and its first request makes it, so a handler answers.
pub(in crate::rpc) fn answer_document<I: Inbound + 'static>(
    port: Service,
    id: Option<Id>,
    inbound: I,
    then: impl FnOnce(I, Answered) + Send + 'static,
) {
    inbound.on_handler(move |inbound| {
        let answer = answer(port, id.as_ref());
        let answer = Encoder::V2(id).fit(answer, &inbound, false);
        then(inbound, Answered { method: Some(METHOD.to_owned()), answer: answer.into() });
    });
}

/// Returns the answer with the document to the request of this id.
pub(super) fn answer(port: Service, id: Option<&Id>) -> Option<Vec<u8>> {
    let document = document(port);
    let write = |out: &mut Vec<u8>| {
        out.extend_from_slice(document);
        Ok(())
    };
    success(id, document.len() + 256, &write)
}

/// Returns the document of the services on the port of this service, as JSON.
///
/// The first call makes the document, which takes some 10 ms of CPU time; all others copy its bytes,
/// because one batch can request it 64 times.
fn document(port: Service) -> &'static [u8] {
    static GUESTS: OnceLock<Vec<u8>> = OnceLock::new();
    static IMAGES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = match port {
        Service::Libvirt | Service::Job => &GUESTS,
        Service::ImageStore => &IMAGES,
    };
    bytes.get_or_init(|| {
        let mut bytes = Vec::new();
        json::write(&mut bytes, &describe(port)).expect("a value has a JSON form");
        bytes.shrink_to_fit();
        // The document was built from many small allocations.
        memory::give_back();
        bytes
    })
}

fn describe(port: Service) -> Value {
    let (words, schemas) = (read(METHODS), read(SCHEMAS));
    let all = port.at_port().iter().flat_map(|service| {
        service.methods().iter().map(move |entry| Callee { service: *service, entry: *entry })
    });
    let methods: Vec<Value> = all.map(|callee| method(callee, &words, &schemas)).collect();
    let errors: Map<String, Value> = TABLE
        .iter()
        .map(|row| {
            let data = json!({ "meaning": row.meaning, "retryable": row.retryable });
            let error = json!({ "code": row.code, "message": row.name, "data": data });
            (error_name(row.name), error)
        })
        .collect();
    json!({
        "openrpc": OPENRPC,
        "info": {
            "title": format!("mistify-libvirt: {}", port.name()),
            "version": env!("CARGO_PKG_VERSION"),
            "description": words["description"],
        },
        "methods": methods,
        "components": { "schemas": schemas, "errors": errors },
    })
}

fn method(callee: Callee, words: &Value, schemas: &Value) -> Value {
    let (_, effect, kind) = callee.entry;
    let name = callee.full_name();
    let (takes, answers) = kind.types();
    let words = &words[&name];
    let mut params = Vec::new();
    for (member, schema) in schemas[takes]["properties"].as_object().into_iter().flatten() {
        params.push(json!({ "name": member, "schema": schema }));
    }
    if callee.may_be_job() {
        let schema = json!({ "type": "boolean", "description": "whether the call becomes a \
            job; the answer is then a GuestResponse with the job's id, not the method's result" });
        params.push(json!({ "name": ASYNC, "schema": schema }));
    }
    let given = words["params"].as_object().into_iter().flatten();
    let given: Vec<Value> =
        given.map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let own = words["errors"].as_array();
    let own = |name: &str| own.is_some_and(|own| own.iter().any(|it| it == name));
    let errors: Vec<Value> = TABLE
        .iter()
        .filter(|row| row.kind.is_common() || own(row.name))
        .map(|row| json!({ "$ref": format!("#/components/errors/{}", error_name(row.name)) }))
        .collect();
    json!({
        "name": name,
        "summary": words["summary"],
        "tags": [{ "name": if effect == Effect::Changes { "changes" } else { "reads" } }],
        "paramStructure": "by-name",
        "params": params,
        "result": { "name": answers, "schema": { "$ref": format!("#/components/schemas/{answers}") } },
        "errors": errors,
        "examples": [{
            "name": name,
            "params": given,
            "result": { "name": answers, "value": words["result"] },
        }],
    })
}

/// Returns a name in the form that OpenRPC allows in a reference.
fn error_name(name: &str) -> String {
    name.replace(' ', "-").to_lowercase()
}

fn read(text: &str) -> Value {
    serde_json::from_str(text).expect("our own files are JSON, as a test says")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::value::RawValue;

    use super::*;
    use crate::events::{Event, EventKind, EventPage};
    use crate::guest::domain::VirDomain;
    use crate::guest::hardware::Hardware;
    use crate::guest::limits::{DISK, NIC};
    use crate::guest::members::Members;
    use crate::guest::wire::agent::*;
    use crate::guest::wire::events::EventsRequest;
    use crate::guest::wire::images::*;
    use crate::guest::wire::jobs::*;
    use crate::guest::wire::metrics::*;
    use crate::guest::wire::seed::CloudInit;
    use crate::guest::wire::verbs::*;
    use crate::guest::wire::*;
    use crate::jobs::{self, Job, Progress};

    fn keys(value: &Value) -> BTreeSet<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn every_method_has_a_description_and_types() {
        let (words, schemas) = (read(METHODS), read(SCHEMAS));
        let mut named = BTreeSet::from(["description".to_owned()]);
        for service in [Service::Libvirt, Service::ImageStore, Service::Job] {
            for (name, _, kind) in service.methods() {
                let name = service.full_name(name);
                let (takes, answers) = kind.types();
                for schema in [takes, answers] {
                    assert!(schemas[schema].is_object(), "schemas.json lacks {schema} of {name}");
                }
                assert!(words[&name]["summary"].is_string(), "methods.json lacks {name}");
                let known = keys(&schemas[takes]["properties"]);
                assert!(keys(&words[&name]["params"]).is_subset(&known), "{name}: {known:?}");
                assert!(!words[&name]["result"].is_null(), "{name} has no example");
                for error in words[&name]["errors"].as_array().expect(&name) {
                    let row = TABLE.iter().find(|row| error == row.name).expect(&name);
                    assert!(!row.kind.is_common(), "{name}: {error} concerns every method");
                }
                named.insert(name);
            }
        }
        assert_eq!(words.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), named);
    }

    /// Checks that a type's schema names the members that are read and written, and requires the
    /// members that are written even when empty.
    fn agrees<T>(name: &str, seen: &mut BTreeSet<String>)
    where
        T: Default + Serialize + DeserializeOwned + for<'de> Members<'de>,
    {
        let schema = written::<T>(name, seen);
        let members: BTreeSet<&str> = T::NAMES.iter().copied().collect();
        assert_eq!(keys(&schema["properties"]), members, "{name}");
        let full = &schema["examples"][0];
        let echo: T = serde_json::from_str(&full.to_string()).unwrap();
        assert_eq!(keys(full), members, "{name}: the example has all");
        let mut shown = full.clone();
        let is_secret = |member: &String| schema["properties"][member]["writeOnly"] == true;
        shown.as_object_mut().unwrap().retain(|member, _| !is_secret(member));
        assert_eq!(serde_json::to_value(&echo).unwrap(), shown, "{name}");
    }

    /// Checks the schema of a type that is only read, because all its members are secret.
    fn agrees_unseen<T>(name: &str, seen: &mut BTreeSet<String>)
    where
        T: Default + PartialEq + std::fmt::Debug + DeserializeOwned + for<'de> Members<'de>,
    {
        let schema = read(SCHEMAS)[name].take();
        seen.insert(name.to_owned());
        let members: BTreeSet<&str> = T::NAMES.iter().copied().collect();
        assert_eq!(keys(&schema["properties"]), members, "{name}");
        let full = &schema["examples"][0];
        assert_eq!(keys(full), members, "{name}: the example has all");
        assert_ne!(serde_json::from_value::<T>(full.clone()).unwrap(), T::default());
    }

    fn written<T: Default + Serialize>(name: &str, seen: &mut BTreeSet<String>) -> Value {
        let schema = read(SCHEMAS)[name].take();
        seen.insert(name.to_owned());
        let empty = serde_json::to_value(T::default()).unwrap();
        let always: BTreeSet<&str> = keys(&empty);
        let required = schema["required"].as_array().into_iter().flatten();
        let required: BTreeSet<&str> = required.map(|name| name.as_str().unwrap()).collect();
        // Callers may omit members of the types that they write.
        match ["Guest", "CpuTopology", "Nic", "Disk"].contains(&name) || name.ends_with("Request") {
            true => assert!(required.is_subset(&always), "{name}"),
            false => assert_eq!(required, always, "{name}"),
        }
        schema
    }

    /// Checks the schema of a type that is only written: `full` has every member.
    fn covers<T: Default + Serialize>(name: &str, full: &T, seen: &mut BTreeSet<String>) {
        let schema = written::<T>(name, seen);
        let full = serde_json::to_value(full).unwrap();
        assert_eq!(keys(&schema["properties"]), keys(&full), "{name}");
    }

    #[test]
    fn schemas_are_those_of_the_wire() {
        let mut seen = BTreeSet::new();
        let all = &mut seen;
        agrees::<Guest>("Guest", all);
        agrees::<CpuTopology>("CpuTopology", all);
        agrees_unseen::<CloudInit>("CloudInit", all);
        agrees::<Nic>("Nic", all);
        agrees::<GuestDisk>("Disk", all);
        agrees::<GuestRequest>("GuestRequest", all);
        agrees::<GuestResponse>("GuestResponse", all);
        agrees::<GuestMetricsRequest>("GuestMetricsRequest", all);
        agrees::<CpuMetrics>("CpuMetrics", all);
        agrees::<DiskMetrics>("DiskMetrics", all);
        agrees::<NicMetrics>("NicMetrics", all);
        agrees::<ImageRequest>("ImageRequest", all);
        agrees::<ImageResponse>("ImageResponse", all);
        agrees::<Image>("Image", all);
        agrees::<VolumeRequest>("VolumeRequest", all);
        agrees::<VolumeResponse>("VolumeResponse", all);
        agrees::<Volume>("Volume", all);
        agrees::<SnapshotRequest>("SnapshotRequest", all);
        agrees::<SnapshotResponse>("SnapshotResponse", all);
        agrees::<Snapshot>("Snapshot", all);
        agrees::<GuestMetricsResponse>("GuestMetricsResponse", all);
        agrees::<ListRequest>("ListRequest", all);
        agrees::<AutostartRequest>("AutostartRequest", all);
        agrees::<ShutdownRequest>("ShutdownRequest", all);
        agrees::<PlanRequest>("PlanRequest", all);
        agrees::<DiskRequest>("DiskRequest", all);
        agrees::<NicRequest>("NicRequest", all);
        agrees::<LoginRequest>("LoginRequest", all);
        agrees::<EventsRequest>("EventsRequest", all);
        agrees::<JobRequest>("JobRequest", all);
        agrees::<JobsRequest>("JobsRequest", all);
        let (started, ended) = ("now".to_owned(), "now".to_owned());
        let result = RawValue::from_string("{}".to_owned()).ok();
        let progress = Progress { steps: 1, step: "domain".to_owned() };
        let error = result.clone();
        let job = Job { started, ended, progress, result, error, ..Job::default() };
        covers("Job", &job, all);
        let next = "1".to_owned();
        covers("JobsPage", &jobs::JobPage { next, ..jobs::JobPage::default() }, all);
        let next = "web-1".to_owned();
        covers("ListResponse", &ListResponse { next, ..ListResponse::default() }, all);
        let reason = "io-error".to_owned();
        let addresses = vec![Address::default()];
        let listed = ListedGuest { reason, addresses, ..ListedGuest::default() };
        covers("ListedGuest", &ListedGuest { saved: true, ..listed }, all);
        covers("LeftoversResponse", &LeftoversResponse::default(), all);
        covers("Leftovers", &Leftovers::default(), all);
        let hardware = Hardware { tpm: true, ..Hardware::default() };
        let (reason, pending) = ("io-error".to_owned(), vec!["cpu".to_owned()]);
        let addresses = vec![Address::default()];
        let known = VirDomain { addresses, ..VirDomain::default() };
        let known = VirDomain { vcpu_max: 4, hardware, reason, pending, ..known };
        let (start_order, start_delay_s, stop_timeout_s) = (Some(1), Some(1), Some(1));
        let known = VirDomain { start_order, start_delay_s, stop_timeout_s, ..known };
        covers("Domain", &VirDomain { autostart: true, memory_max_kib: 4, ..known }, all);
        covers("AutostartResponse", &AutostartResponse::default(), all);
        let message = "the guest is off".to_owned();
        covers("SettingResponse", &SettingResponse { message, ..SettingResponse::default() }, all);
        covers("ConsoleResponse", &ConsoleResponse::default(), all);
        let info = GuestInfo {
            message: "-".to_owned(),
            hostname: "-".to_owned(),
            os: Some(OperatingSystem::default()),
            timezone: Some(TimeZone::default()),
            users: vec![User::default()],
            filesystems: vec![FileSystem::default()],
            ..GuestInfo::default()
        };
        covers("GuestInfo", &info, all);
        let text = || "-".to_owned();
        let address = Address { prefix: 1, mac: text(), interface: text(), ..Address::default() };
        covers("Address", &address, all);
        let os = OperatingSystem {
            id: text(),
            name: text(),
            version: text(),
            kernel: text(),
            machine: text(),
        };
        covers("OperatingSystem", &os, all);
        covers("TimeZone", &TimeZone { name: text(), offset_s: 0 }, all);
        covers("User", &User { name: text(), since_ms: 1 }, all);
        let filesystem = FileSystem {
            device: text(),
            kind: text(),
            total_bytes: 1,
            used_bytes: Some(1),
            disks: vec![text()],
            ..FileSystem::default()
        };
        covers("FileSystem", &filesystem, all);
        covers("ScreenshotResponse", &ScreenshotResponse::default(), all);
        covers("EventsPage", &EventPage::default(), all);
        let plan = Plan { message: "nothing would be done".to_owned(), ..Plan::default() };
        covers("Plan", &plan, all);
        let one = || vec![text()];
        let answer = PlanResponse { guest: None, plan: Some(plan), warnings: one() };
        covers("PlanResponse", &answer, all);
        let step = PlanStep {
            command: one(),
            xml: "<domain/>".to_owned(),
            detail: "it is running".to_owned(),
            with: one(),
            ..PlanStep::default()
        };
        covers("PlanStep", &step, all);
        let limits = read(SCHEMAS);
        let members = |name: &str| keys(&limits[name]["properties"]);
        assert_eq!(members("DiskLimits"), DISK.iter().map(|limit| limit.member).collect());
        assert_eq!(members("NicLimits"), NIC.iter().map(|limit| limit.member).collect());
        all.extend(["Event", "DiskLimits", "NicLimits"].map(str::to_owned));
        let event = &read(SCHEMAS)["Event"];
        let kinds = [
            EventKind::Lifecycle { state: "started", detail: "booted" },
            EventKind::IoError {
                source: text(),
                device: text(),
                action: "none",
                reason: "r".into(),
            },
            EventKind::Balloon { memory_kib: 1 },
            EventKind::Agent { state: "connected" },
            EventKind::Missed { count: 1 },
            EventKind::Job { job: text(), state: "done" },
        ];
        let kinds = kinds.map(|what| {
            let (time, guest) = (text(), "web-1".to_owned());
            serde_json::to_value(Event { seq: 1, time, guest, what }).unwrap()
        });
        let members: BTreeSet<&str> = kinds.iter().flat_map(keys).collect();
        assert_eq!(keys(&event["properties"]), members);
        covers("AllGuestMetrics", &AllGuestMetrics::default(), all);
        written::<BTreeMap<String, AllGuestMetrics>>("AllMetricsResponse", all);
        assert_eq!(
            read(SCHEMAS).as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(),
            seen
        );
    }
}
