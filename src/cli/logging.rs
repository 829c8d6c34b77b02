//! The log of a process: the agent writes it with a thread of its own, other commands write it directly.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::time::SystemTime;
use std::{env, fs, thread};

use env_logger::{Builder, DEFAULT_FILTER_ENV};
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Record, log_enabled};
use serde_json::{Map, json};

use crate::cli::{LogFormat, Options};
use crate::config::fixed::{LAST_LINES, LOG_BYTES, LOG_LINES};
use crate::daemon::STARTED;
use crate::os::clock;
use crate::os::poll::{Interest, PollSet};
use crate::threads::{Bounds, LOG_WRITER, LineSink, Writer};

/// The level without an option or `RUST_LOG`. The log line of a start is shown at this level, too.
const DEFAULT_LEVEL: LevelFilter = LevelFilter::Warn;

/// Formats a log line as text, without a line feed.
type Format = fn(&Record<'_>) -> String;

/// Starts to log to standard error. An option overrides `RUST_LOG`. Must be called at most once per process.
///
/// # Blocking
/// A thread that logs waits for standard error.
pub fn start_log(options: &Options) {
    builder(options).init();
    bound_level(options);
}

/// The log of the agent, which the thread `log-writer` writes to standard error.
///
/// A thread that logs never waits for standard error, which may be a pipe without a reader. Lines without room
/// in the queue are dropped, counted and reported. Dropping the log waits until its lines are written, for at
/// most [`LAST_LINES`].
#[derive(Debug)]
pub struct Log {
    writer: Arc<Writer<Vec<u8>>>,
}

impl Log {
    /// Starts to log, including panics. An option overrides `RUST_LOG`. Must be called at most once per
    /// process, instead of [`start_log`].
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(options: &Options) -> io::Result<Self> {
        let bounds = Bounds { lines: LOG_LINES, bytes: LOG_BYTES };
        let target = StandardError { format: format(options) };
        let writer = Arc::new(Writer::start(LOG_WRITER, bounds, target)?);
        let pipe = Box::new(Lines(Arc::clone(&writer)));
        builder(options).target(env_logger::Target::Pipe(pipe)).init();
        bound_level(options);
        let hook_writer = Arc::clone(&writer);
        panic::set_hook(Box::new(move |info| log_panic(info, &hook_writer)));
        Ok(Self { writer })
    }

    /// Writes a line to standard error without formatting, after the lines that were logged before.
    pub fn print(&self, line: &str) {
        print(&self.writer, line);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Lines that are not written by then are lost without a report.
        let _ = self.writer.flush(LAST_LINES);
    }
}

fn print(writer: &Writer<Vec<u8>>, line: &str) {
    let line = format!("{line}\n").into_bytes();
    let bytes = line.len();
    writer.push(line, bytes);
}

/// Logs a panic without waiting: most panics are caught, and end one request.
fn log_panic(info: &PanicHookInfo<'_>, writer: &Writer<Vec<u8>>) {
    let (this, backtrace) = (thread::current(), Backtrace::capture());
    let name = this.name().unwrap_or("unnamed");
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("(no text)");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    if !log_enabled!(Level::Error) {
        print(writer, &format!("mistify-libvirt: thread {name} panicked at {place}: {message}"));
    } else if backtrace.status() == BacktraceStatus::Captured {
        let trace = backtrace.to_string();
        let trace = trace.as_str();
        log::error!(thread = name, place = place.as_str(), message, trace; "thread panicked");
    } else {
        log::error!(thread = name, place = place.as_str(), message; "thread panicked");
    }
}

/// Returns the last line of an agent that must exit. In JSON it has the level that logrus uses for that.
pub fn fatal_line(why: &str, format: LogFormat) -> String {
    match format {
        LogFormat::Text => format!("mistify-libvirt: {why}"),
        LogFormat::Json => json!({ "level": "fatal", "msg": why, "time": now() }).to_string(),
    }
}

/// The target of env_logger, which writes a line at a time.
struct Lines(Arc<Writer<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line.to_vec(), line.len());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, as the target of the thread that writes the log.
struct StandardError {
    format: Format,
}

impl LineSink<Vec<u8>> for StandardError {
    fn write(&mut self, line: Vec<u8>) -> bool {
        write_all(&line).is_ok()
    }

    fn report_dropped(&mut self, lines: u64) {
        let line = dropped_line(self.format, lines) + "\n";
        // If standard error fails, this line is lost like the others.
        let _ = write_all(line.as_bytes());
    }
}

fn dropped_line(format: Format, lines: u64) -> String {
    let fields: &[(&str, Value<'_>)] = &[("dropped_lines", Value::from(lines))];
    let mut record = Record::builder();
    record.level(Level::Warn).target(module_path!()).key_values(&fields);
    format(&record.args(format_args!("log queue was full")).build())
}

/// Writes all bytes, even if another process has made standard error non-blocking.
fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    while !bytes.is_empty() {
        match stderr.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut set = PollSet::default();
                set.add(&stderr, Interest::Write);
                set.wait(None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn builder(options: &Options) -> Builder {
    let mut builder = Builder::new();
    builder.filter_level(DEFAULT_LEVEL);
    match level(options) {
        None => builder.parse_default_env(),
        Some(DEFAULT_LEVEL) => builder.filter_module(STARTED, LevelFilter::Info),
        Some(level) => builder.filter_level(level),
    };
    let format = format(options);
    builder.format(move |line, record| writeln!(line, "{}", format(record)));
    builder
}

/// Makes the macros of `log` stop at the level of the agent, although the log line of a start is above it: a
/// request costs less if the macros need not call the logger.
fn bound_level(options: &Options) {
    if let Some(level) = level(options) {
        log::set_max_level(level);
    }
}

/// Returns the level of all modules; `None` if `RUST_LOG` decides. An empty variable counts as unset.
fn level(options: &Options) -> Option<LevelFilter> {
    let is_set = env::var_os(DEFAULT_FILTER_ENV).is_some_and(|value| !value.is_empty());
    options.log_level.or((!is_set).then_some(DEFAULT_LEVEL))
}

fn format(options: &Options) -> Format {
    match options.log_format {
        LogFormat::Json => |record| json_line(record, now()),
        LogFormat::Text if is_journal() => journal_line,
        LogFormat::Text => |record| {
            format!("{} {} {}: {}", now(), record.level(), record.target(), sentence(record))
        },
    }
}

fn now() -> String {
    clock::rfc3339_utc(SystemTime::now())
}

/// Returns whether standard error is connected directly to systemd's journal, which records the time itself
/// (`JOURNAL_STREAM`, systemd.exec(5)).
fn is_journal() -> bool {
    let named = env::var("JOURNAL_STREAM").unwrap_or_default();
    let stderr = fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|stderr| named == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Formats a line for the journal, with the priority prefix of sd-daemon(3).
fn journal_line(record: &Record<'_>) -> String {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    format!("<{priority}>{}: {}", record.target(), sentence(record))
}

/// Returns the message with its fields, each as `name=value`, in their order.
fn sentence(record: &Record<'_>) -> String {
    let mut text = record.args().to_string();
    for (name, value) in fields(record) {
        text += &format!(" {name}={value}");
    }
    text
}

/// Formats a line with the members of the original (contract section 1), and with logrus's names of levels.
fn json_line(record: &Record<'_>, time: String) -> String {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut line: Map<_, _> = fields(record).into_iter().collect();
    line.insert("level".to_owned(), json!(level));
    line.insert("msg".to_owned(), json!(record.args().to_string()));
    line.insert("time".to_owned(), json!(time));
    line.insert("target".to_owned(), json!(record.target()));
    serde_json::Value::Object(line).to_string()
}

fn fields(record: &Record<'_>) -> Vec<(String, serde_json::Value)> {
    struct Fields(Vec<(String, serde_json::Value)>);

    impl<'a> VisitSource<'a> for Fields {
        fn visit_pair(&mut self, key: Key<'a>, value: Value<'a>) -> Result<(), Error> {
            let value = match (value.to_i64(), value.to_f64(), value.to_bool()) {
                (Some(number), _, _) => json!(number),
                (None, Some(number), _) => json!(number),
                (None, None, Some(truth)) => json!(truth),
                (None, None, None) => json!(value.to_string()),
            };
            self.0.push((key.to_string(), value));
            Ok(())
        }
    }

    let mut fields = Fields(Vec::new());
    // This visitor never fails.
    let _ = record.key_values().visit(&mut fields);
    fields.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_record<T>(level: Level, look: impl Fn(&Record<'_>) -> T) -> T {
        let (text, number, time) = (Value::from("a \"b\"\nc"), Value::from(7), Value::from(0.25));
        let fields: &[(&str, Value<'_>)] = &[("guest", text), ("size", number), ("took", time)];
        let mut record = Record::builder();
        record.level(level).target("room").key_values(&fields);
        look(&record.args(format_args!("Libvirt.Run")).build())
    }

    #[test]
    fn a_line_of_json_has_the_members_of_the_original() {
        let line = with_record(Level::Warn, |record| json_line(record, "T".to_owned()));
        let expected = json!({
            "level": "warning", "msg": "Libvirt.Run", "time": "T", "target": "room",
            "guest": "a \"b\"\nc", "size": 7, "took": 0.25,
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), expected);
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn the_last_line_has_the_logs_format() {
        assert_eq!(fatal_line("port is taken", LogFormat::Text), "mistify-libvirt: port is taken");
        let line: serde_json::Value =
            serde_json::from_str(&fatal_line("port is taken", LogFormat::Json)).unwrap();
        assert_eq!((&line["level"], &line["msg"]), (&json!("fatal"), &json!("port is taken")));
        assert!(line["time"].is_string(), "{line}");
    }

    #[test]
    fn a_report_of_dropped_lines_has_the_logs_format() {
        assert!(dropped_line(journal_line, 7).ends_with("log queue was full dropped_lines=7"));
        let line = dropped_line(|record| json_line(record, "T".to_owned()), 7);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&line["msg"], &line["level"]),
            (&json!("log queue was full"), &json!("warning"))
        );
        assert_eq!(line["dropped_lines"], 7);
    }

    #[test]
    fn a_line_of_the_journal_has_a_priority_and_no_break() {
        let line = with_record(Level::Error, journal_line);
        assert_eq!(line, r#"<3>room: Libvirt.Run guest="a \"b\"\nc" size=7 took=0.25"#);
        let debug = with_record(Level::Debug, journal_line);
        assert!(debug.starts_with("<7>"), "{debug}");
    }
}
