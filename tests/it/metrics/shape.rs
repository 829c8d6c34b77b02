//! The text and its ways: what other programs read it, who may ask, and how.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use serde_json::json;

use super::{Bed, Inside, SOON, scrape};
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::{Skip, require};
use crate::harness::stack::Stack;
use crate::harness::support::{Scratch, feed, wait_for, wait_until};

/// A guest that is off has no memory, whatever its definition says; one that is paused has.
#[test]
fn a_guest_that_is_off_uses_no_memory() {
    let Some(stack) = require("qemu", Stack::shared()) else { return };
    let agent = Agent::start(&["--libvirt-uri", &stack.uri()]);
    for id in ["is-off", "is-paused"] {
        agent.ok("CreateGuest", &json!({ "id": id, "type": "qemu", "memory": 32, "cpu": 1 }));
    }
    agent.ok("Run", &json!({ "id": "is-paused" }));
    agent.ok("Suspend", &json!({ "id": "is-paused" }));
    let has = |text: &str, family: &str, id: &str| {
        let begin = format!("{family}{{domain=\"{id}\"");
        text.lines().any(|line| line.starts_with(&begin))
    };
    let (maximum, used) =
        ("libvirt_domain_info_maximum_memory_bytes", "libvirt_domain_info_memory_usage_bytes");
    let text = wait_for("a sample since the guest is paused", SOON, || {
        let text = get(&agent, "");
        (has(&text, maximum, "is-off") && has(&text, used, "is-paused")).then_some(text)
    });
    assert!(!has(&text, used, "is-off"), "{text}");
    for id in ["is-off", "is-paused"] {
        agent.ok("Delete", &json!({ "id": id }));
    }
    agent.end();
}

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";

fn get(agent: &Agent, accept: &str) -> String {
    let reply = agent.request("GET", "/metrics", &[("Accept", accept)], b"");
    assert_eq!(reply.status, 200);
    reply.text()
}

#[test]
fn promtool_and_another_parser_read_real_metrics() {
    let Some(bed) = require("qemu", Bed::new(2)) else { return };
    let agent = Inside::start(&bed.stack, &[]);
    agent.agent.ok("Status", &json!({ "id": bed.guests[0] }));
    agent.agent.error("Status", &json!({ "id": "absent \"\\" }));
    agent.scrape_until("a slow sample", SOON, |scrape| {
        bed.guests.iter().all(|guest| scrape.age(guest, "slow").is_some())
    });
    let (plain, open) = (get(&agent.agent, ""), get(&agent.agent, OPENMETRICS));

    if let Some(output) = require("promtool", feed("promtool", &["check", "metrics"], &plain)) {
        let words = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && words.is_empty(), "{}", String::from_utf8_lossy(&words));
    }
    let parse = |module: &str, text: &str| {
        let script = format!(
            "import sys\ntry:\n import prometheus_client.{module} as p\nexcept ImportError:\n \
             sys.exit(77)\nfor f in p.text_string_to_metric_families(sys.stdin.read()):\n \
             print(f.type, f.name, len(f.samples))"
        );
        // Debian's own, whose packages the gate installs: another may come first.
        feed("/usr/bin/python3", &["-c", &script], text).and_then(|output| {
            match output.status.code() {
                Some(77) => Err(Skip("python3-prometheus-client is not installed".to_owned())),
                _ => Ok(output),
            }
        })
    };
    for (module, text) in [("parser", &plain), ("openmetrics.parser", &open)] {
        let Some(output) = require("promtool", parse(module, text)) else { return };
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{module}: {errors}");
        let families = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            families.contains("counter libvirt_domain_block_stats_read_bytes 2\n"),
            "{families}"
        );
        assert!(families.contains("histogram mistify_request_duration_seconds "), "{families}");
    }
}

#[test]
fn metrics_are_read_only_in_the_requested_format() {
    let agent = Agent::on_test_driver();
    // A loaded machine has the first sample after the first scrape.
    let plain = wait_for("a sample", SOON, || {
        let plain = agent.request("GET", "/metrics", &[], b"");
        let state = "libvirt_domain_info_state{domain=\"test\",state=\"running\"} 1";
        plain.text().contains(state).then_some(plain)
    });
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let open = agent.request("GET", "/metrics", &[("Accept", OPENMETRICS)], b"");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open.header("content-type"), Some(kind));
    assert!(open.text().ends_with("# EOF\n"));
    let head = agent.request("HEAD", "/metrics", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    let refused = agent.request("POST", "/metrics", &[], b"");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(scrape(&agent).value("libvirt_domains"), 1.0);
}

#[test]
fn calls_are_counted_by_method_and_outcome() {
    let agent = Agent::on_test_driver();
    agent.ok("Status", &json!({ "id": "test" }));
    agent.ok("Status", &json!({ "id": "test" }));
    agent.error("Status", &json!({ "id": "absent" }));
    let scrape = scrape(&agent);
    let count = |outcome: &str| {
        scrape.value(&format!(
            "mistify_requests_total{{method=\"Libvirt.Status\",outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!((count("ok"), count("error")), (2.0, 1.0));
    let took = "mistify_request_duration_seconds_count{method=\"Libvirt.Status\"}";
    assert_eq!(scrape.value(took), 3.0);
    assert_eq!(scrape.value("mistify_http_requests_total{listener=\"main\"}"), 4.0);
}

#[test]
fn metadata_that_a_flag_names_become_labels() {
    let agent = Agent::start(&[
        "--libvirt-uri",
        "test:///default",
        "--allow-disk-path",
        "/",
        "--metrics-metadata",
        "owner",
        "--metrics-metadata",
        "cost-centre",
    ]);
    let guest = json!({
        "id": "labelled", "type": "test", "memory": 64, "cpu": 1,
        "metadata": { "owner": "a \"b\"", "secret": "s" },
    });
    agent.ok("CreateGuest", &guest);
    let (text, line) = wait_for("the labels", SOON, || {
        let text = get(&agent, "");
        let info = "mistify_guest_info{domain=\"labelled\"";
        let is_labelled = |line: &&str| line.starts_with(info) && line.contains("metadata_owner");
        let line = text.lines().find(is_labelled)?.to_owned();
        Some((text, line))
    });
    assert!(
        line.ends_with(",metadata_owner=\"a \\\"b\\\"\",metadata_cost_centre=\"\"} 1"),
        "{line}"
    );
    assert!(!text.contains("secret"));
}

#[test]
fn own_listener_serves_only_metrics_and_health() {
    let flags = ["--libvirt-uri", "test:///default", "--metrics-listen", "127.0.0.1:0"];
    let agent = Agent::start(&flags);
    let address: SocketAddr = wait_for("its address is logged", SOON, || {
        let log = agent.log();
        log.split("metrics are served on ").nth(1)?.lines().next()?.trim().parse().ok()
    });
    let ask = |method: &str, path: &str| {
        let kind = [("Content-Type", "application/json")];
        agent.request_at(address, method, path, &kind, br#"{"method":"Libvirt.Status","id":1}"#)
    };
    assert_eq!(ask("GET", "/metrics").status, 200);
    assert!(ask("GET", "/metrics").text().contains("listener=\"metrics\""));
    assert!(matches!(ask("GET", "/healthz").status, 200 | 503));
    for path in ["/_mistify_RPC_", "/snapshots/download", "/", "/readyz"] {
        assert_eq!(ask("POST", path).status, 404, "{path}");
    }
    for path in ["/metrics", "/healthz"] {
        assert_eq!(ask("POST", path).status, 405, "{path}");
    }
    agent.end();
}

#[test]
fn remote_listener_needs_a_flag_that_permits_readers() {
    let state = Scratch::new();
    for address in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"] {
        let output = Command::new(PROGRAM)
            .args(["--port", "0", "--metrics-listen", address])
            .env("STATE_DIRECTORY", state.path())
            .output()
            .expect("it starts");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        let needs = "an address beyond loopback needs --metrics-token-file or --metrics-open";
        assert!(error.contains(needs), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn parallel_scrapes_share_a_sample() {
    let began = Instant::now();
    let agent = Agent::start(&["--libvirt-uri", "test:///default", "--metrics-max-age", "60"]);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            // A loaded machine takes longer for the sample than a scrape waits.
            scope.spawn(|| {
                wait_until("a sample", SOON, || scrape(&agent).value("libvirt_up") == 1.0);
            });
        }
    });
    let samples = scrape(&agent).value("mistify_metrics_samples_total{tier=\"fast\"}");
    let most = 1.0 + began.elapsed().as_secs_f64() / 60.0;
    assert!((1.0..=most).contains(&samples), "{samples}");
}
