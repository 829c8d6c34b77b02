//! Options that are not settings: those of the program, and those of single subcommands.

use crate::cli::Error;

/// An option that is not a setting.
#[derive(Debug)]
pub(super) struct Switch {
    /// The name without the dashes in front.
    pub(super) name: &'static str,
    /// The option of one letter, if there is one.
    pub(super) short: Option<char>,
    pub(super) value: SwitchValue,
    /// The subcommands that take the option, by their first words; none if the option is the program's.
    pub(super) of: &'static [&'static str],
    /// What the option does, as one paragraph.
    pub(super) help: &'static str,
}

/// The value of an option, in the words of the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SwitchValue {
    /// No value.
    None,
    /// One value, and the option once.
    One(&'static str),
    /// One value each time; the option may be repeated.
    #[expect(dead_code, reason = "the next option needs it")]
    Many(&'static str),
    /// A value after `=`, or no value.
    Optional(&'static str),
}

impl Switch {
    const fn new(name: &'static str, value: SwitchValue, help: &'static str) -> Self {
        Self { name, short: None, value, of: &[], help }
    }

    const fn of(mut self, commands: &'static [&'static str]) -> Self {
        self.of = commands;
        self
    }

    const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    /// Whether the subcommand that begins with these words takes the option.
    fn is_of(&self, words: &str) -> bool {
        self.of.is_empty() || self.of.iter().any(|command| begins(words, command))
    }
}

/// Whether these words are the subcommand's first.
fn begins(words: &str, command: &str) -> bool {
    let rest = words.strip_prefix(command);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

use SwitchValue::{None as Alone, One};

/// All of these, in the order of the usage. An option of several subcommands may have several rows.
pub(super) const SWITCHES: &[Switch] = &[
    Switch::new(
        CONFIG,
        One("FILE"),
        "Read the configuration from FILE, which must exist; also MISTIFY_CONFIG",
    ),
    Switch::new(CHECK_CONFIG, Alone, "Check the configuration, print the first error, and exit"),
    Switch::new(
        "json",
        Alone,
        "Print answers of subcommands as JSON on a terminal too, as in a pipe",
    ),
    Switch::new(
        "sha256",
        One("SUM"),
        "With image pull: require this SHA-256 checksum of the file at URL",
    )
    .of(&["image pull"]),
    Switch::new(
        "wait",
        SwitchValue::Optional("SECONDS"),
        "With shutdown: wait until the guest is off (1 to 3600 s, default 120)",
    )
    .of(&["shutdown"]),
    Switch::new(
        "force-after",
        One("SECONDS"),
        "With shutdown: force a guest off that is not off after this time, and wait for that",
    )
    .of(&["shutdown"]),
    Switch::new("remove", Alone, "With leftovers: remove the leftovers that nothing uses")
        .of(&["leftovers"]),
    Switch::new(HELP, Alone, "Print this help and exit").short('h'),
    Switch::new(VERSION, Alone, "Print the version and exit"),
];

/// Options of the program that the parser itself carries out.
pub(super) const CONFIG: &str = "config";
pub(super) const CHECK_CONFIG: &str = "check-config";
pub(super) const HELP: &str = "help";
pub(super) const VERSION: &str = "version";

/// The row of this name, or of this letter where there is no name, for a subcommand that begins
/// with these words; the first such row of any subcommand otherwise.
pub(super) fn switch(name: &str, letter: Option<char>, words: &str) -> Option<&'static Switch> {
    let is_it = |it: &&Switch| match letter {
        Some(_) => it.short == letter,
        None => it.name == name,
    };
    let mut rows = SWITCHES.iter().filter(is_it);
    let first = rows.clone().next();
    rows.find(|it| it.is_of(words)).or(first)
}

/// The options of a command line that are not settings, each with its value.
#[derive(Clone, Debug, Default)]
pub(super) struct Switches(Vec<(&'static Switch, Option<String>)>);

impl Switches {
    /// Adds an option.
    ///
    /// # Errors
    /// An option that was given before and is not repeatable.
    pub(super) fn add(
        &mut self,
        switch: &'static Switch,
        value: Option<String>,
    ) -> Result<(), Error> {
        let may_repeat = matches!(switch.value, SwitchValue::Many(_)) || switch.of.is_empty();
        if !may_repeat && self.has(switch.name) {
            return Err(Error::Usage(format!("--{}: given twice", switch.name)));
        }
        self.0.push((switch, value));
        Ok(())
    }

    /// Refuses options that this subcommand, by its first words, does not take.
    ///
    /// # Errors
    /// The first such option.
    pub(super) fn check(&self, words: &str) -> Result<(), Error> {
        let Some((switch, _)) = self.0.iter().find(|(switch, _)| !switch.is_of(words)) else {
            return Ok(());
        };
        let all: Vec<&str> = SWITCHES
            .iter()
            .filter(|it| it.name == switch.name)
            .flat_map(|it| it.of.iter().copied())
            .collect();
        Err(Error::Usage(format!("--{}: valid only with {}", switch.name, all.join(" and "))))
    }

    /// Whether the option is given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(switch, _)| switch.name == name)
    }

    /// The value of the option, where it is given with one.
    pub(super) fn value<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.values(name).next()
    }

    /// The values of the option, in their order.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of_name = self.0.iter().filter(move |(switch, _)| switch.name == name);
        of_name.filter_map(|(_, value)| value.as_deref())
    }
}
