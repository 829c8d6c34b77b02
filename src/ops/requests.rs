//! The guest of a request, and of its answer.

use crate::guest::wire::{Guest, GuestResponse};
use crate::ops::Error;

/// Returns the request's guest, which must have an id.
pub(super) fn named_guest(guest: Option<Guest>) -> Result<Guest, Error> {
    guest.filter(|guest| !guest.id.is_empty()).ok_or(Error::NoGuest)
}

pub(super) fn respond(guest: Guest) -> GuestResponse {
    GuestResponse { guest: Some(guest), ..GuestResponse::default() }
}
