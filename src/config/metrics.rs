//! What the metrics are told, and their bounds.

use std::path::PathBuf;
use std::time::Duration;

/// What is measured of guests, and how old it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Metadata of guests that their `_info` series has as labels, by name.
    pub metadata: Vec<String>,
    /// Where libvirt keeps the process numbers of emulators.
    pub pid_dir: PathBuf,
    /// A fast sample up to this age is good enough for another scrape.
    pub max_age: Duration,
    /// A scrape, for a sample that is being taken: then it shows what there is, with its age.
    pub wait: Duration,
    /// Between two slow samples: each keeps every emulator's monitor busy for some milliseconds. A
    /// tenth less for a scrape that comes a little early, so that each at this interval has one.
    pub slow_interval: Duration,
    /// A slow sample, until an emulator is taken to hang ...
    pub slow_late: Duration,
    /// ... and for each guest as much more: some 6 ms are common.
    pub slow_late_each: Duration,
    /// Slow samples that may be late at once, each with a thread and one of libvirtd's 20 workers;
    /// with more emulators hanging one after the other no slow sample is taken.
    pub slow_late_calls: usize,
    /// Without a scrape, until connections are closed and nothing wakes up any more.
    pub idle: Duration,
    /// Values that are not renewed are shown for this long, as far back as Prometheus itself looks.
    pub keep: Duration,
    /// A fast or slow sample that still answers for a guest whose emulator hangs.
    pub stand_in: Duration,
    /// Between two looks at what changes rarely: a guest's metadata, an emulator's threads.
    pub rare: Duration,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            metadata: Vec::new(),
            pid_dir: PathBuf::from("/run/libvirt/qemu"),
            max_age: Duration::from_secs(1),
            wait: Duration::from_millis(250),
            slow_interval: Duration::from_secs(15),
            slow_late: Duration::from_secs(4),
            slow_late_each: Duration::from_millis(20),
            slow_late_calls: 4,
            idle: Duration::from_secs(60),
            keep: Duration::from_secs(300),
            stand_in: Duration::from_secs(60),
            rare: Duration::from_secs(60),
        }
    }
}
