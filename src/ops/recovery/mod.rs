//! Changes of more than one step: recorded, committed, or recovered.
//!
//! A method records each step in a [`Transaction`] before it starts the step, and commits at its end. When a step
//! fails, a caller leaves, or the agent ends in the middle, the intent stays in the journal. The next holder of the
//! guest lock recovers it first: the method itself, the guest's next method, or the reconciler.
//!
//! - `table`: how each step is undone, and how it is finished.
//! - `recover`: the one function that undoes or finishes a transaction, and the policy for leftovers.
//! - `leftovers`: the steps that could not be undone or finished, for operators.
//! - `reconciler`: the thread that recovers, and checks libvirt and storage.
//!
//! [`Transaction`]: crate::ops::transaction::Transaction

mod leftovers;
mod reconciler;
mod recover;
mod table;

pub use self::leftovers::Leftover;
pub(super) use self::reconciler::StatusCache;
pub use self::reconciler::{Reconciler, StorageStatus};
pub(super) use self::table::Recovered;
