//! Single calls: ids, parameters, errors, and what HTTP says.

use serde_json::{Value, json};

use super::{JSON, PATH, answer, error, post, request, result, test_guest};
use crate::harness::agent::Agent;
use crate::harness::image_store::Bed;
use crate::harness::support::Scratch;

#[test]
fn id_is_echoed_verbatim_or_the_request_is_invalid() {
    let agent = Agent::on_test_driver();
    let with_id = |id: &str| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","method":"Libvirt.Status","params":{{"guest":{{"id":"test"}}}},"id":{id}}}"#
        );
        let reply = post(&agent, body.as_bytes());
        (reply.status, reply.text())
    };
    for id in [
        "null",
        "\"\"",
        "\"a\\u0041<\"",
        "0",
        "-1",
        "1.50",
        "1E400",
        "123456789012345678901234567890",
    ] {
        let (status, text) = with_id(id);
        let echoed = id.replace('<', "\\u003c");
        assert!(status == 200 && text.ends_with(&format!("\"id\":{echoed}}}\n")), "{id}: {text}");
        assert!(text.contains("\"result\":"), "{id}: {text}");
    }
    for id in ["true", "{}", "[1]"] {
        let (status, text) = with_id(id);
        assert!(status == 200 && text.contains("\"code\":-32600"), "{id}: {text}");
        assert!(text.ends_with("\"id\":null}\n"), "{id}: {text}");
    }
    agent.end();
}

#[test]
fn params_that_are_null_are_none() {
    let agent = Agent::on_test_driver();
    let found = answer(&agent, r#"{"jsonrpc":"2.0","method":"Libvirt.List","params":null,"id":1}"#);
    assert_eq!(found["result"]["guests"][0]["id"], "test", "{found}");
    let old = agent.post(br#"{"method":"Libvirt.Status","params":null,"id":1}"#);
    assert_eq!(old.status, 400, "as the original agent");
    agent.end();
}

#[test]
fn invalid_request_is_answered_with_its_id_and_code() {
    let agent = Agent::on_test_driver();
    for (body, code, id) in [
        (r#"{"method":"Libvirt.Status","params":[],"id":1}"#, -32600, json!(1)),
        (r#"{"jsonrpc":2.0,"method":"Libvirt.Status","id":1}"#, -32600, json!(1)),
        (r#"{"jsonrpc":"1.0","method":"Libvirt.Status","id":1}"#, -32600, json!(1)),
        (r#"{"JSONRPC":"2.0","method":"Libvirt.Status","id":1}"#, -32600, json!(1)),
        (r#"{"jsonrpc":"2.0","id":"x"}"#, -32600, json!("x")),
        (r#"{"jsonrpc":"2.0","method":"Libvirt.Status","params":"a","id":1}"#, -32600, json!(1)),
        (r#"{"jsonrpc":"2.0","method":"libvirt.Status","id":1}"#, -32601, json!(1)),
        (r#"{"jsonrpc":"2.0","method":"Libvirt.status","id":1}"#, -32601, json!(1)),
        (r#"{"jsonrpc":"2.0","method":"Libvirt.Status.","id":1}"#, -32601, json!(1)),
        (r#"{"jsonrpc":"2.0","method":"ImageStore.ListImages","id":1}"#, -32601, json!(1)),
        (r#"{"jsonrpc":"2.0","method":"rpc.other","id":1}"#, -32601, json!(1)),
        ("", -32700, Value::Null),
        ("null", -32600, Value::Null),
        ("\"text\"", -32600, Value::Null),
        (r#"{"jsonrpc":"2.0","method":"Libvirt.Status","id":1} x"#, -32700, Value::Null),
    ] {
        let found = answer(&agent, body);
        assert_eq!((&found["error"]["code"], &found["id"]), (&json!(code), &id), "{body}: {found}");
        assert_eq!(found["error"].get("data"), None, "{body}: no method was called");
    }
    let deep = "[".repeat(20_000);
    assert_eq!(answer(&agent, &deep)["error"]["code"], -32700);
    let reply = post(&agent, b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\",\"id\":1}");
    assert!(reply.text().contains("-32700"), "{reply:?}");
    agent.end();
}

#[test]
fn params_are_one_object_with_exact_names() {
    let agent = Agent::on_test_driver();
    let running = json!({ "guest": { "id": "test", "state": "running" } });
    for params in [
        json!({ "guest": { "id": "test" } }),
        json!([{ "guest": { "id": "test" } }]),
        json!({ "guest": { "ID": "test" }, "action": "status", "args": {} }),
    ] {
        assert_eq!(result(&agent, "Libvirt.Status", &params), running, "{params}");
    }
    for (params, why) in [
        (
            json!({ "guset": { "id": "test" } }),
            "Invalid params: unknown parameter \"guset\"; expected one of [\"guest\", \"action\", \"args\"]",
        ),
        (
            json!([{ "guest": { "id": "test" }, "Action": "" }]),
            "Invalid params: unknown parameter \"Action\"",
        ),
        (
            json!([{ "guest": { "id": "test" } }, 1]),
            "Invalid params: 2 parameters by position; at most one is allowed",
        ),
        (json!([1]), "Invalid params: invalid type: integer"),
        (json!({ "guest": { "id": 1 } }), "Invalid params: guest: id: invalid type: integer"),
        (
            json!({ "guest": { "id": "test" }, "dry_run": true }),
            "Invalid params: unknown parameter \"dry_run\"",
        ),
        (
            json!({ "guest": { "id": "test" }, "args": { "mistify.dry_run": "true" } }),
            "invalid argument: args: only CreateGuest and Delete take mistify.dry_run",
        ),
        (json!([]), "invalid argument"),
        (json!([null]), "invalid argument"),
        (json!({}), "invalid argument"),
    ] {
        let found = error(&agent, "Libvirt.Status", &params);
        assert_eq!(found["code"], -32602, "{params}: {found}");
        assert!(
            found["message"].as_str().is_some_and(|it| it.starts_with(why)),
            "{params}: {found}"
        );
    }
    // Of a member that is given twice the last one counts.
    let twice = r#"{"jsonrpc":"2.0","method":"Libvirt.Run","method":"Libvirt.Status","id":1,"id":2,
        "params":{"guest":{"id":"nobody"},"guest":{"id":"nobody","id":"test"}}}"#;
    assert_eq!(answer(&agent, twice), json!({ "jsonrpc": "2.0", "result": running, "id": 2 }));
    agent.end();
}

#[test]
fn method_error_has_a_code_and_its_source() {
    let scratch = Scratch::new();
    let store = format!("directory:{}", scratch.path().display());
    let agent = Agent::start(&["--libvirt-uri", "test:///default", "--storage", &store]);
    let not_found = error(&agent, "Libvirt.Status", &json!({ "guest": { "id": "nobody" } }));
    assert_eq!(not_found["code"], -32001, "{not_found}");
    let data = json!({
        "libvirt_code": 42, "libvirt_domain": 12, "retryable": false, "guest": "nobody",
    });
    assert_eq!(not_found["data"], data, "{not_found}");
    let old = agent.error("Status", &json!({ "id": "nobody" }));
    let message = not_found["message"].as_str().expect("a text");
    assert_eq!(old, format!("[Code-42] [Domain-12] {message}"), "the numbers are in the data");

    let code = |method: &str, params: Value| error(&agent, method, &params)["code"].clone();
    assert_eq!(result(&agent, "Libvirt.Poweroff", &test_guest())["guest"]["state"], "shutoff");
    assert_eq!(code("Libvirt.Reboot", test_guest()), -32003, "a guest that is off");
    let guest =
        json!({ "id": "a", "type": "test", "memory": 64, "cpu": 1, "disks": [{ "size": 1 }] });
    result(&agent, "Libvirt.CreateGuest", &json!({ "guest": guest }));
    let mut other = guest.clone();
    other["memory"] = json!(128);
    let exists = error(&agent, "Libvirt.CreateGuest", &json!({ "guest": other }));
    assert_eq!((&exists["code"], &exists["data"]["guest"]), (&json!(-32002), &json!("a")));
    let mut huge = guest.clone();
    huge["id"] = json!("b");
    huge["disks"][0]["size"] = json!(1_u64 << 40);
    assert_eq!(code("Libvirt.CreateGuest", json!({ "guest": huge })), -32008);
    huge["disks"][0]["image"] = json!("nothing");
    assert_eq!(code("Libvirt.CreateGuest", json!({ "guest": huge })), -32001);
    assert_eq!(code("Libvirt.CreateGuest", json!({ "guest": { "id": "a/b" } })), -32602);
    agent.end();
}

#[test]
fn unreachable_backend_is_unavailable_and_retryable() {
    let agent = Agent::start(&["--libvirt-uri", "qemu+unix:///system?socket=/nonexistent"]);
    let found = error(&agent, "Libvirt.Status", &test_guest());
    assert_eq!((&found["code"], &found["data"]["retryable"]), (&json!(-32009), &json!(true)));
    assert_eq!(found["data"]["libvirt_code"], 38, "{found}");
    agent.end();
}

#[test]
fn other_verbs_and_types_are_refused_by_http() {
    let agent = Agent::on_test_driver();
    let body = request("Libvirt.Status", &test_guest()).to_string();
    for method in ["GET", "PUT", "DELETE"] {
        let reply = agent.request(method, PATH, &[JSON], body.as_bytes());
        assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{reply:?}");
    }
    for kind in ["text/plain", "application/jsonx", ""] {
        let reply = agent.request("POST", PATH, &[("Content-Type", kind)], body.as_bytes());
        assert_eq!(reply.status, 415, "{kind:?}: {reply:?}");
    }
    let kind = [("Content-Type", "Application/JSON; charset=utf-8")];
    assert_eq!(agent.request("POST", PATH, &kind, body.as_bytes()).status, 200);
    for path in ["/rpc/", "/RPC", "/rpc/x"] {
        assert_eq!(agent.request("POST", path, &[JSON], body.as_bytes()).status, 404, "{path}");
    }
    // A page in a browser on this host.
    let headers = [JSON, ("Origin", "http://evil.example")];
    assert_eq!(agent.request("POST", PATH, &headers, body.as_bytes()).status, 403);
    agent.end();
}

#[test]
fn changes_are_audited_also_those_that_are_refused() {
    let scratch = Scratch::new();
    let file = scratch.path().join("audit");
    let flag = file.display().to_string();
    let agent = Agent::start(&["--libvirt-uri", "test:///default", "--audit-log", &flag]);
    result(&agent, "Libvirt.Poweroff", &test_guest());
    result(&agent, "Libvirt.Status", &test_guest());
    error(&agent, "Libvirt.Run", &json!({ "guest": { "id": "nobody" } }));
    error(&agent, "Libvirt.Run", &json!({ "guset": {} }));
    answer(&agent, r#"[{"method":"Libvirt.Delete","params":[{"guest":{"id":"test"}}],"id":1}]"#);
    agent.wait_for_writers();
    let written = std::fs::read_to_string(file).expect("it is there");
    let lines = written.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let lines: Vec<Value> =
        lines.map(|line| json!([line["method"], line["guest"], line["outcome"]])).collect();
    let expected = [
        json!(["Libvirt.Poweroff", "test", "ok"]),
        json!(["Libvirt.Run", "nobody", "error"]),
        json!(["Libvirt.Run", null, "refused"]),
        json!(["Libvirt.Delete", null, "refused"]),
    ];
    assert_eq!(lines, expected);
    agent.end();
}

#[test]
fn image_store_port_has_the_image_store_methods() {
    let bed = Bed::on_directory();
    let post = |body: &Value| -> Value {
        let body = body.to_string();
        let reply = bed.agent.request_at(bed.address(), "POST", PATH, &[JSON], body.as_bytes());
        serde_json::from_slice(&reply.body).expect("JSON")
    };
    let found = post(&request("ImageStore.ListImages", &json!({})));
    assert_eq!(found["result"], json!({ "images": [] }));
    let found = post(&request("ImageStore.GetVolume", &json!({ "id": "guests/a" })));
    assert_eq!(found["error"]["code"], -32001, "{found}");
    assert_eq!(found["error"]["data"]["guest"], Value::Null, "{found}");
    let found = post(&request("ImageStore.ListImages", &json!({ "guest": {} })));
    assert_eq!(
        found["error"]["message"],
        "Invalid params: unknown parameter \"guest\"; expected one of [\"id\", \"type\", \"dest\", \"source\"]"
    );
    assert_eq!(post(&request("Libvirt.Status", &test_guest()))["error"]["code"], -32601);
    bed.agent.end();
}
