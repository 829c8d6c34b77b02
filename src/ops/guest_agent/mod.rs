//! Requests to the guest agents that run inside guests. A guest agent can be absent, silent, slow or hostile.
//!
//! - `turns`: one command at a time for each guest agent, with a bound on its time.
//! - `addresses`, `address_refresh`: the addresses of guests, and the search for them.
//! - `guest_info`, `logins`, `trim`, `freezes`: the methods GuestInfo, SetPassword and SetSshKeys, Trim, Freeze and
//!   Thaw.
//! - `clocks`: sets the clocks of resumed guests.

mod address_refresh;
mod addresses;
pub(super) mod clocks;
pub(super) mod freezes;
mod guest_info;
mod logins;
mod trim;
pub(super) mod turns;
