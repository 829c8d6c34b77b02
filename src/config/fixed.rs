//! Limits that nothing sets: no host needs them otherwise, and no test either.

use std::time::Duration;

/// How old the last look at libvirt and storage may be before a question for the agent's health
/// causes another: monitors ask every few seconds.
pub const HEALTH_FRESH: Duration = Duration::from_secs(10);
/// The same for a scrape, which comes every few seconds for ever: a look starts a process or two,
/// and how full a store is changes slowly.
pub const HEALTH_FRESH_FOR_SCRAPES: Duration = Duration::from_secs(60);
/// After the first try to recover a change that failed; doubled after each further one. What is in the way,
/// such as a busy device, takes about as long to go.
pub const RECOVERY_PAUSE: Duration = Duration::from_secs(2);
/// The longest such pause, so that a host recovers within a minute after its operator mended it.
pub const RECOVERY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Refused tries, after which a change is left as it is and listed as a leftover: with the pauses between
/// them half a minute.
pub const RECOVERY_TRIES: u32 = 5;
/// The reconciler's wait for a guest's lock: a verb that has it recovers the guest itself.
pub const RECOVERY_LOCK: Duration = Duration::from_secs(1);
/// What the agent does of itself may keep its sockets closed at the start: callers are told then
/// what is really there, and do not wait long for it.
pub const FIRST_ROUND: Duration = Duration::from_secs(2);
/// Taking volumes back, counted from the failure: longer than the patience with one that is busy.
pub const TAKE_BACK: Duration = Duration::from_secs(30);
/// A connection for samples, until it is open: it takes some 10 ms, and no scrape waits that long.
pub const SAMPLE_OPEN: Duration = Duration::from_secs(2);
/// Files of the kernel that samples keep open; 1,024 is a common limit of a process. Others are
/// opened for each reading.
pub const KERNEL_FILES: usize = 256;
/// Silence of libvirt's, until it is asked for a sign of life, in seconds.
pub const KEEPALIVE_INTERVAL_S: i32 = 2;
/// Such questions without an answer, until the connection counts as lost.
pub const KEEPALIVE_COUNT: u32 = 3;
/// After a failed turn of libvirt's event loop, so that a lasting fault does not eat a processor.
pub const TURN_FAILED_PAUSE: Duration = Duration::from_millis(100);
/// Connections over the limit that are told so with care; those beyond are told in passing.
pub const SPARE_CONNECTIONS: usize = 16;
/// At a stop, from the last moment to connect until nothing more is accepted: the kernel may be in
/// the middle of a connection, for microseconds with this host and a round trip with others.
pub const LAST_ARRIVALS: Duration = Duration::from_millis(5);
/// At a stop, for the first request of a connection that has had none: it may be on its way, and
/// whoever is cut off there cannot know whether anything was done.
pub const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// At a stop, for reads that run when no caller is left: nobody waits for their answers, and one that
/// hangs on an emulator would keep the stop.
pub const LATE_READS: Duration = Duration::from_secs(1);
/// Between two log lines about the same kind of trouble, however often it comes.
pub const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Lines of the log that wait for standard error: half a second of 4,000 calls with two lines each,
/// which a reader that works has read by then. More are dropped and counted.
pub const LOG_LINES: usize = 4096;
/// The same in bytes, with lines of 256 bytes on average: the memory that a standard error costs that
/// blocks.
pub const LOG_BYTES: usize = 1024 * 1024;
/// At the end of the process, for log lines and audit records that are still queued: writing them takes
/// milliseconds, unless standard error or a file system blocks.
pub const LAST_LINES: Duration = Duration::from_secs(1);
/// At a stop, for a listener to events that does not read what it was sent: it continues from its last
/// event with the next agent.
pub const LAST_EVENTS: Duration = Duration::from_secs(1);
/// Between two tries to lock the journal: whoever has it ends within milliseconds.
pub const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// The file of settings, in bytes: each of them on a line of its own is some 2 KiB.
pub const SETTINGS_BYTES: u64 = 64 * 1024;
/// A token, and the file that it is in, in bytes: no secret is longer.
pub const TOKEN_BYTES: usize = 512;
/// A token's characters, at least: 128 random bits are 22 of base64 and 32 of hex.
pub const TOKEN_CHARS_MIN: usize = 22;
/// For each thing that `check` looks at: libvirt opens in some 10 ms, zfs answers in less than 1 s.
pub const CHECK_LOOK: Duration = Duration::from_secs(10);
/// For commands such as `status`: until their connection stands, as the agent is on this host or on
/// the network beside it.
pub const CLIENT_CONNECT: Duration = Duration::from_secs(5);
/// From the end of the agent's own deadline to the end of a command's patience.
pub const CLIENT_MARGIN: Duration = Duration::from_secs(10);
/// Headers of an answer to a command: the agent sends some 10.
pub const CLIENT_HEADERS: usize = 64;
/// An answer to a command, in bytes: all guests of a full host are some 5 MB.
pub const CLIENT_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// Parameters of `call`, in bytes: what the agent takes as a body.
pub const CLIENT_PARAMS_BYTES: u64 = 1024 * 1024;
/// Between two tables of `top`: the agent samples every second at most.
pub const TOP_INTERVAL: Duration = Duration::from_secs(2);
/// Guests of a page of List that says no number: a screen or two of them.
pub const LIST_GUESTS: usize = 100;
/// Guests of any page: more than a host has, and a tenth of a second of libvirt's time.
pub const LIST_GUESTS_MAX: usize = 1000;
/// What Console answers with, in bytes: some 800 lines, a boot of Linux.
pub const CONSOLE_BYTES: usize = 64 * 1024;
/// Former files of a console's log that are looked for, to be removed: virtlogd keeps 3 unless its
/// `max_backups` says otherwise.
pub const CONSOLE_FILES: usize = 100;
/// A screen's picture as libvirt sends it, in bytes: 2560 by 1600 points, the most that a display of
/// 16 MiB, qemu's default, has.
pub const SCREEN_BYTES: usize = 16 * 1024 * 1024;
/// The same as PNG: what fits as base64 into a response of `http.response_bytes`.
pub const PNG_BYTES: usize = 11 * 1024 * 1024;
/// Header lines that there is room for on the stack: 100 is what common servers take.
pub const HEADERS_MAX: usize = 100;
/// Domains that a worker keeps handles of, well under a KiB each: more than a host of ours has guests.
/// With more they are looked up anew now and then.
pub const KEPT_DOMAINS_MAX: usize = 256;
/// How long it keeps one: a guest that is renamed has its old name for so long. Who asks less often
/// does not notice what a lookup costs.
pub const KEPT_FOR: Duration = Duration::from_secs(1);
/// Open files that the agent asks the system for: all connections, and what libvirt and the store need.
pub const OPEN_FILES: u64 = 4096;
/// From the wakeup of a guest that suspended itself to libvirt's word that it runs: an emulator on a loaded
/// host takes some 100 ms.
pub const WAKE: Duration = Duration::from_secs(2);
/// Between two looks at the state of such a guest.
pub const WAKE_LOOK: Duration = Duration::from_millis(20);
/// For `qemu-img` and for a decompressor of `image import`, to begin with: a small image takes a second,
/// on an emulated or busy host a hundred times that.
pub const IMPORT_TIME_BASE: Duration = Duration::from_secs(600);
/// And a second more for so many bytes of the disk or, if that is more, of the file: a slow disk writes ten
/// times as fast. The limit of processor time is the same.
pub const IMPORT_RATE_BYTES: u64 = 4 * 1024 * 1024;
/// At most, as a header can name any size. 8 TiB take so long at 100 MiB/s.
pub const IMPORT_TIME_MAX: Duration = Duration::from_secs(86400);
/// The address space of each such program, in bytes: `qemu-img` takes less than 400 MiB.
pub const IMPORT_MEMORY_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Images that the agent fetches at once: one slow server does not keep all others waiting.
pub const FETCH_THREADS: usize = 2;
/// Images that wait to be fetched: as many as a large host has.
pub const FETCH_QUEUE: usize = 256;
/// Images that could not be fetched, of which the reason is kept until they are asked for again.
pub const FETCH_FAILURES: usize = 64;
/// After a failed download, for which RequestImage answers with its reason: callers that poll by RequestImage
/// learn it, and cause no download with each call.
pub const FETCH_RETRY: Duration = Duration::from_secs(10);
/// From an image service to the last byte: 1 TiB takes three hours at the highest rate.
pub const FETCH_TIME: Duration = Duration::from_secs(4 * 3600);
/// How many bytes of an image come in a second at most, so that the guests' own traffic passes.
pub const FETCH_RATE_BYTES: u64 = 100 * 1024 * 1024;
/// Until an image service is connected to.
pub const FETCH_CONNECT: Duration = Duration::from_secs(30);
/// How long an image service may send next to nothing.
pub const FETCH_SILENCE: Duration = Duration::from_secs(60);
/// Bytes in a second, below which that is next to nothing: 1 GiB would take longer than an image may.
pub const FETCH_SILENT_BYTES: u64 = 64 * 1024;
/// How often an image service may say that an image is elsewhere.
pub const FETCH_REDIRECTS: u32 = 3;
/// The address space of `curl`, in bytes: it takes less than 100 MiB.
pub const FETCH_MEMORY_BYTES: u64 = 512 * 1024 * 1024;
/// From SIGKILL to the end of `curl`, which waits for no device.
pub const FETCH_KILL: Duration = Duration::from_secs(5);
/// Until who fetches has the order, and until it is rid of the answer: both are on this host.
pub const FETCH_ORDER: Duration = Duration::from_secs(30);
