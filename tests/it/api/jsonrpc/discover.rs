//! `rpc.discover`: a document that is valid, whose examples are what the agent answers, and by which
//! a program of other people can call.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{JSON, PATH, request, wait_for_a_sample};
use crate::harness::cost::slow;
use crate::harness::image_store::Bed;
use crate::harness::skip::{Skip, require};
use crate::harness::support::{feed, wait_until};

const META: &str = include_str!("../../../openrpc/meta-schema.json");
/// Debian's own, whose packages the gate installs: another may come first.
const PYTHON: &str = "/usr/bin/python3";

/// A guest's life and all else that there are methods for, in an order in which each of their examples
/// succeeds.
const STORY: [&str; 65] = [
    "Libvirt.CreateGuest",
    "Libvirt.Run",
    "Libvirt.WaitEvents",
    "Libvirt.Status",
    "Libvirt.List",
    "Libvirt.Describe",
    "Libvirt.GuestInfo",
    "Libvirt.SetPassword",
    "Libvirt.SetSshKeys",
    "Libvirt.Trim",
    "Libvirt.Freeze",
    "Libvirt.Thaw",
    "Libvirt.Screenshot",
    "Libvirt.Console",
    "Libvirt.Suspend",
    "Libvirt.Resume",
    "Libvirt.Reset",
    "Libvirt.SetMetadata",
    "Job.Get",
    "Job.List",
    "Job.Cancel",
    "Libvirt.SetAutostart",
    "Libvirt.Reboot",
    "Libvirt.Restart",
    "Libvirt.CPUMetrics",
    "Libvirt.DiskMetrics",
    "Libvirt.NicMetrics",
    "Libvirt.AllMetrics",
    "Libvirt.Shutdown",
    "Libvirt.SetMemory",
    "Libvirt.SetCPU",
    "Libvirt.SetLimits",
    "Libvirt.Update",
    "Libvirt.ResizeDisk",
    "Libvirt.AttachDisk",
    "Libvirt.DetachDisk",
    "Libvirt.InsertMedia",
    "Libvirt.EjectMedia",
    "Libvirt.AttachNic",
    "Libvirt.DetachNic",
    "Libvirt.Leftovers",
    "Libvirt.RemoveLeftovers",
    "Libvirt.Poweroff",
    "Libvirt.DiscardSaved",
    "Libvirt.SetSeed",
    "Libvirt.Create",
    "ImageStore.CreateSnapshot",
    "ImageStore.GetSnapshot",
    "ImageStore.ListSnapshots",
    "ImageStore.RollbackSnapshot",
    "ImageStore.DeleteSnapshot",
    "ImageStore.VerifyDisks",
    "ImageStore.CreateGuestDisks",
    "ImageStore.DeleteGuestsDisks",
    "ImageStore.DeleteGuestDisks",
    "ImageStore.CreateVolume",
    "ImageStore.GetVolume",
    "ImageStore.ListVolumes",
    "ImageStore.DeleteDataset",
    "ImageStore.ListImages",
    "ImageStore.GetImage",
    "ImageStore.CloneImage",
    "ImageStore.DeleteImage",
    "ImageStore.RequestImage",
    "Libvirt.Delete",
];

/// The methods that fail here, and their errors: the test driver has no guest agents, keeps no consoles and attaches no
/// devices, so that none can be detached, a job ends at once, and images are not fetched. `devices` tests devices with
/// qemu.
const REFUSED: [(&str, i64); 14] = [
    ("Libvirt.Console", -32602),
    ("Libvirt.SetPassword", -32011),
    ("Libvirt.SetSshKeys", -32011),
    ("Libvirt.Trim", -32011),
    ("Libvirt.Freeze", -32011),
    ("Libvirt.Thaw", -32011),
    ("Libvirt.AttachDisk", -32011),
    ("Libvirt.DetachDisk", -32001),
    ("Libvirt.InsertMedia", -32001),
    ("Libvirt.EjectMedia", -32001),
    ("Libvirt.AttachNic", -32011),
    ("Libvirt.DetachNic", -32001),
    ("Job.Cancel", -32003),
    ("ImageStore.RequestImage", -32011),
];

/// An agent that serves both services, with an image; none where that cannot be.
fn bed() -> Option<Bed> {
    let bed = Bed::on_directory();
    bed.import("debian-12", b"", 8).then_some(bed)
}

/// Where a method is served.
fn address(bed: &Bed, method: &str) -> SocketAddr {
    if method.starts_with("ImageStore.") { bed.address() } else { bed.agent.address() }
}

fn call(bed: &Bed, address: SocketAddr, method: &str, params: &Value) -> Value {
    let body = request(method, params).to_string();
    let reply = bed.agent.request_at(address, "POST", PATH, &[JSON], body.as_bytes());
    serde_json::from_slice(&reply.body).expect("JSON")
}

/// The documents of both services.
pub(crate) fn documents(bed: &Bed) -> [Value; 2] {
    [bed.agent.address(), bed.address()]
        .map(|address| call(bed, address, "rpc.discover", &json!({}))["result"].take())
}

/// Each method's name with the parameters and the result of its example, in the order of the story.
/// The hypervisor is the test driver.
fn examples(documents: &[Value]) -> Vec<(String, Value, Value)> {
    let methods: Vec<&Value> =
        documents.iter().flat_map(|it| it["methods"].as_array().expect("methods")).collect();
    let named: BTreeSet<&str> =
        methods.iter().map(|method| method["name"].as_str().expect("a name")).collect();
    assert_eq!(named, BTreeSet::from(STORY), "every method has its place in the story");
    let example = |name: &str| {
        let method = methods.iter().find(|method| method["name"] == name).expect("see above");
        let example = &method["examples"][0];
        let params = example["params"].as_array().expect("parameters").iter();
        let params =
            params.map(|it| (it["name"].as_str().expect("a name").to_owned(), it["value"].clone()));
        let on_test = |value: Value| -> Value {
            let text = value.to_string().replace(r#""type":"kvm""#, r#""type":"test""#);
            serde_json::from_str(&text).expect("still JSON")
        };
        (name.to_owned(), on_test(params.collect()), on_test(example["result"]["value"].clone()))
    };
    STORY.iter().map(|name| example(name)).collect()
}

/// The fingerprint of a seed in the examples: each host makes others.
const FINGERPRINT: &str =
    "hmac-sha256:6bc07f1f8ae6a9a6dd1d0c6c2e4ee1de13d2dd6b1a3d9d8b2ffb6a4a1a8f9c01";

/// A result with the fingerprint of the examples, if it has one.
pub(crate) fn with_documented_seed(mut result: Value) -> Value {
    if let Some(seed) = result.pointer_mut("/guest/seed") {
        let made = seed.as_str().expect("text");
        assert!(made.starts_with("hmac-sha256:") && made.len() == FINGERPRINT.len(), "{made}");
        *seed = json!(FINGERPRINT);
    }
    result
}

/// A result as it would be on ZFS, and on a host whose guests' devices are named by their kernel.
fn as_documented(bed: &Bed, result: &Value) -> Value {
    let result = with_documented_seed(result.clone());
    let store = bed.path("");
    let store = store.display().to_string();
    let text = result.to_string().replace(store.trim_end_matches('/'), "/dev/zvol/mistify");
    serde_json::from_str(&text.replace("testnet", "vnet")).expect("still JSON")
}

/// The id of a job that is done.
fn done_job(bed: &Bed) -> Value {
    let (address, guest) = (bed.agent.address(), json!({ "id": "web-1", "metadata": {} }));
    let params = json!({ "guest": guest, "async": true });
    let mut answer = call(bed, address, "Libvirt.SetMetadata", &params);
    let id = answer["result"]["job"].take();
    wait_until("it is done", Duration::from_secs(60), || {
        call(bed, address, "Job.Get", &json!({ "id": id }))["result"]["state"] == "done"
    });
    id
}

/// Plays the story by `call`, and checks that each result is that of its example. The results.
fn play(
    bed: &Bed,
    mut call: impl FnMut(SocketAddr, &str, &Value) -> Result<Value, Value>,
) -> Vec<Value> {
    wait_for_a_sample(&bed.agent);
    let (mut results, mut job) = (Vec::new(), None);
    for (name, mut params, expected) in examples(&documents(bed)) {
        if name.starts_with("Job.") && !params["id"].is_null() {
            params["id"] = job.get_or_insert_with(|| done_job(bed)).clone();
        }
        let answer = call(address(bed, &name), &name, &params);
        if let Some((_, code)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            assert_eq!(answer.expect_err(&name)["code"], *code, "{name}");
            continue;
        }
        let result = answer.unwrap_or_else(|error| panic!("{name} {params}: {error}"));
        // Figures, times, uuids and pictures differ from run to run, and here is nothing left over; the
        // schema says what is in them.
        let varies = [
            "Metrics",
            "WaitEvents",
            "Describe",
            "GuestInfo",
            "Screenshot",
            "Job.Get",
            "Job.List",
            "Libvirt.Leftovers",
        ];
        if !varies.iter().any(|it| name.ends_with(it)) {
            assert_eq!(as_documented(bed, &result), expected, "{name} {params}");
        }
        results.push(json!([name, result]));
    }
    results
}

/// What Debian's validator finds wrong with a document and these results.
fn faults(document: &Value, results: &[Value]) -> Option<String> {
    let meta: Value = serde_json::from_str(META).expect("JSON");
    let given = json!({ "meta": meta, "document": document, "values": results });
    let script = script("validate.py");
    let output = feed(PYTHON, &[&script], &given.to_string()).and_then(|output| {
        match output.status.code() {
            Some(77) => Err(Skip("python3-jsonschema is not installed".to_owned())),
            _ => Ok(output),
        }
    });
    let output = require("openrpc", output)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("text"))
}

fn script(name: &str) -> String {
    format!("{}/tests/it/api/jsonrpc/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn both_documents_are_openrpc_and_a_broken_one_fails() {
    crate::harness::cost::slow("validates documents in Python");
    let bed = Bed::on_directory();
    for document in documents(&bed) {
        let Some(wrong) = faults(&document, &[]) else { return };
        assert_eq!(wrong, "");
        let name = document["methods"][0]["name"].as_str().expect("a name");
        type Break = fn(&mut Value);
        let breaks: [(Break, &str); 5] = [
            (
                |it| drop(it.as_object_mut().expect("a document").remove("info")),
                "'info' is a required",
            ),
            (|it| it["methods"][0]["params"] = json!("none"), "methods/0"),
            (|it| it["openrpc"] = json!("9"), "openrpc: '9' is not one of"),
            (
                |it| it["components"]["schemas"]["Guest"]["type"] = json!("thing"),
                "components/schemas/Guest",
            ),
            (|it| it["methods"][0]["examples"][0]["result"]["value"] = json!(7), "result of "),
        ];
        for (broken, why) in breaks {
            let mut document = document.clone();
            broken(&mut document);
            let wrong = faults(&document, &[]);
            assert!(wrong.as_ref().is_some_and(|wrong| wrong.contains(why)), "{why}: {wrong:?}");
        }
        let wrong = faults(&document, &[json!([name, { "more": 1 }])]);
        assert!(
            wrong.is_some_and(|wrong| wrong.starts_with("result of ")),
            "a result of another type"
        );
    }
    bed.agent.end();
}

#[test]
fn every_method_answers_its_example_by_its_schema() {
    crate::harness::cost::slow("calls every method");
    let Some(bed) = bed() else { return };
    let results = play(&bed, |address, method, params| {
        let mut answer = call(&bed, address, method, params);
        if answer["error"].is_null() {
            Ok(answer["result"].take())
        } else {
            Err(answer["error"].take())
        }
    });
    for document in documents(&bed) {
        let methods = document["methods"].as_array().expect("methods");
        let own = |it: &&Value| methods.iter().any(|method| method["name"] == it[0]);
        let own: Vec<Value> = results.iter().filter(own).cloned().collect();
        let Some(wrong) = faults(&document, &own) else { return };
        assert_eq!(wrong, "");
    }
    bed.agent.end();
}

/// The jsonrpcclient that `tests/install-deps.sh` puts beside the tests.
struct Client {
    child: Child,
    calls: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Client {
    fn start() -> Result<Self, Skip> {
        slow("runs Python's JSON-RPC client");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("jsonrpcclient");
        let mut child = Command::new(PYTHON)
            .arg(script("client.py"))
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Skip(format!("{PYTHON} does not start: {error}")))?;
        let calls = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut client = Self { child, calls, answers };
        match client.line().as_str() {
            "ready\n" => Ok(client),
            _ => Err(Skip(format!("there is no jsonrpcclient in {}", directory.display()))),
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it prints text");
        line
    }

    /// The result, or the error as an object.
    fn call(&mut self, address: SocketAddr, method: &str, params: &Value) -> Result<Value, Value> {
        let call = json!([address.to_string(), method, params]);
        writeln!(self.calls, "{call}").expect("it reads");
        let mut answer: Value = serde_json::from_str(&self.line()).expect("an answer");
        match answer.get_mut("error") {
            None => Ok(answer["result"].take()),
            Some(it) => Err(json!({ "code": it[0], "message": it[1], "data": it[2] })),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It ends by itself with its input, unless it hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_client_of_other_people_calls_every_method() {
    let Some(mut client) = require("openrpc", Client::start()) else { return };
    let Some(bed) = bed() else { return };
    play(&bed, |address, method, params| client.call(address, method, params));

    let main = bed.agent.address();
    let document = client.call(main, "rpc.discover", &Value::Null).expect("a document");
    assert_eq!(document["openrpc"], "1.3.2");
    let by_position = json!([{ "guest": { "id": "web-2" } }]);
    let state = client.call(main, "Libvirt.Status", &by_position).expect("it is there");
    assert_eq!(state["guest"]["state"], "running");
    let gone = client.call(main, "Libvirt.Status", &json!({ "guest": { "id": "web-1" } }));
    let gone = gone.expect_err("it was deleted");
    assert_eq!((&gone["code"], &gone["data"]["guest"]), (&json!(-32001), &json!("web-1")));
    bed.agent.end();
}
