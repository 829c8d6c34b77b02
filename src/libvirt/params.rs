//! libvirt's typed parameters: named values of seven types.

use std::ffi::{c_char, c_int};
use std::fmt;
use std::ops::Deref;
use std::str;

use crate::libvirt::strings::copy_borrowed;
use crate::sys;

/// A value of a typed parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `int` and `long long`.
    Signed(i64),
    /// `unsigned int`, `unsigned long long` and `bool`.
    Unsigned(u64),
    /// `double`.
    Real(f64),
    /// A string.
    Text(String),
}

impl Value {
    /// Returns the value as a count, from any integer type of the driver; `None` for a negative
    /// one.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Signed(number) => u64::try_from(*number).ok(),
            Self::Unsigned(number) => Some(*number),
            Self::Real(_) | Self::Text(_) => None,
        }
    }

    /// Returns the value as a signed number, from any integer type of the driver.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Signed(number) => Some(*number),
            Self::Unsigned(number) => i64::try_from(*number).ok(),
            Self::Real(_) | Self::Text(_) => None,
        }
    }
}

/// libvirt's size of a name in bytes, with the terminating NUL.
const NAME_BYTES: usize = sys::VIR_TYPED_PARAM_FIELD_LENGTH as usize;

/// A parameter's name, of up to 79 bytes. Stored inline, because a sample of all guests has
/// hundreds.
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; NAME_BYTES],
    length: usize,
}

impl Name {
    /// Reads the name from libvirt's array, up to the first NUL or the end. Empty for a name that
    /// is not UTF-8, because no caller looks for one.
    fn new(bytes: [u8; NAME_BYTES]) -> Self {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
        let text = bytes.get(..end).and_then(|text| str::from_utf8(text).ok());
        Self { bytes, length: text.map_or(0, str::len) }
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        let text = self.bytes.get(..self.length).and_then(|text| str::from_utf8(text).ok());
        text.unwrap_or_default()
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
impl From<&str> for Name {
    fn from(text: &str) -> Self {
        let mut bytes = [0; NAME_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self::new(bytes)
    }
}

/// An array for a driver to fill; skipped entries stay untyped and are not read.
pub(super) struct ParamArray(Vec<sys::virTypedParameter>);

impl ParamArray {
    pub(super) fn new(len: usize) -> Self {
        // SAFETY: all zero bits are a valid parameter: an empty name, type 0 (none), no pointer.
        let empty = unsafe { std::mem::zeroed::<sys::virTypedParameter>() };
        Self(vec![empty; len])
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut sys::virTypedParameter {
        self.0.as_mut_ptr()
    }

    /// Builds parameters for a driver: numbers of 64 bits.
    pub(super) fn long(parameters: &[(&str, u64)]) -> Self {
        let value = |ul| sys::_virTypedParameter__bindgen_ty_1 { ul };
        Self::filled(parameters, sys::VIR_TYPED_PARAM_ULLONG, value)
    }

    /// Builds parameters for a driver: numbers of 32 bits; larger ones are clamped to the maximum.
    pub(super) fn short(parameters: &[(&str, u64)]) -> Self {
        let value = |number| {
            let ui = u32::try_from(number).unwrap_or(u32::MAX);
            sys::_virTypedParameter__bindgen_ty_1 { ui }
        };
        Self::filled(parameters, sys::VIR_TYPED_PARAM_UINT, value)
    }

    fn filled(
        parameters: &[(&str, u64)],
        kind: u32,
        value: fn(u64) -> sys::_virTypedParameter__bindgen_ty_1,
    ) -> Self {
        let mut array = Self::new(parameters.len());
        for (raw, (name, number)) in array.0.iter_mut().zip(parameters) {
            // The last byte stays 0.
            for (to, from) in raw.field.iter_mut().zip(name.bytes().take(NAME_BYTES - 1)) {
                *to = c_char::from_ne_bytes([from]);
            }
            raw.type_ = c_int::try_from(kind).unwrap_or_default();
            raw.value = value(*number);
        }
        array
    }

    /// Returns the number of entries.
    pub(super) fn len(&self) -> c_int {
        c_int::try_from(self.0.len()).unwrap_or(0)
    }

    /// Returns the entries that a driver has filled, by name.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Name, Value)> {
        // SAFETY: each entry is as libvirt filled it, or zero.
        self.0.iter().filter_map(|raw| unsafe { read(raw) })
    }

    /// Returns up to `len` filled entries, from `start` on.
    pub(super) fn part(&self, start: usize, len: usize) -> impl Iterator<Item = (Name, Value)> {
        // SAFETY: as in `entries`.
        self.0.iter().skip(start).take(len).filter_map(|raw| unsafe { read(raw) })
    }
}

impl Drop for ParamArray {
    fn drop(&mut self) {
        let len = self.len();
        // SAFETY: the array is ours and has `len` entries; this frees only the strings inside.
        unsafe { sys::virTypedParamsClear(self.0.as_mut_ptr(), len) }
    }
}

/// Reads one parameter's name and value; `None` for a type that this crate does not know.
///
/// # Safety
/// `raw` is zero or as libvirt filled it: the member of `value` that `type_` names is set.
pub(super) unsafe fn read(raw: &sys::virTypedParameter) -> Option<(Name, Value)> {
    let kind = u32::try_from(raw.type_).ok()?;
    let value = match kind {
        // SAFETY: for this and the arms below: the member that `type_` names.
        sys::VIR_TYPED_PARAM_INT => Value::Signed(i64::from(unsafe { raw.value.i })),
        // SAFETY: see the first arm.
        sys::VIR_TYPED_PARAM_UINT => Value::Unsigned(u64::from(unsafe { raw.value.ui })),
        // SAFETY: see the first arm.
        sys::VIR_TYPED_PARAM_LLONG => Value::Signed(unsafe { raw.value.l }),
        // SAFETY: see the first arm.
        sys::VIR_TYPED_PARAM_ULLONG => Value::Unsigned(unsafe { raw.value.ul }),
        // SAFETY: see the first arm.
        sys::VIR_TYPED_PARAM_DOUBLE => Value::Real(unsafe { raw.value.d }),
        // SAFETY: see the first arm; any bit pattern is a number.
        sys::VIR_TYPED_PARAM_BOOLEAN => Value::Unsigned(u64::from(unsafe { raw.value.b } != 0)),
        sys::VIR_TYPED_PARAM_STRING => {
            // SAFETY: see the first arm.
            let text = unsafe { raw.value.s };
            // SAFETY: NULL or NUL-terminated, owned by the parameter.
            Value::Text(unsafe { copy_borrowed(text) }.unwrap_or_default())
        }
        _ => return None,
    };
    Some((Name::new(raw.field.map(|byte| u8::from_ne_bytes(byte.to_ne_bytes()))), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_with_its_nul_or_its_array_and_is_text() {
        assert_eq!(&*Name::from("net.0.rx.bytes"), "net.0.rx.bytes");
        assert_eq!(Name::new([b'a'; NAME_BYTES]).len(), NAME_BYTES);
        assert_eq!(&*Name::new([0xff; NAME_BYTES]), "");
    }
}
