//! Permitted callers, tokens and the audit.

mod audit;
mod peers;
