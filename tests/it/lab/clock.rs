//! The virtual machine's clock, which no other machine lends.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Pool, fresh, run};
use crate::harness::image_store::Bed;
use crate::harness::skip::require;

/// How far back the clock is set.
const HOUR: Duration = Duration::from_secs(3600);

/// The clock set back, and forward again on drop: other tests only wait by the other clock.
struct SetBack;

impl SetBack {
    fn new() -> Self {
        set(|now| now - HOUR.as_secs());
        Self
    }
}

impl Drop for SetBack {
    fn drop(&mut self) {
        set(|now| now + HOUR.as_secs());
    }
}

fn set(to: impl Fn(u64) -> u64) {
    let now: u64 = run("date", &["+%s"]).trim().parse().expect("seconds");
    run("date", &["-s", &format!("@{}", to(now))]);
}

#[test]
fn a_clock_that_is_set_back_changes_nothing() {
    let Some(pool) = require("lab", Pool::own(128)) else { return };
    let bed = Bed::on("test:///default", Some(pool));
    let agent = &bed.agent;
    let guest = |id: &str| {
        let disks = json!([{ "size": 8 }]);
        json!({ "id": id, "type": "test", "memory": 32, "cpu": 1, "disks": disks })
    };
    let (first, second) = (guest(&fresh("before")), guest(&fresh("after")));
    let first = agent.ok("CreateGuest", &first)["guest"].take();
    let _back = SetBack::new();
    let begin = Instant::now();
    let second = agent.ok("CreateGuest", &second)["guest"].take();
    assert_eq!(agent.ok("Run", &first)["guest"]["state"], "running");
    agent.ok("CreateGuest", &first);
    let (_, health) = agent.health();
    for age in [&health["libvirt"]["since_seconds"], &health["storage"]["age_seconds"]] {
        let age = age.as_f64().expect("a number");
        assert!((0.0..HOUR.as_secs_f64()).contains(&age), "{health}");
    }
    agent.ok("Delete", &first);
    agent.ok("Delete", &second);
    assert_eq!(bed.volumes(), [""; 0]);
    assert!(begin.elapsed() < HOUR / 2, "nothing waited for the clock");
    bed.agent.end();
}
