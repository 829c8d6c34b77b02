//! A thread that writes lines for threads that must not wait.
//!
//! A write to a pipe without a reader, a stopped terminal or a hanging file system blocks. Here it blocks only
//! one thread, behind a queue with a limit of lines and of bytes. When the queue is full, a line is dropped and
//! counted, and the next line that has room reports the number of lines missing before it.

use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Queue, panic_text};

/// The running writers of this process, in the order of their starts.
static WRITERS: Mutex<Vec<Weak<Account>>> = Mutex::new(Vec::new());

/// The destination of a writer's lines.
pub(crate) trait LineSink<T>: Send + 'static {
    /// Writes a line; `false` when the line is lost.
    ///
    /// # Blocking
    /// As long as the destination blocks: only the writer's thread waits.
    fn write(&mut self, line: T) -> bool;

    /// Reports the number of lines dropped between the last line written and the next one.
    ///
    /// # Blocking
    /// As [`LineSink::write`].
    fn report_dropped(&mut self, lines: u64);
}

/// The limits of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Lines.
    pub(crate) lines: usize,
    /// Bytes of all lines together, as counted by their senders.
    pub(crate) bytes: usize,
}

/// The queue of a writer. When it is dropped, the thread writes the queued lines and ends.
pub(crate) struct Writer<T> {
    queue: Arc<Queue<Item<T>>>,
    account: Arc<Account>,
    bounds: Bounds,
}

/// An item of the queue.
enum Item<T> {
    Line {
        line: T,
        bytes: usize,
        /// Lines that were dropped between the line before and this one.
        dropped_before: u64,
    },
    /// Writes nothing: wakes the thread, which reports the dropped lines.
    Wake,
}

/// State that the senders, the thread and the waiting flushes share.
struct Account {
    name: &'static str,
    /// Bytes of the lines that are not written yet.
    bytes: AtomicUsize,
    /// Lines that wait for the thread.
    waiting: AtomicUsize,
    /// Lines that were queued since the start.
    queued: AtomicU64,
    /// Lines that were dropped or could not be written.
    lost: AtomicU64,
    /// Dropped lines that are not yet reported.
    unreported: AtomicU64,
    progress: Mutex<Progress>,
    /// Signals progress of the thread.
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// Queued lines that the thread has written or lost.
    done: u64,
    is_reporting: bool,
}

// Shows its name alone.
impl<T> fmt::Debug for Writer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("name", &self.account.name).finish_non_exhaustive()
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl<T: Send + 'static> Writer<T> {
    /// Starts the thread, which has the name of the writer.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub(crate) fn start(
        name: &'static str,
        bounds: Bounds,
        target: impl LineSink<T>,
    ) -> io::Result<Self> {
        let account = Arc::new(Account {
            name,
            bytes: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queued: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            progress: Mutex::default(),
            changed: Condvar::new(),
        });
        let queue = Arc::new(Queue::new(bounds.lines));
        let run = {
            let (queue, account) = (Arc::clone(&queue), Arc::clone(&account));
            move || run(&queue, &account, target)
        };
        thread::Builder::new().name(name.to_owned()).spawn(run)?;
        let mut writers = WRITERS.lock();
        writers.retain(|writer| writer.strong_count() > 0);
        writers.push(Arc::downgrade(&account));
        drop(writers);
        Ok(Self { queue, account, bounds })
    }

    /// Queues a line that counts as `bytes`. A line without room is dropped and counted.
    pub(crate) fn push(&self, line: T, bytes: usize) {
        if !self.try_push(line, bytes) {
            self.drop_line();
        }
    }

    /// Queues a line as [`Writer::push`] does, but only while the queue is less than three quarters full of
    /// lines and bytes: the rest is reserved for more important lines.
    pub(crate) fn push_minor(&self, line: T, bytes: usize) {
        let account = &self.account;
        let waiting = account.waiting.load(Ordering::Relaxed);
        let held = account.bytes.load(Ordering::Relaxed);
        let has_room = |used: usize, most: usize| used < most - most / 4;
        if has_room(waiting, self.bounds.lines) && has_room(held, self.bounds.bytes) {
            self.push(line, bytes);
        } else {
            self.drop_line();
        }
    }

    /// Queues a line that counts as `bytes`; returns whether there was room, and counts nothing if not.
    pub(crate) fn try_push(&self, line: T, bytes: usize) -> bool {
        let account = &self.account;
        let add = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.bounds.bytes);
        // Relaxed: the number says nothing about other memory.
        if account.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            return false;
        }
        let dropped_before = account.unreported.swap(0, Ordering::SeqCst);
        // Counted first: the thread may write the line before this thread continues, and a flush has to wait
        // for the line.
        account.queued.fetch_add(1, Ordering::SeqCst);
        account.waiting.fetch_add(1, Ordering::Relaxed);
        if let Ok(wake) = self.queue.put(Item::Line { line, bytes, dropped_before }) {
            drop(wake);
            return true;
        }
        account.done_with(bytes);
        if dropped_before > 0 {
            self.report_later(dropped_before);
        }
        false
    }

    fn drop_line(&self) {
        self.account.lost.fetch_add(1, Ordering::Relaxed);
        self.report_later(1);
    }

    /// Adds dropped lines to the thread's next report, and wakes the thread unless that was done before: it may
    /// have found nothing to report and sleep.
    fn report_later(&self, lines: u64) {
        if self.account.unreported.fetch_add(lines, Ordering::SeqCst) == 0 {
            // If the queue is full, the thread is awake for its lines.
            let _ = self.queue.put(Item::Wake);
        }
    }

    /// Waits until the thread has written the lines that are queued now; returns whether it has.
    ///
    /// # Blocking
    /// Up to `patience`.
    pub(crate) fn flush(&self, patience: Duration) -> bool {
        self.account.flush(patience)
    }

    /// Lines that were dropped or could not be written since the start.
    #[cfg(test)]
    pub(crate) fn lost(&self) -> u64 {
        self.account.lost.load(Ordering::Relaxed)
    }
}

impl Account {
    /// Notes that a line which counted as `bytes` is written or lost.
    fn done_with(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.progress.lock().done += 1;
        self.changed.notify_all();
    }

    fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let queued = self.queued.load(Ordering::SeqCst);
        let mut progress = self.progress.lock();
        loop {
            let is_reported = !progress.is_reporting && self.unreported.load(Ordering::SeqCst) == 0;
            if progress.done >= queued && is_reported {
                return true;
            }
            if self.changed.wait_until(&mut progress, until).timed_out() {
                return false;
            }
        }
    }
}

/// Waits until every writer of this process has written its queued lines; for the end of the process. Flushes the
/// youngest writer first, as its thread may log.
///
/// # Blocking
/// Up to `patience` for each writer.
pub(crate) fn flush_writers(patience: Duration) {
    for account in accounts().into_iter().rev() {
        account.flush(patience);
    }
}

/// Returns the number of lines that writers of this name have lost: dropped, or not written.
pub(crate) fn lines_lost(name: &str) -> u64 {
    let named = accounts().into_iter().filter(|account| account.name == name);
    named.map(|account| account.lost.load(Ordering::Relaxed)).sum()
}

fn accounts() -> Vec<Arc<Account>> {
    WRITERS.lock().iter().filter_map(Weak::upgrade).collect()
}

fn run<T>(queue: &Queue<Item<T>>, account: &Account, mut target: impl LineSink<T>) {
    loop {
        // Two statements, as `next` may sleep.
        let queued = queue.try_next();
        let item = queued.or_else(|| {
            report_rest(account, &mut target);
            queue.next()
        });
        let (line, bytes, dropped_before) = match item {
            Some(Item::Line { line, bytes, dropped_before }) => (line, bytes, dropped_before),
            Some(Item::Wake) => continue,
            None => return,
        };
        // A panic in the destination loses one line; the panic itself is logged.
        let written = panic::catch_unwind(AssertUnwindSafe(|| {
            if dropped_before > 0 {
                target.report_dropped(dropped_before);
            }
            target.write(line)
        }));
        let is_written = written.map_err(panic_text).unwrap_or(false);
        if !is_written {
            account.lost.fetch_add(1, Ordering::Relaxed);
        }
        account.done_with(bytes);
    }
}

/// Reports the lines dropped since the last line, when no other line is queued.
fn report_rest<T>(account: &Account, target: &mut impl LineSink<T>) {
    let mut progress = account.progress.lock();
    let dropped = account.unreported.swap(0, Ordering::SeqCst);
    if dropped == 0 {
        return;
    }
    progress.is_reporting = true;
    drop(progress);
    let reported = panic::catch_unwind(AssertUnwindSafe(|| target.report_dropped(dropped)));
    drop(reported.map_err(panic_text));
    account.progress.lock().is_reporting = false;
    account.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const MANY: Bounds = Bounds { lines: 64, bytes: 1 << 20 };

    /// A destination that writes a line when the test allows it.
    struct BlockedSink {
        /// The line that the thread is about to write.
        started: Sender<String>,
        /// A message, or the end of the channel, lets the thread write the line.
        go: Receiver<()>,
        written: Arc<Mutex<Vec<String>>>,
    }

    impl LineSink<String> for BlockedSink {
        fn write(&mut self, line: String) -> bool {
            let _ = self.started.send(line.clone());
            let _ = self.go.recv();
            assert_ne!(line, "panic");
            let is_lost = line == "lost";
            self.written.lock().push(line);
            !is_lost
        }

        fn report_dropped(&mut self, lines: u64) {
            self.written.lock().push(format!("{lines} dropped"));
        }
    }

    struct Bed {
        writer: Writer<String>,
        started: Receiver<String>,
        /// Dropping it lets the thread write all lines.
        go: Sender<()>,
        written: Arc<Mutex<Vec<String>>>,
    }

    impl Bed {
        fn new(bounds: Bounds) -> Self {
            let ((begin, started), (go, allowed)) = (unbounded(), bounded(0));
            let written = Arc::new(Mutex::default());
            let target = BlockedSink { started: begin, go: allowed, written: Arc::clone(&written) };
            let writer = Writer::start("test-writer", bounds, target).unwrap();
            Self { writer, started, go, written }
        }

        fn push(&self, line: &str) {
            self.writer.push(line.to_owned(), line.len());
        }

        /// Pushes a line, and waits until the thread hangs in its write.
        fn hang(&self) {
            self.push("hangs");
            assert_eq!(self.started.recv_timeout(PATIENCE).unwrap(), "hangs");
        }

        /// Lets the thread continue; returns the lines that it has written in the end.
        fn release(self) -> Vec<String> {
            drop(self.go);
            assert!(self.writer.flush(PATIENCE), "it writes all that is queued");
            let written = self.written.lock();
            written.clone()
        }
    }

    #[test]
    fn a_full_queue_drops_lines_and_reports_how_many() {
        let bed = Bed::new(Bounds { lines: 2, ..MANY });
        bed.hang();
        ["a", "b", "c", "d"].into_iter().for_each(|line| bed.push(line));
        assert_eq!(bed.writer.lost(), 2);
        bed.go.send_timeout((), PATIENCE).unwrap();
        assert_eq!(bed.started.recv_timeout(PATIENCE).unwrap(), "a");
        bed.push("e");
        assert_eq!(bed.writer.lost(), 2, "there is room again");
        assert_eq!(bed.release(), ["hangs", "a", "b", "2 dropped", "e"]);
    }

    #[test]
    fn full_queue_drops_lines_that_do_not_fit() {
        let bed = Bed::new(Bounds { bytes: 10, ..MANY });
        bed.hang();
        ["12345", "1", "", "2"].into_iter().for_each(|line| bed.push(line));
        assert_eq!(bed.writer.lost(), 2, "10 bytes are queued or being written");
        assert_eq!(bed.release(), ["hangs", "12345", "1 dropped", "", "1 dropped"]);
    }

    #[test]
    fn bytes_are_free_again_once_written() {
        let bed = Bed::new(Bounds { bytes: 10, ..MANY });
        for _ in 0..5 {
            bed.hang();
            bed.go.send_timeout((), PATIENCE).unwrap();
            assert!(bed.writer.flush(PATIENCE));
        }
        assert_eq!(bed.writer.lost(), 0);
    }

    #[test]
    fn minor_lines_leave_a_quarter_of_the_queue() {
        let bed = Bed::new(Bounds { lines: 8, ..MANY });
        bed.hang();
        let push = |text: &str| bed.writer.push_minor(text.to_owned(), text.len());
        (0..10).for_each(|_| push("minor"));
        let lost = bed.writer.lost();
        bed.push("major");
        assert_eq!(bed.writer.lost(), lost, "there is room left for it");
        let written = bed.release();
        assert!(written.contains(&"major".to_owned()) && written.len() < 9, "{written:?}");
    }

    #[test]
    fn drops_are_reported_without_another_line() {
        let bed = Bed::new(Bounds { bytes: 10, ..MANY });
        bed.push("longer than the whole queue");
        assert!(bed.writer.flush(PATIENCE));
        assert_eq!(*bed.written.lock(), ["1 dropped"]);
        bed.hang();
        bed.push("123456");
        assert_eq!(bed.release(), ["1 dropped", "hangs", "1 dropped"]);
    }

    #[test]
    fn a_flush_of_a_hanging_writer_has_a_bound() {
        let bed = Bed::new(MANY);
        assert!(bed.writer.flush(Duration::ZERO), "nothing is queued");
        bed.hang();
        assert!(!bed.writer.flush(Duration::from_millis(1)));
        bed.push("more");
        assert_eq!(bed.release(), ["hangs", "more"]);
    }

    #[test]
    fn a_line_that_is_lost_or_panics_costs_itself_alone() {
        let bed = Bed::new(MANY);
        ["lost", "panic", "next"].into_iter().for_each(|line| bed.push(line));
        let (account, written) = (Arc::clone(&bed.writer.account), Arc::clone(&bed.written));
        bed.release();
        assert_eq!(*written.lock(), ["lost", "next"]);
        assert_eq!(account.lost.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn dropped_writer_writes_queued_lines() {
        let Bed { writer, started, go, written } = Bed::new(MANY);
        ["a", "b"].into_iter().for_each(|line| writer.push(line.to_owned(), 1));
        drop((writer, go));
        // The channel ends with the thread, after the last writer is dropped.
        while started.recv_timeout(PATIENCE).is_ok() {}
        assert_eq!(*written.lock(), ["a", "b"]);
    }

    #[test]
    fn lines_of_many_threads_keep_each_threads_order() {
        let bed = Bed::new(Bounds { lines: 4096, ..MANY });
        thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                let writer = &bed.writer;
                scope.spawn(move || (0..1000).for_each(|n| writer.push(format!("{name} {n}"), 1)));
            }
        });
        let written = bed.release();
        assert_eq!(written.len(), 3000);
        for name in ["a", "b", "c"] {
            let own: Vec<_> = written.iter().filter_map(|line| line.strip_prefix(name)).collect();
            let in_order: Vec<_> = (0..1000).map(|n| format!(" {n}")).collect();
            assert_eq!(own, in_order);
        }
    }
}
