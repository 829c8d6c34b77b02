//! Why a guest is refused.

use std::fmt;

/// The longest guest id in bytes. libvirt makes file names from the id, the longest is
/// `<id>.xml.new`, and a file name has at most 255.
pub(super) const ID_BYTES_MAX: usize = 247;
/// The port of qemu's display 0.
pub(super) const VNC_PORT_MIN: i64 = 5900;
/// The longest name of a credential in bytes: an item's name has at most 55 (`FW_CFG_MAX_FILE_PATH`), and 27 of these
/// are `opt/io.systemd.credentials/`.
pub const CREDENTIAL_NAME_BYTES_MAX: usize = 28;

/// Why a guest is refused. Its text is the wire's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// There is no guest, or no id in it: the original's bare text.
    Missing,
    /// More of something than a guest may have.
    TooMany {
        /// What: `nics` or `disks`.
        member: &'static str,
        /// How many the guest has.
        count: usize,
        /// How many it may have.
        max: usize,
    },
    /// A member is wrong.
    Member {
        /// Which, for example `nics[2].name`.
        member: String,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// What is wrong with a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has a character that no XML can carry.
    Character(char),
    /// It has a tab or a line end, which libvirt would turn into a blank.
    NotOneLine(char),
    /// An id has a character that it must not have, there or anywhere.
    IdCharacter(char),
    /// An id is longer than libvirt's file names allow.
    IdLength(usize),
    /// A MAC address is not six hexadecimal pairs with colons.
    NotMac,
    /// A MAC address is missing where the NIC's network is named by it.
    NoMac,
    /// A MAC address stands at two NICs, whose networks are named by it.
    RepeatedMac,
    /// VLAN tags on a host with Linux bridges.
    TagsOnLinuxBridge,
    /// It is larger than a definition may hold.
    TooLarge {
        /// Its size as XML.
        bytes: usize,
        /// The size that it may have.
        max: usize,
    },
    /// A VNC port that is none.
    NotVncPort(i64),
    /// A port below the first that qemu gives to displays.
    LowVncPort(i64),
    /// It is not one of the permitted words.
    NotOneOf {
        /// What it is.
        found: String,
        /// What it can be.
        allowed: Vec<String>,
    },
    /// This host cannot give it to a guest.
    NotOnHost {
        /// What it is.
        found: String,
        /// What the host lacks, or has instead.
        why: String,
    },
    /// It does not go with another member.
    NotWith(&'static str),
    /// It stands for another member, which is there, too.
    Beside(&'static str),
    /// It is no hash of a password.
    NotHash,
    /// It is no JSON object.
    NotObject,
    /// The name of a credential cannot be one.
    NotCredential,
    /// One of its values is empty.
    EmptyValue,
    /// Its product does not go with the number of processors.
    Product {
        /// What it is.
        found: u64,
        /// What it must be.
        limit: String,
    },
    /// Two devices have it.
    Repeated(u64),
    /// It is not there.
    Missing,
    /// It is no multiple of a unit.
    NotMultiple {
        /// What it is.
        found: u64,
        /// The unit.
        unit: u64,
    },
    /// It is 0.
    TooLittle {
        /// What it can be at least.
        least: u64,
    },
    /// It is above a limit.
    TooMuch {
        /// What it is.
        found: u64,
        /// What it can be at most.
        max: u64,
    },
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("invalid argument"),
            Self::TooMany { member, count, max } => {
                write!(f, "invalid argument: {count} {member}; a guest can have at most {max}")
            }
            Self::Member { member, fault } => write!(f, "invalid argument: {member}{fault}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Character(c) => {
                write!(f, " has a character that XML does not allow (U+{:04X})", u32::from(*c))
            }
            Self::NotOneLine(c) => {
                write!(f, " has a tab or a line break (U+{:04X})", u32::from(*c))
            }
            Self::IdCharacter(c) => {
                write!(f, " has a character that is not allowed there (U+{:04X})", u32::from(*c))
            }
            Self::IdLength(bytes) => {
                write!(f, " is {bytes} bytes long; the limit is {ID_BYTES_MAX}")
            }
            Self::NotMac => f.write_str(": not a MAC address such as 02:00:00:00:00:0a"),
            Self::NoMac => f.write_str(" is missing; it names the network of the NIC"),
            Self::RepeatedMac => f.write_str(" is also the MAC of another NIC"),
            Self::TagsOnLinuxBridge => f.write_str(": a Linux bridge does not support VLAN tags"),
            Self::TooLarge { bytes, max } => {
                write!(f, " has {bytes} bytes as XML; the limit is {max}")
            }
            Self::NotOneOf { found, allowed } => {
                write!(f, ": {found:?} is not supported; use {}", allowed.join(", "))
            }
            Self::NotOnHost { found, why } => {
                write!(f, ": {found:?} is not available on this host: {why}")
            }
            Self::NotWith(other) => write!(f, " does not match {other}"),
            Self::Beside(other) => write!(f, " must not be set with {other}"),
            Self::NotHash => f.write_str(
                " must be a hash of MD5, SHA or bcrypt, such as one of mkpasswd --method=sha-512",
            ),
            Self::NotObject => f.write_str(" must be a JSON object; its content is secret"),
            Self::NotCredential => write!(
                f,
                " must have names of 1 to {CREDENTIAL_NAME_BYTES_MAX} letters, digits and characters of \"._-@\""
            ),
            Self::EmptyValue => f.write_str(" must not have an empty value"),
            Self::Product { found, limit } => write!(f, ": the product {found} must {limit}"),
            Self::Repeated(number) => write!(f, ": {number} is used twice"),
            Self::Missing => f.write_str(" is missing"),
            Self::TooLittle { least } => write!(f, " must be at least {least}"),
            Self::NotMultiple { found, unit } => {
                write!(f, ": {found} is not a multiple of {unit}")
            }
            Self::TooMuch { found, max } => write!(f, ": {found} is above the limit of {max}"),
            Self::LowVncPort(port) => {
                write!(f, ": {port} is below {VNC_PORT_MIN}, the first port for displays")
            }
            Self::NotVncPort(port) => {
                write!(f, ": {port} is neither a port nor -1 (libvirt chooses a port)")
            }
        }
    }
}

impl std::error::Error for Invalid {}

impl Invalid {
    /// Its text without the prefix of the wire.
    pub fn plain(&self) -> String {
        let text = self.to_string();
        text.strip_prefix("invalid argument: ").unwrap_or(&text).to_owned()
    }

    /// Whether a part of the guest is wrong, which leaves the rest to be looked at.
    pub fn is_of_a_part(&self) -> bool {
        matches!(self, Self::Member { member, .. } if member != "id")
    }
}
