//! Images from the network, by `curl`.
//!
//! ```text
//! the agent, or `image pull`            mistify-libvirt-fetch@.service, or a child as nobody
//!   order and a file without a name ──►   resolve, judge the addresses, curl; at most three redirects
//!   import, confined                ◄──   how many bytes, or what went wrong
//! ```
//!
//! Who fetches has the network and nothing else: no privilege, and of files that which it is to fill. Who asks
//! has no network. Each address is judged after its name was resolved, and curl connects to that very address:
//! a name that resolves to another one a moment later changes nothing. Redirects are judged in the same way.

mod address;
mod download;
mod hop;
mod order;
mod url;

pub use self::address::is_public;
pub use self::download::{download, is_sum, sha256};
pub use self::hop::{CURL, fetch};
pub use self::order::{Order, SOCKET, ask, serve};
pub use self::url::{Host, Scheme, Url, component, host_of};
