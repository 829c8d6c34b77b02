//! libvirt's C interface as its headers state it: functions, types and constants, nothing else.
//!
//! Made by bindgen from `wrapper.h` with an allow-list by name (`build.rs`). The committed
//! `bindings.rs` is used unless the crate is built with `--features bindgen`. Only the room
//! [`crate::libvirt`] may name anything in here.

#![expect(
    clippy::allow_attributes,
    non_camel_case_types,
    non_snake_case,
    unreachable_pub,
    unsafe_code,
    dead_code,
    reason = "C's names, kept so that libvirt's own documentation applies"
)]

#[cfg(feature = "bindgen")]
include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

#[cfg(not(feature = "bindgen"))]
include!("bindings.rs");
