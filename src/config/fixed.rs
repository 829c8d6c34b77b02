//! Limits without an option. No host needs other values, and no test either.

use std::time::Duration;

/// Maximum age of the last check of libvirt and storage when a client asks for the agent's health.
/// An older check causes a new one. Monitoring systems ask every few seconds.
pub const HEALTH_FRESH: Duration = Duration::from_secs(10);
/// Maximum age of the last check of libvirt and storage for a scrape. Scrapes repeat every few
/// seconds, a check starts one to three processes, and the store fills slowly.
pub const HEALTH_FRESH_FOR_SCRAPES: Duration = Duration::from_secs(60);
/// Pause after a failed attempt to complete the marks of volumes. An attempt lists all volumes.
pub const MARKS_PAUSE: Duration = Duration::from_secs(60);
/// Pause after the first failed attempt to recover a change. Each further failure doubles it. An
/// obstacle such as a busy device disappears in about that time.
pub const RECOVERY_PAUSE: Duration = Duration::from_secs(2);
/// Maximum pause between two attempts to recover a change. A host recovers within a minute after
/// its operator has repaired it.
pub const RECOVERY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Refused attempts after which the agent leaves a change as it is: it lists a leftover or forgets the change, as
/// docs/recovery.md says. With the pauses between them they take half a minute.
pub const RECOVERY_TRIES: u32 = 5;
/// Time that the reconciler waits for a guest lock. A call that holds the lock recovers the guest
/// itself.
pub const RECOVERY_LOCK: Duration = Duration::from_secs(1);
/// Time for a write to the state directory at the end of a change whose deadline is over. It takes milliseconds unless
/// the disk hangs.
pub const STATE_WRITE: Duration = Duration::from_secs(1);
/// Time that the agent's own recovery may keep its sockets closed at start. Callers then see the
/// actual state, and do not wait long for it.
pub const FIRST_ROUND: Duration = Duration::from_secs(2);
/// Time to roll back a failed change, counted from the failure. It exceeds `storage.busy`.
pub const TAKE_BACK: Duration = Duration::from_secs(30);
/// Time to open a connection for samples. Opening takes about 10 ms, and no scrape waits that long.
pub const SAMPLE_OPEN: Duration = Duration::from_secs(2);
/// Kernel files that the sampler keeps open. A common limit of a process is 1,024. The sampler
/// opens further files for each read.
pub const KERNEL_FILES: usize = 256;
/// Time of silence on a libvirt connection after which the agent sends a keepalive message.
pub const KEEPALIVE_INTERVAL_S: i32 = 2;
/// Unanswered keepalive messages after which a libvirt connection counts as lost.
pub const KEEPALIVE_COUNT: u32 = 3;
/// Pause after a failed iteration of libvirt's event loop. A lasting fault does not occupy a CPU.
pub const TURN_FAILED_PAUSE: Duration = Duration::from_millis(100);
/// Refused connections over the limit that the agent keeps open until the caller has read the
/// refusal. It closes further ones right after it sends the refusal.
pub const SPARE_CONNECTIONS: usize = 16;
/// Time at a stop in which the agent still accepts connections. The kernel may be completing one,
/// for microseconds with this host and a round trip with others.
pub const LAST_ARRIVALS: Duration = Duration::from_millis(5);
/// Time at a stop for the first request of a connection. The request may be in transit, and a
/// caller that is cut off there cannot know whether it ran.
pub const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// Time at a stop for reads that run without a caller. No caller waits for their answers, and one
/// that hangs on an emulator would delay the stop.
pub const LATE_READS: Duration = Duration::from_secs(1);
/// Minimum interval between two log lines about the same kind of fault.
pub const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Log lines that wait for standard error: half a second of 4,000 calls per second with two lines
/// each. A working reader has read them by then. The agent drops and counts further lines.
pub const LOG_LINES: usize = 4096;
/// Size of the log lines that wait for standard error, with 256 bytes on average. A standard error
/// that blocks costs this much memory.
pub const LOG_BYTES: usize = 1024 * 1024;
/// Time at exit for queued log lines and audit records. Writing them takes milliseconds unless
/// standard error or a file system blocks.
pub const LAST_LINES: Duration = Duration::from_secs(1);
/// Time at a stop for an event stream whose client does not read. The client resumes after its last
/// event with the next agent.
pub const LAST_EVENTS: Duration = Duration::from_secs(1);
/// Interval between two attempts to lock the journal. A holder of the lock ends within
/// milliseconds.
pub const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// Configuration file. All options, one on each line, are about 2 KiB.
pub const CONFIG_FILE_BYTES: u64 = 64 * 1024;
/// A token, and the file that contains it. No secret is longer.
pub const TOKEN_BYTES: usize = 512;
/// Minimum length of a token. 128 random bits are 22 characters of base64 and 32 of hexadecimal.
pub const TOKEN_CHARS_MIN: usize = 22;
/// Time for each item of `check`. libvirt opens a connection in about 10 ms, and zfs answers in
/// less than 1 s.
pub const CHECK_LOOK: Duration = Duration::from_secs(10);
/// Time to connect for subcommands such as `status`. The agent is on this host or on the same
/// network.
pub const CLIENT_CONNECT: Duration = Duration::from_secs(5);
/// Time that a subcommand waits after the end of the agent's own deadline.
pub const CLIENT_MARGIN: Duration = Duration::from_secs(10);
/// Headers of a response to a subcommand. The agent sends about 10.
pub const CLIENT_HEADERS: usize = 64;
/// Response to a subcommand. All guests of a full host have about 5 MB.
pub const CLIENT_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// Parameters of the subcommand `call`. The agent accepts as much in a body.
pub const CLIENT_PARAMS_BYTES: u64 = 1024 * 1024;
/// Interval of the looks of `create --wait` at a guest. A look is three calls at most.
pub const WAIT_INTERVAL: Duration = Duration::from_millis(500);
/// Time of `create --wait` without `--timeout`. A cloud image boots within a minute with KVM and within five
/// without.
pub const WAIT_LIMIT: Duration = Duration::from_secs(600);
/// Time to connect to the SSH server of a guest, and the same again for its greeting. A guest that emulates its
/// processor may take seconds.
pub const SSH_ANSWER: Duration = Duration::from_secs(5);
/// Pause of `create --wait ssh` between two connections to known addresses. A person does not notice it.
pub const SSH_AGAIN: Duration = Duration::from_millis(100);
/// Time for which a look of `create --wait ssh` connects again. Then it asks for the guest's state and addresses.
pub const SSH_LOOK: Duration = Duration::from_secs(1);
/// Greeting of an SSH server with the lines before it. OpenSSH's client gives up after 1024 lines; servers send none.
pub const SSH_GREETING_BYTES: usize = 4096;
/// Addresses of a guest that a subcommand connects to. A guest names its own addresses, and each may take its time.
pub const SSH_ADDRESSES: usize = 8;
/// Refresh interval of `top`. The agent samples every second at most.
pub const TOP_INTERVAL: Duration = Duration::from_secs(2);
/// Guests, or jobs, on a page of a list without `limit`: one or two screens.
pub const LIST_GUESTS: usize = 100;
/// Guests, or jobs, on any page of a list. A host has fewer guests, and such a page takes libvirt a
/// tenth of a second.
pub const LIST_GUESTS_MAX: usize = 1000;
/// Answer of Console: about 800 lines, as many as Linux prints when it boots.
pub const CONSOLE_BYTES: usize = 64 * 1024;
/// Rotated files of a console log that the agent looks for and removes. virtlogd stores 3 unless
/// its `max_backups` sets another number.
pub const CONSOLE_FILES: usize = 100;
/// Screenshot as libvirt sends it: 2560 by 1600 pixels, the maximum of a display with 16 MiB,
/// QEMU's default.
pub const SCREEN_BYTES: usize = 16 * 1024 * 1024;
/// Time that libvirt waits for an answer of a guest agent. One that works answers within milliseconds.
pub const AGENT_ANSWER: Duration = Duration::from_secs(1);
/// Time that libvirt waits for a guest agent that changes something in its guest. To set the clock, its hwclock(8)
/// waits for the next second.
pub const AGENT_COMMAND: Duration = Duration::from_secs(2);
/// Maximum time that a Shutdown with `wait` or `force_after` waits. A guest that installs its updates needs some
/// minutes, and each such call occupies one of `pool.shutdowns`.
pub const SHUTDOWN_WAIT_MAX: Duration = Duration::from_secs(3600);
/// Time after which a Shutdown that waits asks the guest once more. A guest that was still booting has started its
/// ACPI daemon by then.
pub const SHUTDOWN_AGAIN: Duration = Duration::from_secs(10);
/// Time for each request of a Shutdown that waits. libvirt passes it on within milliseconds unless the emulator hangs.
pub const SHUTDOWN_ASK: Duration = Duration::from_secs(5);
/// Interval between two looks at a guest that shuts down. libvirt's events report its end sooner.
pub const SHUTDOWN_LOOK: Duration = Duration::from_secs(2);
/// Minimum pause between two looks at a guest that shuts down. A guest can cause events as fast as it likes.
pub const SHUTDOWN_PAUSE: Duration = Duration::from_millis(200);
/// Guest agents that are asked concurrently to shut their guests down, each with a worker of the control lane. The other
/// workers are left to calls that always answer.
pub const SHUTDOWN_AGENTS: usize = 2;
/// Time to force a guest off after `force_after`. libvirt kills an emulator that does not react after some 10 s.
pub const SHUTDOWN_FORCE: Duration = Duration::from_secs(30);
/// Maximum of `start_order`. A host has some hundred guests.
pub const START_ORDER_MAX: u64 = 9999;
/// Maximum of `start_delay`. A guest with a large database needs some minutes before others can use it.
pub const START_DELAY_MAX: Duration = Duration::from_secs(600);
/// `stop_timeout` of a guest that sets none. It is systemd's default for the services in the guest.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(90);
/// Guests of one place in the order that shut down concurrently when the host stops, each on a thread.
pub const STOP_AT_ONCE: usize = 16;
/// Time for all guests together when the host stops. systemd ends the stop of a host by force after 30 minutes.
pub const HOST_STOP: Duration = Duration::from_secs(1500);
/// Minimum time of each guest when the host stops, also of the last ones.
pub const HOST_STOP_LEAST: Duration = Duration::from_secs(1);
/// Looks for guests when the host stops. A guest that another tool starts meanwhile shuts down in the next one.
pub const HOST_STOP_ROUNDS: usize = 3;
/// Interval at which the shutdown of guests reports to systemd that it is still at work. systemd then extends its
/// timeout by 30 s.
pub const STOP_NEWS: Duration = Duration::from_secs(10);
/// Time after the host's start in which the agent waits for libvirt before it starts guests.
pub const START_LIBVIRT: Duration = Duration::from_secs(600);
/// Interval between two attempts to reach libvirt after the host's start.
pub const WAIT_LIBVIRT: Duration = Duration::from_secs(2);
/// Time for which a guest stays frozen at most. Its programs hang meanwhile; a snapshot takes less than a second.
pub const FREEZE_TIME: Duration = Duration::from_secs(10);
/// Guests that are frozen at the same time. Each takes a thread and a connection to libvirt.
pub const FROZEN_GUESTS: usize = 16;
/// Pause before the agent tries again to thaw a guest. It doubles.
pub const THAW_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
pub const THAW_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Refusals of a guest agent after which the agent gives up to thaw its guest. The agent keeps asking a silent one.
pub const THAW_REFUSALS: u32 = 5;
/// Time that a stopping agent waits for the guests that it thaws. The next start thaws the others.
pub const THAW_STOP: Duration = Duration::from_secs(3);
/// Guests whose clocks the agent has still to set after they were resumed. It leaves the clocks of more guests alone.
pub const AGENT_CLOCKS: usize = 256;
/// Requests to a guest agent to set the clock after its guest was resumed.
pub const AGENT_CLOCK_TRIES: u32 = 3;
/// Time after which the agent leaves the clock of a resumed guest alone whose guest agent it could not ask.
pub const AGENT_CLOCK_TIME: Duration = Duration::from_secs(600);
/// Time after which an attempt to set a guest's clock has failed if libvirt does not answer.
pub const AGENT_LATE: Duration = Duration::from_secs(15);
/// Time after which the agent asks a slow or silent guest agent again. Until then calls for its guest do not wait.
pub const AGENT_PAUSE: Duration = Duration::from_secs(30);
/// Time after which the agent asks a guest agent for addresses again, of its own accord.
pub const AGENT_REFRESH: Duration = Duration::from_secs(60);
/// The same after a guest agent knew no address, or has just connected again: a guest that boots soon has one.
pub const AGENT_REFRESH_SOON: Duration = Duration::from_secs(5);
/// Requests at `agent_refresh_soon` to a guest agent that has connected and knows no address: for a minute.
pub const AGENT_REFRESH_SOON_TRIES: u32 = 12;
/// Time after which the agent asks a slow or silent guest agent for addresses again, of its own accord. Each such
/// request occupies one of few threads.
pub const AGENT_REFRESH_SILENT: Duration = Duration::from_secs(300);
/// Pause between two guest agents that the agent asks of its own accord: 4 in a second.
pub const AGENT_REFRESH_GAP: Duration = Duration::from_millis(250);
/// Time after which the agent looks again at the leases of libvirt's networks and at the host's neighbours.
pub const HOST_ADDRESSES: Duration = Duration::from_secs(15);
/// Networks of libvirt that the agent asks for leases. Networks of a single NIC have none.
pub const LEASE_NETWORKS: usize = 64;
/// Part of the host's table of neighbours that the agent reads: some 13,000 entries.
pub const NEIGHBOURS_BYTES: u64 = 1024 * 1024;
/// Addresses of a guest that the agent stores, of each source. A guest rarely has more than 4.
pub const GUEST_ADDRESSES: usize = 16;
/// Addresses of a guest in List. Describe and GuestInfo have all.
pub const LIST_ADDRESSES: usize = 4;
/// File systems of a guest in metrics. A guest names as many as it likes.
pub const GUEST_FILESYSTEMS: usize = 16;
/// Length of a mount point in metrics.
pub const MOUNTPOINT_CHARS: usize = 128;
/// Age after which the file systems of a guest are no longer in metrics: its guest agent was silent three times.
pub const FILESYSTEMS_AGE: Duration = Duration::from_secs(900);
/// Time between two events that tell of changed addresses of one guest. A guest chooses its addresses itself.
pub const ADDRESS_EVENTS: Duration = Duration::from_secs(30);
/// Guests whose guest agent's last answer the agent stores. A large host has as many.
pub const AGENT_GUESTS: usize = 4096;
/// Entries of each list of a guest agent, such as its file systems.
pub const AGENT_LIST: usize = 256;
/// Length of each text of a guest agent. Names of hosts and paths are shorter.
pub const AGENT_TEXT_CHARS: usize = 256;
/// Screenshot as PNG. As base64 it fits into a response of `http.response_bytes`.
pub const PNG_BYTES: usize = 11 * 1024 * 1024;
/// Header lines that fit on the stack. Common servers accept 100.
pub const HEADERS_MAX: usize = 100;
/// Domain handles that a worker caches, each well below 1 KiB. A host has fewer guests. With more,
/// the worker looks them up again from time to time.
pub const CACHED_DOMAINS_MAX: usize = 256;
/// Lifetime of a cached domain handle. A renamed guest keeps its old name for this time. For less
/// frequent calls the cost of a lookup does not matter.
pub const CACHED_DOMAIN_AGE: Duration = Duration::from_secs(1);
/// Changed guests that the agent notes until it reads their definitions again. With more, it reads those of all
/// guests.
pub const USES_CHANGED_MAX: usize = 4096;
/// Time after which the agent reads the definitions of all guests again before it makes a volume. libvirt does not
/// report each change of other tools.
pub const PATH_USES_AGE: Duration = Duration::from_secs(600);
/// Open files that the agent requests from the system: all connections, and the files of libvirt
/// and the store.
pub const OPEN_FILES: u64 = 4096;
/// Time from the wakeup of a guest that suspended itself until libvirt reports it as running. An
/// emulator on a loaded host takes about 100 ms.
pub const WAKE: Duration = Duration::from_secs(2);
/// Interval between two checks of a guest's state after its wakeup.
pub const WAKE_LOOK: Duration = Duration::from_millis(20);
/// Base time for `qemu-img` and for a decompressor of `image import`. A small image takes 1 s, and
/// a hundred times that on an emulated or busy host.
pub const IMPORT_TIME_BASE: Duration = Duration::from_secs(600);
/// Size of the disk, or of the file if that is larger, that adds one second to `import_time_base`.
/// A slow disk writes ten times as fast. The limit of CPU time is the same.
pub const IMPORT_RATE_BYTES: u64 = 4 * 1024 * 1024;
/// Maximum time for `qemu-img` and for a decompressor, because an image header can name any size. 8
/// TiB at 100 MiB/s take this long.
pub const IMPORT_TIME_MAX: Duration = Duration::from_secs(86400);
/// Address space of `qemu-img` and of each decompressor. `qemu-img` uses less than 400 MiB.
pub const IMPORT_MEMORY_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Concurrent image downloads. One slow server does not delay all other downloads.
pub const FETCH_THREADS: usize = 2;
/// Images that wait for their download. A large host has as many. Users share them as they share
/// `http.streams`.
pub const FETCH_QUEUE: usize = 256;
/// Failed downloads whose reason the agent stores until the next request for the image.
pub const FETCH_FAILURES: usize = 64;
/// Time after a failed download in which RequestImage returns its reason. Callers that poll by
/// RequestImage learn the reason, and cause no download with each call.
pub const FETCH_RETRY: Duration = Duration::from_secs(10);
/// Duration of one download from an image service. 1 TiB takes three hours at `fetch_rate_bytes`.
pub const FETCH_TIME: Duration = Duration::from_secs(4 * 3600);
/// Maximum rate of one download in each second. The guests' own traffic still passes.
pub const FETCH_RATE_BYTES: u64 = 100 * 1024 * 1024;
/// Time to connect to an image service.
pub const FETCH_CONNECT: Duration = Duration::from_secs(30);
/// Time that a download may be slower than `fetch_silent_bytes` in each second.
pub const FETCH_SILENCE: Duration = Duration::from_secs(60);
/// Minimum rate of one download in each second. Below it 1 GiB would exceed `fetch_time`.
pub const FETCH_SILENT_BYTES: u64 = 64 * 1024;
/// HTTP redirects that a download follows.
pub const FETCH_REDIRECTS: u32 = 3;
/// Address space of `curl`. It uses less than 100 MiB.
pub const FETCH_MEMORY_BYTES: u64 = 512 * 1024 * 1024;
/// Time from SIGKILL to the end of `curl`, which waits for no device.
pub const FETCH_KILL: Duration = Duration::from_secs(5);
/// Time for the fetch process to receive its request, and to deliver its answer. Both ends are on
/// this host.
pub const FETCH_ORDER: Duration = Duration::from_secs(30);
