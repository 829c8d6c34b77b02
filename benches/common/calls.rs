//! The C program `calls.c`, compiled with this machine's C compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::sample::Sample;

/// The calls that the program makes.
#[derive(Clone, Copy)]
pub(crate) enum Calls {
    /// virDomainLookupByName and virDomainGetState, as Status does.
    LookupAndState,
    /// virDomainGetState on a handle that was looked up before.
    State,
    /// virDomainLookupByName and the guest's processor times, as CPUMetrics does.
    LookupAndCpu,
    /// virDomainLookupByName and the counters of the disks, as DiskMetrics does.
    LookupAndDisk,
    /// virDomainLookupByName and the counters of the NIC, as NicMetrics does.
    LookupAndNic,
    /// Statistics of all domains that libvirtd knows by itself (state, interfaces).
    BulkOwn,
    /// The same in a program that runs libvirt's event loop, which keepalive needs.
    BulkOwnWithEvents,
    /// Statistics of all domains that libvirtd asks emulators for (memory, virtual processors, disks).
    BulkMonitor,
    /// Statistics of all domains of all six groups.
    BulkAll,
}

/// The compiled program.
pub(crate) struct Program(PathBuf);

impl Program {
    /// Compiles the program.
    pub(crate) fn compile() -> Self {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("calls");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/common/calls.c");
        let flags = ["-std=c17", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"];
        let mut cc = Command::new("cc");
        cc.args(flags).arg("-o").arg(&program).args([source, "-lvirt"]);
        assert!(cc.status().is_ok_and(|status| status.success()), "cc compiles {source}");
        Self(program)
    }

    /// Runs one round: each thread has a connection, and calls for this time. Calls on one guest
    /// take `guests` in turn, a list by comma; the device of a NIC follows a guest after a slash.
    pub(crate) fn round(
        &self,
        calls: Calls,
        (uri, guests): (&str, &str),
        threads: usize,
        length: Duration,
    ) -> Sample {
        let mut sample = Sample::default();
        self.run(calls, (uri, guests), threads, length, |what, number| {
            let time = Duration::from_nanos(number);
            match what {
                "elapsed" => sample.elapsed = time,
                "cpu" => sample.cpu = time,
                "" => sample.latencies.push(time),
                _ => {}
            }
        });
        sample.answered = sample.latencies.len();
        sample
    }

    /// Returns the resident memory of the program in KiB, with one connection on which it has
    /// queried a state.
    pub(crate) fn resident_kib(&self, asked: (&str, &str)) -> u64 {
        let mut resident = None;
        self.run(Calls::State, asked, 1, Duration::ZERO, |what, number| {
            resident = resident.or((what == "resident").then_some(number));
        });
        resident.expect("it prints it")
    }

    fn run(
        &self,
        calls: Calls,
        (uri, guests): (&str, &str),
        threads: usize,
        length: Duration,
        mut on_line: impl FnMut(&str, u64),
    ) {
        let kind = match calls {
            Calls::LookupAndState => "lookup",
            Calls::State => "state",
            Calls::LookupAndCpu => "cpu",
            Calls::LookupAndDisk => "disk",
            Calls::LookupAndNic => "nic",
            Calls::BulkOwn => "own",
            Calls::BulkOwnWithEvents => "own-events",
            Calls::BulkMonitor => "monitor",
            Calls::BulkAll => "all",
        };
        let output = Command::new(&self.0)
            .args([uri, guests, &threads.to_string(), &length.as_millis().to_string(), kind])
            .stderr(Stdio::inherit())
            .output()
            .expect("it was compiled");
        assert!(output.status.success(), "calls.c reaches libvirt");
        for each in String::from_utf8_lossy(&output.stdout).lines() {
            let (what, number) = each.split_once(' ').unwrap_or(("", each));
            on_line(what, number.parse().expect("a number"));
        }
    }
}
