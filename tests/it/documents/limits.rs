//! The table of limits in `docs/configuration.md`: every limit of `src/config` with its unit, its default and the
//! meaning that the comment beside it has.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use mistify_libvirt::config::{self, fixed};
use mistify_libvirt::config::{AuditConfig, Config, HttpLimits, JournalLimits, MetricsConfig};
use mistify_libvirt::config::{
    Deadlines, EventLimits, JobLimits, PoolLimits, StorageLimits, WatchLimits,
};

use crate::documents::reference::{compare, table};

const CONFIG: &str = include_str!("../../../src/config.rs");
const FIXED: &str = include_str!("../../../src/config/fixed.rs");
const SOURCES: [&str; 8] = [
    CONFIG,
    FIXED,
    include_str!("../../../src/config/audit.rs"),
    include_str!("../../../src/config/events.rs"),
    include_str!("../../../src/config/http.rs"),
    include_str!("../../../src/config/jobs.rs"),
    include_str!("../../../src/config/metrics.rs"),
    include_str!("../../../src/config/nat.rs"),
];

/// How a table shows a value: the number and its unit.
trait Shown {
    fn shown(&self, name: &str) -> (String, &'static str);
}

impl Shown for Duration {
    fn shown(&self, _: &str) -> (String, &'static str) {
        match self.subsec_nanos() {
            0 => (self.as_secs().to_string(), "s"),
            _ => (self.as_millis().to_string(), "ms"),
        }
    }
}

macro_rules! shown_as_number {
    ($($number:ty),+) => {$(
        impl Shown for $number {
            fn shown(&self, name: &str) -> (String, &'static str) {
                let name = name.to_lowercase();
                let (kib, mib) = (1 << 10, 1 << 20);
                match *self {
                    count if name.ends_with("_s") || name.contains("_s_") => (count.to_string(), "s"),
                    count if name.contains("_chars") => (count.to_string(), "characters"),
                    count if !name.ends_with("bytes") => (count.to_string(), "count"),
                    bytes if bytes % mib == 0 => ((bytes / mib).to_string(), "MiB"),
                    bytes if bytes % kib == 0 => ((bytes / kib).to_string(), "KiB"),
                    bytes => (bytes.to_string(), "bytes"),
                }
            }
        }
    )+};
}
shown_as_number!(i32, u32, u64, usize);

/// The rows of a struct of limits. It is taken apart without `..`, so that a limit that is left out
/// does not compile.
macro_rules! rows {
    ($room:literal, $limits:expr, $name:ident { $($limit:ident),+ $(; $($other:ident),+)? $(,)? }) => {{
        let $name { $($limit,)+ $($($other: _,)+)? } = $limits;
        vec![$(row(
            &format!("{}.{}", $room, stringify!($limit)),
            &$limit,
            &doc_of_field(stringify!($name), stringify!($limit)),
        )),+]
    }};
}

/// The rows of constants, and their names.
macro_rules! constants {
    ($source:expr; $($module:ident::$name:ident),+ $(,)?) => {
        (
            vec![$(row(
                &stringify!($name).to_lowercase(),
                &$module::$name,
                &doc_above($source, &format!("pub const {}: ", stringify!($name))),
            )),+],
            BTreeSet::from([$(stringify!($name)),+]),
        )
    };
}

fn row(name: &str, value: &impl Shown, meaning: &str) -> Vec<String> {
    let (value, unit) = value.shown(name);
    vec![format!("`{name}`"), value, unit.to_owned(), meaning.to_owned()]
}

fn doc_of_field(owner: &str, field: &str) -> String {
    let body = SOURCES.iter().find_map(|source| source.split(&format!("struct {owner} {{")).nth(1));
    doc_above(body.expect("it is in one of the files"), &format!("    pub {field}: "))
}

/// The comment above the line that begins like this, as one line without links.
fn doc_above(source: &str, begin: &str) -> String {
    let before = source.split(&format!("\n{begin}")).next().expect("the first of at least one");
    assert_ne!(before.len(), source.len(), "no {begin:?}");
    let lines: Vec<&str> = before.lines().collect();
    let is_doc = |line: &&&str| line.trim_start().starts_with("///");
    let doc: Vec<&str> = lines.iter().rev().take_while(is_doc).copied().collect();
    assert!(!doc.is_empty(), "{begin:?} has no reason");
    let words = doc.iter().rev().map(|line| line.trim_start().trim_start_matches("///").trim());
    let text = words.collect::<Vec<_>>().join(" ");
    let text = text.replace("[`Self::", "[`").replace("](super::PoolLimits)", "]");
    text.replace("[`", "`").replace("`]", "`")
}

/// Every row, in the order of the code.
fn rows() -> Vec<Vec<String>> {
    // So that a struct of limits that is added is noticed here.
    let Config {
        listen: _,
        image_store: _,
        socket: _,
        callers: _,
        audit,
        host: _,
        http,
        pool,
        watch,
        storage,
        deadlines,
        state_dir: _,
        journal,
        metrics_listen: _,
        metrics,
        events,
        jobs,
    } = Config::default();
    let (requests, names) = constants!(CONFIG;
        config::DEADLINE_S_MAX, config::GUEST_NICS_MAX, config::GUEST_DISKS_MAX,
        config::GUEST_METADATA_BYTES, config::GUEST_DEFINITION_BYTES, config::JSON_DEPTH_MAX, config::BATCH_CALLS_MAX, config::BATCH_AT_ONCE,
        config::BATCH_ANSWER_BYTES,
    );
    assert_eq!(names, constants_of(CONFIG), "each constant has its row");
    let (others, names) = constants!(FIXED;
        fixed::HEALTH_FRESH, fixed::HEALTH_FRESH_FOR_SCRAPES, fixed::MARKS_PAUSE, fixed::RECOVERY_PAUSE,
        fixed::RECOVERY_PAUSE_MAX, fixed::RECOVERY_TRIES, fixed::RECOVERY_LOCK, fixed::STATE_WRITE,
        fixed::FIRST_ROUND, fixed::TAKE_BACK, fixed::SAMPLE_OPEN, fixed::KERNEL_FILES,
        fixed::KEEPALIVE_INTERVAL_S, fixed::KEEPALIVE_COUNT, fixed::TURN_FAILED_PAUSE,
        fixed::SPARE_CONNECTIONS, fixed::LAST_ARRIVALS, fixed::FIRST_REQUEST,
        fixed::LATE_READS, fixed::LOG_INTERVAL, fixed::LOG_LINES, fixed::LOG_BYTES,
        fixed::LAST_LINES, fixed::LAST_EVENTS,
        fixed::LOCK_PAUSE, fixed::CONFIG_FILE_BYTES,
        fixed::TOKEN_BYTES, fixed::TOKEN_CHARS_MIN, fixed::CHECK_LOOK, fixed::CLIENT_CONNECT,
        fixed::CLIENT_MARGIN, fixed::CLIENT_HEADERS, fixed::CLIENT_ANSWER_BYTES,
        fixed::CLIENT_PARAMS_BYTES, fixed::WAIT_INTERVAL, fixed::WAIT_LIMIT, fixed::SSH_ANSWER, fixed::SSH_AGAIN, fixed::SSH_LOOK, fixed::SSH_GREETING_BYTES, fixed::SSH_ADDRESSES, fixed::TOP_INTERVAL, fixed::LIST_GUESTS,
        fixed::LIST_GUESTS_MAX, fixed::CONSOLE_BYTES, fixed::CONSOLE_FILES, fixed::SCREEN_BYTES, fixed::AGENT_ANSWER, fixed::AGENT_COMMAND, fixed::SHUTDOWN_WAIT_MAX, fixed::SHUTDOWN_AGAIN, fixed::SHUTDOWN_ASK, fixed::SHUTDOWN_LOOK, fixed::SHUTDOWN_PAUSE, fixed::SHUTDOWN_AGENTS, fixed::SHUTDOWN_FORCE, fixed::START_ORDER_MAX, fixed::START_DELAY_MAX, fixed::STOP_TIMEOUT, fixed::STOP_AT_ONCE, fixed::HOST_STOP, fixed::HOST_STOP_LEAST, fixed::HOST_STOP_ROUNDS, fixed::STOP_NEWS, fixed::START_LIBVIRT, fixed::WAIT_LIBVIRT, fixed::FREEZE_TIME, fixed::FROZEN_GUESTS, fixed::THAW_PAUSE, fixed::THAW_PAUSE_MAX, fixed::THAW_REFUSALS, fixed::THAW_STOP, fixed::AGENT_CLOCKS, fixed::AGENT_CLOCK_TRIES, fixed::AGENT_CLOCK_TIME, fixed::AGENT_LATE, fixed::AGENT_PAUSE,
        fixed::AGENT_REFRESH, fixed::AGENT_REFRESH_SOON, fixed::AGENT_REFRESH_SOON_TRIES, fixed::AGENT_REFRESH_SILENT,
        fixed::AGENT_REFRESH_GAP, fixed::HOST_ADDRESSES, fixed::LEASE_NETWORKS, fixed::NEIGHBOURS_BYTES,
        fixed::GUEST_ADDRESSES, fixed::LIST_ADDRESSES, fixed::GUEST_FILESYSTEMS, fixed::MOUNTPOINT_CHARS, fixed::FILESYSTEMS_AGE, fixed::ADDRESS_EVENTS, fixed::AGENT_GUESTS,
        fixed::AGENT_LIST, fixed::AGENT_TEXT_CHARS,
        fixed::PNG_BYTES, fixed::HEADERS_MAX, fixed::CACHED_DOMAINS_MAX, fixed::CACHED_DOMAIN_AGE, fixed::USES_CHANGED_MAX, fixed::PATH_USES_AGE, fixed::OPEN_FILES, fixed::WAKE, fixed::WAKE_LOOK,
        fixed::IMPORT_TIME_BASE, fixed::IMPORT_RATE_BYTES, fixed::IMPORT_TIME_MAX,
        fixed::IMPORT_MEMORY_BYTES,
        fixed::FETCH_THREADS, fixed::FETCH_QUEUE, fixed::FETCH_FAILURES, fixed::FETCH_RETRY,
        fixed::FETCH_TIME, fixed::FETCH_RATE_BYTES, fixed::FETCH_CONNECT, fixed::FETCH_SILENCE,
        fixed::FETCH_SILENT_BYTES, fixed::FETCH_REDIRECTS, fixed::FETCH_MEMORY_BYTES,
        fixed::FETCH_KILL, fixed::FETCH_ORDER,
    );
    assert_eq!(names, constants_of(FIXED), "each constant has its row");
    [
        requests,
        rows!("deadlines", deadlines, Deadlines { read, change }),
        rows!(
            "http",
            http,
            HttpLimits {
                connections,
                connections_per_caller,
                connections_reserved,
                head_bytes,
                headers,
                body_bytes,
                request,
                idle,
                write,
                handlers,
                response_bytes,
                streams,
                listeners,
                stream_progress,
                linger,
                linger_bytes,
                accept_pause,
                membership,
                memberships,
                unknown,
                unknown_per_caller,
                idle_before_eviction,
                held_bytes,
                held_reserved_bytes,
                held_per_caller_bytes,
                answer_bytes,
                accepts
            }
        ),
        rows!(
            "pool",
            pool,
            PoolLimits {
                control_workers,
                read_workers,
                urgent_workers,
                storage_workers,
                queue,
                changes,
                deletes,
                reads,
                metrics,
                agents,
                trims,
                shutdowns,
                stores,
                urgent,
                batches,
                job_files,
                batch_helpers,
                calls_per_guest,
                polls,
                calls_waiting,
                stuck,
                stuck_age
            }
        ),
        rows!("watch", watch, WatchLimits { answer, pause, margin }),
        rows!(
            "storage",
            storage,
            StorageLimits {
                command,
                output_bytes,
                error_bytes,
                kill,
                hung,
                device,
                busy,
                undo,
                progress
            }
        ),
        rows!("journal", journal, JournalLimits { steps, file_bytes, files, lock }),
        rows!("audit", audit, AuditConfig { name_chars, error_chars, user, user_wait, users, queue, queue_bytes; log }),
        rows!(
            "metrics",
            metrics,
            MetricsConfig {
                max_age, wait, slow_interval, slow_late, slow_late_each, slow_late_calls, idle,
                keep, stand_in, rare; metadata, filesystems, may_touch, pid_dir
            }
        ),
        rows!(
            "events",
            events,
            EventLimits { stored, backlog, pause, wait, waiting, page, heartbeat }
        ),
        rows!(
            "jobs",
            jobs,
            JobLimits {
                at_once,
                queued,
                queued_per_guest,
                request_bytes,
                stored,
                retention,
                file_bytes,
                pause
            }
        ),
        others,
    ]
    .concat()
}

/// The names of constants in a file that are limits and no defaults of settings.
fn constants_of(source: &str) -> BTreeSet<&str> {
    let names =
        source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    names.filter(|name| !name.starts_with("DEFAULT_")).collect()
}

#[test]
fn the_configuration_page_has_every_limit() {
    let text = table(&["limit", "default", "unit", "meaning"], &rows());
    compare("docs/configuration.md", "limits", &text);
}

#[test]
fn every_file_of_limits_is_looked_at() {
    let directory = fs::read_dir("src/config").expect("it is there");
    // And src/config.rs.
    assert_eq!(directory.count() + 1, SOURCES.len());
    assert!(SOURCES.iter().all(|source| source.contains("//!")));
    // Constants stand in these two alone.
    let with_constants = SOURCES.iter().filter(|source| !constants_of(source).is_empty());
    assert_eq!(with_constants.count(), 2);
}
