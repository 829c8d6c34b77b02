//! The callers: orchestrators with guests of their own, a scraper, and listeners to events.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::support::Random;
use crate::totals::Outcome;
use crate::world::{World, guest};

/// The methods, and the weight of each.
const METHODS: [(&str, u64); 33] = [
    ("CreateGuest", 16),
    ("Run", 16),
    ("Status", 12),
    ("CPUMetrics", 6),
    ("DiskMetrics", 6),
    ("NicMetrics", 6),
    ("AllMetrics", 3),
    ("Reboot", 4),
    ("Restart", 2),
    ("Shutdown", 4),
    ("Poweroff", 3),
    ("Delete", 4),
    ("Create", 2),
    ("Suspend", 3),
    ("Resume", 4),
    ("Reset", 2),
    ("SetMetadata", 3),
    ("SetAutostart", 2),
    ("SetMemory", 2),
    ("SetCPU", 2),
    ("Console", 3),
    ("Screenshot", 3),
    ("ResizeDisk", 2),
    ("AttachDisk", 3),
    ("DetachDisk", 3),
    ("AttachNic", 3),
    ("DetachNic", 3),
    (PLAN, 2),
    (JOB, 4),
    ("Describe", 4),
    ("List", 3),
    ("WaitEvents", 1),
    (BATCH, 2),
];
/// Special calls among the methods: a batch of reads, a Delete that only returns its plan, a Run as a job.
const BATCH: &str = "a batch";
const PLAN: &str = "Delete, dry_run";
const JOB: &str = "Run, async";
/// One connection in so many is cut before its answer.
const CUT_ONE_IN: u64 = 20;
/// Longest pause between two calls of a caller, in milliseconds.
const PAUSE_MS: u64 = 40;
/// Calls after a cut one, until the effect of that one counts as complete: its request may still be under way.
const DOUBT: usize = 5;
/// A listener's patience with one read.
const QUIET: Duration = Duration::from_secs(1);

/// A caller's guest, and whether it exists according to the caller.
struct Owned {
    /// The guest in the CreateGuest request.
    asked: Value,
    /// The guest in the agent's last answer.
    known: Value,
    /// A NIC that is attached and detached.
    second_nic: Value,
    /// Whether the guest exists; `None` if the caller does not know.
    is_there: Option<bool>,
    /// Calls until an earlier cut call counts as complete.
    doubt: usize,
}

/// Calls at random for these guests until `over`.
pub(crate) fn call(world: &World, numbers: &[usize], seed: u64, over: &AtomicBool) {
    let random = Random::new(seed);
    let mut guests: Vec<Owned> = numbers.iter().map(|number| Owned::new(*number)).collect();
    while !over.load(Ordering::Relaxed) {
        let which = usize::try_from(random.below(guests.len() as u64)).expect("few guests");
        let owned = &mut guests[which];
        let method = any_method(&random);
        let params = params(method, owned, &random);
        let (outcome, answered) = call_once(world, method, &params, &random);
        world.stats.call(method, outcome);
        if let Some(violation) = owned.learn(method, outcome, answered) {
            world.stats.violation(&violation);
        }
        thread::sleep(Duration::from_millis(random.below(PAUSE_MS)));
    }
}

impl Owned {
    fn new(number: usize) -> Self {
        let asked = guest(number);
        let mut second_nic = asked["nics"][0].clone();
        second_nic["name"] = json!("eth1");
        second_nic["mac"] = json!(format!("02:00:00:00:78:{number:02x}"));
        Self { known: asked.clone(), asked, second_nic, is_there: None, doubt: DOUBT }
    }

    /// Records the outcome of a call; returns a violation if the outcome is impossible.
    fn learn(&mut self, method: &str, outcome: Outcome, answered: Option<Value>) -> Option<String> {
        if let Some(guest) = answered.filter(|guest| guest.is_object()) {
            self.known = guest;
        }
        if [Outcome::Cut, Outcome::NoAnswer].contains(&outcome) {
            (self.is_there, self.doubt) = (None, DOUBT);
            return None;
        }
        self.doubt = self.doubt.saturating_sub(1);
        let was = self.is_there;
        match (method, outcome) {
            ("Status" | "Describe", Outcome::Ok) if was == Some(false) => {
                return Some(format!("{} is there after its Delete", self.asked["id"]));
            }
            ("Status" | "Describe" | "Delete", Outcome::NotFound) if was == Some(true) => {
                self.is_there = Some(false);
                return Some(format!("{} is lost, says {method}", self.asked["id"]));
            }
            ("CreateGuest" | "Create", Outcome::Ok) => self.is_there = Some(true),
            ("Delete", Outcome::Ok | Outcome::NotFound) => self.is_there = Some(false),
            // The call may still complete, or be undone.
            ("CreateGuest" | "Create" | "Delete", Outcome::Late | Outcome::Failed)
            | (_, Outcome::Unavailable) => self.is_there = None,
            _ => {}
        }
        if self.doubt > 0 {
            self.is_there = None;
        }
        None
    }
}

fn any_method(random: &Random) -> &'static str {
    let all: u64 = METHODS.iter().map(|(_, weight)| weight).sum();
    let mut at = random.below(all);
    for (method, weight) in METHODS {
        match at.checked_sub(weight) {
            Some(rest) => at = rest,
            None => return method,
        }
    }
    BATCH
}

fn params(method: &str, owned: &Owned, random: &Random) -> Value {
    let mut guest = owned.known.clone();
    match method {
        "CreateGuest" | "Create" => guest = owned.asked.clone(),
        "AllMetrics" => return json!({}),
        "List" => return json!({ "limit": 3 }),
        PLAN => return json!({ "guest": guest, "args": { "mistify.dry_run": "true" } }),
        JOB => return json!({ "guest": guest, "args": { "mistify.async": "true" } }),
        "AttachDisk" => {
            return json!({ "guest": guest, "disk": { "device": "vdc", "size": 1 } });
        }
        "DetachDisk" => return json!({ "guest": guest, "disk": { "device": "vdc" } }),
        "AttachNic" | "DetachNic" => return json!({ "guest": guest, "nic": owned.second_nic }),
        "WaitEvents" => return json!({ "after": 0, "timeout": random.below(3) }),
        "SetAutostart" => return json!({ "guest": guest, "autostart": random.below(2) == 0 }),
        "SetMetadata" => guest["metadata"] = json!({ "n": random.below(1000).to_string() }),
        "SetMemory" => guest["memory"] = json!(24 + random.below(16)),
        "SetCPU" => guest["cpu"] = json!(1 + random.below(2)),
        "ResizeDisk" => {
            guest["disks"] = json!([{ "device": "vdb", "size": 1 + random.below(4) }]);
        }
        _ => {}
    }
    json!({ "guest": guest })
}

/// Makes one call, by either path, sometimes cut off; returns the outcome and the answered guest.
fn call_once(
    world: &World,
    method: &str,
    params: &Value,
    random: &Random,
) -> (Outcome, Option<Value>) {
    let is_new = method == BATCH || random.below(4) != 0;
    let name = format!("Libvirt.{}", method.split(',').next().unwrap_or(method));
    let (path, body) = if method == BATCH {
        ("/rpc", batch(params))
    } else if is_new {
        ("/rpc", json!({ "jsonrpc": "2.0", "method": name, "params": params, "id": 1 }))
    } else {
        ("/_mistify_RPC_", json!({ "method": name, "params": [params], "id": 1 }))
    };
    let life = world.agent();
    let cut = (random.below(CUT_ONE_IN) == 0).then_some(random);
    let answer = match exchange(&life.agent, path, &body.to_string(), cut) {
        Exchanged::Cut => return (Outcome::Cut, None),
        Exchanged::Nothing => return (Outcome::NoAnswer, None),
        Exchanged::Answer(answer) => answer,
    };
    let resized = method == "ResizeDisk";
    let guest = answer["result"]["guest"].clone();
    let outcome = match answer {
        Value::Array(answers) => return (of_batch(world, &answers), None),
        _ if !is_new => Outcome::of_text(&answer["error"]),
        _ => match answer["error"]["code"].as_i64() {
            None if answer.get("result").is_some() => Outcome::Ok,
            code => Outcome::of_code(code.unwrap_or_default()).unwrap_or_else(|| {
                world.stats.violation(&format!("{method} {params}: {answer}"));
                Outcome::Failed
            }),
        },
    };
    // ResizeDisk answers with only the requested disk.
    (outcome, Some(guest).filter(|_| outcome == Outcome::Ok && !resized))
}

fn batch(params: &Value) -> Value {
    let call = |(id, method): (usize, &str)| {
        let name = format!("Libvirt.{method}");
        json!({ "jsonrpc": "2.0", "method": name, "params": params, "id": id })
    };
    ["Status", "Describe", "CPUMetrics", "Status"].into_iter().enumerate().map(call).collect()
}

/// Checks that each call of a batch has an answer, in order.
fn of_batch(world: &World, answers: &[Value]) -> Outcome {
    let ids: Vec<_> = answers.iter().filter_map(|answer| answer["id"].as_u64()).collect();
    if ids != [0, 1, 2, 3] {
        world.stats.violation(&format!("a batch of four: {answers:?}"));
    }
    Outcome::Ok
}

enum Exchanged {
    Answer(Value),
    Cut,
    Nothing,
}

/// Sends a call on a new connection. With `cut`, closes the connection at random: before the last byte of the request,
/// after it, or in the middle of the answer.
fn exchange(agent: &Agent, path: &str, body: &str, cut: Option<&Random>) -> Exchanged {
    let text = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = || {
        let mut stream = agent.try_connect()?;
        let Some(random) = cut else {
            stream.write_all(text.as_bytes()).ok()?;
            return crate::agent::read_result(&mut stream).map(Exchanged::Answer);
        };
        let whole = random.below(2) == 0;
        let length = usize::try_from(random.below(text.len() as u64)).expect("a length");
        let length = if whole { text.len() } else { length };
        stream.write_all(&text.as_bytes()[..length]).ok()?;
        if whole && random.below(2) == 0 {
            // A caller that reads only a part of the answer.
            let _ = stream.read(&mut [0; 10]);
        }
        let _ = stream.shutdown(Shutdown::Both);
        Some(Exchanged::Cut)
    };
    answer().unwrap_or(Exchanged::Nothing)
}

/// Scrapes until `over`, at random intervals.
pub(crate) fn scrape(world: &World, seed: u64, over: &AtomicBool) {
    let random = Random::new(seed);
    while !over.load(Ordering::Relaxed) {
        let outcome = match get(&world.agent().agent, "/metrics") {
            Some(text) if text.contains("\nmistify_build_info") => Outcome::Ok,
            Some(text) if text.starts_with("HTTP/1.1 503 ") => Outcome::Busy,
            Some(text) => {
                let shown: String = text.chars().take(200).collect();
                world.stats.violation(&format!("/metrics: {shown}"));
                Outcome::Failed
            }
            None => Outcome::NoAnswer,
        };
        world.stats.call("/metrics", outcome);
        thread::sleep(Duration::from_millis(200 + random.below(1500)));
    }
}

/// Returns the whole answer, with its head.
fn get(agent: &Agent, path: &str) -> Option<String> {
    let mut stream = agent.try_connect()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// Listens to events until `over`, for some seconds at a time; one time in three without reading.
pub(crate) fn listen(world: &World, seed: u64, over: &AtomicBool) {
    let random = Random::new(seed);
    while !over.load(Ordering::Relaxed) {
        let length = Duration::from_secs(1 + random.below(10));
        let is_reading = random.below(3) != 0;
        let outcome = listen_for(&world.agent().agent, length, is_reading, over);
        world.stats.call("/events", outcome);
        thread::sleep(Duration::from_millis(random.below(500)));
    }
}

fn listen_for(agent: &Agent, length: Duration, is_reading: bool, over: &AtomicBool) -> Outcome {
    let begin = Instant::now();
    let Some(mut stream) = agent.try_connect() else { return Outcome::NoAnswer };
    let request = b"GET /events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    if stream.set_read_timeout(Some(QUIET)).is_err() || stream.write_all(request).is_err() {
        return Outcome::NoAnswer;
    }
    let mut buffer = [0; 4096];
    while begin.elapsed() < length && !over.load(Ordering::Relaxed) {
        if !is_reading {
            thread::sleep(QUIET);
            continue;
        }
        // The agent was killed. An error means only that no event arrived for a while.
        if let Ok(0) = stream.read(&mut buffer) {
            return Outcome::NoAnswer;
        }
    }
    Outcome::Cut
}
