//! The commands that ask an agent which runs, as people and scripts call them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::PROGRAM;
use crate::harness::shell::{CLEARED, Shell};
use crate::harness::support::wait_until;

/// Longer than a loaded machine needs for what takes milliseconds.
const SOON: Duration = Duration::from_secs(60);
#[test]
fn a_guests_life_is_a_command_a_step() {
    let shell = Shell::new();
    let guest = json!({ "id": "web-1", "type": "test", "memory": 64, "cpu": 1 });
    let file = shell.directory.path().join("web-1.json");
    fs::write(&file, guest.to_string()).expect("a file can be written");
    let file = file.display().to_string();

    assert_eq!(shell.ask(&["create", &file])["guest"]["id"], "web-1");
    let states = |id: &str| {
        let all = shell.ask(&["list"]);
        let found = all.as_array().expect("a list").iter().find(|guest| guest["id"] == id);
        found.map(|guest| guest["state"].clone())
    };
    assert_eq!(states("test"), Some(json!("running")));
    assert_eq!(shell.ask(&["run", "web-1"])["guest"]["state"], "running");
    assert_eq!(shell.ask(&["status", "web-1"])["guest"]["state"], "running");
    assert_eq!(shell.ask(&["suspend", "web-1"])["guest"]["state"], "paused");
    assert_eq!(shell.ask(&["resume", "web-1"])["guest"]["state"], "running");
    assert_eq!(shell.ask(&["reset", "web-1"])["guest"]["state"], "running");
    let why = "cannot read the console of web-1: its definition has no console log";
    assert!(shell.fail(&["console", "web-1"]).contains(why));
    assert_eq!(shell.ask(&["reboot", "web-1"])["guest"]["id"], "web-1");
    assert_eq!(shell.ask(&["shutdown", "web-1"])["guest"]["id"], "web-1");
    assert_eq!(shell.ask(&["run", "web-1"])["guest"]["state"], "running");
    let off = shell.ask(&["shutdown", "web-1", "--wait=60", "--force-after", "30"]);
    assert_eq!(off["guest"]["state"], "shutoff");
    assert_eq!(shell.ask(&["shutdown", "--wait", "web-1"])["guest"]["state"], "shutoff");
    assert_eq!(shell.ask(&["run", "web-1"])["guest"]["state"], "running");
    assert_eq!(shell.ask(&["poweroff", "web-1"])["guest"]["state"], "shutoff");
    assert_eq!(shell.ask(&["delete", "web-1"])["guest"]["id"], "web-1");
    assert!(shell.fail(&["status", "web-1"]).starts_with("1 mistify-libvirt: Domain not found"));
}

#[test]
fn any_method_takes_arguments_a_file_or_stdin() {
    let shell = Shell::new();
    let params = r#"{"guest":{"id":"test"}}"#;
    let file = shell.directory.path().join("params");
    fs::write(&file, params).expect("a file can be written");
    let from_file = format!("@{}", file.display());
    let expected = json!({ "guest": { "id": "test", "state": "running" } });
    let state = |answer: &Value| answer["guest"]["state"].clone();
    for words in [["call", "Status", params], ["call", "Libvirt.Status", &from_file]] {
        assert_eq!(state(&shell.ask(&words)), state(&expected));
    }
    let output = shell.feed(&["call", "Status", "-"], &format!("[{params}]"));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(state(&answer), state(&expected));
    shell.has_metrics();
    assert_eq!(shell.ask(&["call", "AllMetrics"])["test"]["state"], "running");
}

#[test]
fn exit_status_tells_caller_from_agent_errors() {
    let shell = Shell::new();
    for (words, says) in [
        (&["status", "nobody"][..], "1 mistify-libvirt: Domain not found"),
        (&["metrics", "nobody"], "1 mistify-libvirt: guest nobody not found"),
        (&["call", "Nope"], "1 mistify-libvirt: "),
        (&["call", "Status", "{"], "2 mistify-libvirt: cannot parse the parameters: "),
        (&["create", "/nonexistent"], "2 mistify-libvirt: cannot read /nonexistent: No such file"),
        // A port that no test is given.
        (
            &["create", "web-1", "--run"],
            "2 mistify-libvirt: cannot read web-1: No such file or directory (os error 2); to create a guest \
             with this id, add --image and --memory\n",
        ),
        (&["list", "--port", "1"], "3 mistify-libvirt: cannot call the agent at 127.0.0.1:"),
        (&["list", "--port", "0"], "2 mistify-libvirt: cannot call the agent at port 0: "),
        (
            &["list", "--socket", "/nonexistent"],
            "3 mistify-libvirt: cannot call the agent at /nonexistent: No such file",
        ),
        (&["status"], "2 mistify-libvirt: status: not a subcommand"),
    ] {
        let said = shell.fail(words);
        assert!(said.starts_with(says), "{words:?}: {said}");
    }
}

#[test]
fn configured_unix_socket_is_preferred_to_the_port() {
    let shell = Shell::new();
    let socket = shell.directory.path().join("s").display().to_string();
    // Were it the port, nobody would be there.
    let words = ["--port", "1", "--socket", &socket, "status", "test"];
    assert_eq!(shell.ask(&words)["guest"]["state"], "running");
}

#[test]
fn terminal_output_is_readable_unless_json_is_chosen() {
    let shell = Shell::new();
    assert_eq!(
        shell.left_on_terminal("list"),
        "GUEST    STATE   MEMORY  CPUS  ADDRESS\ntest   running  8.0 GiB     2        -\n"
    );
    assert_eq!(shell.left_on_terminal("status test"), "test running\n");
    shell.has_metrics();
    let metrics = shell.left_on_terminal("metrics test");
    assert!(metrics.starts_with("running, ") && metrics.contains("\nCPU  SECONDS"), "{metrics}");
    let call = shell.left_on_terminal("call Status '{\"guest\":{\"id\":\"test\"}}'");
    assert!(call.starts_with("{\n  \"guest\": {\n"), "{call}");
    let list: Value = serde_json::from_str(&shell.left_on_terminal("list --json")).expect("JSON");
    assert_eq!(list[0]["id"], "test");
}

#[test]
fn progress_is_shown_each_second_only_on_a_terminal() {
    crate::harness::cost::slow("shows passing seconds on a terminal");
    let shell = Shell::new();
    // Nothing happens here for which it would end before its time: twice as long as two seconds to be told
    // take on a machine that is not loaded.
    let words = |timeout: u8| format!(r#"{{"timeout": {timeout}, "guest": "nobody"}}"#);
    let said = shell.on_terminal(&format!("call WaitEvents '{}' --json", words(5)));
    let (reported, answer) = said.split_once(CLEARED).expect(&said);
    let seconds = |reported: &str| {
        reported.strip_prefix("Libvirt.WaitEvents: ")?.strip_suffix(" s")?.parse().ok()
    };
    let reported: Vec<u64> = reported.split('\r').filter_map(seconds).collect();
    assert!(reported.len() >= 2 && reported[0] >= 1 && reported.is_sorted(), "{said:?}");
    let answer: Value = serde_json::from_str(answer).expect("JSON alone is left");
    assert_eq!(answer["events"], json!([]));
    // Fast answers, and output that is not on a terminal, have no progress.
    wait_until("an answer that is not slow", SOON, || {
        shell.on_terminal("status test") == "test running\n"
    });
    assert_eq!(shell.ask(&["call", "WaitEvents", &words(2)])["events"], json!([]));
}

#[test]
fn bash_completes_commands_flags_methods_and_guests() {
    let shell = Shell::new();
    let script = shell.feed(&["completions", "bash"], "").stdout;
    let file = shell.directory.path().join("completions");
    fs::write(&file, script).expect("a file can be written");
    // What bash asks for once a person has written these words and presses the key.
    let complete = |words: &str| {
        let line = format!(
            ". {}; mistify-libvirt() {{ {PROGRAM} --config /dev/null --port {} \"$@\"; }}; \
             COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _mistify_libvirt 2>/dev/null; echo \"${{COMPREPLY[@]}}\"",
            file.display(),
            shell.port(),
        );
        let output = Command::new("bash").args(["-c", &line]).output().expect("bash is there");
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    };
    assert_eq!(complete("mistify-libvirt sh"), "shutdown");
    assert_eq!(complete("mistify-libvirt --dead"), "--deadline-read --deadline-change");
    assert_eq!(complete("mistify-libvirt call AllM"), "AllMetrics");
    assert_eq!(
        complete("mistify-libvirt call ImageStore.Li"),
        "ImageStore.ListVolumes ImageStore.ListSnapshots ImageStore.ListImages"
    );
    assert_eq!(complete("mistify-libvirt status te"), "test");
    assert_eq!(complete("mistify-libvirt image ''"), "import pull");
    assert_eq!(complete("mistify-libvirt create web-1 --run --wait ''"), "ssh cloud-init");
    assert_eq!(complete("mistify-libvirt shutdown --wait te"), "");
}

#[test]
fn top_in_a_pipe_prints_once() {
    let shell = Shell::new();
    shell.has_metrics();
    let top = shell.ask(&["top"]);
    assert_eq!((&top[0]["id"], &top[0]["state"]), (&json!("test"), &json!("running")));
    assert!(top[0]["cpu_percent"].is_number(), "{top}");
}
