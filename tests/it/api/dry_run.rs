//! The dry runs of CreateGuest and Delete: they change nothing, and a later execution matches the
//! plan. The same tests for both stores, on libvirt's test driver; the XML on a real libvirtd.

mod left;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use mistify_libvirt::pool::Lane;
use serde_json::{Value, json};

use crate::api::jsonrpc;
use crate::harness::agent::Agent;
use crate::harness::image_store::Bed;
use crate::harness::in_process::InProcess;
use crate::harness::skip::require;
use crate::harness::stack::Stack;
use crate::harness::support::{Scratch, without_domain};
use crate::harness::zpool::{Pool, history};

const TEST_DRIVER: &str = "test:///default";
const DRY: &str = "mistify.dry_run";
/// The deadline of calls that name none, as [`InProcess::config`] has it.
const PATIENCE: Duration = Duration::from_secs(300);

/// An agent with a store, and every directory that it may write to.
struct Host {
    bed: Bed,
    directory: Scratch,
    pool: Option<String>,
    /// What a step may be called, as `rpc.discover` has it.
    known: Vec<Value>,
}

impl Host {
    fn new(pool: Option<Pool>) -> Self {
        let directory = Scratch::new();
        let name = pool.as_ref().map(|pool| pool.name.clone());
        let at = |name: &str| directory.path().join(name).display().to_string();
        let (state, disks, audit) = (at("state"), at("disks"), at("audit"));
        fs::create_dir(&disks).expect("scratch is writable");
        let flags = ["--state-dir", &state, "--allow-disk-path", &disks, "--audit-log", &audit];
        // This returns once the agent has prepared its store: after that only calls change it.
        let bed = Bed::with_flags(TEST_DRIVER, pool, &flags);
        let document = jsonrpc::result(&bed.agent, "rpc.discover", &json!({}));
        let what = &document["components"]["schemas"]["PlanStep"]["properties"]["what"]["enum"];
        let known = what.as_array().expect("the words").clone();
        Self { bed, directory, pool: name, known }
    }

    fn agent(&self) -> &Agent {
        &self.bed.agent
    }

    /// A file where disks may lie.
    fn file(&self, name: &str) -> String {
        self.directory.path().join("disks").join(name).display().to_string()
    }

    /// Journal, audit and store, each file with its time: an entry that came and went shows in its
    /// directory's.
    fn state(&self) -> Vec<String> {
        self.agent().wait_for_writers();
        let mut found = Vec::new();
        stamps(&self.directory.path().join("state"), &mut found);
        stamps(&self.directory.path().join("audit"), &mut found);
        match &self.pool {
            Some(pool) => found.extend(history(pool)),
            None => stamps(&self.bed.path(""), &mut found),
        }
        found
    }

    /// What the agent would do, asked for in both ways; nothing is changed by that.
    fn plan(&self, method: &str, guest: &Value) -> Value {
        let before = self.state();
        let by_name = json!({ "guest": guest, "dry_run": true });
        let planned = jsonrpc::result(self.agent(), &format!("Libvirt.{method}"), &by_name);
        let in_args = json!({ "guest": guest, "args": { DRY: "true" } });
        let answer = self.agent().call_with(method, &in_args);
        assert_eq!(answer["result"], planned, "{answer}");
        assert_eq!(self.state(), before, "{planned}");
        for step in planned["plan"]["steps"].as_array().expect("steps") {
            assert!(self.known.contains(&step["what"]), "{step}");
        }
        planned
    }

    /// Checks that the commands of a plan are those that the pool has seen since.
    fn check_commands(&self, plan: &Value, before: usize) {
        let Some(pool) = &self.pool else { return };
        let steps = plan["steps"].as_array().expect("steps").iter();
        let planned: Vec<String> =
            steps.filter_map(|step| step.get("command")).map(words).collect();
        assert!(!planned.is_empty(), "{plan}");
        let done: Vec<String> = history(pool).into_iter().skip(before).map(unnamed).collect();
        assert_eq!(done, planned);
    }

    fn history(&self) -> usize {
        self.pool.as_ref().map_or(0, |pool| history(pool).len())
    }
}

/// A command as a plan has it, which does not know the uuid of a domain that is not defined.
fn unnamed(command: String) -> String {
    const MAKER: &str = "io.mistify:maker=";
    let words = command.split(' ').map(|word| match word.strip_prefix(MAKER) {
        Some(uuid) if uuid.len() == 36 => format!("{MAKER}UUID"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn words(command: &Value) -> String {
    let words = command.as_array().expect("a list").iter();
    words.map(|word| word.as_str().expect("a word")).collect::<Vec<_>>().join(" ")
}

fn stamps(path: &Path, found: &mut Vec<String>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let time = metadata.modified().expect("a time").duration_since(SystemTime::UNIX_EPOCH);
    found.push(format!("{} {} {time:?}", path.display(), metadata.len()));
    let Ok(entries) = fs::read_dir(path) else { return };
    let mut entries: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    entries.sort();
    entries.iter().for_each(|entry| stamps(entry, found));
}

/// What each step of a plan does and to what.
fn steps(planned: &Value) -> Vec<String> {
    let steps = planned["plan"]["steps"].as_array().expect("steps").iter();
    let line = |step: &Value| {
        let text = |member: &str| step[member].as_str().expect("a text").to_owned();
        format!("{} {}", text("what"), text("name"))
    };
    steps.map(line).collect()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("text")).collect()
}

fn guest(id: &str, disks: &Value) -> Value {
    json!({ "id": id, "type": "test", "memory": 64, "cpu": 1, "disks": disks })
}

fn nic(mac: &str) -> Value {
    json!({ "network": "mistify0", "mac": mac, "model": "virtio" })
}

fn a_plan_is_what_is_done_then(host: &Host) {
    assert!(host.bed.import("golden", b"golden", 4));
    // The first guest of all may need more than another one.
    host.agent().ok("CreateGuest", &guest("p-first", &json!([{ "size": 1 }])));
    let mac = "02:00:00:00:91:01";
    let mut asked = guest("p-new", &json!([{ "size": 8 }, { "image": "golden", "size": 16 }]));
    asked["nics"] = json!([nic(mac)]);
    let planned = host.plan("CreateGuest", &asked);
    let volume = |index: usize| host.bed.full(&format!("guests/p-new/disk-{index}"));
    let expected = [
        format!("make volume {}", volume(0)),
        format!("make volume {}", volume(1)),
        format!("define network {mac}"),
        format!("start network {mac}"),
        "define domain p-new".to_owned(),
    ];
    assert_eq!(steps(&planned), expected);
    let plan = &planned["plan"];
    assert_eq!((&plan["problems"], &plan["warnings"]), (&json!([]), &json!([])), "{plan}");
    assert!(plan.get("message").is_none(), "{plan}");
    assert!(host.agent().error("Status", &asked).starts_with("[Code-42] "));

    let before = host.history();
    let made = host.agent().ok("CreateGuest", &asked)["guest"].take();
    assert_eq!(made, planned["guest"], "the answer was known");
    host.check_commands(plan, before);
    for (index, mib) in [8, 16].into_iter().enumerate() {
        let path = made["disks"][index]["source"].as_str().expect("a path");
        let detail = &plan["steps"][index]["detail"];
        let bytes = (mib << 20).to_string();
        assert!(
            host.pool.is_some()
                || detail.as_str().is_some_and(|it| it.starts_with(path) && it.contains(&bytes)),
            "{plan}"
        );
    }

    for again in [&asked, &made] {
        let planned = host.plan("CreateGuest", again);
        assert_eq!((steps(&planned), &planned["guest"]), (vec![], &made));
        let plan = &planned["plan"];
        assert_eq!(plan["message"], "the guest already exists; there is nothing to do");
        assert_eq!(plan["problems"], json!([]));
    }

    host.bed.ok("CreateSnapshot", &json!({ "id": "guests/p-new/disk-0", "dest": "monday" }));
    host.agent().ok("Run", &made);
    let planned = host.plan("Delete", &asked);
    let answer = planned["guest"].clone();
    let found = steps(&planned);
    let begin = [
        "destroy domain p-new".to_owned(),
        "undefine domain p-new".to_owned(),
        format!("remove network {mac}"),
    ];
    assert_eq!(found[..3], begin);
    let text = planned["plan"].to_string();
    let all = [volume(0), format!("{}@monday", volume(0)), volume(1)];
    assert!(all.iter().all(|name| text.contains(&format!("\"{name}\""))), "{text}");
    assert_eq!(planned["plan"]["problems"], json!([]));
    assert_eq!(host.agent().state("p-new"), "running");

    let before = host.history();
    assert_eq!(host.agent().ok("Delete", &asked)["guest"], answer);
    host.check_commands(&planned["plan"], before);
    let planned = host.plan("Delete", &asked);
    assert_eq!(steps(&planned), [""; 0]);
    assert!(texts(&planned["plan"]["problems"])[0].starts_with("[Code-42] "), "{planned}");
    host.agent().ok("Delete", &guest("p-first", &json!([])));
}

/// What a request has, and how the problems begin that a plan has for it, in order.
fn every_check_that_fails_is_named(host: &Host) {
    let outside = host.directory.path().join("audit").display().to_string();
    let inside = host.file("there");
    fs::write(&inside, "disk").expect("scratch is writable");
    let taken = nic("02:00:00:00:92:01");
    let mut owner = guest("p-owner", &json!([]));
    owner["nics"] = json!([taken]);
    host.agent().ok("CreateGuest", &owner);
    let disk = |index: usize| format!("disks[{index}]");
    let absent = host.bed.full("images/absent");
    let (first, second) = (disk(0), disk(1));
    for (disks, nics, problems) in [
        (json!([{ "source": outside }]), json!([]), vec!["invalid argument: disk source outside "]),
        (
            json!([{ "image": "absent" }]),
            json!([]),
            vec![&*format!("{first}: {absent}: not found")],
        ),
        (json!([{ "size": 1_u64 << 40 }]), json!([]), vec!["disks: no space left on device"]),
        (
            json!([{}]),
            json!([]),
            vec!["disks[0]: invalid argument: disks[0] must have an image or a size"],
        ),
        (json!([]), json!([taken]), vec!["network 02:00:00:00:92:01 exists, but has other "]),
        (
            json!([{ "image": "absent" }, { "image": "-" }, { "source": outside },
                   { "size": 1_u64 << 40 }, { "source": "relative" }, { "size": 1 }]),
            json!([taken, nic("02:00:00:00:92:02")]),
            vec![
                "network 02:00:00:00:92:01 exists, but has other ",
                &*format!("{second}: "),
                "disks: no space left on device",
                &*format!("{first}: {absent}: not found"),
                "invalid argument: disk source outside ",
                "invalid argument: disk",
            ],
        ),
    ] {
        let mut asked = guest("p-bad", &disks);
        asked["nics"] = nics;
        let planned = host.plan("CreateGuest", &asked);
        let found = texts(&planned["plan"]["problems"]);
        assert_eq!(found.len(), problems.len(), "{found:?}");
        for (found, expected) in found.iter().zip(problems) {
            assert!(found.starts_with(expected), "{found} is not {expected}");
        }
        // The problem matches the verb's error: the verb stops at the first one, with the same
        // text.
        let error = host.agent().error("CreateGuest", &asked);
        let bare = error.split(" (").next().expect("a text");
        let named = found.iter().any(|text| text.ends_with(bare) || text.starts_with("network "));
        assert!(named, "{error}: {found:?}");
        // What libvirt would get is shown where it is known, whatever else is in the way.
        let is_defined = steps(&planned).contains(&"define domain p-bad".to_owned());
        let are_known = !found.iter().any(|it| it.starts_with("disks[") || it.contains("disk "));
        assert_eq!(is_defined, are_known, "{planned}");
    }

    // Members that are wrong: nothing would be started, and the rest is looked at all the same.
    let mut asked =
        guest("p-bad", &json!([{ "image": "absent", "volume": "a\nb" }, { "size": 1 }]));
    asked["vnc"] = json!(-2);
    asked["nics"] = json!([nic("02:00:00:00:92"), {}, taken, nic("02:00:00:00:92:01")]);
    let planned = host.plan("CreateGuest", &asked);
    let found = texts(&planned["plan"]["problems"]);
    for expected in ["disks[0].volume has", "nics[0].mac: not", "vnc: -2", "nics[1].mac is missing"]
    {
        let expected = format!("invalid argument: {expected}");
        assert!(found.iter().any(|text| text.starts_with(&expected)), "{expected}: {found:?}");
    }
    for expected in ["nics[3].mac is also the MAC of", "network 02:", "images/absent: not found"] {
        assert!(found.iter().any(|text| text.contains(expected)), "{expected}: {found:?}");
    }
    assert_eq!(steps(&planned), [""; 0]);
    let id = host.plan("CreateGuest", &guest("p/bad", &json!([{ "image": "absent" }])));
    assert_eq!(texts(&id["plan"]["problems"]).len(), 1, "{id}");

    // Another guest of that id: its volumes are not looked at.
    let mut another = guest("p-owner", &json!([{ "size": 1 }]));
    another["nics"] = json!([nic("02:00:00:00:92:03")]);
    let planned = host.plan("CreateGuest", &another);
    let found = texts(&planned["plan"]["problems"]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("[Code-9] ") && steps(&planned).is_empty(), "{planned}");

    // What does not fail, and is worth knowing.
    let missing = host.file("not-there");
    let planned = host.plan("CreateGuest", &guest("p-later", &json!([{ "source": missing }])));
    let plan = &planned["plan"];
    assert_eq!(
        (&plan["problems"], steps(&planned)),
        (&json!([]), vec!["define domain p-later".to_owned()])
    );
    assert!(texts(&plan["warnings"])[0].starts_with("disks[0].source "), "{plan}");
    let planned = host.plan("CreateGuest", &guest("p-later", &json!([{ "source": inside }])));
    let xml = planned["plan"]["steps"][0]["xml"].as_str().expect("XML");
    assert!(xml.contains("<disk type=\"file\"") && xml.contains(&inside), "{xml}");

    // A network that two guests use stays with the other one.
    let mut sharer = owner.clone();
    sharer["id"] = json!("p-sharer");
    host.agent().ok("Create", &sharer);
    let planned = host.plan("Delete", &owner);
    assert_eq!(steps(&planned), ["undefine domain p-owner"]);
    let stays = "keeping network 02:00:00:00:92:01: another guest uses it";
    assert_eq!(planned["plan"]["warnings"], json!([stays]));
}

mod directory {
    use super::Host;

    #[test]
    fn a_plan_is_what_is_done_then() {
        super::a_plan_is_what_is_done_then(&Host::new(None));
    }

    #[test]
    fn every_check_that_fails_is_named() {
        super::every_check_that_fails_is_named(&Host::new(None));
    }
}

mod zpool {
    use serde_json::json;

    use super::{Host, guest, steps};
    use crate::harness::skip::require;
    use crate::harness::zpool::{Pool, zfs};

    fn host() -> Option<Host> {
        require("lab", Pool::own(256)).map(|pool| Host::new(Some(pool)))
    }

    #[test]
    fn a_plan_is_what_is_done_then() {
        let Some(host) = host() else { return };
        super::a_plan_is_what_is_done_then(&host);
    }

    #[test]
    fn every_check_that_fails_is_named() {
        let Some(host) = host() else { return };
        super::every_check_that_fails_is_named(&host);
    }

    #[test]
    fn plan_of_delete_names_live_clone_and_foreign_volume() {
        let Some(host) = host() else { return };
        let asked = guest("p-origin", &json!([{ "size": 8 }, { "size": 8 }]));
        host.agent().ok("CreateGuest", &asked);
        let full = |name: &str| host.bed.full(name);
        let (origin, clone) = (full("guests/p-origin/disk-0"), full("guests/p-clone"));
        zfs(&["snapshot", &format!("{origin}@monday")]);
        zfs(&["clone", &format!("{origin}@monday"), &clone]);
        zfs(&["create", "-s", "-V", "8M", &full("guests/p-origin/other")]);

        let planned = host.plan("Delete", &asked);
        let plan = &planned["plan"];
        assert_eq!(plan["problems"], json!([format!("{origin} has clones: {clone}")]));
        let other = full("guests/p-origin/other");
        let stays = format!("keeping {other}: the agent did not create it for this guest");
        assert_eq!(plan["warnings"], json!([stays]));
        let goes = format!("destroy {}", full("guests/p-origin/disk-1"));
        assert_eq!(steps(&planned), ["undefine domain p-origin".to_owned(), goes]);

        let before = host.history();
        let error = host.agent().error("Delete", &asked);
        assert!(error.contains(&format!("{origin} has clones: {clone}")), "{error}");
        host.check_commands(plan, before);
    }
}

#[test]
fn failed_query_is_a_problem_and_the_rest_is_planned() {
    // There is no zfs where this runs without the lab, and no such pool there.
    let directory = Scratch::new();
    let audit = directory.path().join("audit").display().to_string();
    let agent = Agent::start(&[
        "--libvirt-uri",
        "qemu:///system?socket=/nonexistent",
        "--zpool",
        "nonexistent",
        "--audit-log",
        &audit,
    ]);
    let asked = guest("p-away", &json!([{ "size": 1 }, { "source": "/etc/passwd" }]));
    let params = json!({ "guest": asked, "dry_run": true });
    for (method, count) in [("CreateGuest", 3), ("Delete", 2)] {
        let planned = jsonrpc::result(&agent, &format!("Libvirt.{method}"), &params);
        let found = texts(&planned["plan"]["problems"]);
        assert_eq!(found.len(), count, "{found:?}");
        assert!(found[0].starts_with("libvirt: [Code-"), "{found:?}");
        assert!(found[1].starts_with("storage: "), "{found:?}");
        assert_eq!(steps(&planned), [""; 0], "{method}");
    }
    agent.end();
}

#[test]
fn dry_run_of_other_verbs_or_other_values_is_refused() {
    let host = Host::new(None);
    let there = guest("p-other", &json!([]));
    host.agent().ok("CreateGuest", &there);
    let with = |word: &str| json!({ "guest": there, "args": { DRY: word } });
    for method in ["Create", "Run", "Poweroff", "Status", "SetMemory", "Describe", "NicMetrics"] {
        let answer = host.agent().call_with(method, &with("true"));
        let expected = "invalid argument: args: only CreateGuest and Delete take mistify.dry_run";
        assert_eq!(answer["error"], expected, "{method}");
        let by_name = json!({ "guest": there, "dry_run": true });
        let error = jsonrpc::error(host.agent(), &format!("Libvirt.{method}"), &by_name);
        let text = error["message"].as_str().expect("a text");
        assert!(
            text.starts_with("Invalid params: unknown parameter \"dry_run\""),
            "{method}: {text}"
        );
    }
    assert_eq!(host.agent().state("p-other"), "shutoff");
    for method in ["CreateGuest", "Delete", "Status"] {
        for word in ["", "yes", "True", "1"] {
            let answer = host.agent().call_with(method, &with(word));
            let expected = format!(
                "invalid argument: args: mistify.dry_run must be \"true\" or \"false\", not {word:?}"
            );
            assert_eq!(answer["error"], expected, "{method}");
        }
    }
    let text = json!({ "guest": there, "dry_run": "true" });
    let error = jsonrpc::error(host.agent(), "Libvirt.Delete", &text);
    assert_eq!(error["code"], -32602, "{error}");
    assert_eq!(host.agent().state("p-other"), "shutoff");
    // It is no job either, by whichever words.
    let old = json!({ "guest": there, "args": { DRY: "true", "mistify.async": "true" } });
    let refused = "invalid argument: a dry run cannot be a job";
    assert_eq!(host.agent().call_with("Delete", &old)["error"], refused);
    let new = json!({ "guest": there, "dry_run": true, "async": true });
    let error = jsonrpc::error(host.agent(), "Libvirt.Delete", &new);
    assert_eq!((&error["code"], &error["message"]), (&json!(-32602), &json!(refused)));
    assert_eq!(host.agent().state("p-other"), "shutoff");
    // Neither word is a dry run; one of both is.
    let both = |word: &str, member: bool| json!({ "guest": there, "args": { DRY: word }, "dry_run": member });
    for (word, member) in [("false", true), ("true", false)] {
        let planned = jsonrpc::result(host.agent(), "Libvirt.Delete", &both(word, member));
        assert_eq!(steps(&planned), ["undefine domain p-other"]);
    }
    let done = jsonrpc::result(host.agent(), "Libvirt.Delete", &both("false", false));
    assert_eq!((&done["guest"]["id"], done.get("plan")), (&json!("p-other"), None));
    assert!(host.agent().error("Status", &there).starts_with("[Code-42] "));
}

#[test]
fn dry_run_is_logged_but_not_audited_as_a_change() {
    let host = Host::new(None);
    let asked = guest("p-audit", &json!([]));
    host.plan("CreateGuest", &asked);
    host.agent().wait_for_writers();
    assert_eq!(fs::read_to_string(host.directory.path().join("audit")).expect("it is there"), "");
    let log = host.agent().log();
    let line = log.lines().find(|line| line.contains("Libvirt.CreateGuest")).expect("a line");
    assert!(line.contains("guest=\"p-audit\"") && line.contains("dry_run=true"), "{line}");
    host.agent().ok("CreateGuest", &asked);
    host.agent().wait_for_writers();
    let audit = fs::read_to_string(host.directory.path().join("audit")).expect("it is there");
    assert_eq!(audit.lines().count(), 1, "{audit}");
}

#[test]
fn plan_waits_for_no_other_verb_nor_past_its_deadline() {
    let mut config = InProcess::config();
    let directory = Scratch::new();
    config.host.store = mistify_libvirt::config::Store::Directory(directory.path().join("store"));
    let host = InProcess::start(&config);
    let ask = |guest: &Value, seconds: &str| {
        let args = json!({ "mistify.timeout": seconds, DRY: "true" });
        let request = json!({ "guest": guest, "args": args });
        let request = serde_json::from_value(request).expect("a request");
        host.agent.guests.plan_create_guest(request)
    };
    let asked = guest("p-held", &json!([{ "size": 1 }]));
    let lock =
        host.agent.core.pool().lock_guest("p-held", Instant::now() + PATIENCE).expect("it is free");
    let operation = ask(&asked, "300").expect("a plan");
    assert_eq!((operation.plan.steps.len(), operation.problems.len()), (2, 0), "{operation:?}");
    drop(lock);
    let busy = host.occupy(Lane::Storage);
    let begin = Instant::now();
    let late = ask(&asked, "1").expect_err("storage is busy").to_string();
    assert!(late.starts_with("deadline: "), "{late}");
    assert!(begin.elapsed() < PATIENCE / 3, "{late}");
    drop(busy);
    host.end();
}

#[test]
fn the_xml_of_a_plan_is_what_libvirt_gets() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let directory = Scratch::new();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let store = format!("directory:{}", at("store"));
    let agent = Agent::start(&[
        "--libvirt-uri",
        &stack.uri(),
        "--bridge-type",
        "linux",
        "--storage",
        &store,
        "--state-dir",
        &at("state"),
    ]);
    let mac = "02:00:00:00:93:01";
    let asked = json!({
        "id": "p-xml", "type": "qemu", "memory": 32, "cpu": 1, "vnc": -1,
        "metadata": { "owner": "a & b" },
        "nics": [{ "network": "mistify0", "mac": mac, "model": "e1000" }],
        "disks": [{ "size": 1 }],
    });
    let params = json!({ "guest": asked, "dry_run": true });
    let planned = jsonrpc::result(&agent, "Libvirt.CreateGuest", &params);
    assert_eq!(planned["plan"]["problems"], json!([]));
    let names = || {
        let domains = stack.virsh_ok(&["list", "--all", "--name"]);
        let networks = stack.virsh_ok(&["net-list", "--all", "--name"]);
        domains.contains("p-xml") || networks.contains(mac)
    };
    assert!(!names(), "nothing was made");

    // By hand, from the plan.
    let steps = planned["plan"]["steps"].as_array().expect("steps").clone();
    let xml = |what: &str| {
        let step = steps.iter().find(|step| step["what"] == what).expect("a step");
        step["xml"].as_str().expect("XML")
    };
    let define = |command: &str, xml: &str| {
        let output = stack.with_xml(command, xml);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    // Without what libvirt draws anew each time.
    let dump = |words: &[&str]| {
        let text = stack.virsh_ok(words);
        let is_drawn = |line: &str| {
            ["<uuid>", "virbr", "<genid>", "<serial>"].iter().any(|drawn| line.contains(drawn))
        };
        let lines = text.lines().filter(|line| !is_drawn(line));
        lines.map(without_domain).collect::<Vec<_>>().join("\n")
    };
    let dumps = || {
        let domain = dump(&["dumpxml", "--inactive", "--security-info", "p-xml"]);
        (domain, dump(&["net-dumpxml", "--inactive", mac]))
    };
    define("net-define", xml("define network"));
    define("define", xml("define domain"));
    let by_hand = dumps();
    stack.virsh_ok(&["undefine", "p-xml"]);
    stack.virsh_ok(&["net-undefine", mac]);

    let made = agent.ok("CreateGuest", &asked);
    assert_eq!(made["guest"], planned["guest"]);
    assert_eq!(dumps(), by_hand);
    let params = json!({ "guest": asked, "dry_run": true });
    agent.ok("Run", &made["guest"]);
    let planned = jsonrpc::result(&agent, "Libvirt.Delete", &params);
    let first = &planned["plan"]["steps"][0];
    assert_eq!(
        (&first["what"], &first["detail"]),
        (&json!("destroy domain"), &json!("it is running"))
    );
    assert_eq!(agent.state("p-xml"), "running");
    agent.ok("Delete", &asked);
    assert!(!names());
    agent.end();
}
