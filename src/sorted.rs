//! Maps and sets from iterators, with little code.
//!
//! std's `collect` sorts the elements before it builds the tree: a stable sort of 5 KiB for each type of element.
//! These insert one element after the other, and the program stays within its 4 MiB.

use std::collections::{BTreeMap, BTreeSet};

/// An iterator that ends in a sorted collection.
pub(crate) trait IntoSorted: Iterator + Sized {
    /// A map; of a key that comes twice the last value counts.
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

    /// A set.
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
