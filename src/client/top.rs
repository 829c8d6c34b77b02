//! A live table of guests, those that use most of the processors first.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Error;
use crate::client::connection::Client;
use crate::client::output::{Table, bytes, printable};
use crate::client::verbs::{word, write};
use crate::config::fixed::TOP_INTERVAL;

/// Home, and clear to the end of the screen.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Counters of one guest.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    at: Instant,
    state: String,
    cpu_seconds: f64,
    read_bytes: f64,
    written_bytes: f64,
    received_bytes: f64,
    sent_bytes: f64,
}

/// What a guest did in a second, between two looks.
#[derive(Clone, Debug, PartialEq)]
struct Rates {
    id: String,
    state: String,
    /// Of one processor.
    cpu_percent: f64,
    read: f64,
    written: f64,
    received: f64,
    sent: f64,
}

/// Shows it until its terminal is closed; one look, as JSON, where it is not for people.
pub(super) fn run(client: &Client, for_people: bool) -> Result<(), Error> {
    let mut before = look(client)?;
    loop {
        thread::sleep(TOP_INTERVAL);
        let now = look(client)?;
        let rates = rates(&before, &now);
        if !for_people {
            return write(&format!("{}\n", rates.iter().map(as_json).collect::<Value>()));
        }
        write(&format!("{CLEAR}{}", table(&rates)))?;
        before = now;
    }
}

fn look(client: &Client) -> Result<BTreeMap<String, Sample>, Error> {
    let answer = client.call("Libvirt.AllMetrics", &json!([{}]))?;
    let now = Instant::now();
    let guests = answer.as_object().into_iter().flatten();
    Ok(guests.map(|(id, guest)| (id.clone(), sample(guest, now))).collect())
}

fn sample(guest: &Value, now: Instant) -> Sample {
    let sum = |group: &str, member: &str| -> f64 {
        let of = |value: &Value| value[member].as_f64().unwrap_or_default();
        match &guest[group] {
            Value::Array(all) => all.iter().map(of).sum(),
            Value::Object(all) => all.values().map(of).sum(),
            _ => 0.0,
        }
    };
    let age = guest["age"].as_f64().filter(|age| (0.0..1e9).contains(age)).unwrap_or_default();
    Sample {
        at: now.checked_sub(Duration::from_secs_f64(age)).unwrap_or(now),
        state: word(&guest["state"]),
        cpu_seconds: sum("cpu", "cpu_time"),
        read_bytes: sum("disk", "read_bytes"),
        written_bytes: sum("disk", "write_bytes"),
        received_bytes: sum("nic", "rx_bytes"),
        sent_bytes: sum("nic", "tx_bytes"),
    }
}

/// Of guests that were there both times; a counter that went back was begun anew.
fn rates(before: &BTreeMap<String, Sample>, now: &BTreeMap<String, Sample>) -> Vec<Rates> {
    let rate_of = |(id, now): (&String, &Sample)| {
        let before = before.get(id)?;
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
        let rate = |counter: fn(&Sample) -> f64| match seconds > 0.0 {
            true => ((counter(now) - counter(before)) / seconds).max(0.0),
            false => 0.0,
        };
        Some(Rates {
            id: id.clone(),
            state: now.state.clone(),
            cpu_percent: 100.0 * rate(|sample| sample.cpu_seconds),
            read: rate(|sample| sample.read_bytes),
            written: rate(|sample| sample.written_bytes),
            received: rate(|sample| sample.received_bytes),
            sent: rate(|sample| sample.sent_bytes),
        })
    };
    let mut all: Vec<Rates> = now.iter().filter_map(rate_of).collect();
    all.sort_by(|one, other| other.cpu_percent.total_cmp(&one.cpu_percent));
    all
}

fn table(rates: &[Rates]) -> String {
    let mut table = Table::new(&["GUEST", "STATE", "CPU %", "READ/s", "WRITE/s", "IN/s", "OUT/s"]);
    for each in rates {
        table.row([
            printable(&each.id),
            each.state.clone(),
            format!("{:.1}", each.cpu_percent),
            bytes(each.read),
            bytes(each.written),
            bytes(each.received),
            bytes(each.sent),
        ]);
    }
    table.text()
}

fn as_json(rates: &Rates) -> Value {
    json!({
        "id": rates.id, "state": rates.state, "cpu_percent": rates.cpu_percent,
        "read_bytes_per_second": rates.read, "written_bytes_per_second": rates.written,
        "received_bytes_per_second": rates.received, "sent_bytes_per_second": rates.sent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_by_the_age_of_the_samples_and_the_busiest_comes_first() {
        let now = Instant::now();
        let look = |age: f64, seconds: f64, bytes: f64| {
            let guest = json!({
                "state": "running", "age": age, "cpu": [{ "cpu_time": seconds }],
                "disk": { "vda": { "read_bytes": bytes, "write_bytes": 2.0 * bytes } },
                "nic": { "n": { "rx_bytes": 3.0 * bytes, "tx_bytes": 4.0 * bytes } },
            });
            sample(&guest, now)
        };
        let before = BTreeMap::from([
            ("idle".to_owned(), look(3.0, 1.0, 0.0)),
            ("busy".to_owned(), look(3.0, 1.0, 500.0)),
            ("gone".to_owned(), look(3.0, 1.0, 0.0)),
        ]);
        let after = BTreeMap::from([
            ("idle".to_owned(), look(1.0, 1.0, 0.0)),
            // Its counters of bytes began anew.
            ("busy".to_owned(), look(1.0, 2.0, 0.0)),
            ("new".to_owned(), look(1.0, 9.0, 9.0)),
        ]);
        let rates = rates(&before, &after);
        let ids: Vec<&str> = rates.iter().map(|each| each.id.as_str()).collect();
        assert_eq!(ids, ["busy", "idle"]);
        assert!((rates[0].cpu_percent - 50.0).abs() < 1e-6, "{rates:?}");
        assert_eq!((rates[0].read, rates[0].sent), (0.0, 0.0));
        let text = table(&rates);
        assert!(text.starts_with("GUEST    STATE  CPU %  READ/s"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }
}
