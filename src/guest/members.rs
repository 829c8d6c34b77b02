//! Reading JSON objects the way Go's decoder does, which the callers of this agent rely on:
//! `null` is the zero value wherever it stands, unknown members are dropped, of a member given
//! twice the last one wins, and letter case in member names does not matter. Errors name the
//! member.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// A struct that is read member by member.
pub(crate) trait Members<'de>: Default {
    /// The member names as they are written.
    const NAMES: &'static [&'static str];

    /// Reads the value of the member `name`, one of [`Self::NAMES`].
    fn read<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;
}

/// Implements [`Members`] and `Deserialize`: wire name, field, and the function of this module
/// that reads it.
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

/// Reads an array; `null` is the empty one.
pub(crate) fn list<'de, T, A>(map: &mut A) -> Result<Vec<T>, A::Error>
where
    T: Deserialize<'de> + Default,
    A: MapAccess<'de>,
{
    Ok(nullable_list(map)?.unwrap_or_default())
}

/// Reads an array that is told apart from `null`.
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
    Ok(entries.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect())
}

/// Reads a value and drops it. However deep it is, this takes no stack.
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
                Some(name) => value
                    .read(name, &mut map)
                    .map_err(|e| A::Error::custom(format_args!("{name}: {e}")))?,
                None => skip(&mut map)?,
            }
        }
        Ok(value)
    }
}

/// Reads a member name without allocating: the known name that it is, if any.
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
        Ok(self.0.iter().copied().find(|known| known.eq_ignore_ascii_case(name)))
    }
}
