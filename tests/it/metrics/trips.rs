//! How often libvirt is asked for one guest's metrics, by what its own client library says.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::{Bed, SOON};
use crate::harness::agent::{Agent, PROGRAM};
use crate::harness::skip::require;
use crate::harness::stack::{BlockDevice, measured_guest_xml};
use crate::harness::support::{Scratch, wait_until};

/// libvirt's number of its own protocol, beside that of keepalive.
const CALLS: &str = "prog=536903814 ";

/// An agent with one worker for reads, and a log of what it sends to libvirtd.
struct Counted {
    agent: Agent,
    log: PathBuf,
    _directory: Scratch,
}

impl Counted {
    fn start(uri: &str) -> Self {
        let directory = Scratch::new();
        let log = directory.path().join("libvirt.log");
        let mut command = Command::new(PROGRAM);
        command
            .env("LIBVIRT_LOG_FILTERS", "1:rpc.netclient")
            .env("LIBVIRT_LOG_OUTPUTS", format!("1:file:{}", log.display()));
        let agent = Agent::run(
            command,
            &["--libvirt-uri", uri, "--workers", "read=1", "--deadline-read", "60"],
        );
        // The calls of its connection are not among the counted ones below.
        agent.receives_events();
        Self { agent, log, _directory: directory }
    }

    /// Calls that were sent so far; each is answered before the agent goes on.
    fn sent(&self) -> usize {
        let log = fs::read_to_string(&self.log).expect("libvirt writes its log");
        log.lines().filter(|line| line.contains("TX_QUEUE") && line.contains(CALLS)).count()
    }

    /// What a verb answers for this guest, and the calls that it took.
    fn ask(&self, verb: &str, guest: &Value) -> (Value, usize) {
        let before = self.sent();
        let answer = self.agent.call(verb, guest);
        (answer, self.sent() - before)
    }
}

#[test]
fn guest_metrics_cost_two_round_trips() {
    let Some(bed) = require("qemu", Bed::new(0)) else { return };
    let devices = (0..3).map(|_| BlockDevice::bootable(1 << 20)).collect::<Result<Vec<_>, _>>();
    let Some(devices) = require("qemu", devices) else { return };
    let mut more = String::new();
    for (device, target) in devices[1..].iter().zip(["vdb", "vdc"]) {
        more += &format!(
            "<disk type='block'><driver name='qemu' type='raw'/><source dev='{}'/>\
             <target dev='{target}' bus='virtio'/></disk>\
             <interface type='bridge'><source bridge='mistify0'/></interface>",
            device.path().display()
        );
    }
    let xml = measured_guest_xml("many", 0, devices[0].path())
        .replace("<memballoon", &format!("{more}<memballoon"));
    assert!(bed.stack.with_xml("define", &xml).status.success());
    let off = json!({ "id": "many", "disks": [{ "device": "vda" }, { "device": "vdb" }] });
    let agent = Counted::start(&bed.stack.uri());
    let error_of = |verb, guest: &Value| agent.agent.error(verb, guest);
    let one_off = json!({ "id": "many", "disks": [{ "device": "vda" }] });
    assert_eq!(error_of("DiskMetrics", &off), error_of("DiskMetrics", &one_off));
    assert!(error_of("DiskMetrics", &off).contains("[Code-55]"));
    let cpu_off = error_of("CPUMetrics", &off);

    bed.stack.virsh_ok(&["start", "many"]);
    wait_until("it writes to its disk", SOON, || bed.stack.writes("many") > 0);
    bed.stack.virsh_ok(&["suspend", "many"]);
    let nics = bed.stack.virsh_ok(&["domiflist", "many"]);
    let nics: Vec<&str> = nics.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(nics.len(), 3);

    // The first one of all finds out whether libvirt knows times by host processor.
    agent.agent.ok("CPUMetrics", &json!({ "id": "many" }));
    let (cpu, calls) = agent.ask("CPUMetrics", &json!({ "id": "many" }));
    assert_eq!((cpu["result"]["cpu"].as_array().map(Vec::len), calls), (Some(1), 2), "{cpu}");

    let disks = |targets: &[&str]| {
        let disks: Vec<_> = targets.iter().map(|target| json!({ "device": target })).collect();
        let (answer, calls) = agent.ask("DiskMetrics", &json!({ "id": "many", "disks": disks }));
        (answer["result"]["disk"].clone(), answer["error"].clone(), calls)
    };
    let (all, _, calls) = disks(&["vda", "vdb", "vdc", "vdb"]);
    assert_eq!(calls, 2);
    let writes = bed.stack.writes("many");
    assert!(writes > 0 && all["vda"]["write_ops"] == writes, "{all}, {writes} by virsh");
    for target in ["vda", "vdb", "vdc"] {
        let (one, _, calls) = disks(&[target]);
        assert_eq!((&one[target], calls), (&all[target], 2), "also alone");
    }
    // The sum is libvirt's own.
    let (sum, _, calls) = disks(&["", "vda"]);
    assert_eq!((sum[""].clone(), calls), (disks(&[""]).0[""].clone(), 4));
    assert_eq!(sum["vda"], all["vda"]);
    let (_, error, _) = disks(&["vda", "vdz", "vdy"]);
    assert_eq!(error, disks(&["vdz"]).1, "the first that is not there");

    let ask = |devices: &[&str]| {
        let nics: Vec<_> =
            devices.iter().map(|nic| json!({ "name": nic, "device": nic })).collect();
        let (answer, calls) = agent.ask("NicMetrics", &json!({ "id": "many", "nics": nics }));
        (answer["result"]["nic"].clone(), answer["error"].clone(), calls)
    };
    // The host itself sends to what is up: neighbours and multicast groups are asked for at random.
    for link in ["mistify0"].iter().chain(&nics) {
        let down = bed.stack.command("ip").args(["link", "set", link, "down"]).status();
        assert!(down.expect("it runs").success(), "{link}");
    }
    let (all, _, calls) = ask(&nics);
    assert_eq!((all.as_object().map(serde_json::Map::len), calls), (Some(3), 2), "{all}");
    for nic in &nics {
        let (one, _, calls) = ask(&[nic]);
        assert_eq!((&one[nic], calls), (&all[nic], 2), "also alone");
    }
    assert_eq!(ask(&[nics[0], "vnet-x"]).1, ask(&["vnet-x"]).1);

    bed.stack.virsh_ok(&["destroy", "many"]);
    assert_eq!(error_of("CPUMetrics", &off), cpu_off, "also by who knows libvirt by now");
}
