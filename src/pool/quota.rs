//! Slots that callers hold for long, such as streams of events. Each user has a share of them, or each
//! address if the user is unknown, and the last slots are reserved for root and the agent's own user.

use std::fmt;

use parking_lot::Mutex;

use crate::os::peer::Share;

/// The limits of [`Slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    /// All slots.
    pub(crate) all: usize,
    /// The maximum for one caller; root and the agent's own user may have all.
    pub(crate) per_caller: usize,
    /// The slots that only root and the agent's own user may take.
    pub(crate) reserved: usize,
}

impl Quota {
    /// Makes a quota of `all` slots: half for one caller, and an eighth reserved, but at least one.
    pub(crate) fn of(all: usize) -> Self {
        Self { all, per_caller: (all / 2).max(1), reserved: (all / 8).max(1) }
    }

    /// Checks whether this caller may take one more slot beside the `held` ones.
    ///
    /// # Errors
    /// The limit that forbids it.
    pub(crate) fn admit(
        self,
        caller: Share,
        held: &mut dyn Iterator<Item = Share>,
    ) -> Result<(), QuotaExceeded> {
        let (mut all, mut own) = (0, 0);
        for holder in held {
            all += 1;
            own += usize::from(holder == caller);
        }
        let limit = match caller.is_privileged() {
            true => self.all,
            false => self.all.saturating_sub(self.reserved),
        };
        if all >= limit {
            return Err(QuotaExceeded { limit, is_own: false });
        }
        match own {
            own if own >= self.per_caller && !caller.is_privileged() => {
                Err(QuotaExceeded { limit: self.per_caller, is_own: true })
            }
            _ => Ok(()),
        }
    }
}

/// The limit that forbids one more slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// The maximum number of slots.
    pub limit: usize,
    /// Whether the limit is the caller's own; otherwise it is the limit of all callers.
    pub is_own: bool,
}

/// Writes ` of this user` for the caller's own limit, otherwise nothing.
impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_own { " of this user" } else { "" })
    }
}

/// Slots and their holders.
#[derive(Debug)]
pub(crate) struct Slots {
    quota: Quota,
    held: Mutex<Vec<Share>>,
}

impl Slots {
    /// Makes `all` slots, all of them free.
    pub(crate) fn new(all: usize) -> Self {
        Self { quota: Quota::of(all), held: Mutex::default() }
    }

    /// Takes a slot; the caller must give it back.
    ///
    /// # Errors
    /// As [`Quota::admit`].
    pub(crate) fn take(&self, caller: Share) -> Result<(), QuotaExceeded> {
        let mut held = self.held.lock();
        self.quota.admit(caller, &mut held.iter().copied())?;
        held.push(caller);
        Ok(())
    }

    /// Gives back a slot of this caller.
    pub(crate) fn give_back(&self, caller: Share) {
        let mut held = self.held.lock();
        if let Some(index) = held.iter().position(|holder| *holder == caller) {
            held.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Share = Share::User(0);

    #[test]
    fn one_user_leaves_slots_to_others() {
        let slots = Slots::new(16);
        let (one, other) = (Share::User(1_000_001), Share::User(1_000_002));
        assert!((0..8).all(|_| slots.take(one).is_ok()));
        assert_eq!(slots.take(one), Err(QuotaExceeded { limit: 8, is_own: true }));
        assert!((0..6).all(|_| slots.take(other).is_ok()));
        assert_eq!(slots.take(other), Err(QuotaExceeded { limit: 14, is_own: false }));
        assert!((0..2).all(|_| slots.take(ROOT).is_ok()), "the last are root's");
        assert_eq!(slots.take(ROOT), Err(QuotaExceeded { limit: 16, is_own: false }));
        (0..3).for_each(|_| slots.give_back(one));
        assert!(slots.take(one).is_ok() && slots.take(one).is_err());
    }

    #[test]
    fn root_and_the_agents_user_may_hold_all_slots() {
        let own = Share::User(crate::os::process::user());
        for caller in [ROOT, own] {
            let slots = Slots::new(4);
            assert!((0..4).all(|_| slots.take(caller).is_ok()) && slots.take(caller).is_err());
        }
    }

    #[test]
    fn callers_of_one_address_share_its_slots() {
        let slots = Slots::new(8);
        let [one, other] = [1, 2].map(|last| Share::Host(Some([192, 0, 2, last].into())));
        assert!((0..4).all(|_| slots.take(one).is_ok()) && slots.take(one).is_err());
        assert!(slots.take(other).is_ok());
    }
}
