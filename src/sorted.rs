//! Sorted maps, sets and lists, with little code.
//!
//! The standard library's stable sort takes 5 KiB of code for each type of element, also in `collect`, which sorts the
//! elements before it builds a tree. These functions insert one element after the other, or sort the indices of the
//! elements instead of the elements, so that the program stays within its limit of size.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;

/// An iterator that ends in a sorted collection.
pub(crate) trait IntoSorted: Iterator + Sized {
    /// Collects into a map; the last value of a repeated key counts.
    fn into_map<K: Ord, V>(self) -> BTreeMap<K, V>
    where
        Self: Iterator<Item = (K, V)>,
    {
        let mut map = BTreeMap::new();
        for (key, value) in self {
            map.insert(key, value);
        }
        map
    }

    /// Collects into a table; the last value of a repeated key counts.
    fn into_table<K: Ord, V>(self) -> Table<K, V>
    where
        Self: Iterator<Item = (K, V)>,
    {
        let mut table = Table::new();
        for (key, value) in self {
            table.insert(key, value);
        }
        table
    }

    /// Collects into a set.
    fn into_set(self) -> BTreeSet<Self::Item>
    where
        Self::Item: Ord,
    {
        let mut set = BTreeSet::new();
        for element in self {
            set.insert(element);
        }
        set
    }
}

impl<I: Iterator> IntoSorted for I {}

/// A list that can be sorted.
pub(crate) trait OrderBy<T> {
    /// Sorts the list; equal elements keep their order.
    fn order_by(&mut self, compare: &dyn Fn(&T, &T) -> Ordering);
}

impl<T> OrderBy<T> for Vec<T> {
    fn order_by(&mut self, compare: &dyn Fn(&T, &T) -> Ordering) {
        let places = places(self.len(), &|a, b| compare(&self[a], &self[b]));
        let mut elements: Vec<Option<T>> = self.drain(..).map(Some).collect();
        self.extend(places.into_iter().filter_map(|place| elements[place].take()));
    }
}

/// Returns the indices of `count` elements in sorted order: the only sort of the program.
fn places(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.sort_by(|a, b| compare(*a, *b));
    places
}

/// A map in the order of its keys, for up to some thousand keys: a sorted list, which takes a twentieth of the code of
/// a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<K, V>(Vec<(K, V)>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> IntoIterator for Table<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<K, V> Table<K, V> {
    /// Makes an empty table.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no entries.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns all entries in the order of their keys.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// Returns all entries, with mutable values.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.0.iter_mut().map(|(key, value)| (&*key, value))
    }

    /// Returns the keys in their order.
    pub(crate) fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + Clone {
        self.0.iter().map(|(key, _)| key)
    }

    /// Returns the values in the order of their keys.
    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.0.iter().map(|(_, value)| value)
    }

    /// Removes the entries that `keep` rejects.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain_mut(|(key, value)| keep(key, value));
    }

    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.0.binary_search_by(|(known, _)| known.borrow().cmp(key))
    }

    /// Returns whether there is an entry with this key.
    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.place(key).is_ok()
    }

    /// Returns the value of this key.
    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.place(key).ok().map(|place| &self.0[place].1)
    }

    /// Returns the mutable value of this key.
    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.place(key).ok().map(|place| &mut self.0[place].1)
    }

    /// Inserts an entry; returns the previous value of the key.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V>
    where
        K: Ord,
    {
        match self.place(&key) {
            Ok(place) => Some(mem::replace(&mut self.0[place].1, value)),
            Err(place) => {
                self.0.insert(place, (key, value));
                None
            }
        }
    }

    /// Returns the value of this key, after inserting a default if there is none.
    pub(crate) fn or_default(&mut self, key: K) -> &mut V
    where
        K: Ord,
        V: Default,
    {
        let place = self.place(&key).unwrap_or_else(|place| {
            self.0.insert(place, (key, V::default()));
            place
        });
        &mut self.0[place].1
    }

    /// Removes the entry of this key; returns its value.
    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.place(key).ok().map(|place| self.0.remove(place).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_ordered_and_equal_elements_stay() {
        let mut list: Vec<(u32, String)> =
            [3, 1, 2, 1, 3].into_iter().enumerate().map(|(i, n)| (n, format!("{i}"))).collect();
        list.order_by(&|a, b| a.0.cmp(&b.0));
        let ordered: Vec<(u32, &str)> = list.iter().map(|(n, text)| (*n, text.as_str())).collect();
        assert_eq!(ordered, [(1, "1"), (1, "3"), (2, "2"), (3, "0"), (3, "4")]);
        let mut none: Vec<u8> = Vec::new();
        none.order_by(&Ord::cmp);
        assert!(none.is_empty());
    }

    #[test]
    fn a_table_is_a_map_in_the_order_of_its_keys() {
        let mut table = Table::default();
        for (key, value) in [("b", 1), ("a", 2), ("c", 3)] {
            assert_eq!(table.insert(key.to_owned(), value), None);
        }
        assert_eq!(table.insert("b".to_owned(), 4), Some(1));
        *table.or_default("b".to_owned()) += 1;
        *table.or_default("d".to_owned()) += 1;
        let all: Vec<_> = table.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        assert_eq!(all, [("a", 2), ("b", 5), ("c", 3), ("d", 1)]);
        assert_eq!(
            (table.get("c"), table.get("e"), table.contains_key("a")),
            (Some(&3), None, true)
        );
        table.retain(|_, value| *value > 1);
        assert_eq!((table.remove("c"), table.remove("d"), table.len()), (Some(3), None, 2));
        assert!(table.keys().eq(["a", "b"]) && table.values().eq([&2, &5]));
    }
}
