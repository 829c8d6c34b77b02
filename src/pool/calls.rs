//! Calls that have a permit, and calls that wait for one: a state machine without mutex, thread or clock.
//!
//! A [`CallClass`] bounds the number of concurrent calls of a kind. Within it each guest has a bound of its
//! own, so that calls of a guest that hangs do not exhaust the whole. A call without room waits, which takes
//! its bytes and no thread. Waiting calls get permits in the order of [`FairQueue`].

use std::sync::Arc;

use super::error::CallClass;
use super::fair_queue::FairQueue;
use crate::config::PoolLimits;
use crate::os::peer::Share;
use crate::sorted::Table;

/// What a call counts against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallShare {
    /// The kind of the call.
    pub class: CallClass,
    /// The caller.
    pub user: Share,
    /// The guest's id, or the name of another object with its own bound, such as an image. Empty for a call that
    /// only the bound of its class counts.
    pub guest: Arc<str>,
}

/// Identifies a waiting call; never reused.
pub(super) type CallId = u64;

/// Running calls, and waiting calls.
#[derive(Debug)]
pub(super) struct Calls {
    /// By class, in the order of [`CallClass::ALL`].
    classes: [ClassCounts; CallClass::ALL.len()],
    ids: CallId,
}

/// The calls of a class.
#[derive(Debug)]
struct ClassCounts {
    most: usize,
    per_guest_most: usize,
    under_way: usize,
    /// A guest without a running call has no record.
    per_guest: Table<Arc<str>, usize>,
    waiting: FairQueue<Share, CallId>,
}

impl ClassCounts {
    fn has_room(&self, guest: &str) -> bool {
        let of_guest = self.per_guest.get(guest).copied().unwrap_or_default();
        self.under_way < self.most && of_guest < self.per_guest_most
    }

    fn count(&mut self, guest: &Arc<str>) {
        self.under_way += 1;
        if !guest.is_empty() {
            *self.per_guest.or_default(Arc::clone(guest)) += 1;
        }
    }

    fn uncount(&mut self, guest: &str) {
        self.under_way -= 1;
        if let Some(calls) = self.per_guest.get_mut(guest) {
            *calls -= 1;
            if *calls == 0 {
                self.per_guest.remove(guest);
            }
        }
    }
}

impl Calls {
    pub(super) fn new(limits: &PoolLimits) -> Self {
        let classes = CallClass::ALL.map(|class| ClassCounts {
            most: class.limit(limits),
            per_guest_most: class.limit_per_guest(limits),
            under_way: 0,
            per_guest: Table::new(),
            waiting: FairQueue::default(),
        });
        Self { classes, ids: 0 }
    }

    /// Requests a permit without waiting; returns whether the call has it. Waiting calls for which there is
    /// room come first.
    pub(super) fn begin(&mut self, share: &CallShare) -> bool {
        let counted = self.of(share.class);
        let is_next = !counted.waiting.any(|guest| counted.has_room(guest));
        let may = is_next && counted.has_room(&share.guest);
        if may {
            counted.count(&share.guest);
        }
        may
    }

    /// Ends a call with a permit.
    pub(super) fn end(&mut self, share: &CallShare) {
        self.of(share.class).uncount(&share.guest);
    }

    /// Adds a call that waits for its permit; returns its id.
    pub(super) fn wait(&mut self, share: &CallShare) -> CallId {
        self.ids += 1;
        let id = self.ids;
        self.of(share.class).waiting.push(share.user, &share.guest, id);
        id
    }

    /// Removes a waiting call; returns whether it was waiting.
    pub(super) fn withdraw(&mut self, share: &CallShare, id: CallId) -> bool {
        self.of(share.class).waiting.remove(share.user, &share.guest, &id)
    }

    /// Gives a permit to the next waiting call for which there is room; returns its id.
    pub(super) fn grant(&mut self) -> Option<CallId> {
        self.classes.iter_mut().find_map(|counted| {
            let ClassCounts { most, per_guest_most, under_way, per_guest, waiting } = counted;
            if under_way >= most {
                return None;
            }
            let has_room = |guest: &str| per_guest.get(guest).is_none_or(|it| it < per_guest_most);
            let (_, guest, id) = waiting.next(has_room)?;
            counted.count(&guest);
            Some(id)
        })
    }

    /// Returns the number of waiting calls.
    pub(super) fn waiting(&self) -> usize {
        self.classes.iter().map(|counted| counted.waiting.len()).sum()
    }

    /// Returns the number of running calls.
    pub(super) fn under_way(&self) -> usize {
        self.classes.iter().map(|counted| counted.under_way).sum()
    }

    fn of(&mut self, class: CallClass) -> &mut ClassCounts {
        &mut self.classes[class.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> Calls {
        Calls::new(&PoolLimits {
            changes: 3,
            reads: 1,
            urgent: 2,
            deletes: 1,
            stores: 1,
            batches: 1,
            calls_per_guest: 2,
            ..PoolLimits::default()
        })
    }

    fn share(class: CallClass, user: u32, guest: &str) -> CallShare {
        CallShare { class, user: Share::User(user), guest: guest.into() }
    }

    fn end(calls: &mut Calls, share: &CallShare) -> Vec<CallId> {
        calls.end(share);
        std::iter::from_fn(|| calls.grant()).collect()
    }

    #[test]
    fn a_guest_has_a_bound_of_its_own() {
        let mut calls = calls();
        let of = |guest| share(CallClass::Change, 1, guest);
        assert!(calls.begin(&of("a")) && calls.begin(&of("a")) && !calls.begin(&of("a")));
        assert!(calls.begin(&of("b")) && !calls.begin(&of("c")), "the permits are used up");
        // Calls that free a guest, and calls that only read, have permits of their own.
        assert!(
            calls.begin(&share(CallClass::Urgent, 1, "a"))
                && !calls.begin(&share(CallClass::Urgent, 2, "a"))
        );
        assert!(calls.begin(&share(CallClass::Delete, 1, "a")));
        assert!(calls.begin(&share(CallClass::Read, 1, "a")));
        assert!(
            calls.begin(&share(CallClass::Batch, 1, ""))
                && !calls.begin(&share(CallClass::Batch, 2, ""))
        );
        assert_eq!(calls.under_way(), 7);
    }

    #[test]
    fn permits_are_granted_in_order_of_arrival() {
        let mut calls = calls();
        let of = |user, guest| share(CallClass::Change, user, guest);
        for guest in ["a", "a", "b"] {
            assert!(calls.begin(&of(1, guest)));
        }
        let waiting = [of(1, "a"), of(1, "b"), of(2, "c"), of(1, "b")];
        let ids = waiting.each_ref().map(|share| calls.wait(share));
        assert_eq!(end(&mut calls, &of(1, "b")), [ids[1]], "the first guest is at its bound");
        assert_eq!(end(&mut calls, &of(1, "b")), [ids[2]], "the other user's turn");
        assert!(calls.withdraw(&waiting[3], ids[3]) && !calls.withdraw(&waiting[3], ids[3]));
        assert_eq!(end(&mut calls, &of(1, "a")), [ids[0]]);
        assert_eq!((calls.waiting(), calls.under_way()), (0, 3));
    }

    #[test]
    fn new_call_waits_behind_others() {
        let mut calls = calls();
        let of = |guest| share(CallClass::Change, 1, guest);
        for guest in ["a", "b", "c"] {
            assert!(calls.begin(&of(guest)));
        }
        let waits = calls.wait(&of("d"));
        calls.end(&of("a"));
        assert!(!calls.begin(&of("e")), "it is the other's turn");
        assert_eq!(calls.grant(), Some(waits));
        // Calls that wait only for their guest do not delay calls of other guests.
        let mut calls = self::calls();
        assert!(calls.begin(&of("a")) && calls.begin(&of("a")));
        calls.wait(&of("a"));
        assert!(calls.begin(&of("b")));
    }

    #[test]
    fn reads_that_wait_take_no_changes_place() {
        let mut calls = calls();
        for guest in ["a", "b", "c"] {
            assert!(calls.begin(&share(CallClass::Change, 1, guest)));
        }
        assert!(calls.begin(&share(CallClass::Read, 1, "")));
        let reads = [(); 2].map(|()| calls.wait(&share(CallClass::Read, 1, "")));
        let change = calls.wait(&share(CallClass::Change, 2, "d"));
        assert_eq!(end(&mut calls, &share(CallClass::Change, 1, "a")), [change]);
        assert_eq!(end(&mut calls, &share(CallClass::Read, 1, "")), [reads[0]]);
    }

    #[test]
    fn all_counts_return_to_nothing() {
        let mut calls = calls();
        let share = share(CallClass::Change, 1, "a");
        assert!(calls.begin(&share));
        let id = calls.wait(&share);
        assert!(calls.withdraw(&share, id) && end(&mut calls, &share).is_empty());
        assert_eq!((calls.waiting(), calls.under_way()), (0, 0));
        assert!(calls.classes.iter().all(|counted| counted.per_guest.is_empty()));
    }
}
