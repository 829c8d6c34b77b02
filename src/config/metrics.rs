//! Configuration of the metrics, and their limits.

use std::path::PathBuf;
use std::time::Duration;

/// What the agent samples of guests, and the maximum age of samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Names of guest metadata that become labels of the guest's `_info` series.
    pub metadata: Vec<String>,
    /// Whether the file systems of guests are metrics, as their guest agents name them.
    pub filesystems: bool,
    /// Whether a guest that runs without memory statistics is asked for them.
    pub may_touch: bool,
    /// Directory with libvirt's pid files of emulators.
    pub pid_dir: PathBuf,
    /// Maximum age of a fast sample that answers a further scrape.
    pub max_age: Duration,
    /// Time that a scrape waits for a sample in progress. After it the scrape returns the existing
    /// values with their age.
    pub wait: Duration,
    /// Interval between two slow samples. Each occupies every emulator's monitor for some
    /// milliseconds. A scrape that is up to a tenth early also gets a new sample, so that each
    /// scrape at this interval has one.
    pub slow_interval: Duration,
    /// Time of a slow sample before an emulator counts as hung. `metrics.slow_late_each` adds to
    /// it.
    pub slow_late: Duration,
    /// Additional time of a slow sample for each guest. About 6 ms are common.
    pub slow_late_each: Duration,
    /// Concurrent slow samples that may be late, each with a thread and one of libvirtd's 20
    /// workers. If more emulators hang in turn, the agent takes no slow sample.
    pub slow_late_calls: usize,
    /// Time without a scrape after which the agent closes its connections for samples, and no timer
    /// wakes it.
    pub idle: Duration,
    /// Time that the agent shows a value without a new sample. Prometheus itself looks back as far.
    pub keep: Duration,
    /// Maximum age of a fast or slow sample that answers for a guest whose emulator hangs.
    pub stand_in: Duration,
    /// Interval between two reads of data that rarely changes: a guest's metadata and an emulator's
    /// threads.
    pub rare: Duration,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            metadata: Vec::new(),
            filesystems: false,
            may_touch: true,
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
