//! URLs of images, restricted to a form that all programs parse in the same way.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The maximum length of a URL in bytes.
const URL_BYTES_MAX: usize = 2048;
/// The maximum length of a host name in bytes (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// The protocol of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without authentication of the server.
    Http,
    /// With authentication of the server.
    Https,
}

/// The host of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name, in lower case.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// A URL with scheme, host, port and target only: without user, password and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// The scheme.
    pub scheme: Scheme,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// Path and query, starting with `/`.
    pub target: String,
}

impl Url {
    /// Parses a URL.
    ///
    /// # Errors
    /// The fault of the URL, in a few words.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > URL_BYTES_MAX {
            return Err("it is too long");
        }
        let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err("the scheme must be http or https"),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = authority_of(authority, scheme)?;
        let target = match target.starts_with('/') {
            true => target.to_owned(),
            false => format!("/{target}"),
        };
        if !is_target(&target) {
            return Err("the path has characters that are not allowed");
        }
        Ok(Self { scheme, host, port, target })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.target)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl Host {
    /// Parses a host; an IPv6 address is in brackets.
    ///
    /// # Errors
    /// The fault of the host.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: Ipv6Addr =
                address.parse().map_err(|_| "the host is not an IPv6 address")?;
            return Ok(Self::Address(IpAddr::V6(address)));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(IpAddr::V4(address)));
        }
        let is_label = |label: &str| {
            let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !label.is_empty() && !label.starts_with('-') && label.bytes().all(is_inside)
        };
        // The last label must not be a number: resolvers accept `127.1` and `0x7f000001` as addresses.
        let is_name = text.len() <= HOST_BYTES_MAX
            && text.split('.').all(is_label)
            && text
                .rsplit('.')
                .next()
                .is_some_and(|last| last.starts_with(|c: char| c.is_ascii_alphabetic()));
        match is_name {
            true => Ok(Self::Name(text.to_ascii_lowercase())),
            false => Err("the host is neither a name nor an address"),
        }
    }
}

/// The image service of this host, which may have a private address and use http.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The host.
    pub host: Host,
    /// The port of its http server.
    pub port: u16,
}

impl Service {
    /// Parses a host and an optional port, which is 80 by default.
    ///
    /// # Errors
    /// The fault of the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        authority_of(text, Scheme::Http).map(|(host, port)| Self { host, port })
    }
}

fn authority_of(text: &str, scheme: Scheme) -> Result<(Host, u16), &'static str> {
    let after_host = text.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match text.get(after_host..).and_then(|rest| rest.find(':')) {
        None => (text, None),
        Some(colon) => {
            let (host, port) = text.split_at(after_host + colon);
            (host, port.get(1..))
        }
    };
    let port = match port {
        None => match scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        },
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port != 0).ok_or("the port is out of range")?
        }
        Some(_) => return Err("the port is not a number"),
    };
    Ok((Host::parse(host)?, port))
}

/// Returns whether a text is a path with an optional query (RFC 3986).
fn is_target(text: &str) -> bool {
    text.starts_with('/') && is_uri(text, b"-._~!$&'()*+,;=:@/?")
}

/// Returns whether a URI may contain the text: letters, digits, `marks`, and percent-encoded bytes (`%` and two
/// hexadecimal digits).
pub(crate) fn is_uri(text: &str, marks: &[u8]) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_right = match byte {
            b'%' => [bytes.next(), bytes.next()]
                .iter()
                .all(|digit| digit.is_some_and(|it| it.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || marks.contains(&byte),
        };
        if !is_right {
            return false;
        }
    }
    true
}

/// Encodes a text as one component of a path: all characters except letters, digits and `-._~` are percent-encoded (RFC
/// 3986).
pub fn component(text: &str) -> String {
    text.bytes().fold(String::new(), |mut path, byte| {
        match byte {
            _ if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                path.push(char::from(byte))
            }
            _ => path += &format!("%{byte:02X}"),
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_written_as_it_was_understood() {
        for (text, expected) in [
            ("https://Images.Example/a/b?c=d", "https://images.example:443/a/b?c=d"),
            ("http://192.0.2.1:8080", "http://192.0.2.1:8080/"),
            ("HTTPS://[2001:DB8::1]/x", "https://[2001:db8::1]:443/x"),
            ("https://a.example?q", "https://a.example:443/?q"),
            ("https://a.example/%7Ea", "https://a.example:443/%7Ea"),
        ] {
            assert_eq!(
                Url::parse(text).map(|url| url.to_string()).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn ambiguous_url_is_refused() {
        for text in [
            "",
            "a",
            "ftp://a.example/",
            "file:///etc/shadow",
            "https://",
            "https:///a",
            "https://a.example:0/",
            "https://a.example:65536/",
            "https://a.example:8 0/",
            "https://u@a.example/",
            "https://u:p@a.example/",
            "https://a.example\\@b.example/",
            "https://a.example/a b",
            "https://a.example/#f",
            "https://a.example/%7",
            "https://a.example/\r\nX: y",
            "https://127.1/",
            "https://0x7f000001/",
            "https://2130706433/",
            "https://0177.0.0.1/",
            "https://-a.example/",
            "https://a..example/",
            "https://[::1/",
            "https://::1/",
            "https://[::ffff:127.0.0.1%25lo]/",
            "https://ä.example/",
            "https://a.example/{1,2}",
            "https://a.example/[1-2]",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
        assert!(Url::parse(&format!("https://a.example/{}", "x".repeat(URL_BYTES_MAX))).is_err());
    }

    #[test]
    fn a_service_without_a_port_has_that_of_http() {
        let service = Service::parse("Images.Example").unwrap();
        assert_eq!(service, Service { host: Host::Name("images.example".to_owned()), port: 80 });
        assert_eq!(Service::parse("[::1]:8080").unwrap().port, 8080);
        for text in ["", "http://a.example", "a.example/images", "u@a.example", "a.example:0"] {
            assert!(Service::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_is_one_component() {
        assert_eq!(component("a-1._~b"), "a-1._~b");
        assert_eq!(component("a/../b:c%"), "a%2F..%2Fb%3Ac%25");
    }
}
