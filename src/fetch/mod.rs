//! Fetches images from the network with `curl`.
//!
//! ```text
//! the agent, or `image pull`            mistify-libvirt-fetch@.service, or a child as nobody
//!   order and a file without a name ──►   resolve, check the addresses, curl; at most three redirects
//!   import, confined                ◄──   how many bytes, or what went wrong
//! ```
//!
//! The fetcher has access to the network and nothing else: no privileges, and only the file that it fills. It knows the
//! image service from its own options; an order cannot name one. The agent's unit reaches no other host. The fetcher
//! checks each address after resolving the name, and curl connects to exactly that address: a later change of the
//! name's address has no effect. Redirects are checked in the same way.

mod address;
mod download;
mod hop;
mod request;
mod url;

use serde::{Deserialize, Serialize};

pub use self::address::is_public;
pub use self::download::{Download, is_sum, sha256};
pub use self::hop::{CURL, fetch};
pub use self::request::{Cancellation, REMEDY, SOCKET, ask, serve};
pub(crate) use self::url::is_uri;
pub use self::url::{Host, Scheme, Service, Url, component};

/// An order of a download.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// The URL.
    pub url: String,
    /// The maximum number of bytes.
    pub bytes_max: u64,
}
