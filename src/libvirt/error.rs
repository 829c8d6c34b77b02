//! libvirt's last error, read on the thread of the call and before any handle is dropped.

use std::ffi::{c_int, c_uint};
use std::fmt;
use std::ptr::NonNull;

use crate::libvirt::strings::copy_borrowed;
use crate::sys;

/// libvirt's error number (`virErrorNumber`), including numbers newer than this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(i32);

impl Code {
    /// No detail: the call failed and libvirt left no error.
    pub const OK: Self = Self::new(sys::VIR_ERR_OK);
    /// An error inside libvirt; with [`ErrorDomain::RPC`] usually a lost connection.
    pub const INTERNAL_ERROR: Self = Self::new(sys::VIR_ERR_INTERNAL_ERROR);
    /// The driver does not support the function.
    pub const NO_SUPPORT: Self = Self::new(sys::VIR_ERR_NO_SUPPORT);
    /// The handle's connection is no longer valid.
    pub const INVALID_CONN: Self = Self::new(sys::VIR_ERR_INVALID_CONN);
    /// An argument was refused, for example a flag that a driver does not know.
    pub const INVALID_ARG: Self = Self::new(sys::VIR_ERR_INVALID_ARG);
    /// The hypervisor or its daemon cannot be reached.
    pub const NO_CONNECT: Self = Self::new(sys::VIR_ERR_NO_CONNECT);
    /// The operation failed, for example because a name is taken.
    pub const OPERATION_FAILED: Self = Self::new(sys::VIR_ERR_OPERATION_FAILED);
    /// The XML is well-formed but invalid.
    pub const XML_ERROR: Self = Self::new(sys::VIR_ERR_XML_ERROR);
    /// The domain already exists.
    pub const DOM_EXIST: Self = Self::new(sys::VIR_ERR_DOM_EXIST);
    /// The connection is read-only.
    pub const OPERATION_DENIED: Self = Self::new(sys::VIR_ERR_OPERATION_DENIED);
    /// The XML is not well-formed, or violates its schema.
    pub const XML_DETAIL: Self = Self::new(sys::VIR_ERR_XML_DETAIL);
    /// The network already exists.
    pub const NETWORK_EXIST: Self = Self::new(sys::VIR_ERR_NETWORK_EXIST);
    /// A system call failed; with [`ErrorDomain::RPC`] a lost connection.
    pub const SYSTEM_ERROR: Self = Self::new(sys::VIR_ERR_SYSTEM_ERROR);
    /// The communication with libvirtd failed.
    pub const RPC: Self = Self::new(sys::VIR_ERR_RPC);
    /// The domain does not exist.
    pub const NO_DOMAIN: Self = Self::new(sys::VIR_ERR_NO_DOMAIN);
    /// The network does not exist.
    pub const NO_NETWORK: Self = Self::new(sys::VIR_ERR_NO_NETWORK);
    /// libvirtd requires authentication, and it failed.
    pub const AUTH_FAILED: Self = Self::new(sys::VIR_ERR_AUTH_FAILED);
    /// The object's state does not allow the operation.
    pub const OPERATION_INVALID: Self = Self::new(sys::VIR_ERR_OPERATION_INVALID);
    /// The definition requires a feature that the driver does not have.
    pub const CONFIG_UNSUPPORTED: Self = Self::new(sys::VIR_ERR_CONFIG_UNSUPPORTED);
    /// Another operation on the object did not end within libvirt's timeout.
    pub const OPERATION_TIMEOUT: Self = Self::new(sys::VIR_ERR_OPERATION_TIMEOUT);
    /// The domain has no metadata of this type.
    pub const NO_DOMAIN_METADATA: Self = Self::new(sys::VIR_ERR_NO_DOMAIN_METADATA);
    /// The resource is in use.
    pub const RESOURCE_BUSY: Self = Self::new(sys::VIR_ERR_RESOURCE_BUSY);
    /// libvirtd's access rules do not allow the operation.
    pub const ACCESS_DENIED: Self = Self::new(sys::VIR_ERR_ACCESS_DENIED);
    /// The driver does not support the operation here.
    pub const OPERATION_UNSUPPORTED: Self = Self::new(sys::VIR_ERR_OPERATION_UNSUPPORTED);
    /// The guest agent does not answer.
    pub const AGENT_UNRESPONSIVE: Self = Self::new(sys::VIR_ERR_AGENT_UNRESPONSIVE);
    /// A flag or argument is known but not supported here.
    pub const ARGUMENT_UNSUPPORTED: Self = Self::new(sys::VIR_ERR_ARGUMENT_UNSUPPORTED);

    /// Returns libvirt's own number.
    pub fn raw(self) -> i32 {
        self.0
    }

    const fn new(constant: c_uint) -> Self {
        Self(from_constant(constant))
    }
}

/// The part of libvirt that reported an error (`virErrorDomain`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorDomain(i32);

impl ErrorDomain {
    /// The communication between client and daemon.
    pub const RPC: Self = Self(from_constant(sys::VIR_FROM_RPC));
    /// The client's side of a remote connection.
    pub const REMOTE: Self = Self(from_constant(sys::VIR_FROM_REMOTE));

    /// Returns libvirt's own number.
    pub fn raw(self) -> i32 {
        self.0
    }
}

/// Converts a C constant to the `int` of libvirt's structs; the only such cast.
#[expect(clippy::cast_possible_wrap, reason = "libvirt's constants are below 1000")]
const fn from_constant(constant: c_uint) -> i32 {
    constant as i32
}

/// The reason why a libvirt call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The error number.
    pub code: Code,
    /// The part of libvirt that reported the error.
    pub domain: ErrorDomain,
    /// libvirt's message; empty if it has none.
    pub message: String,
    /// The C function that failed.
    pub call: &'static str,
}

/// libvirt's message for data above its protocol's limits (`virNetMessageEncodePayload`).
const TOO_LARGE: &str = "Unable to encode message payload";

impl Error {
    /// Returns whether the connection is lost, so that a new one may work.
    ///
    /// System and internal errors count only if the connection itself reports them: a qemu that
    /// fails to start raises the same codes, and a reconnection would not help.
    pub fn connection_lost(&self) -> bool {
        match self.code {
            // An answer that is too large for the protocol still is an answer.
            Code::RPC => !self.message.contains(TOO_LARGE),
            Code::INVALID_CONN => true,
            Code::SYSTEM_ERROR | Code::INTERNAL_ERROR => {
                self.domain == ErrorDomain::RPC || self.domain == ErrorDomain::REMOTE
            }
            _ => false,
        }
    }

    /// Returns the error for an argument with a NUL byte, which C would read as a shorter one.
    pub(super) fn nul_byte(call: &'static str) -> Self {
        Self {
            code: Code::INVALID_ARG,
            domain: ErrorDomain(0),
            message: "invalid argument: a string with a NUL character".to_owned(),
            call,
        }
    }

    /// Returns the last error of this thread, which belongs to `call`, the most recent call.
    #[cold]
    pub(super) fn last(call: &'static str) -> Self {
        let none = Self { code: Code::OK, domain: ErrorDomain(0), message: String::new(), call };
        // SAFETY: no arguments; the result is NULL or this thread's own slot, valid until the next
        // libvirt call of this thread.
        let slot = unsafe { sys::virGetLastError() };
        // SAFETY: see above; it is read here, with no libvirt call in between.
        let Some(raw) = (unsafe { slot.as_ref() }) else { return none };
        Self {
            code: Code(raw.code),
            domain: ErrorDomain(raw.domain),
            // SAFETY: NULL or a NUL-terminated string that lives as long as the slot.
            message: unsafe { copy_borrowed(raw.message) }.unwrap_or_default(),
            call,
        }
    }
}

/// For logs; `rpc` makes the texts for callers of the agent.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = if self.message.is_empty() { "no detail" } else { &self.message };
        let (code, domain) = (self.code.0, self.domain.0);
        write!(f, "{} failed: {message} (code {code}, domain {domain})", self.call)
    }
}

impl std::error::Error for Error {}

/// Checks a pointer that libvirt returned; NULL becomes this thread's last error.
pub(super) fn check_ptr<T>(raw: *mut T, call: &'static str) -> Result<NonNull<T>, Error> {
    NonNull::new(raw).ok_or_else(|| Error::last(call))
}

/// Checks a number that libvirt returned; a negative one becomes this thread's last error.
pub(super) fn check_int(raw: c_int, call: &'static str) -> Result<c_int, Error> {
    if raw < 0 { Err(Error::last(call)) } else { Ok(raw) }
}
