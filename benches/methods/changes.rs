//! Methods that change a guest: guests pass through a life in phases.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::load::{self, Repeat};
use crate::common::report::Report;
use crate::common::sample::{Sample, float};
use crate::common::server::Server;
use crate::{guest, is_right, request};

/// A life: each method finds its guest in the state that the previous method left.
pub(crate) const LIFE: [&str; 8] =
    ["CreateGuest", "Run", "Reboot", "Restart", "Poweroff", "Delete", "Create", "Shutdown"];
/// Methods that remove the rest of the guest without being measured.
pub(crate) const END: [&str; 2] = ["Poweroff", "Delete"];

/// One phase of all lives.
pub(crate) struct Phase {
    pub(crate) method: &'static str,
    pub(crate) sample: Sample,
    libvirtd: Duration,
}

/// Leads guests of this type through a life, `each` of them by each connection; `libvirtd` returns
/// the CPU time that libvirtd has used.
pub(crate) fn live(
    agent: &Server,
    kind: &str,
    connections: usize,
    each: usize,
    libvirtd: impl Fn() -> Duration,
) -> Vec<Phase> {
    let guests: Vec<Vec<Value>> = (0..connections)
        .map(|connection| {
            (0..each).map(|number| guest(kind, "life", connection * each + number)).collect()
        })
        .collect();
    let phase = |method| {
        eprintln!("{connections} connection(s), {kind}: {method}");
        let of = |guest: &Value| request(agent.address(), method, &in_phase(method, guest));
        let work: Vec<Vec<Vec<u8>>> =
            guests.iter().map(|guests| guests.iter().map(of).collect()).collect();
        let (own, behind) = (agent.cpu(), libvirtd());
        let mut sample = load::run(agent.address(), &work, Repeat::Once, is_right);
        sample.cpu = agent.cpu() - own;
        Phase { method, sample, libvirtd: libvirtd().saturating_sub(behind) }
    };
    let phases = LIFE.into_iter().map(phase).collect();
    END.into_iter().map(phase).for_each(drop);
    phases
}

/// Returns the guest for a request of this method: Create makes neither volumes nor networks, so its guest has none.
pub(crate) fn in_phase(method: &str, guest: &Value) -> Value {
    let mut guest = guest.clone();
    if method == "Create" {
        guest["nics"] = json!([]);
        guest["disks"] = json!([]);
    }
    guest
}

impl Phase {
    /// Writes the row of a phase on qemu.
    pub(crate) fn write_row(mut self, report: &mut Report, guests: usize, connections: usize) {
        let calls = float(self.sample.answered);
        let cells = [
            ("other guests", float(guests)),
            ("connections", float(connections)),
            ("calls", calls),
            ("median ms", self.sample.percentile_us(50) / 1000.0),
            ("longest ms", self.sample.percentile_us(100) / 1000.0),
            ("busy", float(self.sample.refused)),
            ("own CPU s per 1,000", self.sample.cpu_us() / 1000.0),
            ("libvirtd's", self.libvirtd.as_secs_f64() * 1000.0 / calls),
        ];
        report.row(format!("{}, qemu", self.method), &cells);
    }
}
