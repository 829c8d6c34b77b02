//! Images from the network, by `curl`.
//!
//! ```text
//! the agent, or `image pull`            mistify-libvirt-fetch@.service, or a child as nobody
//!   order and a file without a name ──►   resolve, judge the addresses, curl; at most three redirects
//!   import, confined                ◄──   how many bytes, or what went wrong
//! ```
//!
//! The fetcher has the network and nothing else: no privilege, and of files only the one that it fills. It knows
//! the image service from its own settings; an order cannot name one. The process that orders has no network.
//! The fetcher judges each address after it has resolved the name, and curl connects to that very address: a name
//! that resolves to another one a moment later changes nothing. Redirects are judged in the same way.

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

/// A download.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// From where.
    pub url: String,
    /// How many bytes it may have.
    pub bytes_max: u64,
}
