use proptest::prelude::*;

use super::*;

fn read(xml: &str) -> Result<Element, Error> {
    Element::from_xml(xml, "a")
}

#[test]
fn references_and_cdata_become_text() {
    let a = read("<a>&lt;&#65;&#x42;<![CDATA[<&>]]>&amp;&apos;&quot;&gt;</a>").unwrap();
    assert_eq!(a.text, "<AB<&>&'\">");
}

#[test]
fn namespaces_are_resolved_whatever_their_prefix() {
    let a = read(r#"<a xmlns:p="urn:x"><p:b/><b xmlns="urn:x" k="v"><c/></b><b/></a>"#).unwrap();
    assert_eq!(a.children_in("urn:x", "b").count(), 2);
    assert_eq!(a.children_in("", "b").count(), 1);
    assert_eq!(a.children[1].attributes, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(a.children[1].child_in("urn:x", "c").name, "c");
}

#[test]
fn an_absent_child_reads_as_empty() {
    let a = read("<a/>").unwrap();
    assert_eq!(a.child("b").child("c").attribute("d"), "");
}

#[test]
fn malformed_xml_is_an_error() {
    for xml in [
        "",
        "text",
        "<a>",
        "</a>",
        "<a></b>",
        "<a/><a/>",
        "<a/>x",
        "<a b=c/>",
        "<a b='1' b='2'/>",
        "<a>&nope;</a>",
        "<a>&#0;</a>",
        "<a b='&#xD800;'/>",
        "<a b='&x'/>",
        "<p:a/>",
        "<a",
    ] {
        assert!(matches!(read(xml), Err(Error::Malformed(_))), "{xml}: {:?}", read(xml));
    }
}

#[test]
fn another_root_is_an_error() {
    let found = "domain".to_owned();
    assert_eq!(read("<domain/>"), Err(Error::WrongRoot { expected: "a", found }));
    assert!(read("<a xmlns='urn:x'/>").is_err());
}

#[test]
fn deep_nesting_is_an_error_and_takes_no_stack() {
    let nested = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
    assert!(read(&nested(DEPTH_MAX)).is_ok());
    assert_eq!(read(&nested(DEPTH_MAX + 1)), Err(Error::TooDeep));
    assert_eq!(read(&nested(200_000)), Err(Error::TooDeep));
}

#[test]
fn blanks_and_carriage_returns_become_references() {
    let a = Element::new("a").with("k", "\t\n\r\"<>&'").holding("\r\n\t\"<>&");
    assert_eq!(
        a.to_xml(),
        "<a k=\"&#9;&#10;&#13;&#34;&#60;&#62;&#38;'\">&#13;\n\t\"&#60;&#62;&#38;</a>"
    );
}

/// Compares with a file of `tests/golden`, or writes the file if `MISTIFY_GOLDEN=write`.
pub(in crate::guest) fn assert_golden(name: &str, xml: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("MISTIFY_GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&path, format!("{xml}\n")).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim_end(), xml, "{path}");
}

/// Generates any string that XML can carry.
pub(in crate::guest) fn xml_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![
            Just('\r'),
            Just('\n'),
            Just('\t'),
            proptest::char::range(' ', '~'),
            any::<char>(),
        ],
        0..24,
    )
    .prop_map(|cs| cs.into_iter().filter(|c| crate::guest::check::xml_carries(*c)).collect())
}

proptest! {
    #[test]
    fn written_text_is_read_back(value in xml_text(), text in xml_text()) {
        let child = Element::new("b").with("k", &value).holding(&text);
        let a = Element::new("a").containing([child]);
        prop_assert_eq!(read(&a.to_xml()), Ok(a));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*", cut in 0_usize..40) {
        let xml = format!("<a k='{text}'>{text}</a>");
        let _ = read(&text);
        let _ = read(xml.get(..xml.len().saturating_sub(cut)).unwrap_or(&xml));
    }
}
