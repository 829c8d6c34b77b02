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

    /// Returns whether a command line with these words takes the option.
    fn is_of(&self, words: &str) -> bool {
        self.of.is_empty() || self.of.iter().any(|command| begins(words, command))
    }
}

/// Returns whether these words start with the subcommand.
fn begins(words: &str, command: &str) -> bool {
    let rest = words.strip_prefix(command);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

use SwitchValue::{Many, None as Alone, One};

/// The subcommand with the most options.
const CREATE: &[&str] = &["create"];
/// The value of `--network`.
pub(super) const NETWORK: &str = "BRIDGE[,vlan=N][,mac=MAC][,address=IP/PREFIX][,gateway=IP]";

/// All rows, in the order of the usage. An option of several subcommands may have several rows.
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
    Switch::new("image", One("IMAGE"), "With create: clone the guest's disk from IMAGE of the store").of(CREATE),
    Switch::new(
        "size",
        One("SIZE"),
        "With create: size of the disk, such as 10G; K, M, G, T are powers of 1024 bytes (default: the image's)",
    )
    .of(CREATE),
    Switch::new("memory", One("SIZE"), "With create: memory of the guest, such as 1G").of(CREATE),
    Switch::new("cpu", One("N"), "With create: number of virtual CPUs (default 1)").of(CREATE),
    Switch::new(
        "network",
        Many(NETWORK),
        "With create: connect a NIC to BRIDGE; without mac, the MAC address is made from ID",
    )
    .of(CREATE),
    Switch::new(
        "ssh-key",
        Many("FILE"),
        "With create: let the OpenSSH public keys in FILE log in, by cloud-init",
    )
    .of(CREATE),
    Switch::new(
        "user",
        One("NAME"),
        "With create: give the keys and sudo to the new user NAME (default: the image's user)",
    )
    .of(CREATE),
    Switch::new(
        "user-data",
        One("FILE"),
        "With create: give FILE to cloud-init as its user data, instead of --user",
    )
    .of(CREATE),
    Switch::new("hostname", One("NAME"), "With create: host name of the guest (default: ID)").of(CREATE),
    Switch::new(
        "type",
        One("TYPE"),
        "With create: kvm or qemu (default: qemu if this host has no KVM, else kvm)",
    )
    .of(CREATE),
    Switch::new("firmware", One("NAME"), "With create: bios, uefi or uefi-secure (default bios)").of(CREATE),
    Switch::new("cpu-model", One("NAME"), "With create: processor model, such as host-model").of(CREATE),
    Switch::new("run", Alone, "With create FILE or ID: start the guest").of(CREATE),
    Switch::new(
        "wait",
        One("ssh|cloud-init"),
        "With create --run: wait until the guest's SSH server answers, or cloud-init is done",
    )
    .of(CREATE),
    Switch::new("timeout", One("SECONDS"), "With --wait: maximum wait, 1 to 3600 s (default 600)").of(CREATE),
    Switch::new("dry-run", Alone, "With create FILE or ID: print the plan, and change nothing").of(CREATE),
    Switch::new(
        "output",
        One("json"),
        "With create FILE or ID: print the request with its secrets, and send nothing",
    )
    .short('o')
    .of(CREATE),
    Switch::new(HELP, Alone, "Print this help and exit").short('h'),
    Switch::new(VERSION, Alone, "Print the version and exit"),
];

/// The options of the program that the parser handles itself.
pub(super) const CONFIG: &str = "config";
pub(super) const CHECK_CONFIG: &str = "check-config";
pub(super) const HELP: &str = "help";
pub(super) const VERSION: &str = "version";

/// Returns the row of this name, or of this letter if there is one, for a command line with these
/// words; otherwise the first such row of any subcommand.
pub(super) fn switch(name: &str, letter: Option<char>, words: &str) -> Option<&'static Switch> {
    let mut found = None;
    for row in SWITCHES {
        if (letter.is_some() && row.short == letter) || (letter.is_none() && row.name == name) {
            if row.is_of(words) {
                return Some(row);
            }
            found = found.or(Some(row));
        }
    }
    found
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

    /// Refuses options that a command line with these words does not take.
    ///
    /// # Errors
    /// The first such option.
    pub(super) fn check(&self, words: &str) -> Result<(), Error> {
        for (switch, _) in &self.0 {
            if switch.is_of(words) {
                continue;
            }
            let mut why = format!("--{}: valid only with", switch.name);
            for row in SWITCHES.iter().filter(|row| row.name == switch.name) {
                for command in row.of {
                    why += if why.ends_with("with") { " " } else { " and " };
                    why += command;
                }
            }
            return Err(Error::Usage(why));
        }
        Ok(())
    }

    /// Returns whether the option is given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(switch, _)| switch.name == name)
    }

    /// Returns the first value of the option, if it is given with one.
    pub(super) fn value<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.values(name).next()
    }

    /// Returns the values of the option, in their order.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of_name = self.0.iter().filter(move |(switch, _)| switch.name == name);
        of_name.filter_map(|(_, value)| value.as_deref())
    }
}
