//! Sorted maps, sets and lists, with little code.
//!
//! std has a stable sort of 5 KiB for each type of element, also in `collect`, which sorts the elements before it
//! builds a tree. These insert one element after the other, or sort the places of the elements in place of them, and
//! the program stays within its 4 MiB.

use std::cmp::Ordering;
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

/// A list that can be sorted.
pub(crate) trait OrderBy<T> {
    /// Sorts it; what is equal keeps its order.
    fn order_by(&mut self, compare: &dyn Fn(&T, &T) -> Ordering);
}

impl<T> OrderBy<T> for Vec<T> {
    fn order_by(&mut self, compare: &dyn Fn(&T, &T) -> Ordering) {
        let places = places(self.len(), &|a, b| compare(&self[a], &self[b]));
        let mut elements: Vec<Option<T>> = self.drain(..).map(Some).collect();
        self.extend(places.into_iter().filter_map(|place| elements[place].take()));
    }
}

/// The places of so many elements in their order: the one sort of the program.
fn places(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.sort_by(|a, b| compare(*a, *b));
    places
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
}
