//! Round trips to libvirt for each call, counted by a proxy.

use serde_json::Value;

use crate::call_counter::Counting;
use crate::changes::{END, LIFE, in_phase};
use crate::common::bed::Bed;
use crate::common::http::Connection;
use crate::common::report::Report;
use crate::common::sample::float;
use crate::common::server::Server;
use crate::reads::READS;
use crate::{FLAGS, METRICS, as_run, guest, request};

/// Calls of each read, one after the other.
const CALLS: usize = 40;

/// Counts the round trips of an agent that takes a new sample for each scrape, so that the count
/// includes the sample's.
pub(crate) fn count(bed: &Bed, report: &mut Report) {
    let counting = Counting::start(&bed.stack);
    let uri = counting.uri();
    let own = ["--libvirt-uri", &uri, "--metrics-max-age", "0"];
    let agent = Server::agent(&[&own[..], &FLAGS].concat());
    let mut row = |method: &str, calls: usize, work: &mut dyn FnMut()| {
        let before = counting.calls();
        work();
        let trips = float(counting.calls() - before) / float(calls);
        report.row(method, &[("calls", float(calls)), ("round trips each", trips)]);
    };
    let asked = as_run(&agent, &bed.guests[0], 0);
    for method in READS {
        let mut connection = Connection::open(agent.address()).expect("it listens");
        let request = request(agent.address(), method, &asked);
        let mut call = || drop(connection.exchange(&request).expect("an answer"));
        // Every worker opens its connection, and fills its cache.
        (0..CALLS).for_each(|_| call());
        let who = if method == METRICS { "/metrics, a new fast sample each" } else { method };
        row(who, CALLS, &mut || (0..CALLS).for_each(|_| call()));
    }
    let new = guest("qemu", "trips", 0);
    let phase = |method: &str| -> Value { agent.ask(method, &in_phase(method, &new)) };
    // Once without counting: workers open connections on first use.
    LIFE.iter().chain(&END).for_each(|method| drop(phase(method)));
    for method in LIFE {
        row(method, 1, &mut || drop(phase(method)));
    }
    END.iter().for_each(|method| drop(phase(method)));
}
