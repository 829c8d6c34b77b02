//! The subcommand `create`: CreateGuest of a file or of options, then Run, then a wait for the guest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Error;
use crate::client::connection::{Client, is_local};
use crate::client::output::{printable, warn, word, write};
use crate::client::progress::Progress;
use crate::client::verbs::{Params, is_for_people, of_guest, read, read_params};
use crate::client::wait::{Wait, WaitFor, word_of};
use crate::config::Config;
use crate::os::kvm;

/// The prefixes of a line with an OpenSSH public key.
const KEY_TYPES: [&str; 4] = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"];
/// Texts that files with a private key contain.
const PRIVATE: [&str; 2] = ["PRIVATE KEY-----", "PuTTY-User-Key-File-"];

/// The steps of `create`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// The guest.
    pub guest: NewGuest,
    /// Whether the agent only plans.
    pub dry_run: bool,
    /// Whether the request is printed, and nothing is sent.
    pub prints_request: bool,
    /// Whether the guest is started.
    pub run: bool,
    /// The state of the started guest for which the subcommand waits.
    pub wait: Option<WaitFor>,
    /// The longest wait for that state.
    pub limit: Duration,
}

/// The source of a new guest's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewGuest {
    /// A file with JSON: the guest, or all parameters of CreateGuest; `-` is standard input.
    File(PathBuf),
    /// Options.
    Options {
        /// The guest in the form of the API, without the content of files. Without `type` the host decides.
        guest: Value,
        /// Files with public keys.
        ssh_keys: Vec<PathBuf>,
        /// The file that becomes `user_data`.
        user_data: Option<PathBuf>,
    },
}

/// Runs `create`, and writes the answer to standard output: one JSON object if that is no terminal or `json` is
/// set, otherwise lines of text.
///
/// # Errors
/// See [`Error`]. A guest that was created stays, whatever fails afterwards; its answer is written, too.
///
/// # Blocking
/// Twice up to the agent's deadline for changes and 10 s, and then up to `limit`.
pub fn create(config: &Config, create: Create, json: bool) -> Result<(), Error> {
    let Create { guest, dry_run, prints_request, run, wait, limit } = create;
    let mut params = params(config, guest)?;
    if dry_run {
        params["dry_run"] = true.into();
    }
    if wait == Some(WaitFor::Ssh) && params["guest"]["nics"].get(0).is_none() {
        let why = "cannot wait for SSH: the guest has no NIC; add --network BRIDGE";
        return Err(Error::Asked(why.to_owned()));
    }
    if run && (params["async"] == true || params["args"]["mistify.async"] == "true") {
        let why = "cannot run a guest that a job creates: remove --run, or async from the file";
        return Err(Error::Asked(why.to_owned()));
    }
    if prints_request {
        return write(&format!("{params:#}\n"));
    }
    let (client, for_people) = (Client::new(config)?, is_for_people(json));
    let id = word_of(&params["guest"]["id"]);
    let call = |method: &str, params: &Value| {
        let _progress = Progress::of(printable(&format!("{method} {id}")));
        client.call(&format!("Libvirt.{method}"), params)
    };
    let mut answer = call("CreateGuest", &params)?;
    let tell = |text: &str| if for_people { write(text) } else { Ok(()) };
    tell(&match () {
        () if !answer["plan"].is_null() => plan(&answer["plan"]),
        () if !answer["job"].is_null() => format!("job {}\n", word(&answer["job"])),
        () => printable(&id) + " created\n",
    })?;
    if for_people {
        let warnings = answer["warnings"].as_array().into_iter().flatten();
        warnings.for_each(|warning| warn(&word_of(warning)));
    }
    let start = |answer: &mut Value| {
        let waiting = match wait {
            Some(what) => Some(Wait::before_run(&client, &id, what)?),
            None => None,
        };
        let mut running = call("Run", &of_guest(&id))?;
        tell(&format!("{} {}\n", printable(&id), word(&running["guest"]["state"])))?;
        if let Some(guest) = answer.get_mut("guest").filter(|guest| guest.is_object()) {
            guest["state"] = running["guest"]["state"].take();
        }
        if let Some(waiting) = waiting {
            let progress = Progress::of(waiting.title.clone());
            let address = waiting.until_done(limit)?;
            drop(progress);
            tell(&format!("{} {address}\n", printable(&id)))?;
            if answer.is_object() {
                answer["address"] = address.into();
            }
        }
        Ok(())
    };
    let started = match run && answer["plan"].is_null() {
        true => start(&mut answer),
        false => Ok(()),
    };
    if !for_people {
        write(&format!("{answer}\n"))?;
    }
    started.map_err(|error: Error| error.with(&format!("; {id} was created and stays")))?;
    match answer["plan"]["problems"].get(0) {
        Some(_) => Err(Error::Answered(format!("cannot create {id}: the plan has problems"))),
        None => Ok(()),
    }
}

/// Returns the parameters of CreateGuest for this guest.
fn params(config: &Config, guest: NewGuest) -> Result<Value, Error> {
    let (mut guest, ssh_keys, user_data) = match guest {
        NewGuest::File(file) => {
            let is_there = file.exists() || file.as_os_str() == "-";
            let more = "; to create a guest with this id, add --image and --memory";
            let guest = read_params(&Params::File(file))
                .map_err(|error| if is_there { error } else { error.with(more) })?;
            // The file may contain all parameters, or the guest alone.
            let is_whole = guest["guest"].is_object();
            return Ok(if is_whole { guest } else { json!({ "guest": guest }) });
        }
        NewGuest::Options { guest, ssh_keys, user_data } => (guest, ssh_keys, user_data),
    };
    if guest["type"].is_null() && is_local(config) && !kvm::runs_guests() {
        guest["type"] = "qemu".into();
    }
    let mut all = Vec::new();
    for file in ssh_keys {
        all.extend(keys(&read(&file)?).map_err(|why| cannot_use("--ssh-key", &file, &why))?);
    }
    seed(&mut guest, all, user_data.as_deref())?;
    Ok(json!({ "guest": guest }))
}

/// Adds keys and user data to the seed. In a seed with user data of its own the keys are vendor data, which
/// cloud-init merges with the user data.
fn seed(guest: &mut Value, keys: Vec<Value>, user_data: Option<&Path>) -> Result<(), Error> {
    let Some(file) = user_data else {
        if !keys.is_empty() {
            guest["cloud_init"]["ssh_keys"] = keys.into();
        }
        return Ok(());
    };
    let text = read(file)?;
    if text.trim().is_empty() {
        return Err(cannot_use("--user-data", file, "it is empty"));
    }
    if !keys.is_empty() {
        if let Some(own) = OWN_KEYS.iter().find(|name| has_member(&text, name)) {
            warn(&format!("the user data has {own}: the keys of --ssh-key may not be installed"));
        }
        let config = format!("#cloud-config\n{}\n", json!({ "ssh_authorized_keys": keys }));
        guest["cloud_init"]["vendor_data"] = config.into();
    }
    guest["cloud_init"]["user_data"] = text.into();
    Ok(())
}

/// Members of user data that replace the keys of the vendor data, or the user to whom they would be added.
const OWN_KEYS: [&str; 3] = ["ssh_authorized_keys", "users", "vendor_data"];

/// Returns whether a line of YAML or JSON starts with this member.
fn has_member(text: &str, name: &str) -> bool {
    let is_mark = |c: char| " \t\"'{".contains(c);
    text.lines().any(|line| {
        let rest = line.trim_start_matches(is_mark).strip_prefix(name);
        rest.is_some_and(|rest| rest.trim_start_matches(is_mark).starts_with(':'))
    })
}

/// Returns the keys in a text, one per line, without blank lines and comments.
///
/// # Errors
/// A private key, a line that is not a public key, a text without keys.
pub(super) fn keys(text: &str) -> Result<Vec<Value>, String> {
    if PRIVATE.iter().any(|mark| text.contains(mark)) {
        let why = "it contains a private key; name the file of the public key (.pub)";
        return Err(why.to_owned());
    }
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let kind = words.next().unwrap_or_default();
        // The first 3 bytes of the key are the high bytes of a short length.
        let is_key = words.next().is_some_and(|data| data.starts_with("AAAA"));
        if !is_key || !KEY_TYPES.iter().any(|known| kind.starts_with(known)) {
            return Err(format!("line {number} is not an OpenSSH public key"));
        }
        keys.push(line.into());
    }
    if keys.is_empty() {
        return Err("it has no public key".to_owned());
    }
    Ok(keys)
}

fn cannot_use(option: &str, file: &Path, why: &str) -> Error {
    Error::Asked(format!("cannot use {option} {}: {why}", file.display()))
}

/// Formats a plan as text: a line for each step, problem and warning.
fn plan(plan: &Value) -> String {
    let mut text = String::new();
    for member in ["steps", "problems", "warnings"] {
        for it in plan[member].as_array().into_iter().flatten() {
            text += member.trim_end_matches('s');
            text += ": ";
            for part in [it, &it["what"], &it["name"], &it["detail"]] {
                if part.is_string() {
                    text += &word(part);
                    text.push(' ');
                }
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
    }
    if plan["message"].is_string() {
        text += &(word(&plan["message"]) + "\n");
    }
    text
}
