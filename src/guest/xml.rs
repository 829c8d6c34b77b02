//! XML as a small tree, read and written with quick-xml's events: the only XML code of the module `guest`.

use std::borrow::Cow;
use std::fmt;

use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesEnd, BytesRef, BytesStart, BytesText, Event};
use quick_xml::name::{QName, ResolveResult};
use quick_xml::{NsReader, Writer, XmlVersion};

/// The maximum depth of elements; libxml2, which writes this XML, stops at 256 too.
const DEPTH_MAX: usize = 256;

/// The reason why a text is not the expected XML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The text is not well-formed; with the parser's message.
    Malformed(String),
    /// Elements nest deeper than in any XML of libvirt.
    TooDeep,
    /// The text is well-formed, but another document.
    WrongRoot {
        /// The name of the expected root element.
        expected: &'static str,
        /// The name of the root element found.
        found: String,
    },
    /// A number is invalid or too large.
    Number {
        /// The element or attribute with the number.
        name: &'static str,
        /// The text in its place.
        found: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(cause) => write!(f, "malformed XML: {cause}"),
            Self::TooDeep => write!(f, "XML elements nest deeper than {DEPTH_MAX}"),
            Self::WrongRoot { expected, found } => {
                write!(f, "the root element is <{found}>, expected <{expected}>")
            }
            Self::Number { name, found } => write!(f, "{name} in XML is not a number: {found:?}"),
        }
    }
}

impl std::error::Error for Error {}

/// An element with its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// The name, without prefix in an element that was read; written unchanged.
    pub name: String,
    /// The namespace of an element that was read; empty for none. Written if it differs from that of the enclosing
    /// element; an element to write may have an `xmlns` attribute instead.
    pub namespace: String,
    /// Names and values; in an element that was read, without namespace declarations.
    pub attributes: Vec<(String, String)>,
    /// The child elements.
    pub children: Vec<Element>,
    /// The text of the element, with the pieces between children joined.
    pub text: String,
}

/// The value of an absent child.
static ABSENT: Element = Element {
    name: String::new(),
    namespace: String::new(),
    attributes: Vec::new(),
    children: Vec::new(),
    text: String::new(),
};

impl Element {
    /// Returns an empty element.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.attributes.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an attribute, unless the value is empty.
    #[must_use]
    pub fn with_nonempty(self, name: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.with(name, value) }
    }

    /// Sets the text.
    #[must_use]
    pub fn holding(mut self, text: &str) -> Self {
        text.clone_into(&mut self.text);
        self
    }

    /// Appends children.
    #[must_use]
    pub fn containing(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.children.extend(children);
        self
    }

    /// Returns the first child of this name and no namespace; an empty element if there is none.
    pub fn child(&self, name: &str) -> &Element {
        self.child_in("", name)
    }

    /// Returns the first child of this name in this namespace; an empty element if there is none.
    pub fn child_in(&self, namespace: &str, name: &str) -> &Element {
        self.children_in(namespace, name).next().unwrap_or(&ABSENT)
    }

    /// Returns the children of this name in this namespace.
    pub fn children_in(&self, namespace: &str, name: &str) -> impl Iterator<Item = &Element> {
        self.children.iter().filter(move |c| c.name == name && c.namespace == namespace)
    }

    /// Returns the first child of this name and no namespace; adds the child if it does not exist.
    pub fn child_mut(&mut self, name: &str) -> &mut Element {
        let is_it = |child: &Element| child.name == name && child.namespace.is_empty();
        let place = self.children.iter().position(is_it).unwrap_or_else(|| {
            self.children.push(Element::new(name));
            self.children.len() - 1
        });
        &mut self.children[place]
    }

    /// Returns whether the element has a child of this name and no namespace.
    pub fn has(&self, name: &str) -> bool {
        self.children_in("", name).next().is_some()
    }

    /// Removes the children of this name and no namespace for which `is_it` holds.
    pub fn remove(&mut self, name: &str, is_it: impl Fn(&Element) -> bool) {
        self.children
            .retain(|child| child.name != name || !child.namespace.is_empty() || !is_it(child));
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.attributes.iter_mut().find(|(candidate, _)| candidate == name) {
            Some((_, former)) => value.clone_into(former),
            None => self.attributes.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Returns the value of an attribute; empty if there is none.
    pub fn attribute(&self, name: &str) -> &str {
        let found = self.attributes.iter().find(|(candidate, _)| candidate == name);
        found.map_or("", |(_, value)| value)
    }

    /// Returns the text without surrounding white space.
    pub fn trimmed(&self) -> &str {
        self.text.trim()
    }

    /// Returns the element as a document, without indentation.
    pub fn to_xml(&self) -> String {
        let mut writer = Writer::new(Vec::new());
        write_element(&mut writer, self, "").expect("a Vec takes every write");
        String::from_utf8(writer.into_inner()).expect("names, values and text are UTF-8")
    }

    /// Reads a document whose root is `<name>`.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::TooDeep`] and [`Error::WrongRoot`].
    pub fn from_xml(xml: &str, name: &'static str) -> Result<Self, Error> {
        let root = read_document(xml)?;
        if root.name == name && root.namespace.is_empty() {
            return Ok(root);
        }
        Err(Error::WrongRoot { expected: name, found: root.name })
    }
}

fn write_element(
    writer: &mut Writer<Vec<u8>>,
    element: &Element,
    around: &str,
) -> std::io::Result<()> {
    let mut start = BytesStart::new(element.name.as_str());
    let namespace = ("xmlns".to_owned(), element.namespace.clone());
    let declared = (element.namespace != around).then_some(&namespace);
    for (name, value) in declared.into_iter().chain(&element.attributes) {
        // A parser turns a raw tab or line end in an attribute into a blank; a reference survives.
        let value = escape(value, &['<', '>', '&', '"', '\t', '\n', '\r']);
        start.push_attribute(Attribute {
            key: QName(name.as_bytes()),
            value: Cow::Borrowed(value.as_bytes()),
        });
    }
    if element.text.is_empty() && element.children.is_empty() {
        return writer.write_event(Event::Empty(start));
    }
    writer.write_event(Event::Start(start))?;
    // A parser turns a raw carriage return into a line feed.
    let text = escape(&element.text, &['<', '>', '&', '\r']);
    writer.write_event(Event::Text(BytesText::from_escaped(text)))?;
    for child in &element.children {
        write_element(writer, child, &element.namespace)?;
    }
    writer.write_event(Event::End(BytesEnd::new(element.name.as_str())))
}

/// Returns the maximum number of bytes of a text in XML with its special characters as references.
pub(crate) fn escaped_bytes(text: &str) -> usize {
    let bytes = |c: char| match c {
        '<' | '>' | '&' | '"' | '\'' => "&quot;".len(),
        c if c < ' ' => "&#x1F;".len(),
        c => c.len_utf8(),
    };
    text.chars().map(bytes).sum()
}

/// Replaces each of `specials` by a character reference.
fn escape<'a>(raw: &'a str, specials: &[char]) -> Cow<'a, str> {
    if !raw.contains(specials) {
        return Cow::Borrowed(raw);
    }
    let mut escaped = String::with_capacity(raw.len() + raw.len() / 4);
    for c in raw.chars() {
        if specials.contains(&c) {
            escaped.push_str(&format!("&#{};", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn read_document(xml: &str) -> Result<Element, Error> {
    let mut reader = NsReader::from_str(xml);
    // The open elements, outermost first, after an element that holds the root.
    let mut open = vec![Element::default()];
    loop {
        let (namespace, event) = reader.read_resolved_event().map_err(malformed)?;
        match event {
            Event::Start(start) => {
                if open.len() > DEPTH_MAX {
                    return Err(Error::TooDeep);
                }
                open.push(read_start(namespace, &start)?);
            }
            Event::Empty(start) => {
                let element = read_start(namespace, &start)?;
                innermost(&mut open)?.children.push(element);
            }
            Event::End(_) => {
                let element = open.pop().unwrap_or_default();
                innermost(&mut open)?.children.push(element);
            }
            Event::Text(text) => {
                let text = text.xml10_content().map_err(malformed)?;
                innermost(&mut open)?.text.push_str(&text);
            }
            Event::CData(text) => {
                let text = text.xml10_content().map_err(malformed)?;
                innermost(&mut open)?.text.push_str(&text);
            }
            Event::GeneralRef(reference) => {
                innermost(&mut open)?.text.push(resolve(&reference)?);
            }
            Event::Eof => break,
            Event::Comment(_) | Event::PI(_) | Event::Decl(_) | Event::DocType(_) => {}
        }
    }
    let [document] = open.as_mut_slice() else {
        return Err(Error::Malformed("the text ends inside an element".to_owned()));
    };
    match (document.children.pop(), document.children.is_empty(), document.trimmed()) {
        (Some(root), true, "") => Ok(root),
        _ => Err(Error::Malformed("expected exactly one root element".to_owned())),
    }
}

fn read_start(namespace: ResolveResult<'_>, start: &BytesStart<'_>) -> Result<Element, Error> {
    let mut element = Element::new(&utf8(start.local_name().into_inner())?);
    element.namespace = match namespace {
        ResolveResult::Bound(namespace) => utf8(namespace.into_inner())?,
        ResolveResult::Unbound => String::new(),
        ResolveResult::Unknown(prefix) => {
            let prefix = utf8(&prefix)?;
            return Err(Error::Malformed(format!("namespace prefix {prefix:?} is not declared")));
        }
    };
    for attribute in start.attributes() {
        let attribute = attribute.map_err(malformed)?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(malformed)?;
        if attribute.key.as_namespace_binding().is_none() {
            element.attributes.push((utf8(attribute.key.into_inner())?, value.into_owned()));
        }
    }
    Ok(element)
}

/// Returns the character of `&name;` or `&#number;`.
fn resolve(reference: &BytesRef<'_>) -> Result<char, Error> {
    if let Some(character) = reference.resolve_char_ref().map_err(malformed)? {
        return Ok(character);
    }
    match &**reference {
        b"lt" => Ok('<'),
        b"gt" => Ok('>'),
        b"amp" => Ok('&'),
        b"apos" => Ok('\''),
        b"quot" => Ok('"'),
        other => Err(Error::Malformed(format!("entity {:?} is not declared", utf8(other)?))),
    }
}

fn innermost(open: &mut [Element]) -> Result<&mut Element, Error> {
    open.last_mut().ok_or_else(|| Error::Malformed("an end tag has no start tag".to_owned()))
}

fn utf8(bytes: &[u8]) -> Result<String, Error> {
    String::from_utf8(bytes.to_vec()).map_err(malformed)
}

fn malformed(error: impl fmt::Display) -> Error {
    Error::Malformed(error.to_string())
}

#[cfg(test)]
pub(in crate::guest) mod tests;
