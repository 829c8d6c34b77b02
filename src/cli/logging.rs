//! The log of the agent's process.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use env_logger::fmt::Formatter;
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Record};
use serde_json::{Map, json};

use crate::cli::{LogFormat, Settings};
use crate::os::clock;

/// Starts to log to standard error. A flag wins over `RUST_LOG`. Once a process.
pub fn start_log(settings: &Settings) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Warn);
    match settings.log_level {
        Some(level) => builder.filter_level(level),
        None => builder.parse_default_env(),
    };
    let write: fn(&mut Formatter, &Record<'_>) -> io::Result<()> = match settings.log_format {
        LogFormat::Json => |line, record| writeln!(line, "{}", json_line(record, now())),
        LogFormat::Text if is_journal() => {
            |line, record| writeln!(line, "{}", journal_line(record))
        }
        LogFormat::Text => |line, record| {
            let (level, text) = (record.level(), sentence(record));
            writeln!(line, "{} {level} {}: {text}", now(), record.target())
        },
    };
    builder.format(write).init();
}

fn now() -> String {
    clock::rfc3339_utc(SystemTime::now())
}

/// Whether standard error goes straight to systemd's journal, which keeps the time itself
/// (`JOURNAL_STREAM`, systemd.exec(5)).
fn is_journal() -> bool {
    let named = env::var("JOURNAL_STREAM").unwrap_or_default();
    let stderr = fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|stderr| named == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// The priority in front is sd-daemon(3)'s.
fn journal_line(record: &Record<'_>) -> String {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    format!("<{priority}>{}: {}", record.target(), sentence(record))
}

/// What is told, and the fields that come with it, each as `name=value`, in their order.
fn sentence(record: &Record<'_>) -> String {
    let mut text = record.args().to_string();
    for (name, value) in fields(record) {
        text += &format!(" {name}={value}");
    }
    text
}

/// With the members of the original (contract section 1), and the names that logrus has for levels.
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
    // Ours never fails.
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
    fn a_line_of_the_journal_has_a_priority_and_no_break() {
        let line = with_record(Level::Error, journal_line);
        assert_eq!(line, r#"<3>room: Libvirt.Run guest="a \"b\"\nc" size=7 took=0.25"#);
        let debug = with_record(Level::Debug, journal_line);
        assert!(debug.starts_with("<7>"), "{debug}");
    }
}
