//! Checks of a request before its body is read and before a handler gets it: callers beyond this
//! host need a token, and no web page may have sent the request.
//!
//! A browser lets every web page send requests to this host on behalf of its user. It names the
//! page's origin in `Origin` and `Sec-Fetch-Site`. A page whose own host name was pointed at this
//! host (DNS rebinding) sends that name in `Host`.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::fetch::is_uri;
use crate::http::http_stats::{Reason, Refusal};
use crate::http::http1::request::Request;
use crate::os::peer::{Caller, Origin};

use super::token::Token;

// The refusal gives no reason, which would help an attacker who guesses tokens.
const TOKEN: Refusal = Refusal { reason: Reason::Token, sentence: "unauthorized" };
const HOST_SYNTAX: Refusal = Refusal::malformed("malformed Host");
const HOST: Refusal = forbidden("Host: not an address, localhost or a name from --allow-host");
const ORIGIN: Refusal = forbidden("Origin: cross-origin requests are refused");
const SITE: Refusal = forbidden("Sec-Fetch-Site: cross-origin requests are refused");

const fn forbidden(sentence: &'static str) -> Refusal {
    Refusal { reason: Reason::Page, sentence }
}

/// The rules of one front.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    pub(crate) beyond: RemoteAccess,
    /// Names of this host besides `localhost`.
    pub(crate) names: Vec<String>,
}

/// What callers beyond this host must present.
#[derive(Clone, Debug, Default)]
pub(crate) enum RemoteAccess {
    /// They may not call.
    #[default]
    Closed,
    /// A request must carry this token.
    Token(Token),
    /// Nothing is required.
    Open,
}

impl Guard {
    /// Checks whether this request of that caller may continue. Only the request's head is read.
    ///
    /// # Errors
    /// The refusal of a request that may not.
    pub(in crate::http) fn judge(&self, request: &Request, caller: &Caller) -> Result<(), Refusal> {
        if let Origin::Network(_) = caller.origin {
            self.check_token(request)?;
        }
        let host = one(request, "host");
        if caller.origin != Origin::Socket {
            // HTTP/1.0 does not require `Host`; HTTP/1.1 does, and the parser refuses a request
            // without it.
            host.map_or(Ok(()), |host| self.check_host(host))?;
        }
        for origin in values(request, "origin") {
            let authority = origin.get(.."http://".len()).filter(|it| is(it, "http://"));
            let authority = authority.and_then(|scheme| origin.get(scheme.len()..));
            if !authority.zip(host).is_some_and(|(authority, host)| is(authority, host)) {
                return Err(ORIGIN);
            }
        }
        // `same-site` is refused as well: to a browser all ports of one host are one site, and
        // another port may serve another user's pages. `none` is a direct action of the user.
        for site in values(request, "sec-fetch-site") {
            if !["same-origin", "none"].contains(&site) {
                return Err(SITE);
            }
        }
        Ok(())
    }

    fn check_token(&self, request: &Request) -> Result<(), Refusal> {
        match &self.beyond {
            RemoteAccess::Open => Ok(()),
            RemoteAccess::Closed => Err(TOKEN),
            RemoteAccess::Token(token) => match one(request, "authorization") {
                Some(authorization) if token.is_in(authorization) => Ok(()),
                _ => Err(TOKEN),
            },
        }
    }

    fn check_host(&self, host: &str) -> Result<(), Refusal> {
        let is_ours = match host_name(host).ok_or(HOST_SYNTAX)? {
            Name::Address => true,
            Name::Word(name) => {
                is(name, "localhost") || self.names.iter().any(|ours| is(name, ours))
            }
        };
        if is_ours { Ok(()) } else { Err(HOST) }
    }
}

/// Returns whether this can be a host name, as it would appear in `Host`.
pub(crate) fn is_host_name(name: &str) -> bool {
    !name.is_empty() && matches!(host_name(name), Some(Name::Word(word)) if word == name)
}

/// The name in a `Host` header.
enum Name<'a> {
    /// An address, which no web page can use as its own name.
    Address,
    Word(&'a str),
}

/// Returns the name in a `Host` header without its port; `None` if the header is malformed (RFC
/// 9110, section 7.2, and RFC 3986, section 3.2.2).
fn host_name(host: &str) -> Option<Name<'_>> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (None, port)
        }
        None => {
            let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
            (Some(name), port)
        }
    };
    let digits = if port.is_empty() { "" } else { port.strip_prefix(':')? };
    let is_port = digits.bytes().all(|byte| byte.is_ascii_digit());
    let name = name.map(|name| is_uri(name, b"-._~!$&'()*+,;=").then_some(name));
    match name {
        _ if !is_port => None,
        None => Some(Name::Address),
        Some(name) => match name? {
            address if address.parse::<Ipv4Addr>().is_ok() => Some(Name::Address),
            name => Some(Name::Word(name)),
        },
    }
}

fn values<'a>(request: &'a Request, name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = move |(each, _): &&(String, String)| is(each, name);
    request.headers.iter().filter(named).map(|(_, value)| value.as_str())
}

/// Returns the value of a header that occurs exactly once.
fn one<'a>(request: &'a Request, name: &'a str) -> Option<&'a str> {
    let mut values = values(request, name);
    values.next().filter(|_| values.next().is_none())
}

fn is(text: &str, expected: &str) -> bool {
    text.eq_ignore_ascii_case(expected)
}

#[cfg(test)]
mod tests;
