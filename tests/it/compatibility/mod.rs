//! The original agent: its recorded answers, its names, its guests.

mod conformance;
mod go_names;
mod golden;
mod original;
mod upgrade;
