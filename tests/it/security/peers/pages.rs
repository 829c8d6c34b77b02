//! Web pages that a browser on this host shows: they may do nothing here.

use serde_json::json;

use super::{ON_TEST_DRIVER, addresses, client, create};
use crate::harness::agent::Agent;
use crate::harness::support::Scratch;

fn post(agent: &Agent, headers: &[(&str, &str)], id: &str) -> (u16, String) {
    let reply = agent.request("POST", "/_mistify_RPC_", headers, create(id).as_bytes());
    (reply.status, reply.text())
}

#[test]
fn page_request_creates_no_guest_and_names_the_reason() {
    let agent = Agent::on_test_driver();
    let json = ("Content-Type", "application/json");
    for (headers, status, word) in [
        (&[json, ("Origin", "null")][..], 403, "Origin: "),
        (&[json, ("Origin", "http://evil.example")], 403, "Origin: "),
        (&[json, ("Sec-Fetch-Site", "cross-site")], 403, "Sec-Fetch-Site: "),
        (&[json, ("Sec-Fetch-Site", "same-site")], 403, "Sec-Fetch-Site: "),
        (&[("Content-Type", "text/plain")], 415, "rpc: "),
        (&[("Content-Type", "application/x-www-form-urlencoded")], 415, "rpc: "),
        (&[("Content-Type", "text/plain"), ("Origin", "null")], 403, "Origin: "),
    ] {
        let (found, text) = post(&agent, headers, "stolen");
        assert!(found == status && text.starts_with(word), "{headers:?}: {found} {text}");
    }
    let error = agent.error("Status", &json!({ "id": "stolen" }));
    assert!(error.starts_with("[Code-42] "), "{error}");
    let own = format!("http://{}", agent.address());
    let headers = [json, ("Origin", own.as_str()), ("Sec-Fetch-Site", "same-origin")];
    assert_eq!(post(&agent, &headers, "ours").0, 200, "its own page might, if it had one");
    agent.ok("Delete", &json!({ "id": "ours" }));
    agent.end();
}

#[test]
fn flags_list_host_names_and_the_socket_accepts_any() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("rpc").display().to_string();
    let mut flags = ON_TEST_DRIVER.to_vec();
    flags.extend(["--socket", &socket, "--allow-host", "hv1", "--allow-host", "hv1.example"]);
    let agent = Agent::start(&flags);
    let tcp = addresses(&agent, 2).remove(0);
    let ask = |address: &str, path: &str, host: &str| {
        let text =
            format!("GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n");
        let answer = client(std::process::Command::new("env"), &["say", address, &text]);
        answer.split(' ').nth(1).unwrap_or("closed").to_owned()
    };
    for path in ["/healthz", "/metrics"] {
        for host in ["hv1", "HV1.example:20001", "localhost", "[::1]:1", "192.0.2.1"] {
            assert_eq!(ask(&tcp, path, host), "200", "{host}");
        }
        for host in ["hv2", "evil.example", "hv1.example.evil.example", ""] {
            assert_eq!(ask(&tcp, path, host), "403", "{host}");
            assert_eq!(ask(&socket, path, host), "200", "{host}");
        }
    }
    agent.end();
}

#[test]
fn no_answer_gives_pages_leave() {
    let agent = Agent::on_test_driver();
    let own = format!("http://{}", agent.address());
    for path in ["/_mistify_RPC_", "/healthz", "/readyz", "/metrics", "/", "*"] {
        for method in ["GET", "POST", "OPTIONS", "HEAD", "PUT"] {
            for origin in [own.as_str(), "null", "http://evil.example"] {
                let headers = [
                    ("Origin", origin),
                    ("Access-Control-Request-Method", "POST"),
                    ("Access-Control-Request-Headers", "content-type"),
                    ("Access-Control-Request-Private-Network", "true"),
                ];
                let reply = agent.request(method, path, &headers, b"");
                let leave =
                    reply.headers.iter().find(|(name, _)| name.starts_with("access-control"));
                assert_eq!(leave, None, "{method} {path} {origin}");
                // Only OPTIONS may have `*`.
                let is_refused = matches!(reply.status, 400 | 403);
                assert!(is_refused || origin == own, "{method} {path} {origin}");
            }
        }
    }
    agent.end();
}

#[test]
fn a_name_that_is_none_ends_the_start() {
    for name in ["", "hv1:80", "http://hv1", "127.0.0.1", "a b"] {
        let output = std::process::Command::new("timeout")
            .args(["60", crate::harness::agent::PROGRAM, "--port", "0", "--allow-host", name])
            .output()
            .expect("it starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(&format!("--allow-host {name}: give a host name alone")), "{error}");
    }
}
