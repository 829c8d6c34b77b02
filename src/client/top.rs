//! A live table of guests, sorted by CPU usage.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Error;
use crate::client::connection::Client;
use crate::client::output::{Table, bytes, printable, word, write};
use crate::config::fixed::TOP_INTERVAL;
use crate::sorted::IntoSorted;
use crate::sorted::OrderBy;

/// Moves the cursor home, and clears to the end of the screen.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Counters of one guest. The agent reads those of processors and NICs for each request. Those of
/// disks come from emulators, which the agent queries less often.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    at: Instant,
    state: String,
    cpu_seconds: f64,
    received_bytes: f64,
    sent_bytes: f64,
    disks: Disks,
}

/// Counters of a guest's disks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Disks {
    /// When the counters were read.
    at: Instant,
    read_bytes: f64,
    written_bytes: f64,
    /// Bytes read and written per second before that; unknown until the counters were read twice.
    rates: Option<(f64, f64)>,
}

/// The usage of a guest per second, between two samples.
#[derive(Clone, Debug, PartialEq)]
struct Rates {
    id: String,
    state: String,
    /// In percent of one processor.
    cpu_percent: f64,
    received: f64,
    sent: f64,
    /// Bytes read and written by its disks, from the last two readings.
    disks: Option<(f64, f64)>,
}

/// Shows the table until its terminal is closed; otherwise prints one sample as JSON.
pub(super) fn run(client: &Client, for_people: bool) -> Result<(), Error> {
    let mut before = look(client)?;
    loop {
        thread::sleep(TOP_INTERVAL);
        let mut now = look(client)?;
        let rates = rates(&before, &mut now);
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
    Ok(guests.map(|(id, guest)| (id.clone(), sample(guest, now))).into_map())
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
    let disks = Disks {
        at: now.checked_sub(Duration::from_secs_f64(age)).unwrap_or(now),
        read_bytes: sum("disk", "read_bytes"),
        written_bytes: sum("disk", "write_bytes"),
        rates: None,
    };
    Sample {
        at: now,
        state: word(&guest["state"]),
        cpu_seconds: sum("cpu", "cpu_time"),
        received_bytes: sum("nic", "rx_bytes"),
        sent_bytes: sum("nic", "tx_bytes"),
        disks,
    }
}

/// Returns the growth of a counter per second; 0 for a counter that was reset.
fn rate(before: f64, now: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { ((now - before) / seconds).max(0.0) } else { 0.0 }
}

impl Disks {
    /// Computes the rates, or copies the rates of `before` if the counters were not read since.
    fn follow(&mut self, before: &Self) {
        let since = self.at.saturating_duration_since(before.at);
        // The age of the same reading differs between two answers by the duration of an answer.
        self.rates = if since > TOP_INTERVAL / 2 {
            let seconds = since.as_secs_f64();
            let read = rate(before.read_bytes, self.read_bytes, seconds);
            Some((read, rate(before.written_bytes, self.written_bytes, seconds)))
        } else {
            self.at = before.at;
            before.rates
        };
    }
}

/// Returns the rates of guests that are in both samples.
fn rates(before: &BTreeMap<String, Sample>, now: &mut BTreeMap<String, Sample>) -> Vec<Rates> {
    let rate_of = |(id, now): (&String, &mut Sample)| {
        let before = before.get(id)?;
        now.disks.follow(&before.disks);
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
        Some(Rates {
            id: id.clone(),
            state: now.state.clone(),
            cpu_percent: 100.0 * rate(before.cpu_seconds, now.cpu_seconds, seconds),
            received: rate(before.received_bytes, now.received_bytes, seconds),
            sent: rate(before.sent_bytes, now.sent_bytes, seconds),
            disks: now.disks.rates,
        })
    };
    let mut all: Vec<Rates> = now.iter_mut().filter_map(rate_of).collect();
    all.order_by(&|one, other| other.cpu_percent.total_cmp(&one.cpu_percent));
    all
}

fn table(rates: &[Rates]) -> String {
    let mut table = Table::new(&["GUEST", "STATE", "CPU %", "READ/s", "WRITE/s", "IN/s", "OUT/s"]);
    for each in rates {
        table.row(&[
            printable(&each.id),
            each.state.clone(),
            format!("{:.1}", each.cpu_percent),
            each.disks.map_or("-".to_owned(), |(read, _)| bytes(read)),
            each.disks.map_or("-".to_owned(), |(_, written)| bytes(written)),
            bytes(each.received),
            bytes(each.sent),
        ]);
    }
    table.text()
}

fn as_json(rates: &Rates) -> Value {
    json!({
        "id": rates.id, "state": rates.state, "cpu_percent": rates.cpu_percent,
        "read_bytes_per_second": rates.disks.map(|(read, _)| read),
        "written_bytes_per_second": rates.disks.map(|(_, written)| written),
        "received_bytes_per_second": rates.received, "sent_bytes_per_second": rates.sent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a sample at `now`, with disks that were read `age` seconds before.
    fn looked(now: Instant, age: f64, cpu_seconds: f64, bytes: f64) -> Sample {
        let guest = json!({
            "state": "running", "age": age, "cpu": [{ "cpu_time": cpu_seconds }],
            "disk": { "vda": { "read_bytes": bytes, "write_bytes": 2.0 * bytes } },
            "nic": { "n": { "rx_bytes": 3.0 * bytes, "tx_bytes": 4.0 * bytes } },
        });
        sample(&guest, now)
    }

    fn all<const N: usize>(guests: [(&str, Sample); N]) -> BTreeMap<String, Sample> {
        guests.map(|(id, sample)| (id.to_owned(), sample)).into()
    }

    #[test]
    fn busiest_is_first_and_guests_seen_once_are_omitted() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let look = |cpu_seconds, bytes| looked(start, 0.0, cpu_seconds, bytes);
        let before =
            all([("idle", look(1.0, 0.0)), ("busy", look(1.0, 500.0)), ("gone", look(1.0, 0.0))]);
        let look = |cpu_seconds, bytes| looked(later, 0.0, cpu_seconds, bytes);
        // The byte counters of `busy` were reset.
        let mut after =
            all([("idle", look(1.0, 0.0)), ("busy", look(2.0, 0.0)), ("new", look(9.0, 9.0))]);
        let rates = rates(&before, &mut after);
        let ids: Vec<&str> = rates.iter().map(|each| each.id.as_str()).collect();
        assert_eq!(ids, ["busy", "idle"]);
        assert!((rates[0].cpu_percent - 50.0).abs() < 1e-6, "{rates:?}");
        assert_eq!((rates[0].disks, rates[0].sent), (Some((0.0, 0.0)), 0.0));
        let text = table(&rates);
        assert!(text.starts_with("GUEST    STATE  CPU %  READ/s"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn disk_rates_are_kept_until_the_next_reading() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // The samples, by seconds; disks are read at 0, at 15 with 1500 bytes more, and at 30.
        let looks = [
            (1, 1.0, 0.0),
            (3, 3.01, 0.0),
            (16, 1.0, 1500.0),
            (18, 2.99, 1500.0),
            (31, 1.0, 1500.0),
        ];
        let looks =
            looks.map(|(seconds, age, bytes)| all([("g", looked(at(seconds), age, 0.1, bytes))]));
        let mut looks = looks.into_iter();
        let mut before = looks.next().unwrap();
        let rates = looks.map(|mut now| {
            let disks = rates(&before, &mut now)[0].disks;
            before = now;
            disks.map(|(read, written)| (read.round(), written.round()))
        });
        let hundred = Some((100.0, 200.0));
        assert_eq!(rates.collect::<Vec<_>>(), [None, hundred, hundred, Some((0.0, 0.0))]);
    }
}
