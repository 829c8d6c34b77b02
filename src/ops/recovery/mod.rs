//! Changes of more than one step: recorded, committed, or recovered.
//!
//! A verb records each step in a [`Transaction`] before it begins the step, and commits at its end. When a
//! step fails, a caller leaves, or the agent ends in the middle, the intent stays in the journal. The next
//! holder of the guest's lock recovers it first: the verb itself, the guest's next verb, or the reconciler.
//!
//! - `transaction`: begin, record, commit, abort.
//! - `table`: how each step is undone, and how it is finished.
//! - `recover`: the one function that undoes or finishes a transaction, and the policy for what is left.
//! - `leftovers`: what could not be undone or finished, for operators.
//! - `reconciler`: the thread that recovers, and looks at libvirt and storage.

mod leftovers;
mod reconciler;
mod recover;
mod table;
mod transaction;

pub use self::leftovers::Leftover;
pub(super) use self::reconciler::StatusCache;
pub use self::reconciler::{Reconciler, StorageSeen};
pub(super) use self::recover::Recovered;
pub(super) use self::transaction::{STATE_LANE, Stop, Transaction, state_write};
