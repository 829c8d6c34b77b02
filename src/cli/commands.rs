//! The subcommands, and the command that each of them gives.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::Error;
use crate::cli::create::create;
use crate::cli::switches::Switches;
use crate::cli::values::utf_8;
use crate::client::{ClientCommand, Create, Params};
use crate::config::fixed::SHUTDOWN_WAIT_MAX;
use crate::fetch::is_sum;

/// The time of `shutdown --wait` without a number, in seconds. systemd gives each service of a guest
/// 90 s.
const SHUTDOWN_WAIT_S: u64 = 120;

/// The number of words of the longest subcommand.
pub(super) const ARGS_MAX: usize = 4;

/// The subcommands with their descriptions, for the usage.
pub(super) const COMMANDS: &[(&str, &str)] = &[
    ("list", "List all guests with their state, memory, CPUs and address"),
    ("create FILE", "Create the guest in FILE (JSON as for CreateGuest; -: standard input)"),
    ("create ID OPTION...", "Create the guest ID from options; requires --image and --memory"),
    ("status ID", "Print the state of the guest ID"),
    ("run ID", "Start the guest ID"),
    ("shutdown ID", "Ask the operating system of the guest ID to shut down"),
    ("poweroff ID", "Force the guest ID off, without a shutdown"),
    ("reboot ID", "Reboot the operating system of the guest ID"),
    ("suspend ID", "Pause the CPUs of the guest ID"),
    ("resume ID", "Resume the paused guest ID"),
    ("reset ID", "Reset the guest ID, as its reset button does"),
    ("discard-saved ID", "Remove the saved memory of the guest ID, so that its next start boots"),
    ("console ID", "Print the end of the serial console log of the guest ID"),
    ("delete ID", "Stop the guest ID, and delete its domain, networks and volumes"),
    (
        "leftovers [ID]",
        "List what calls could not roll back or finish, with the reason, for all guests or for ID",
    ),
    (
        "ssh ID [WORD]...",
        "Run ssh(1) with WORD... behind the first address of the guest ID that answers on port 22",
    ),
    ("metrics ID", "Print the CPU, disk and network usage of the guest ID"),
    ("top", "Show a live table of guests, sorted by CPU usage"),
    (
        "call METHOD [JSON|@FILE|-]",
        "Call METHOD, such as Status or ImageStore.ListImages, with parameters from the command \
         line, FILE or standard input (default none)",
    ),
    ("check", "Check this host for the agent's requirements; print a line and a remedy for each"),
    ("completions SHELL", "Print the completion script for SHELL: bash, zsh or fish"),
    (
        "image import FILE ID",
        "Import FILE (a raw or qcow2 disk, or a ZFS stream) into the store as the image ID",
    ),
    (
        "image pull URL ID",
        "Download the file at URL (https) and import it as the image ID; requires --sha256 SUM",
    ),
];

/// The command that the program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the agent.
    Run,
    /// Check the configuration, which the parser has done by then.
    CheckConfig,
    /// Import an image file into the store.
    Import {
        /// The file.
        file: PathBuf,
        /// The image's id.
        id: String,
    },
    /// Download an image and import it into the store.
    Pull {
        /// The URL of the image.
        url: String,
        /// The image's id.
        id: String,
        /// The required SHA-256 sum, in hexadecimal digits.
        sha256: String,
    },
    /// Shut down all guests because the host stops; the command of a unit.
    StopGuests {
        /// The error because of which the configuration file and the environment are ignored.
        wrong: Option<String>,
    },
    /// Print shell completions.
    Completions(Shell),
    /// Check the host.
    Check {
        /// Whether the findings are JSON on a terminal, too.
        json: bool,
    },
    /// Create a guest, with the steps that follow.
    Create {
        /// The guest, and the steps that follow.
        create: Box<Create>,
        /// Whether the answer is JSON on a terminal, too.
        json: bool,
    },
    /// Log in to a guest by ssh(1).
    Ssh {
        /// The guest's id.
        id: String,
        /// The arguments of ssh after the address.
        args: Vec<OsString>,
    },
    /// Send a request to the running agent.
    Ask {
        /// The request.
        ask: ClientCommand,
        /// Whether the answer is JSON on a terminal, too.
        json: bool,
    },
}

/// Returns the words of a command line as one text, for errors and for [`Switches::check`].
pub(super) fn text(args: &[OsString]) -> String {
    let mut text = String::new();
    for arg in args {
        if !text.is_empty() {
            text.push(' ');
        }
        text += &arg.to_string_lossy();
    }
    text
}

/// Parses the words of a subcommand; without words the command is the agent.
///
/// # Errors
/// Words that are no subcommand.
pub(super) fn command(args: &[OsString], switches: &Switches) -> Result<Command, Error> {
    switches.check(&text(args))?;
    let json = switches.has("json");
    let texts: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    match (texts.as_slice(), args) {
        ([], _) => Ok(Command::Run),
        (["check"], _) => Ok(Command::Check { json }),
        (["completions", name], _) => Shell::named(name)
            .map(Command::Completions)
            .ok_or_else(|| Error::Usage(format!("completions {name}: write bash, zsh or fish"))),
        (["image", "import", _, _], [_, _, file, id]) => {
            Ok(Command::Import { file: file.into(), id: utf_8(id)? })
        }
        (["image", "pull", _, _], [_, _, url, id]) => {
            let sha256 = sum(switches.value("sha256"))?;
            Ok(Command::Pull { url: utf_8(url)?, id: utf_8(id)?, sha256 })
        }
        (["create", _], [_, arg]) => {
            Ok(Command::Create { create: Box::new(create(arg, switches)?), json })
        }
        (["ssh", _, ..], [_, id, args @ ..]) => {
            Ok(Command::Ssh { id: utf_8(id)?, args: args.to_vec() })
        }
        (["leftovers", ..], [_, id @ ..]) if id.len() <= 1 => {
            let guest = id.first().map(utf_8).transpose()?.unwrap_or_default();
            let remove = switches.has("remove");
            Ok(Command::Ask { ask: ClientCommand::Leftovers { guest, remove }, json })
        }
        (["shutdown", _], [_, id]) => {
            let given = seconds("wait", switches.value("wait"))?;
            let force_after = seconds("force-after", switches.value("force-after"))?;
            let wait = match (switches.has("wait"), given) {
                (true, None) => Some(SHUTDOWN_WAIT_S.max(force_after.unwrap_or(0))),
                (_, given) => given,
            };
            if wait.is_some_and(|wait| force_after.is_some_and(|force| force > wait)) {
                let why = "--force-after: must not be more than --wait".to_owned();
                return Err(Error::Usage(why));
            }
            let ask = ClientCommand::Shutdown { id: utf_8(id)?, wait, force_after };
            Ok(Command::Ask { ask, json })
        }
        (["shutdown", _, seconds], _) if switches.has("wait") => {
            Err(Error::Usage(format!("{seconds}: write --wait={seconds}")))
        }
        (texts, args) => match ask(texts, args)? {
            Some(ask) => Ok(Command::Ask { ask, json }),
            None => Err(Error::Usage(format!("{}: not a subcommand", texts.join(" ")))),
        },
    }
}

/// The error of an option between `ssh` and the guest's id, which could belong to ssh or to the
/// agent.
pub(super) const SSH_ORDER: &str =
    "ssh: write options of ssh(1) after the id, and options of the agent before ssh";

/// Returns whether the arguments after these words belong to another program: the arguments after
/// `ssh ID`.
pub(super) fn has_own_args(args: &[OsString]) -> bool {
    matches!(args, [verb, _] if verb == "ssh")
}

/// Returns the request for the agent, if this subcommand is one.
fn ask(texts: &[&str], args: &[OsString]) -> Result<Option<ClientCommand>, Error> {
    let method = |verb: &str| match verb {
        "status" => Some("Status"),
        "run" => Some("Run"),
        "poweroff" => Some("Poweroff"),
        "reboot" => Some("Reboot"),
        "suspend" => Some("Suspend"),
        "resume" => Some("Resume"),
        "reset" => Some("Reset"),
        "discard-saved" => Some("DiscardSaved"),
        "console" => Some("Console"),
        "delete" => Some("Delete"),
        _ => None,
    };
    Ok(Some(match (texts, args) {
        (["list"], _) => ClientCommand::List,
        (["top"], _) => ClientCommand::Top,
        (["metrics", _], [_, id]) => ClientCommand::Metrics(utf_8(id)?),
        (["call", _], [_, method]) => {
            ClientCommand::Call { method: utf_8(method)?, params: Params::None }
        }
        (["call", _, text], [_, method, arg]) => {
            let params = match text.strip_prefix('@') {
                Some(file) => Params::File(file.into()),
                None if *text == "-" => Params::File("-".into()),
                None => Params::Text(utf_8(arg)?),
            };
            ClientCommand::Call { method: utf_8(method)?, params }
        }
        ([verb, _], [_, id]) => match method(verb) {
            Some(method) => ClientCommand::Guest { method, id: utf_8(id)? },
            None => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

/// Returns the value of an option in seconds, if it has one.
fn seconds(name: &str, given: Option<&str>) -> Result<Option<u64>, Error> {
    let most = SHUTDOWN_WAIT_MAX.as_secs();
    let parse = |text: &str| text.parse().ok().filter(|seconds| (1..=most).contains(seconds));
    let wrong = || Error::Usage(format!("--{name}: write 1 to {most} seconds"));
    given.map(|text| parse(text).ok_or_else(wrong)).transpose()
}

/// Returns the checksum of an image to download, in lower case.
fn sum(given: Option<&str>) -> Result<String, Error> {
    match given {
        Some(sum) if is_sum(sum) => Ok(sum.to_ascii_lowercase()),
        Some(_) => Err(Error::Usage("--sha256: write 64 hexadecimal digits".to_owned())),
        None => Err(Error::Usage("image pull: --sha256 SUM is required".to_owned())),
    }
}

/// A shell with completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

impl Shell {
    /// Returns the shell of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "bash" => Some(Self::Bash),
            "zsh" => Some(Self::Zsh),
            "fish" => Some(Self::Fish),
            _ => None,
        }
    }
}
