//! The log as JSON, which collectors of the original's log can still read.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::support::{Scratch, wait_until};

const SOON: Duration = Duration::from_secs(60);

fn agent() -> Agent {
    Agent::start(&["--libvirt-uri", "test:///default", "--log-format", "json"])
}

/// The lines so far that say this.
fn lines(agent: &Agent, msg: &str) -> Vec<Value> {
    let all = agent.log();
    let all = all.lines().map(|line| serde_json::from_str::<Value>(line).expect("each is JSON"));
    all.filter(|line| line["msg"] == msg).collect()
}

fn wait_for_lines(agent: &Agent, msg: &str, count: usize) -> Vec<Value> {
    wait_until(msg, SOON, || lines(agent, msg).len() >= count);
    let lines = lines(agent, msg);
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

/// Each line has these three, as logrus writes them.
fn is_of_logrus(line: &Value, level: &str) {
    assert_eq!(line["level"], level, "{line}");
    let time = line["time"].as_str().expect("a text");
    let (date, rest) = time.split_once('T').expect("RFC 3339");
    assert!(date.len() == 10 && rest.ends_with('Z'), "{time}");
}

#[test]
fn a_start_logs_one_line_at_the_default_level() {
    let files = Scratch::new();
    let (log, store) = (files.path().join("log"), files.path().join("store"));
    let mut agent = Command::new(PROGRAM)
        .args(["--config", "/dev/null", "--port", "0", "--libvirt-uri", "test:///default"])
        .args(["--storage".into(), format!("directory:{}", store.display())])
        .env("STATE_DIRECTORY", files.path().join("state"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stderr(File::create(&log).expect("scratch is writable"))
        .spawn()
        .expect("it starts");
    let text = || fs::read_to_string(&log).expect("it was created");
    wait_until("it has started", SOON, || text().contains("mistify-libvirt started"));
    let kill = Command::new("kill").arg(agent.id().to_string()).status().expect("it runs");
    assert!(kill.success() && agent.wait().expect("it ends").success());
    let text = text();
    assert_eq!(text.lines().count(), 1, "{text}");
    let fields = [
        concat!(" version=\"", env!("CARGO_PKG_VERSION"), "\""),
        " listeners=\"127.0.0.1:",
        " at test:///default\"",
        &format!(" store=\"directory {}, ", store.display()),
        " GiB free\"",
    ];
    fields.iter().for_each(|field| assert!(text.contains(field), "{field}: {text}"));
}

#[test]
fn method_is_logged_with_its_guest_as_originally() {
    let agent = agent();
    let methods = ["Restart", "Reboot", "Poweroff", "Shutdown", "Run", "Status", "Delete"];
    for method in methods {
        let id = format!("a \"guest\"\nfor {method}");
        agent.error(method, &json!({ "id": id }));
        let line = wait_for_lines(&agent, &format!("Libvirt.{method}"), 1).remove(0);
        is_of_logrus(&line, "info");
        assert_eq!(line["guest"], id, "{line}");
        assert_eq!(line["outcome"], "error", "{line}");
        assert!(line["ms"].is_number() && line["error"].is_string(), "{line}");
    }
}

#[test]
fn request_is_logged_with_original_members() {
    let agent = agent();
    let call = |body: &str, agent_name: Option<&str>| {
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(agent_name.map(|name| ("User-Agent", name)));
        agent.request("POST", "/_mistify_RPC_?a=b", &headers, body.as_bytes())
    };
    let status = r#"{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}],"id":1}"#;
    let unknown = r#"{"method":"Libvirt.Nothing","params":[{}],"id":1}"#;
    let notified = r#"{"method":"Libvirt.Status","params":[{"guest":{"id":"test"}}]}"#;
    let msg = "request processed";
    for (number, (body, name, method)) in [
        (status, Some("Go-http-client/1.1"), "Libvirt.Status"),
        (notified, None, "Libvirt.Status"),
        (unknown, None, ""),
        ("{", None, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = call(body, name);
        let mut line = wait_for_lines(&agent, msg, number + 1).remove(number);
        is_of_logrus(&line, "info");
        let duration = line["duration"].take();
        assert!(duration.is_f64() && duration.as_f64() < Some(60.0), "{duration}");
        for member in ["level", "msg", "time", "target"] {
            line[member].take();
        }
        let expected = json!({
            "method": method, "duration": null, "url": "/_mistify_RPC_?a=b",
            "status": reply.status, "size": reply.body.len(), "userAgent": name.unwrap_or_default(),
            "client": "127.0.0.1", "level": null, "msg": null, "time": null, "target": null,
        });
        assert_eq!(line, expected);
    }
    // The original wrapped this path alone.
    agent.health();
    agent.request("GET", "/elsewhere", &[], b"");
    call(status, None);
    wait_for_lines(&agent, msg, 5);
}

#[test]
fn levels_have_the_names_of_logrus() {
    let flags = ["--libvirt-uri", "test:///default", "--log-format", "json", "--allow-any-local"];
    let agent = Agent::start(&flags);
    let warned = || {
        let log = agent.log();
        let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.find(|line| line["msg"].as_str().is_some_and(|msg| msg.contains("every user")))
    };
    wait_until("it warns", SOON, || warned().is_some());
    is_of_logrus(&warned().expect("just seen"), "warning");
}

#[test]
fn both_paths_log_alike_and_a_batch_logs_each_call() {
    let agent = agent();
    let call = json!({
        "jsonrpc": "2.0", "method": "Libvirt.Status", "params": { "guest": { "id": "test" } }, "id": 1
    });
    let headers = [("Content-Type", "application/json")];
    for (body, method, calls) in [(call.clone(), "Libvirt.Status", 1), (json!([call, call]), "", 3)]
    {
        let count = lines(&agent, "request processed").len() + 1;
        let reply = agent.request("POST", "/rpc", &headers, body.to_string().as_bytes());
        let line = wait_for_lines(&agent, "request processed", count).remove(count - 1);
        is_of_logrus(&line, "info");
        assert_eq!((&line["method"], &line["url"]), (&json!(method), &json!("/rpc")), "{line}");
        assert_eq!((&line["status"], &line["size"]), (&json!(200), &json!(reply.body.len())));
        let reported = wait_for_lines(&agent, "Libvirt.Status", calls);
        assert!(reported.iter().all(|line| line["guest"] == "test"), "{reported:?}");
    }
}
