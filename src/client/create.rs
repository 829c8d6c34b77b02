//! The subcommand `create`: CreateGuest of a file or of options, then Run, then a wait for the guest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Error;
use crate::client::connection::{Client, is_local};
use crate::client::output::printable;
use crate::client::progress::Progress;
use crate::client::verbs::{Params, is_for_people, read, read_params, word, write};
use crate::client::wait::{self, WaitFor};
use crate::config::Config;
use crate::os::kvm;

/// How a line of an OpenSSH public key begins.
const KEY_TYPES: [&str; 4] = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"];
/// What a file with a private key contains.
const PRIVATE: [&str; 2] = ["PRIVATE KEY-----", "PuTTY-User-Key-File-"];

/// What `create` does.
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
    /// What the started guest does before the subcommand ends.
    pub wait: Option<WaitFor>,
    /// The longest wait for that.
    pub limit: Duration,
}

/// Where the description of a new guest comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewGuest {
    /// A file with JSON: the guest, or all parameters of CreateGuest; `-` is standard input.
    File(PathBuf),
    /// Options.
    Options {
        /// The guest in the form of the API, without what is in files. Without `type` the host decides.
        guest: Value,
        /// Files with public keys.
        ssh_keys: Vec<PathBuf>,
        /// The file that becomes `user_data`.
        user_data: Option<PathBuf>,
    },
}

/// Carries out `create`, and writes the answer on standard output: one JSON object where that is no terminal or
/// `json` says so, else lines of text.
///
/// # Errors
/// See [`Error`]. A guest that was created stays, whatever fails afterwards.
///
/// # Blocking
/// Twice up to the agent's deadline for changes and 10 s, and then up to `limit`.
pub fn create(config: &Config, create: &Create, json: bool) -> Result<(), Error> {
    let params = params(config, create)?;
    if create.prints_request {
        return write(&format!("{params:#}\n"));
    }
    let (client, for_people) = (Client::new(config)?, is_for_people(json));
    let call = |method: &str, params: &Value, what: &str| {
        let _progress = Progress::of(printable(what));
        client.call(&format!("Libvirt.{method}"), &json!([params]))
    };
    let id = params["guest"]["id"].as_str().unwrap_or_default();
    let mut answer = call("CreateGuest", &params, &format!("CreateGuest {id}"))?;
    if answer["plan"].is_object() {
        let text = if for_people { plan(id, &answer["plan"]) } else { format!("{answer}\n") };
        write(&text)?;
        return match answer["plan"]["problems"] == json!([]) {
            true => Ok(()),
            false => Err(Error::Answered(format!("cannot create {id}: the plan has problems"))),
        };
    }
    let tell = |text: String| if for_people { write(&format!("{text}\n")) } else { Ok(()) };
    tell(match answer["job"].as_str() {
        Some(job) => format!("{} is created by the job {}", printable(id), printable(job)),
        None => format!("{} created", word(&answer["guest"]["id"])),
    })?;
    if create.run {
        let guest = json!({ "guest": { "id": id } });
        let waiting = match create.wait {
            Some(what) => Some(wait::Wait::before_run(&client, id, what)?),
            None => None,
        };
        let running = call("Run", &guest, &format!("Run {id}"))?;
        if let Some(guest) = answer.get_mut("guest").and_then(Value::as_object_mut) {
            guest.insert("state".to_owned(), running["guest"]["state"].clone());
        }
        tell(format!("{} {}", printable(id), word(&running["guest"]["state"])))?;
        if let Some(waiting) = waiting {
            let address = {
                let _progress = Progress::of(waiting.title());
                waiting.until_done(create.limit)?
            };
            if let (Some(address), Some(answer)) = (address, answer.as_object_mut()) {
                tell(format!("{} {address}", printable(id)))?;
                answer.insert("address".to_owned(), json!(address));
            }
        }
    }
    if for_people { Ok(()) } else { write(&format!("{answer}\n")) }
}

/// The parameters of CreateGuest.
fn params(config: &Config, create: &Create) -> Result<Value, Error> {
    let mut params = match &create.guest {
        NewGuest::File(file) => {
            let guest = read_params(&Params::File(file.clone()))?;
            // A whole parameter is understood as well as the guest alone.
            if guest["guest"].is_object() { guest } else { json!({ "guest": guest }) }
        }
        NewGuest::Options { guest, ssh_keys, user_data } => {
            let mut guest = guest.clone();
            if guest["type"].is_null() && is_local(config) && !kvm::runs_guests() {
                guest["type"] = json!("qemu");
            }
            let keys = ssh_keys.iter().map(|file| public_keys(file)).collect::<Result<Vec<_>, _>>();
            seed(&mut guest, keys?.concat(), user_data.as_deref())?;
            json!({ "guest": guest })
        }
    };
    if create.dry_run {
        params["dry_run"] = json!(true);
    }
    let has_nic = params["guest"]["nics"].as_array().is_some_and(|nics| !nics.is_empty());
    if create.wait == Some(WaitFor::Ssh) && !has_nic {
        let why = "cannot wait for SSH: the guest has no NIC; add --network BRIDGE";
        return Err(Error::Asked(why.to_owned()));
    }
    let is_job = params["async"] == true || params["args"]["mistify.async"] == "true";
    if create.run && is_job {
        let why = "cannot run a guest that a job creates: remove --run, or async from the file";
        return Err(Error::Asked(why.to_owned()));
    }
    Ok(params)
}

/// Adds keys and user data to the seed. A seed with user data of its own has the keys in its vendor data, which
/// cloud-init merges with the user data.
fn seed(guest: &mut Value, keys: Vec<String>, user_data: Option<&Path>) -> Result<(), Error> {
    if let Some(file) = user_data {
        let text = read(file)?;
        if text.trim().is_empty() {
            return Err(cannot_use("--user-data", file, "it is empty"));
        }
        guest["cloud_init"]["user_data"] = json!(text);
    }
    if keys.is_empty() {
        return Ok(());
    }
    if user_data.is_none() {
        guest["cloud_init"]["ssh_keys"] = json!(keys);
    } else {
        let config = json!({ "ssh_authorized_keys": keys });
        guest["cloud_init"]["vendor_data"] = json!(format!("#cloud-config\n{config}\n"));
    }
    Ok(())
}

/// The keys in a file, a line each.
fn public_keys(file: &Path) -> Result<Vec<String>, Error> {
    keys(&read(file)?).map_err(|why| cannot_use("--ssh-key", file, &why))
}

/// The keys in a text, a line each; no blank lines and no comments.
///
/// # Errors
/// A private key, a line that is not a public key, a text without any.
pub(super) fn keys(text: &str) -> Result<Vec<String>, String> {
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
        keys.push(line.to_owned());
    }
    if keys.is_empty() {
        return Err("it has no public key".to_owned());
    }
    Ok(keys)
}

fn cannot_use(option: &str, file: &Path, why: &str) -> Error {
    Error::Asked(format!("cannot use {option} {}: {why}", file.display()))
}

/// A plan in words.
fn plan(id: &str, plan: &Value) -> String {
    let each = |member: &str| plan[member].as_array().into_iter().flatten();
    let mut text = format!("CreateGuest {} would:\n", printable(id));
    for step in each("steps") {
        text += &format!("  {} {}", word(&step["what"]), word(&step["name"]));
        if step["detail"].is_string() {
            text += &format!(" ({})", word(&step["detail"]));
        }
        text.push('\n');
        if step["command"].is_array() {
            let words: Vec<_> =
                step["command"].as_array().into_iter().flatten().map(word).collect();
            text += &format!("    {}\n", words.join(" "));
        }
    }
    if let Some(message) = plan["message"].as_str() {
        text += &format!("  nothing: {}\n", printable(message));
    }
    for (member, title) in [("problems", "problem"), ("warnings", "warning")] {
        for words in each(member) {
            text += &format!("{title}: {}\n", word(words));
        }
    }
    text
}
