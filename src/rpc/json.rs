//! JSON exactly as Go's encoder writes it: callers and their logs depend on its form.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

/// Appends `value` to `out`, compact, the way Go does: `<`, `>`, `&`, U+2028 and U+2029 escaped,
/// control characters as `\u00XX` but for `\n`, `\r` and `\t`, floats in their shortest form.
///
/// # Errors
/// If `value` has no JSON form, such as a map whose keys are structs.
pub fn write(out: &mut Vec<u8>, value: &impl Serialize) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, GoFormatter))
}

/// Writes a value as JSON. It is a trait object, so that a function which takes it is compiled once
/// for all types.
pub(super) type Writer<'a> = &'a dyn Fn(&mut Vec<u8>) -> serde_json::Result<()>;

/// Returns well-formed JSON without whitespace between its parts, with the characters escaped that
/// [`write()`] escapes. Everything else, especially the digits of numbers, stays as it was written.
pub fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut after_backslash) = (false, false);
    for c in json.chars() {
        match c {
            ' ' | '\t' | '\n' | '\r' if !in_string => continue,
            '"' if !after_backslash => in_string = !in_string,
            _ => {}
        }
        after_backslash = c == '\\' && !after_backslash;
        match escape(c) {
            Some(escaped) => out.push_str(escaped),
            None => out.push(c),
        }
    }
    out
}

/// Returns the escape of a character that is valid in JSON but unsafe in HTML or JavaScript.
fn escape(c: char) -> Option<&'static str> {
    match c {
        '<' => Some("\\u003c"),
        '>' => Some("\\u003e"),
        '&' => Some("\\u0026"),
        '\u{2028}' => Some("\\u2028"),
        '\u{2029}' => Some("\\u2029"),
        _ => None,
    }
}

struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut written = 0;
        for (at, c) in fragment.char_indices() {
            if let Some(escaped) = escape(c) {
                out.write_all(&fragment.as_bytes()[written..at])?;
                out.write_all(escaped.as_bytes())?;
                written = at + c.len_utf8();
            }
        }
        out.write_all(&fragment.as_bytes()[written..])
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Backspace => out.write_all(b"\\u0008"),
            CharEscape::FormFeed => out.write_all(b"\\u000c"),
            other => CompactFormatter.write_char_escape(out, other),
        }
    }

    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        let magnitude = value.abs();
        if magnitude == 0.0 || (1e-6..1e21).contains(&magnitude) {
            return write!(out, "{value}");
        }
        let text = format!("{value:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => {
                write!(out, "{digits}e+{exponent}")
            }
            _ => out.write_all(text.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: &impl Serialize) -> String {
        let mut out = Vec::new();
        write(&mut out, value).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_look_as_in_go() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (24.0, "24"),
            (24.386308517, "24.386308517"),
            (0.000091686, "0.000091686"),
            (1e-6, "0.000001"),
            (9.99e-7, "9.99e-7"),
            (1e-9, "1e-9"),
            (-1.5e-10, "-1.5e-10"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-1.7976931348623157e308, "-1.7976931348623157e+308"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(written(&value), text);
        }
        assert_eq!(written(&f64::NAN), "null");
    }

    #[test]
    fn strings_look_as_in_go() {
        assert_eq!(
            written(&"<a&b>\u{2028}\u{2029} é ☃ 😀 \" \\ / \t\n\r\u{8}\u{c}\u{1}\u{1f}\u{7f}"),
            concat!(
                r#""\u003ca\u0026b\u003e\u2028\u2029 é ☃ 😀 \" \\ / \t\n\r\u0008\u000c\u0001"#,
                "\\u001f\u{7f}\""
            )
        );
    }

    #[test]
    fn integers_are_exact_to_64_bits() {
        assert_eq!(written(&u64::MAX), "18446744073709551615");
        assert_eq!(written(&i64::MIN), "-9223372036854775808");
    }

    #[test]
    fn compacting_takes_blanks_between_parts_alone() {
        assert_eq!(
            compact("{ \"a b\\\" c\\\\\" :\t[ 1.50 ,\r\n1E5, -0 , \"<&>\u{2028}\" ] }"),
            r#"{"a b\" c\\":[1.50,1E5,-0,"\u003c\u0026\u003e\u2028"]}"#
        );
    }

    proptest! {
        #[test]
        fn every_string_is_read_again_and_is_compact_already(text: String) {
            let json = written(&text);
            prop_assert_eq!(&serde_json::from_str::<String>(&json).unwrap(), &text);
            prop_assert_eq!(compact(&json), json);
        }

        #[test]
        fn every_float_is_read_again(
            value in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL,
        ) {
            prop_assert_eq!(written(&value).parse::<f64>().unwrap(), value);
        }
    }
}
