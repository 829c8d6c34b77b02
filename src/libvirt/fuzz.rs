//! Properties of typed parameters that hold for any content from a driver.

use std::ffi::CString;
use std::str;

use super::params::{Name, Value, read};
use crate::sys;

/// Bytes of one parameter before its text: its type, its value, and the length of its text.
const HEAD_BYTES: usize = 10;
const FIELD_BYTES: usize = sys::VIR_TYPED_PARAM_FIELD_LENGTH as usize;

/// Reads parameters as a driver might fill them, in sequence: ten bytes of type, value and length, then `length` bytes
/// with the name, and after a first NUL the value of a text parameter.
pub(crate) fn parameters(mut data: &[u8]) -> Vec<(Name, Value)> {
    let mut read_so_far = Vec::new();
    while let Some((head, rest)) = data.split_first_chunk::<HEAD_BYTES>() {
        let [kind, number @ .., length] = *head;
        let (text, after) = rest.split_at_checked(usize::from(length)).unwrap_or((rest, &[]));
        data = after;
        read_so_far.extend(parameter(kind, number, text));
    }
    read_so_far
}

fn parameter(kind: u8, number: [u8; 8], text: &[u8]) -> Option<(Name, Value)> {
    // SAFETY: all zero bits are a valid parameter: an empty name, type 0 (none), no pointer.
    let mut raw = unsafe { std::mem::zeroed::<sys::virTypedParameter>() };
    // Includes undefined types, one of them negative.
    raw.type_ = i32::from(kind % 12) - 2;
    for (to, from) in raw.field.iter_mut().zip(text) {
        *to = std::ffi::c_char::from_ne_bytes([*from]);
    }
    raw.value.ul = u64::from_le_bytes(number);
    let after_name = text.splitn(2, |byte| *byte == 0).nth(1).map(|rest| {
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        CString::new(rest.get(..end).unwrap_or_default()).expect("it ends before a NUL")
    });
    let is_text = u32::try_from(raw.type_) == Ok(sys::VIR_TYPED_PARAM_STRING);
    if is_text {
        raw.value.s = after_name.as_ref().map_or(std::ptr::null_mut(), |it| it.as_ptr().cast_mut());
    }
    // SAFETY: the member that the type names is set; a text lives in `after_name`.
    let (name, value) = unsafe { read(&raw) }?;
    let end = text.iter().take(FIELD_BYTES).position(|byte| *byte == 0);
    let end = end.unwrap_or(text.len().min(FIELD_BYTES));
    let expected = text.get(..end).and_then(|name| str::from_utf8(name).ok()).unwrap_or_default();
    assert_eq!(&*name, expected, "the name up to its NUL or its end");
    assert_eq!(matches!(value, Value::Text(_)), is_text);
    match &value {
        Value::Text(text) => {
            let expected = after_name.as_deref().unwrap_or_default().to_string_lossy();
            assert_eq!(*text, expected);
        }
        Value::Signed(number) => assert_eq!(value.as_u64().is_none(), *number < 0),
        Value::Unsigned(number) => assert_eq!(value.as_u64(), Some(*number)),
        Value::Real(_) => assert_eq!((value.as_u64(), value.as_i64()), (None, None)),
    }
    Some((name, value))
}
