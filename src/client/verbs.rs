//! The request of each subcommand, and the text of its answer.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::client::Error;
use crate::client::connection::Client;
use crate::client::output::{Table, bytes, printable, word, write};
use crate::client::progress::Progress;
use crate::client::top;
use crate::config::Config;
use crate::config::fixed::CLIENT_PARAMS_BYTES;
use crate::guest::wire::agent::is_of_link;

/// A subcommand that calls the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCommand {
    /// Any method of the agent, such as `Status` or `ImageStore.ListImages`.
    Call {
        /// Its name; a name without a service belongs to `Libvirt`.
        method: String,
        /// Its parameters.
        params: Params,
    },
    /// All guests: state, memory, processors and address.
    List,
    /// A method for a guest by its id.
    Guest {
        /// The method's name.
        method: &'static str,
        /// The guest's id.
        id: String,
    },
    /// Shutdown of a guest.
    Shutdown {
        /// The guest's id.
        id: String,
        /// The seconds for which the command waits until the guest is off.
        wait: Option<u64>,
        /// The seconds after which the guest is forced off.
        force_after: Option<u64>,
    },
    /// The resource usage of a guest.
    Metrics(String),
    /// The objects that calls left, of all guests or of one.
    Leftovers {
        /// The guest's id; empty for all.
        guest: String,
        /// Whether to remove them.
        remove: bool,
    },
    /// All guests by CPU usage, updated until the terminal is closed.
    Top,
}

/// The source of parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Params {
    /// None: an empty object.
    None,
    /// This text.
    Text(String),
    /// A file; `-` is standard input.
    File(PathBuf),
}

/// Calls the agent with these settings, and writes its answer to standard output: JSON if that is no terminal or
/// `json` is set.
///
/// # Errors
/// See [`Error`].
///
/// # Blocking
/// Up to the agent's deadline for changes and 10 s; [`ClientCommand::Top`] until its terminal is closed.
pub fn run(config: &Config, ask: &ClientCommand, json: bool) -> Result<(), Error> {
    let client = Client::new(config)?;
    let for_people = is_for_people(json);
    if *ask == ClientCommand::Top {
        return top::run(&client, for_people);
    }
    let (method, params, what) = request(ask)?;
    let progress = Progress::of(printable(&what));
    let answer = match ask {
        ClientCommand::List => all_guests(&client),
        _ => client.call(&method, &params),
    };
    drop(progress);
    let answer = narrow(ask, answer?)?;
    let text = match for_people {
        true => readable(ask, &answer),
        false => format!("{answer}\n"),
    };
    write(&text)?;
    outcome(ask, &answer)
}

/// Returns an error if the answer is not the wanted outcome.
fn outcome(ask: &ClientCommand, answer: &Value) -> Result<(), Error> {
    match ask {
        ClientCommand::Leftovers { remove: true, .. } if answer["leftovers"] != json!([]) => {
            Err(Error::Answered("cannot remove all leftovers".to_owned()))
        }
        ClientCommand::Shutdown { id, wait, force_after } if wait.or(*force_after).is_some() => {
            match answer["guest"]["state"].as_str() {
                Some("shutoff" | "crashed") => Ok(()),
                _ => Err(Error::Answered(format!("{id} went off and was started again"))),
            }
        }
        _ => Ok(()),
    }
}

/// Returns whether answers are text for people: on a terminal, unless JSON is requested.
pub(super) fn is_for_people(json: bool) -> bool {
    !json && io::stdout().is_terminal()
}

/// Returns the guests of all pages of List.
fn all_guests(client: &Client) -> Result<Value, Error> {
    let (mut guests, mut after) = (Vec::new(), None);
    loop {
        let mut page = client.call("Libvirt.List", &json!([{ "after": after }]))?;
        if let Some(Value::Array(more)) = page.get_mut("guests").map(Value::take) {
            guests.extend(more);
        }
        after = page.get("next").and_then(Value::as_str).map(str::to_owned);
        if after.is_none() {
            return Ok(Value::Array(guests));
        }
    }
}

/// Returns the method, its parameters, and the title of its progress.
fn request(ask: &ClientCommand) -> Result<(String, Value, String), Error> {
    let libvirt = |method: &str| format!("Libvirt.{method}");
    Ok(match ask {
        ClientCommand::Call { method, params } => {
            let method = if method.contains('.') { method.clone() } else { libvirt(method) };
            let params = match read_params(params)? {
                params @ Value::Array(_) => params,
                params => json!([params]),
            };
            (method.clone(), params, method)
        }
        ClientCommand::Guest { method, id } => {
            (libvirt(method), of_guest(id), format!("{method} {id}"))
        }
        ClientCommand::Shutdown { id, wait, force_after } => {
            let params = json!({ "guest": { "id": id }, "wait": wait, "force_after": force_after });
            (libvirt("Shutdown"), json!([params]), format!("Shutdown {id}"))
        }
        ClientCommand::List => (libvirt("List"), json!([{}]), "List".to_owned()),
        ClientCommand::Leftovers { guest, remove } => {
            let method = if *remove { "RemoveLeftovers" } else { "Leftovers" };
            (libvirt(method), of_guest(guest), method.to_owned())
        }
        ClientCommand::Metrics(_) | ClientCommand::Top => {
            (libvirt("AllMetrics"), json!([{}]), "AllMetrics".to_owned())
        }
    })
}

/// Returns the parameters of a method that takes only a guest's id.
pub(super) fn of_guest(id: &str) -> Value {
    json!([{ "guest": { "id": id } }])
}

pub(super) fn read_params(params: &Params) -> Result<Value, Error> {
    let (name, text) = match params {
        Params::None => return Ok(json!({})),
        Params::Text(text) => ("the parameters".to_owned(), text.clone()),
        Params::File(path) => (path.display().to_string(), read(path)?),
    };
    serde_json::from_str(&text)
        .map_err(|error| Error::Asked(format!("cannot parse {name}: {error}")))
}

pub(super) fn read(path: &Path) -> Result<String, Error> {
    let wrong = |why: &dyn ToString| {
        Error::Asked(format!("cannot read {}: {}", path.display(), why.to_string()))
    };
    let mut text = String::new();
    let mut take =
        |source: &mut dyn Read| source.take(CLIENT_PARAMS_BYTES + 1).read_to_string(&mut text);
    let read = match path.as_os_str() == "-" {
        true => take(&mut io::stdin().lock()),
        false => File::open(path).and_then(|mut file| take(&mut file)),
    };
    match read {
        Ok(_) if text.len() as u64 > CLIENT_PARAMS_BYTES => Err(wrong(&"larger than 1 MiB")),
        Ok(_) => Ok(text),
        Err(error) => Err(wrong(&error)),
    }
}

/// Selects the requested guest from an answer about all guests.
fn narrow(ask: &ClientCommand, mut answer: Value) -> Result<Value, Error> {
    match ask {
        ClientCommand::Metrics(id) => match answer.get_mut(id) {
            Some(guest) => Ok(guest.take()),
            None => Err(Error::Answered(format!("guest {id} not found"))),
        },
        _ => Ok(answer),
    }
}

fn readable(ask: &ClientCommand, answer: &Value) -> String {
    match ask {
        ClientCommand::List => list(answer),
        ClientCommand::Metrics(_) => metrics(answer),
        ClientCommand::Leftovers { .. } => leftovers(&answer["leftovers"]),
        ClientCommand::Guest { method: "Console", .. } => lines(&answer["console"]),
        ClientCommand::Guest { method: "Delete", id } => format!("{} deleted\n", printable(id)),
        ClientCommand::Guest { method: "DiscardSaved", id } => {
            format!("{} saved memory removed; the next start boots\n", printable(id))
        }
        ClientCommand::Guest { id, .. } | ClientCommand::Shutdown { id, .. } => {
            let forced = if answer["forced"] == true { ", forced off" } else { "" };
            format!("{} {}{forced}\n", printable(id), word(&answer["guest"]["state"]))
        }
        ClientCommand::Call { .. } | ClientCommand::Top => format!("{answer:#}\n"),
    }
}

fn list(guests: &Value) -> String {
    let mut table = Table::new(&["GUEST", "STATE", "MEMORY", "CPUS", "ADDRESS"]);
    for guest in guests.as_array().into_iter().flatten() {
        let memory = bytes(guest["memory"].as_f64().unwrap_or_default() * 1024.0 * 1024.0);
        let state = match guest["saved"] == true {
            true => "saved".to_owned(),
            false => word(&guest["state"]),
        };
        let address = address(guest);
        table.row(&[word(&guest["id"]), state, memory, guest["cpu"].to_string(), address]);
    }
    table.text()
}

/// Returns the first address of a guest, with its source, and with its age from 5 minutes on; `-` if no address reaches
/// beyond its link: addresses that do come first in the list.
fn address(guest: &Value) -> String {
    let first = &guest["addresses"][0];
    let (address, source) = (word(&first["address"]), word(&first["source"]));
    if is_of_link(&address) {
        return "-".to_owned();
    }
    let age = match first["age_s"].as_u64().unwrap_or_default() / 60 {
        0..5 => String::new(),
        minutes @ 5..120 => format!(", {minutes} min"),
        minutes => format!(", {} h", minutes / 60),
    };
    format!("{address} ({source}{age})")
}

fn leftovers(found: &Value) -> String {
    let mut table = Table::new(&["GUEST", "METHOD", "SINCE", "STATE", "WHY"]);
    for left in found.as_array().into_iter().flatten() {
        let text = ["guest", "method", "since", "state", "why"].map(|member| word(&left[member]));
        table.row(&text);
    }
    table.text()
}

/// Returns the lines of a text, as a terminal may show them.
fn lines(text: &Value) -> String {
    let lines = text.as_str().unwrap_or_default().lines();
    lines.map(|line| printable(line) + "\n").collect()
}

fn metrics(guest: &Value) -> String {
    let number = |value: &Value, name: &str| value[name].as_f64().unwrap_or_default();
    let amount = |value: &Value, name: &str| bytes(number(value, name));
    let count = |value: &Value, name: &str| format!("{:.0}", number(value, name));
    let mut cpus = Table::new(&["CPU", "SECONDS", "VCPU SECONDS"]);
    for (index, cpu) in guest["cpu"].as_array().into_iter().flatten().enumerate() {
        let seconds = |name| format!("{:.2}", number(cpu, name));
        cpus.row(&[index.to_string(), seconds("cpu_time"), seconds("vcpu_time")]);
    }
    let mut disks = Table::new(&["DISK", "READS", "READ", "WRITES", "WRITTEN"]);
    for (name, disk) in guest["disk"].as_object().into_iter().flatten() {
        disks.row(&[
            name.clone(),
            count(disk, "read_ops"),
            amount(disk, "read_bytes"),
            count(disk, "write_ops"),
            amount(disk, "write_bytes"),
        ]);
    }
    let mut nics = Table::new(&["NIC", "RECEIVED", "PACKETS", "SENT", "PACKETS"]);
    for (name, nic) in guest["nic"].as_object().into_iter().flatten() {
        nics.row(&[
            name.clone(),
            amount(nic, "rx_bytes"),
            count(nic, "rx_packets"),
            amount(nic, "tx_bytes"),
            count(nic, "tx_packets"),
        ]);
    }
    let age = number(guest, "age");
    let state = word(&guest["state"]);
    let (cpus, disks, nics) = (cpus.text(), disks.text(), nics.text());
    format!("{state}, {age:.1} s ago\n\n{cpus}\n{disks}\n{nics}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_defaults_to_libvirt_and_params_to_a_list() {
        let asked = |method: &str, params| {
            let ask = ClientCommand::Call { method: method.to_owned(), params };
            let (method, params, _) = request(&ask).unwrap();
            (method, params.to_string())
        };
        let text = |text: &str| Params::Text(text.to_owned());
        assert_eq!(asked("Status", Params::None), ("Libvirt.Status".into(), "[{}]".into()));
        assert_eq!(asked("Libvirt.Run", text("[1]")), ("Libvirt.Run".into(), "[1]".into()));
        let images = asked("ImageStore.ListImages", text(r#"{"id":"a"}"#));
        assert_eq!(images, ("ImageStore.ListImages".into(), r#"[{"id":"a"}]"#.into()));
        let wrong = ClientCommand::Call { method: "Run".into(), params: text("{") };
        let begin = "cannot parse the parameters: ";
        assert!(matches!(request(&wrong), Err(Error::Asked(why)) if why.starts_with(begin)));
    }

    #[test]
    fn a_list_has_a_line_for_each_guest() {
        let all = json!([
            { "id": "a", "state": "running", "memory": 8192, "cpu": 2, "addresses": [
                { "address": "192.0.2.7", "source": "arp", "age_s": 299 }, { "address": "fe80::1" },
            ] },
            { "id": "b\n", "state": "shutdown", "memory": 64, "cpu": 16 },
            { "id": "c", "state": "running", "memory": 64, "cpu": 1, "addresses": [
                { "address": "fe80::1" },
            ] },
            { "id": "d", "state": "running", "memory": 64, "cpu": 1, "addresses": [
                { "address": "192.0.2.8", "source": "agent", "age_s": 300 },
            ] },
            { "id": "e", "state": "running", "memory": 64, "cpu": 1, "addresses": [
                { "address": "192.0.2.9", "source": "agent", "age_s": 10_799 },
            ] },
        ]);
        let expected = "GUEST     STATE   MEMORY  CPUS                   ADDRESS\n\
                        a       running  8.0 GiB     2           192.0.2.7 (arp)\n\
                        b\u{fffd}     shutdown   64 MiB    16                         -\n\
                        c       running   64 MiB     1                         -\n\
                        d       running   64 MiB     1  192.0.2.8 (agent, 5 min)\n\
                        e       running   64 MiB     1    192.0.2.9 (agent, 2 h)\n";
        assert_eq!(list(&all), expected);
    }

    #[test]
    fn console_output_omits_cursor_control_sequences() {
        let text = json!("login:\r\n\u{1b}[2J\tx");
        assert_eq!(lines(&text), "login:\n\u{fffd}[2J\u{fffd}x\n");
    }

    #[test]
    fn a_guest_that_was_started_again_is_not_off() {
        let shutdown = |wait, force_after, state: &str| {
            let ask = ClientCommand::Shutdown { id: "web-1".to_owned(), wait, force_after };
            outcome(&ask, &json!({ "guest": { "state": state } })).map_err(|error| error.status())
        };
        assert_eq!(shutdown(None, None, "running"), Ok(()), "nobody waits");
        assert_eq!(shutdown(Some(1), None, "shutoff"), Ok(()));
        assert_eq!(shutdown(Some(1), None, "running"), Err(1));
        assert_eq!(shutdown(None, Some(1), "paused"), Err(1));
    }

    #[test]
    fn metrics_of_a_missing_guest_are_an_error() {
        let metrics = ClientCommand::Metrics("b".to_owned());
        assert_eq!(narrow(&metrics, json!({ "a": {} })).unwrap_err().status(), 1);
        assert_eq!(narrow(&metrics, json!({ "b": { "age": 1 } })), Ok(json!({ "age": 1 })));
    }
}
