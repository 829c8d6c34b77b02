//! What a guest's agent says, what it does for its guest, and what is known without one.

use std::fs;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::linux::Console;
use crate::harness::linux_bed::Bed;
use crate::harness::scrape::scrape;
use crate::harness::support::{Scratch, wait_for, wait_until};
use crate::networks::addresses::listed;

const MAC: &str = "02:00:00:00:62:01";
/// Longer than a loaded machine needs for what takes a second.
const SOON: Duration = Duration::from_secs(90);

fn info(bed: &Bed, id: &str) -> Value {
    bed.agent.ok("GuestInfo", &json!({ "id": id }))
}

/// A guest that runs, and its console, once its guest agent answers.
fn with_agent(bed: &Bed, id: &str) -> (Value, Console) {
    let guest = bed.guest(id, &json!({}));
    let console = bed.running(&guest);
    wait_until("the guest agent answers", SOON, || info(bed, id)["agent"] == true);
    (guest, console)
}

#[test]
fn guest_agent_answers_until_it_hangs() {
    let Some(bed) = Bed::new(&[]) else { return };
    let nics = json!([{ "network": "mistify0", "mac": MAC }]);
    let guest = bed.guest("informer", &json!({ "nics": nics }));
    bed.agent.ok("CreateGuest", &guest);
    assert_eq!(info(&bed, "informer")["message"], "the guest is off");
    let mut console = bed.running(&guest);
    console.run("ip addr add 192.0.2.77/24 dev eth0");
    // The agent asks it by itself.
    let listed = wait_for("List has the address", SOON, || {
        Some(listed(&bed.agent, "informer")).filter(|it| it["address"] == "192.0.2.77")
    });
    assert_eq!((&listed["source"], &listed["interface"]), (&json!("agent"), &json!("eth0")));
    let described = bed.agent.ok("Describe", &json!({ "id": "informer" }));
    assert_eq!(described["addresses"][0]["address"], "192.0.2.77", "{described}");
    let reported = wait_for("the guest agent answers", SOON, || {
        Some(info(&bed, "informer")).filter(|reported| reported["agent"] == true)
    });
    assert_eq!(reported["hostname"], "small", "{reported}");
    let address = json!({
        "address": "192.0.2.77", "prefix": 24, "mac": MAC, "interface": "eth0", "source": "agent",
        "age_s": 0,
    });
    assert_eq!(reported["addresses"][0], address, "{reported}");
    assert!(
        reported["os"]["kernel"].is_string() && reported["timezone"]["offset_s"] == 0,
        "{reported}"
    );

    let connected = "mistify_guest_agent_connected{domain=\"informer\"}";
    let has = |value: f64| scrape(&bed.agent).get(connected) == Some(value);
    wait_until("metrics have its guest agent", SOON, || has(1.0));

    // The channel stays open, and nobody reads it.
    console.run("kill -STOP $(pidof qemu-ga)");
    let silent = info(&bed, "informer");
    assert_eq!(silent["agent"], false, "{silent}");
    assert!(silent["message"].as_str().is_some_and(|it| it.contains("agent")), "{silent}");
    let known = &silent["addresses"][0];
    assert_eq!((&known["address"], &known["source"]), (&json!("192.0.2.77"), &json!("agent")));
    let again = info(&bed, "informer");
    assert!(again["message"].as_str().is_some_and(|it| it.contains("asked again in")), "{again}");
    // Others' commands to it wait as long as they did before.
    let status = "/run/libvirt/qemu/informer.xml";
    let kept = fs::read_to_string(bed.stack.path(status)).expect("libvirt's file of the guest");
    assert!(!kept.contains("<agentTimeout>1"), "{kept}");
    bed.agent.ok("Delete", &guest);
    let missing = bed.agent.error("GuestInfo", &json!({ "id": "informer" }));
    assert!(missing.contains("not found"), "{missing}");
}

/// By order, which needs the processors: the agent is asked for a second.
#[test]
fn a_silent_guest_agent_delays_no_other_call() {
    let Some(bed) = Bed::alone(&[]) else { return };
    let (guest, mut console) = with_agent(&bed, "mute");
    console.run("kill -STOP $(pidof qemu-ga)");
    thread::scope(|threads| {
        let asking = threads.spawn(|| info(&bed, "mute"));
        wait_until("the guest agent is asked", SOON, || {
            bed.agent.health().1["pool"]["lanes"]["read"]["running"] == 1 || asking.is_finished()
        });
        for (method, state) in [("Suspend", "paused"), ("Resume", "running")] {
            bed.agent.ok(method, &guest);
            assert_eq!(bed.agent.state("mute"), state);
        }
        assert!(!asking.is_finished(), "they were done before it");
        assert_eq!(asking.join().expect("an answer")["agent"], false);
    });
    bed.agent.ok("Delete", &guest);
}

#[test]
fn a_guest_deaf_to_its_button_obeys_its_agent() {
    let Some(bed) = Bed::new(&["--log-level", "debug"]) else { return };
    let (guest, mut console) = with_agent(&bed, "buttonless");
    console.run("rm -r /etc/acpi/PWRF");
    let shut_down = |times: Value| {
        let mut params = times;
        params["guest"] = json!({ "id": "buttonless" });
        bed.agent.call_with("Shutdown", &params)
    };
    // One that is connected and silent: the guest runs on, and is forced off when that is due.
    console.run("kill -STOP $(pidof qemu-ga)");
    let forced = shut_down(json!({ "wait": 60, "force_after": 4 }));
    assert_eq!(forced["result"]["forced"], true, "{forced}");
    bed.agent.logged("a guest agent does not shut down");

    bed.agent.ok("Run", &guest);
    let mut console = Console::log_in(bed.stack, "buttonless");
    console.run("rm -r /etc/acpi/PWRF");
    wait_until("the guest agent answers", SOON, || info(&bed, "buttonless")["agent"] == true);
    let off = shut_down(json!({ "wait": 120 }));
    let result = &off["result"];
    assert_eq!((&result["guest"]["state"], &result["forced"]), (&json!("shutoff"), &Value::Null));
    bed.agent.ok("Delete", &guest);
}

/// By how many seconds a guest's clock is behind the host's.
fn behind_s(console: &mut Console) -> u64 {
    let host = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let guest: u64 = console.run("date +%s").trim().parse().expect("seconds");
    host.as_secs().saturating_sub(guest)
}

#[test]
fn resumed_guest_has_the_host_time() {
    let Some(bed) = Bed::new(&["--log-level", "debug"]) else { return };
    let (guest, mut console) = with_agent(&bed, "late");
    let pause_s = 10;
    let is_right = |console: &mut Console| behind_s(console) < pause_s / 2;
    assert!(is_right(&mut console), "a guest's clock begins with the host's");
    let pause = || thread::sleep(Duration::from_secs(pause_s));
    bed.agent.ok("Suspend", &guest);
    pause();
    bed.agent.ok("Resume", &guest);
    wait_until("the clock is set after Resume", SOON, || is_right(&mut console));
    bed.stack.virsh_ok(&["suspend", "late"]);
    pause();
    bed.stack.virsh_ok(&["resume", "late"]);
    wait_until("the guest agent sets the clock after virsh resume", SOON, || {
        is_right(&mut console)
    });
    bed.stack.virsh_ok(&["managedsave", "late"]);
    pause();
    bed.agent.ok("Run", &guest);
    let mut console = Console::open(bed.stack, "late");
    wait_until("the clock is set after a restore", SOON, || is_right(&mut console));
    bed.agent.ok("Delete", &guest);
}

#[test]
fn no_call_waits_for_a_clock_that_is_never_set() {
    let Some(bed) = Bed::alone(&["--log-level", "debug"]) else { return };
    let (guest, mut console) = with_agent(&bed, "timeless");
    console.run("kill -STOP $(pidof qemu-ga)");
    let is_asked = || bed.agent.health().1["pool"]["lanes"]["read"]["running"] == 1;
    bed.agent.ok("Suspend", &guest);
    bed.agent.ok("Resume", &guest);
    wait_until("the guest agent is asked", SOON, is_asked);
    assert_eq!(bed.agent.state("timeless"), "running");
    bed.agent.ok("Suspend", &guest);
    assert!(is_asked(), "they were done before it");
    let log = || bed.agent.log();
    wait_until("the log says why", SOON, || log().contains("clock; trying again: "));
    // It is asked again when it is there again.
    bed.agent.ok("Resume", &guest);
    console.run("kill -CONT $(pidof qemu-ga)");
    wait_until("it is asked again", 2 * SOON, || log().contains("set the guest's clock; guest="));
    bed.agent.ok("Delete", &guest);
}

/// What root's line of `/etc/passwd` has for the password.
fn hash(console: &mut Console) -> String {
    let line = console.run("grep ^root: /etc/passwd");
    line.split(':').nth(1).expect("a second field").to_owned()
}

#[test]
fn a_user_gets_a_password_and_keys_in_a_running_guest() {
    let files = Scratch::new();
    let audit = files.path().join("audit").display().to_string();
    let Some(bed) = Bed::new(&["--log-level", "debug", "--audit-log", &audit]) else { return };
    let guest = bed.guest("login", &json!({}));
    let set = |method: &str, members: &Value| {
        let mut params = json!({ "guest": { "id": "login" }, "user": "root" });
        for (name, value) in members.as_object().expect("members") {
            params[name] = value.clone();
        }
        bed.agent.call_with(method, &params)
    };
    bed.agent.ok("CreateGuest", &guest);
    let off = set("SetPassword", &json!({ "password": "x" }));
    assert!(off["error"].as_str().is_some_and(|why| why.contains("not running")), "{off}");
    bed.agent.ok("Run", &guest);
    let mut console = Console::log_in(bed.stack, "login");
    wait_until("the guest agent answers", SOON, || info(&bed, "login")["agent"] == true);

    let hashed = "$6$6d697374696679$KnownHashThatNoPasswordHas";
    let done = set("SetPassword", &json!({ "password_hash": hashed }));
    assert_eq!(done["result"]["guest"]["id"], "login", "{done}");
    assert_eq!(hash(&mut console), hashed);
    let done = set("SetPassword", &json!({ "password": PASSWORD }));
    assert_eq!(done["error"], Value::Null, "{done}");
    let made = hash(&mut console);
    assert!(made.starts_with('$') && made != hashed, "{made}");
    let parts: Vec<&str> = made.split('$').collect();
    let method = match parts[1] {
        "1" => "md5",
        "5" => "sha256",
        _ => "sha512",
    };
    let known = console.run(&format!("mkpasswd -m {method} '{PASSWORD}' '{}'", parts[2]));
    assert_eq!(known.trim(), made, "it is the hash of the password");

    let keys = ["ssh-ed25519 AAAA first", "ssh-ed25519 BBBB second"];
    for keys in [&keys[..], &keys[1..]] {
        let done = set("SetSshKeys", &json!({ "ssh_keys": keys }));
        assert_eq!(done["error"], Value::Null, "{done}");
        let lines = console.run("cat /root/.ssh/authorized_keys");
        assert_eq!(lines.lines().collect::<Vec<_>>(), keys, "those and no others");
    }
    let stranger = set("SetPassword", &json!({ "user": "nobody-here", "password": PASSWORD }));
    assert!(stranger["error"].is_string(), "{stranger}");

    // A silent guest agent is an error, and is left alone for some time.
    console.run("kill -STOP $(pidof qemu-ga)");
    let silent = set("SetPassword", &json!({ "password": PASSWORD }));
    assert!(silent["error"].as_str().is_some_and(|why| why.contains("agent")), "{silent}");
    let again = set("SetSshKeys", &json!({ "ssh_keys": keys }));
    assert!(again["error"].as_str().is_some_and(|why| why.contains("asked again in")), "{again}");
    bed.agent.ok("Delete", &guest);
    assert!(!bed.agent.log().contains(PASSWORD) && !bed.agent.log().contains(hashed));
    wait_until("all calls are audited", SOON, || {
        let records = fs::read_to_string(&audit).unwrap_or_default();
        assert!(!records.contains(PASSWORD) && !records.contains(hashed), "{records}");
        records.matches("Libvirt.SetPassword").count() == 5
    });
}

#[test]
fn a_guest_agent_that_trims_is_asked_nothing_else() {
    let Some(bed) = Bed::alone(&[]) else { return };
    let (guest, mut console) = with_agent(&bed, "trims");
    bed.agent.ok("Trim", &guest);
    // libvirt waits some seconds for it.
    console.run("kill -STOP $(pidof qemu-ga)");
    thread::scope(|threads| {
        let trimming = threads.spawn(|| bed.agent.call("Trim", &guest));
        wait_until("it trims", SOON, || {
            bed.agent.health().1["pool"]["lanes"]["control"]["running"] == 1
                || trimming.is_finished()
        });
        let reported = info(&bed, "trims");
        assert_eq!(reported["message"], "the guest agent is busy with Trim", "{reported}");
        let params = json!({ "guest": { "id": "trims" }, "user": "root", "password": PASSWORD });
        let refused = bed.agent.call_with("SetPassword", &params)["error"].take();
        assert_eq!(refused, "the guest agent is busy with Trim");
        bed.agent.ok("Suspend", &guest);
        assert!(!trimming.is_finished(), "they were done before it");
        let trimmed = trimming.join().expect("an answer");
        let why = trimmed["error"].as_str().unwrap_or_else(|| panic!("{trimmed}"));
        assert!(why.contains("asked again in"), "{why}");
    });
    let left_alone = bed.agent.error("Trim", &guest);
    assert!(left_alone.contains("asked again in"), "{left_alone}");
    bed.agent.ok("Delete", &guest);
}

const PASSWORD: &str = "s3cret-of-a-user";

#[test]
fn a_login_that_cannot_be_is_refused_unrepeated() {
    let agent = Agent::start(&["--libvirt-uri", "test:///default"]);
    let key = "ssh-ed25519 AAAA";
    for (method, members, why) in [
        ("SetPassword", json!({}), "either password or password_hash"),
        ("SetPassword", json!({ "password": PASSWORD, "password_hash": "$6$a$b" }), "either"),
        ("SetPassword", json!({ "password": PASSWORD, "ssh_keys": [key] }), "either"),
        ("SetPassword", json!({ "password": format!("{PASSWORD}\nroot:x") }), "one line"),
        ("SetPassword", json!({ "password": PASSWORD, "user": "a:b" }), "user must not"),
        ("SetPassword", json!({ "password": PASSWORD, "user": "" }), "user must be one line"),
        ("SetPassword", json!({ "password_hash": PASSWORD }), "password_hash must be a hash"),
        ("SetSshKeys", json!({}), "needs ssh_keys"),
        ("SetSshKeys", json!({ "ssh_keys": [] }), "needs ssh_keys"),
        ("SetSshKeys", json!({ "ssh_keys": [key], "password": PASSWORD }), "needs ssh_keys"),
        ("SetSshKeys", json!({ "ssh_keys": [format!("{key}\n{key}")] }), "one line"),
        (
            "SetPassword",
            json!({ "password": PASSWORD, "args": { "mistify.async": "true" } }),
            "mistify.async",
        ),
    ] {
        let mut params = json!({ "guest": { "id": "test" }, "user": "root" });
        for (name, value) in members.as_object().expect("members") {
            params[name] = value.clone();
        }
        let answer = agent.call_with(method, &params);
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{members}: {answer}"));
        assert!(error.contains(why) && !error.contains(PASSWORD), "{members}: {error}");
    }
    // Of another type it is not repeated, either.
    for params in [
        json!([{ "password": 316_554 }]),
        json!([{ "password_hash": { "316554": 1 } }]),
        json!([{ "guest": "316554" }]),
        json!([{ "args": "316554" }]),
        json!(["316554"]),
    ] {
        let call = json!({
            "jsonrpc": "2.0", "method": "Libvirt.SetPassword", "params": params, "id": 1,
        });
        for path in ["/_mistify_RPC_", "/rpc"] {
            let headers = [("Content-Type", "application/json")];
            let answer = agent.request("POST", path, &headers, call.to_string().as_bytes()).text();
            assert!(answer.contains("its content is secret"), "{path} {params}: {answer}");
            assert!(!answer.contains("316554"), "{path} {params}: {answer}");
        }
    }
    let log = agent.end();
    assert!(!log.contains(PASSWORD) && !log.contains("316554"), "{log}");
}

#[test]
fn a_guest_without_an_agent_is_no_error() {
    let Some(bed) = Bed::new(&[]) else { return };
    let guest = bed.guest("uninformed", &json!({ "guest_agent": false }));
    bed.agent.ok("CreateGuest", &guest);
    bed.agent.ok("Run", &guest);
    let reported = info(&bed, "uninformed");
    assert_eq!(
        (&reported["agent"], &reported["addresses"]),
        (&json!(false), &json!([])),
        "{reported}"
    );
    assert!(
        reported["message"].as_str().is_some_and(|it| it.contains("not configured")),
        "{reported}"
    );
    bed.agent.ok("Delete", &guest);
}
