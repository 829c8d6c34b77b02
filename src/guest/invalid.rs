//! Reasons to refuse a guest.

use std::fmt;

/// The maximum length of a guest id in bytes. libvirt derives file names from it, the longest being `<id>.xml.new`, and
/// a file name has at most 255 bytes.
pub(super) const ID_BYTES_MAX: usize = 247;
/// The port of display 0 in qemu.
pub(super) const VNC_PORT_MIN: i64 = 5900;
/// The maximum length of a credential's name in bytes: an item's name has at most 55 (`FW_CFG_MAX_FILE_PATH`), and 27
/// of these are `opt/io.systemd.credentials/`.
pub const CREDENTIAL_NAME_BYTES_MAX: usize = 28;

/// The reason to refuse a guest. Its text is the wire's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The request has no guest, or the guest has no id: the original's bare text.
    Missing,
    /// The guest has too many disks or NICs.
    TooMany {
        /// The member: `nics` or `disks`.
        member: &'static str,
        /// The number in the request.
        count: usize,
        /// The maximum.
        max: usize,
    },
    /// A member is invalid.
    Member {
        /// The member, for example `nics[2].name`.
        member: String,
        /// The fault of the member.
        fault: Fault,
    },
}

/// The fault of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The text has a character that XML cannot carry.
    Character(char),
    /// The text has a tab or a line end, which libvirt would turn into a blank.
    NotOneLine(char),
    /// An id or a name has a character that is not allowed there.
    IdCharacter(char),
    /// An id is longer than libvirt's file names allow.
    IdLength(usize),
    /// A MAC address is not six hexadecimal pairs with colons.
    NotMac,
    /// A MAC address is missing, though it names the NIC's network.
    NoMac,
    /// Two NICs have the same MAC address, which names their networks.
    RepeatedMac,
    /// The NIC has VLAN tags, and the host uses Linux bridges.
    TagsOnLinuxBridge,
    /// The member is too large.
    TooLarge {
        /// The size, as XML for members that the definition has.
        bytes: usize,
        /// The maximum size.
        max: usize,
    },
    /// The number is not a valid VNC port.
    NotVncPort(i64),
    /// The port is below the first VNC port of qemu.
    LowVncPort(i64),
    /// The word is not one of the allowed ones.
    NotOneOf {
        /// The word in the request.
        found: String,
        /// The allowed words.
        allowed: Vec<String>,
    },
    /// This host does not support the value.
    NotOnHost {
        /// The value in the request.
        found: String,
        /// The missing part, or the available values.
        why: String,
    },
    /// The member conflicts with another member.
    NotWith(&'static str),
    /// The request also has another member, which excludes this one.
    Beside(&'static str),
    /// The text is not a password hash.
    NotHash,
    /// The text is not a JSON object.
    NotObject,
    /// The name is not valid for a credential.
    NotCredential,
    /// A value in the member is empty.
    EmptyValue,
    /// The product of the topology does not match the number of processors.
    Product {
        /// The product in the request.
        found: u64,
        /// The required value.
        limit: String,
    },
    /// Two devices have the same value.
    Repeated(u64),
    /// The member is missing.
    Missing,
    /// The value is not a multiple of a unit.
    NotMultiple {
        /// The value in the request.
        found: u64,
        /// The unit.
        unit: u64,
    },
    /// The value is below a minimum.
    TooLittle {
        /// The minimum.
        least: u64,
    },
    /// The value is above a limit.
    TooMuch {
        /// The value in the request.
        found: u64,
        /// The maximum.
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
    /// Returns the text without the prefix of the wire.
    pub fn plain(&self) -> String {
        let text = self.to_string();
        text.strip_prefix("invalid argument: ").unwrap_or(&text).to_owned()
    }

    /// Returns whether the fault is limited to a part of the guest, so that the rest can be checked.
    pub fn is_of_a_part(&self) -> bool {
        matches!(self, Self::Member { member, .. } if member != "id")
    }
}
