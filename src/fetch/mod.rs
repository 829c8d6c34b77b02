//! Images from the network: which addresses they may come from.

mod address;
mod url;

pub use address::is_public;
pub use url::{Host, Scheme, Url, component};
