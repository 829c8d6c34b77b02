//! The words that are no flags: what is to be done instead of being the agent.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::Error;
use crate::cli::completions::Shell;
use crate::client::{Ask, Params};
use crate::fetch::is_sum;

/// Words of the longest command.
pub(super) const WORDS_MAX: usize = 4;

/// The commands and what they do, for the usage.
pub(super) const COMMANDS: &[(&str, &str)] = &[
    ("list", "all guests: state, memory and processors"),
    ("create FILE", "make the guest in FILE, JSON as CreateGuest takes it; - is standard input"),
    ("status ID", "the state of a guest"),
    ("run ID", "start a guest"),
    ("shutdown ID", "press its power button"),
    ("poweroff ID", "take its power away"),
    ("reboot ID", "reboot its system"),
    ("suspend ID", "stop its processors where they are"),
    ("resume ID", "let them go on"),
    ("reset ID", "press its reset button"),
    ("discard-saved ID", "forget the memory that it was saved with: its next start boots"),
    ("console ID", "the end of what it has written to its serial console"),
    ("delete ID", "stop it, and remove its domain, networks and volumes"),
    ("leftovers", "what calls could not undo or finish, and why; of one guest with its ID"),
    ("metrics ID", "what a guest has used"),
    ("top", "a live table of guests by use of processors"),
    (
        "call METHOD [JSON|@FILE|-]",
        "call a method with these parameters: Status, or ImageStore.ListImages",
    ),
    ("check", "what this host lacks for the agent, a line each, with the remedy"),
    ("completions SHELL", "print what bash, zsh or fish needs to complete all of this"),
    (
        "image import FILE ID",
        "bring a raw or qcow2 disk or a zfs stream into the store as the image ID",
    ),
    (
        "image pull URL ID",
        "the same with what is at URL, https, if --sha256 SUM is the sum of that file",
    ),
];

/// What the program is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Be the agent.
    Run,
    /// Read the settings, which was done then.
    CheckConfig,
    /// Bring an image into the store.
    Import {
        /// The file.
        file: PathBuf,
        /// The image's id.
        id: String,
    },
    /// Bring an image from the network into the store.
    Pull {
        /// From where.
        url: String,
        /// The image's id.
        id: String,
        /// The SHA-256 sum that it has to have, in hexadecimal digits.
        sha256: String,
    },
    /// Print completions.
    Completions(Shell),
    /// Look at the host.
    Check {
        /// Whether the findings are JSON on a terminal, too.
        json: bool,
    },
    /// Ask the agent that runs.
    Ask {
        /// What.
        ask: Ask,
        /// Whether the answer is JSON on a terminal, too.
        json: bool,
    },
}

/// Switches that commands have.
#[derive(Clone, Debug, Default)]
pub(super) struct Switches {
    /// Whether answers are JSON on a terminal, too.
    pub(super) json: bool,
    /// Whether leftovers are removed.
    pub(super) remove: bool,
    /// The sum of what is pulled.
    pub(super) sha256: Option<String>,
}

/// Understands the words of a command; without any it is the agent.
///
/// # Errors
/// Words that are none.
pub(super) fn command(words: Vec<OsString>, switches: Switches) -> Result<Command, Error> {
    let Switches { json, remove, sha256 } = switches;
    if remove && words.first().is_none_or(|word| word != "leftovers") {
        return Err(Error::Usage("--remove is for leftovers".to_owned()));
    }
    let texts: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    let is_pull = texts.starts_with(&["image", "pull"]);
    let sha256 = match sha256 {
        Some(sum) if is_pull && is_sum(&sum) => sum.to_ascii_lowercase(),
        Some(_) if is_pull => {
            return Err(Error::Usage("--sha256: not 64 hexadecimal digits".to_owned()));
        }
        Some(_) => return Err(Error::Usage("--sha256 is for image pull".to_owned())),
        None if is_pull => {
            return Err(Error::Usage("image pull: --sha256 SUM is needed".to_owned()));
        }
        None => String::new(),
    };
    match (texts.as_slice(), words.as_slice()) {
        ([], _) => Ok(Command::Run),
        (["check"], _) => Ok(Command::Check { json }),
        (["completions", name], _) => Shell::named(name)
            .map(Command::Completions)
            .ok_or_else(|| Error::Usage(format!("completions {name}: write bash, zsh or fish"))),
        (["image", "import", _, _], [_, _, file, id]) => {
            Ok(Command::Import { file: file.into(), id: utf_8(id)? })
        }
        (["image", "pull", _, _], [_, _, url, id]) => {
            Ok(Command::Pull { url: utf_8(url)?, id: utf_8(id)?, sha256 })
        }
        (["leftovers", ..], [_, id @ ..]) if id.len() <= 1 => {
            let guest = id.first().map(utf_8).transpose()?.unwrap_or_default();
            Ok(Command::Ask { ask: Ask::Leftovers { guest, remove }, json })
        }
        (texts, words) => match ask(texts, words)? {
            Some(ask) => Ok(Command::Ask { ask, json }),
            None => Err(Error::Usage(format!("{}: not a command", texts.join(" ")))),
        },
    }
}

/// What is asked of an agent, if these words ask something.
fn ask(texts: &[&str], words: &[OsString]) -> Result<Option<Ask>, Error> {
    let method = |verb: &str| match verb {
        "status" => Some("Status"),
        "run" => Some("Run"),
        "shutdown" => Some("Shutdown"),
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
    Ok(Some(match (texts, words) {
        (["list"], _) => Ask::List,
        (["top"], _) => Ask::Top,
        (["create", _], [_, file]) => Ask::Create(file.into()),
        (["metrics", _], [_, id]) => Ask::Metrics(utf_8(id)?),
        (["call", _], [_, method]) => Ask::Call { method: utf_8(method)?, params: Params::None },
        (["call", _, text], [_, method, word]) => {
            let params = match text.strip_prefix('@') {
                Some(file) => Params::File(file.into()),
                None if *text == "-" => Params::File("-".into()),
                None => Params::Text(utf_8(word)?),
            };
            Ask::Call { method: utf_8(method)?, params }
        }
        ([verb, _], [_, id]) => match method(verb) {
            Some(method) => Ask::Guest { method, id: utf_8(id)? },
            None => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

fn utf_8(word: &OsString) -> Result<String, Error> {
    let text = word.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Usage(format!("{}: not UTF-8", word.to_string_lossy())))
}
