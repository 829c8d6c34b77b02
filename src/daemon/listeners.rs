//! Makes listening fronts from the configuration and the passed sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::{fmt, io};

use crate::config::{CallerConfig, Config};
use crate::http::auth::guard::{Guard, RemoteAccess, is_host_name};
use crate::http::auth::token::Token;
use crate::http::{Access, AccessError, BindError, Front, TokenError};
use crate::os::activation::{NamedSocket, PassedSocket};

use super::serve::Fronts;

/// Why the agent cannot listen as configured.
#[derive(Debug)]
pub enum ListenError {
    /// The agent cannot listen on an address or a path.
    Bind(BindError),
    /// A user or a group is not known.
    Access(AccessError),
    /// A token cannot be read.
    Token(TokenError),
    /// A name of this host cannot stand in `Host`.
    HostName(String),
    /// An address is beyond loopback, and no option says how its callers are authenticated.
    Open(SocketAddr, &'static str),
    /// A passed socket has an unknown name.
    Name(String),
    /// A passed socket cannot be used.
    Passed(io::Error),
}

// Each is one line that contains its cause: it ends the start of the agent.
impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => write!(f, "{error}"),
            Self::Access(error) => write!(f, "{error}"),
            Self::Token(error) => write!(f, "{error}"),
            Self::HostName(name) => {
                write!(f, "--allow-host {name}: give a host name alone, such as hv1.example")
            }
            Self::Open(address, flags) => {
                write!(f, "cannot listen on {address}: an address beyond loopback needs {flags}")
            }
            Self::Name(name) => write!(
                f,
                "LISTEN_FDNAMES: {name}: unknown socket name; use {RPC}, {IMAGE_STORE} or \
                 {METRICS} (FileDescriptorName=)"
            ),
            Self::Passed(error) => write!(f, "cannot use a passed socket: {error}"),
        }
    }
}

impl std::error::Error for ListenError {}

impl From<BindError> for ListenError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

/// The names of passed sockets.
pub(crate) const RPC: &str = "rpc";
pub(crate) const IMAGE_STORE: &str = "image-store";
pub(crate) const METRICS: &str = "metrics";

/// Listens as the configuration says. Sockets that were passed for a service replace its addresses on
/// loopback; passed sockets without names are for guests.
///
/// # Errors
/// The first address, user, group or token that cannot be used.
///
/// # Blocking
/// As long as the lookup of the permitted users and groups takes.
pub fn listen(config: &Config, passed: Vec<NamedSocket>) -> Result<Fronts, ListenError> {
    let access = Access::new(&config.callers).map_err(ListenError::Access)?;
    if access.is_for_all() {
        log::warn!("--allow-any-local: every user of this host has full control of its guests");
    }
    let (mut rpc, mut images, mut metrics) = (Vec::new(), Vec::new(), Vec::new());
    for (name, socket) in passed {
        match name.as_deref() {
            None | Some(RPC) => rpc.push(socket),
            Some(IMAGE_STORE) => images.push(socket),
            Some(METRICS) => metrics.push(socket),
            Some(other) => return Err(ListenError::Name(other.to_owned())),
        }
    }
    let callers = &config.callers;
    if let Some(name) = callers.host_names.iter().find(|name| !is_host_name(name)) {
        return Err(ListenError::HostName(name.clone()));
    }
    let beyond = beyond("--token-file", callers.token_file.as_deref())?;
    let front = |addresses: &[SocketAddr], passed: Vec<PassedSocket>, limits, access, beyond| {
        let own = unpassed(addresses, &passed);
        let mut front = Front::bind(&own, limits)?;
        front.bind_ipv6_twins(&own);
        front.admit(access);
        front.protect(Guard { beyond, names: callers.host_names.clone() });
        for socket in passed {
            front.add(socket).map_err(ListenError::Passed)?;
        }
        Ok::<_, ListenError>(front)
    };
    let if_served =
        |addresses: &[SocketAddr], passed: Vec<PassedSocket>, limits, access, beyond| {
            let is_served = !addresses.is_empty() || !passed.is_empty();
            is_served.then(|| front(addresses, passed, limits, access, beyond)).transpose()
        };
    let limits = &config.http;
    let mut main = front(&config.listen, rpc, limits.clone(), access.clone(), beyond.clone())?;
    if let Some(socket) = &config.socket {
        main.bind_unix(socket)?;
    }
    let images = if_served(&config.image_store, images, limits.clone(), access, beyond.clone())?;
    for front in [Some(&main), images.as_ref()].into_iter().flatten() {
        check_open(front, &beyond, "--token-file", "full control of all guests")?;
    }
    // Everybody on this host may read the metrics.
    let (limits, everybody) = (limits.for_metrics(), Access::of_all());
    let beyond = metrics_beyond(callers)?;
    let metrics = if_served(&config.metrics_listen, metrics, limits, everybody, beyond.clone())?;
    if let Some(front) = &metrics {
        check_open(front, &beyond, "--metrics-token-file or --metrics-open", "the metrics")?;
    }
    Ok(Fronts { main, images, metrics })
}

/// Returns the addresses to bind beside the passed sockets: all without passed sockets, otherwise the
/// addresses that other hosts reach and that no passed socket has.
fn unpassed(addresses: &[SocketAddr], passed: &[PassedSocket]) -> Vec<SocketAddr> {
    let has = |own: SocketAddr, address: &SocketAddr| {
        own == *address || (own.ip().is_unspecified() && own.port() == address.port())
    };
    let is_passed = |address: &SocketAddr| {
        passed.iter().any(|socket| match socket {
            PassedSocket::Tcp(listener) => listener.local_addr().is_ok_and(|own| has(own, address)),
            PassedSocket::Unix(_) => false,
        })
    };
    let mut addresses = addresses.to_vec();
    if !passed.is_empty() {
        addresses.retain(|it| !it.ip().to_canonical().is_loopback() && !is_passed(it));
    }
    addresses
}

/// Returns what callers beyond this host must present, where an option may name a file with a token.
fn beyond(flag: &'static str, file: Option<&Path>) -> Result<RemoteAccess, ListenError> {
    let token = file.map(|file| Token::read(flag, file)).transpose();
    Ok(token.map_err(ListenError::Token)?.map_or(RemoteAccess::Closed, RemoteAccess::Token))
}

fn metrics_beyond(callers: &CallerConfig) -> Result<RemoteAccess, ListenError> {
    match beyond("--metrics-token-file", callers.metrics_token_file.as_deref())? {
        RemoteAccess::Closed if callers.metrics_open => Ok(RemoteAccess::Open),
        beyond => Ok(beyond),
    }
}

/// Checks the addresses beyond loopback, bound or passed: refuses unprotected ones, and warns of plain HTTP.
fn check_open(
    front: &Front,
    beyond: &RemoteAccess,
    flags: &'static str,
    stake: &str,
) -> Result<(), ListenError> {
    for address in front.open_addresses() {
        match beyond {
            RemoteAccess::Closed => return Err(ListenError::Open(address, flags)),
            RemoteAccess::Token(_) => log::warn!(
                "{address}: the token is sent over plain HTTP, and it gives access to {stake}; use \
                 a private network or a TLS proxy"
            ),
            RemoteAccess::Open => {
                log::warn!("{address}: anyone who can connect has access to {stake}")
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::http::ipv6_twin;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn passed_sockets_stand_in_for_loopback() {
        let passed = |listen: &str| {
            let listener = TcpListener::bind(listen).unwrap();
            (listener.local_addr().unwrap().port(), [PassedSocket::Tcp(listener)])
        };
        let named = addresses(&["127.0.0.1:7", "[::1]:7", "192.0.2.1:7"]);
        assert_eq!(unpassed(&named, &[]), named);
        let (port, loopback) = passed("127.0.0.1:0");
        assert_eq!(unpassed(&named, &loopback), addresses(&["192.0.2.1:7"]));
        let other = addresses(&[&format!("192.0.2.1:{port}")]);
        assert_eq!(unpassed(&other, &loopback), other);
        let (port, all) = passed("0.0.0.0:0");
        let has = addresses(&[&format!("192.0.2.1:{port}")]);
        assert_eq!(unpassed(&has, &all), [], "a socket on all addresses has it");
        assert_eq!(unpassed(&named, &all), addresses(&["192.0.2.1:7"]));
    }

    #[test]
    fn localhost_has_an_ipv6_twin() {
        let twin = |text: &str| ipv6_twin(text.parse().unwrap()).map(|twin| twin.to_string());
        assert_eq!(twin("127.0.0.1:7").as_deref(), Some("[::1]:7"));
        assert_eq!(twin("0.0.0.0:7").as_deref(), Some("[::1]:7"));
        for text in ["127.0.0.1:0", "127.0.0.2:7", "192.0.2.1:7", "[::1]:7", "[::]:7"] {
            assert_eq!(twin(text), None, "{text}");
        }
    }
}
