//! Reads JSON objects as Go's decoder does, because callers of this agent rely on it: `null` is the zero value
//! everywhere, unknown members are dropped, the last of repeated members wins, and member names are case-insensitive.
//! Errors name the member.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor,
};

use serde_json::value::RawValue;

use crate::sorted::IntoSorted;

/// A struct that is read member by member.
pub(crate) trait Members<'de>: Default {
    /// The member names as they are written.
    const NAMES: &'static [&'static str];

    /// Reads the value of the member `name`, one of [`Self::NAMES`].
    fn read<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;
}

/// An unknown member of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// The enclosing members, outermost first.
    path: Vec<&'static str>,
    name: String,
    /// The known members in that place.
    known: &'static [&'static str],
}

impl Unknown {
    /// Returns the full path, for example `guest.disks.frimware`.
    pub(crate) fn place(&self) -> String {
        let mut place = self.path.join(".");
        if !place.is_empty() {
            place.push('.');
        }
        place + &self.name
    }

    /// Returns the known member with the most similar name, if one is similar.
    pub(crate) fn nearest(&self) -> Option<&'static str> {
        let name = self.name.to_ascii_lowercase();
        let is_as_long = |known: &&&str| known.len().abs_diff(name.len()) <= SIMILAR_EDITS;
        let similar = self.known.iter().filter(is_as_long);
        let (distance, nearest) = similar.map(|known| (distance(&name, known), *known)).min()?;
        (distance <= SIMILAR_EDITS.min(name.len() / 2)).then_some(nearest)
    }

    /// Returns the last part of the path.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// The maximum edit distance at which a name counts as a misspelling.
const SIMILAR_EDITS: usize = 2;
/// The maximum number of unknown members recorded for a request, and of characters recorded of each name.
const UNKNOWN_MAX: usize = 8;
const NAME_CHARS_MAX: usize = 64;

/// Returns the minimum number of insertions, deletions, replacements and swaps of neighbours that turn one word into
/// the other (the restricted distance of Damerau and Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

thread_local! {
    /// The unknown members on this thread; `None` while nothing records them.
    static NOTES: RefCell<Option<Vec<Unknown>>> = const { RefCell::new(None) };
}

/// Runs `read` and returns its result with the unknown members, at most [`UNKNOWN_MAX`].
pub(crate) fn noting<T>(read: impl FnOnce() -> T) -> (T, Vec<Unknown>) {
    NOTES.set(Some(Vec::new()));
    let value = read();
    (value, NOTES.take().unwrap_or_default())
}

/// Returns the number of unknown members recorded so far.
fn noted() -> usize {
    NOTES.with_borrow(|notes| notes.as_ref().map_or(0, Vec::len))
}

fn note(name: &str, known: &'static [&'static str]) {
    NOTES.with_borrow_mut(|notes| {
        if let Some(notes) = notes.as_mut().filter(|notes| notes.len() < UNKNOWN_MAX) {
            let name = name.chars().take(NAME_CHARS_MAX).collect();
            notes.push(Unknown { path: Vec::new(), name, known });
        }
    });
}

/// Adds the enclosing member to the path of each unknown member recorded after `since`.
fn note_place(member: &'static str, since: usize) {
    NOTES.with_borrow_mut(|notes| {
        for unknown in notes.iter_mut().flat_map(|notes| &mut notes[since..]) {
            unknown.path.insert(0, member);
        }
    });
}

/// Implements [`Members`] and `Deserialize`: wire name, field, and the function of this module that reads the field.
macro_rules! members {
    ($type:ty { $($name:literal => $field:ident: $read:ident,)+ }) => {
        impl<'de> $crate::guest::members::Members<'de> for $type {
            const NAMES: &'static [&'static str] = &[$($name),+];

            fn read<A: serde::de::MapAccess<'de>>(
                &mut self,
                name: &str,
                map: &mut A,
            ) -> Result<(), A::Error> {
                match name {
                    $($name => self.$field = $crate::guest::members::$read(map)?,)+
                    _ => $crate::guest::members::skip(map)?,
                }
                Ok(())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::guest::members::object(deserializer)
            }
        }
    };
}
pub(crate) use members;

/// Reads a JSON object into a struct.
pub(crate) fn object<'de, T: Members<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_map(ObjectVisitor(PhantomData))
}

/// Reads one value; `null` is the zero value.
pub(crate) fn value<'de, T, A>(map: &mut A) -> Result<T, A::Error>
where
    T: Deserialize<'de> + Default,
    A: MapAccess<'de>,
{
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

/// Reads one value, with `None` for an absent one.
pub(crate) fn optional<'de, T, A>(map: &mut A) -> Result<Option<T>, A::Error>
where
    T: Deserialize<'de>,
    A: MapAccess<'de>,
{
    map.next_value()
}

/// Reads an object, with `None` for an absent one. Errors and records never repeat its content, so an unknown member is
/// an error here.
pub(crate) fn secret<'de, T, A>(map: &mut A) -> Result<Option<T>, A::Error>
where
    T: DeserializeOwned + for<'any> Members<'any>,
    A: MapAccess<'de>,
{
    let Some(json) = map.next_value::<Option<Box<RawValue>>>()? else { return Ok(None) };
    let outer = NOTES.take();
    let (read, unknown) = noting(|| serde_json::from_str(json.get()));
    NOTES.set(outer);
    match read {
        Ok(value) if unknown.is_empty() => Ok(Some(value)),
        Ok(_) => {
            let known = T::NAMES.join(", ");
            Err(A::Error::custom(format!("a member is unknown; the known ones are {known}")))
        }
        Err(_) => {
            Err(A::Error::custom("a member has a value of another type; its content is secret"))
        }
    }
}

/// Reads a text. Errors never repeat its content.
pub(crate) fn secret_text<'de, T: From<String>, A: MapAccess<'de>>(
    map: &mut A,
) -> Result<T, A::Error> {
    let json = map.next_value::<Option<Box<RawValue>>>()?;
    let text = json.map_or(Ok(None), |json| serde_json::from_str::<Option<String>>(json.get()));
    let text = text.map_err(|_| A::Error::custom("expected a string; its content is secret"))?;
    Ok(text.unwrap_or_default().into())
}

/// Reads an object of texts. Errors never repeat their content.
pub(crate) fn secret_texts<'de, T: From<BTreeMap<String, String>>, A: MapAccess<'de>>(
    map: &mut A,
) -> Result<T, A::Error> {
    dictionary(map)
        .map(T::from)
        .map_err(|_| A::Error::custom("expected an object of strings; its content is secret"))
}

/// Reads an array; `null` is the empty one.
pub(crate) fn list<'de, T, A>(map: &mut A) -> Result<Vec<T>, A::Error>
where
    T: Deserialize<'de> + Default,
    A: MapAccess<'de>,
{
    Ok(nullable_list(map)?.unwrap_or_default())
}

/// Reads an array, with `None` for `null`.
pub(crate) fn nullable_list<'de, T, A>(map: &mut A) -> Result<Option<Vec<T>>, A::Error>
where
    T: Deserialize<'de> + Default,
    A: MapAccess<'de>,
{
    let elements = map.next_value::<Option<Vec<Option<T>>>>()?;
    Ok(elements.map(|elements| elements.into_iter().map(Option::unwrap_or_default).collect()))
}

/// Reads an object whose member names are data; `null` is the empty one.
pub(crate) fn dictionary<'de, T, A>(map: &mut A) -> Result<BTreeMap<String, T>, A::Error>
where
    T: Deserialize<'de> + Default,
    A: MapAccess<'de>,
{
    let entries = map.next_value::<Option<BTreeMap<String, Option<T>>>>()?.unwrap_or_default();
    Ok(entries.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).into_map())
}

/// Reads a value and drops it. Takes no stack at any depth.
pub(crate) fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(drop)
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Members<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut value = T::default();
        while let Some(name) = map.next_key_seed(KnownName(T::NAMES))? {
            match name {
                Some(name) => {
                    let since = noted();
                    value
                        .read(name, &mut map)
                        .map_err(|e| A::Error::custom(format_args!("{name}: {e}")))?;
                    note_place(name, since);
                }
                None => skip(&mut map)?,
            }
        }
        Ok(value)
    }
}

/// Reads a member name without allocating, and returns the known name that matches, if any.
struct KnownName(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for KnownName {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KnownName {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let found = self.0.iter().copied().find(|known| known.eq_ignore_ascii_case(name));
        if found.is_none() {
            note(name, self.0);
        }
        Ok(found)
    }
}
