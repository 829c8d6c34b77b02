//! The documents: their commands run, and their generated parts are current.

pub(crate) mod commands;
mod limits;
pub(crate) mod reference;
