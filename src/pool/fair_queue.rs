//! Waiting items in a fair order: users in turn, the guests of each user in turn, and the items of each
//! guest by age.

use std::collections::VecDeque;
use std::sync::Arc;

/// The waiting items of each guest, in the order of turns.
type Guests<T> = VecDeque<(Arc<str>, VecDeque<T>)>;

/// The waiting items of each user `U` and guest.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct FairQueue<U, T> {
    users: VecDeque<(U, Guests<T>)>,
    len: usize,
}

impl<U, T> Default for FairQueue<U, T> {
    fn default() -> Self {
        Self { users: VecDeque::new(), len: 0 }
    }
}

impl<U: Copy + PartialEq, T: PartialEq> FairQueue<U, T> {
    /// Adds an item after all others of its guest; a new guest and a new user get their turn last.
    pub(super) fn push(&mut self, user: U, guest: &Arc<str>, item: T) {
        self.len += 1;
        let index = self.users.iter().position(|(known, _)| *known == user).unwrap_or_else(|| {
            self.users.push_back((user, VecDeque::new()));
            self.users.len() - 1
        });
        let Some((_, guests)) = self.users.get_mut(index) else { return };
        match guests.iter_mut().find(|(known, _)| known == guest) {
            Some((_, items)) => items.push_back(item),
            None => guests.push_back((Arc::clone(guest), VecDeque::from([item]))),
        }
    }

    /// Takes the next item of a guest that `may` accepts; its user and its guest get their next turn last.
    pub(super) fn next(&mut self, may: impl Fn(&str) -> bool) -> Option<(U, Arc<str>, T)> {
        for user_index in 0..self.users.len() {
            let (_, guests) = self.users.get_mut(user_index)?;
            let Some(guest_index) = guests.iter().position(|(guest, _)| may(guest)) else {
                continue;
            };
            let (guest, mut items) = guests.remove(guest_index)?;
            let item = items.pop_front()?;
            if !items.is_empty() {
                guests.push_back((guest.clone(), items));
            }
            let (user, guests) = self.users.remove(user_index)?;
            if !guests.is_empty() {
                self.users.push_back((user, guests));
            }
            self.len -= 1;
            return Some((user, guest, item));
        }
        None
    }

    /// Returns whether an item waits for a guest that `may` accepts.
    pub(super) fn any(&self, may: impl Fn(&str) -> bool) -> bool {
        self.users.iter().flat_map(|(_, guests)| guests).any(|(guest, _)| may(guest))
    }

    /// Removes an item before its turn; returns whether it was present.
    pub(super) fn remove(&mut self, user: U, guest: &str, item: &T) -> bool {
        let Some(user_index) = self.users.iter().position(|(known, _)| *known == user) else {
            return false;
        };
        let Some((_, guests)) = self.users.get_mut(user_index) else { return false };
        let Some(guest_index) = guests.iter().position(|(known, _)| **known == *guest) else {
            return false;
        };
        let Some((_, items)) = guests.get_mut(guest_index) else { return false };
        let Some(index) = items.iter().position(|known| known == item) else { return false };
        items.remove(index);
        if items.is_empty() {
            guests.remove(guest_index);
        }
        if guests.is_empty() {
            self.users.remove(user_index);
        }
        self.len -= 1;
        true
    }

    /// Returns the number of waiting items.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(queue: &mut FairQueue<u32, u32>, may: impl Fn(&str) -> bool + Copy) -> Vec<u32> {
        std::iter::from_fn(|| queue.next(may)).map(|(_, _, item)| item).collect()
    }

    #[test]
    fn users_and_their_guests_have_turns() {
        let mut queue = FairQueue::default();
        for (user, guest, item) in [
            (1, "a", 1),
            (1, "a", 2),
            (1, "b", 3),
            (1, "a", 4),
            (2, "a", 5),
            (2, "c", 6),
            (1, "b", 7),
        ] {
            queue.push(user, &guest.into(), item);
        }
        assert_eq!(queue.len(), 7);
        assert_eq!(order(&mut queue, |_| true), [1, 5, 3, 6, 2, 7, 4]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn full_guest_does_not_block_others() {
        let mut queue = FairQueue::default();
        for (user, guest, item) in [(1, "full", 1), (1, "a", 2), (2, "full", 3), (2, "", 4)] {
            queue.push(user, &guest.into(), item);
        }
        assert_eq!(order(&mut queue, |guest| guest != "full"), [2, 4]);
        assert!(queue.remove(2, "full", &3) && !queue.remove(2, "full", &3));
        assert_eq!(order(&mut queue, |_| true), [1]);
        assert!(!queue.any(|_| true));
        queue.push(1, &"a".into(), 5);
        assert!(queue.any(|guest| guest == "a") && !queue.any(|guest| guest == "b"));
    }
}
