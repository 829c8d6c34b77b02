//! One call on a connection of its own.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Error, server};
use crate::config::fixed::{
    CLIENT_ANSWER_BYTES, CLIENT_CONNECT, CLIENT_HEADERS, CLIENT_MARGIN, SHUTDOWN_FORCE,
    SHUTDOWN_WAIT_MAX, TOKEN_BYTES,
};
use crate::config::{Config, DEFAULT_IMAGE_STORE_PORT};
use crate::os::local::reachable;

/// The code of the agent's error `not found`.
const NOT_FOUND: i64 = -32001;

/// Returns how long the call itself may wait, as a Shutdown can.
fn own_wait(params: &Value) -> Duration {
    let seconds = |name: &str| params[0][name].as_u64().map(Duration::from_secs);
    match (seconds("wait"), seconds("force_after")) {
        (None, None) => Duration::ZERO,
        (wait, force_after) => {
            let longest = wait.max(force_after).unwrap_or_default();
            longest.min(SHUTDOWN_WAIT_MAX) + SHUTDOWN_FORCE
        }
    }
}

/// The address of an agent. `Display` names it for errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Its Unix socket.
    Unix(PathBuf),
    /// Its TCP address.
    Tcp(SocketAddr),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// Returns whether the agent with these settings runs on this host: at a Unix socket or on loopback.
pub(super) fn is_local(config: &Config) -> bool {
    let is_loopback = |address: &SocketAddr| reachable(*address).ip().to_canonical().is_loopback();
    config.socket.is_some() || config.listen.first().is_some_and(is_loopback)
}

/// An agent, and how to call it.
pub(super) struct Client {
    rpc: Endpoint,
    image_store: Endpoint,
    /// The file with the token for an agent beyond loopback.
    token_file: Option<PathBuf>,
    /// The longest wait for a part of a response.
    patience: Duration,
}

impl Client {
    /// Makes a client of the agent with these settings: by its Unix socket if it has one.
    ///
    /// # Errors
    /// [`Error::Asked`] if neither a socket nor a listen address is set.
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let tcp = |addresses: &[SocketAddr]| addresses.first().map(|address| reachable(*address));
        let listen = tcp(&config.listen);
        let rpc = match (&config.socket, listen) {
            (Some(socket), _) => Endpoint::Unix(socket.path.clone()),
            (None, Some(address)) => Endpoint::Tcp(address),
            (None, None) => {
                let why = "cannot call the agent: no listen address is set";
                return Err(Error::Asked(why.to_owned()));
            }
        };
        let host = listen.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip());
        let image_store = tcp(&config.image_store)
            .unwrap_or_else(|| SocketAddr::new(host, DEFAULT_IMAGE_STORE_PORT));
        Ok(Self {
            rpc,
            image_store: Endpoint::Tcp(image_store),
            token_file: config.callers.token_file.clone(),
            patience: config.deadlines.change + CLIENT_MARGIN,
        })
    }

    /// Calls `Service.Method` with these parameters; returns the result.
    ///
    /// # Errors
    /// [`Error::Answered`] or [`Error::NotFound`] with the agent's error; [`Error::Unreached`] if there is no
    /// response; [`Error::Asked`] for port 0: only the system knows the port that it chose.
    ///
    /// # Blocking
    /// Up to the agent's deadline for changes and 10 s, and as long as the call itself may wait.
    pub(super) fn call(&self, method: &str, params: &Value) -> Result<Value, Error> {
        let endpoint = match method.starts_with("ImageStore.") {
            true => &self.image_store,
            false => &self.rpc,
        };
        let unreached = |why: &dyn fmt::Display| {
            Error::Unreached(format!("cannot call the agent at {endpoint}: {why}"))
        };
        if matches!(endpoint, Endpoint::Tcp(address) if address.port() == 0) {
            let why = "cannot call the agent at port 0: set --port to the agent's port";
            return Err(Error::Asked(why.to_owned()));
        }
        let call = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 1 });
        let call = call.to_string();
        let answer = self
            .exchange(endpoint, &call, self.patience + own_wait(params))
            .map_err(|error| unreached(&error))?;
        if answer.is_empty() {
            // The agent closes connections of callers that are not permitted.
            let why = "connection closed without a response; check that --allow-user or \
                       --allow-group of the agent permits this user";
            return Err(unreached(&why));
        }
        let (status, body) = split(&answer).ok_or_else(|| unreached(&"not an HTTP response"))?;
        let text = String::from_utf8_lossy(body);
        if status != 200 {
            return Err(Error::Answered(format!("HTTP status {status}: {}", text.trim_end())));
        }
        let mut answer: Value = serde_json::from_slice(body).map_err(|error| unreached(&error))?;
        match &answer["error"] {
            Value::Null => Ok(answer["result"].take()),
            error => {
                let why = error["message"].as_str().map(str::to_owned);
                let why = why.unwrap_or_else(|| error.to_string());
                Err(if error["code"] == NOT_FOUND {
                    Error::NotFound(why)
                } else {
                    Error::Answered(why)
                })
            }
        }
    }

    fn exchange(&self, endpoint: &Endpoint, call: &str, patience: Duration) -> io::Result<Vec<u8>> {
        match endpoint {
            Endpoint::Unix(path) => {
                let mut stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                server::check_unix(&stream)?;
                post(&mut stream, "localhost", "", call)
            }
            Endpoint::Tcp(address) => {
                let bearer = match &self.token_file {
                    Some(file) if !address.ip().to_canonical().is_loopback() => bearer(file)?,
                    _ => String::new(),
                };
                let mut stream = TcpStream::connect_timeout(address, CLIENT_CONNECT)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                server::check_tcp(&stream)?;
                post(&mut stream, &address.to_string(), &bearer, call)
            }
        }
    }
}

/// Returns the header with the token in this file.
fn bearer(file: &Path) -> io::Result<String> {
    let mut token = String::new();
    let read =
        File::open(file).and_then(|it| it.take(TOKEN_BYTES as u64).read_to_string(&mut token));
    let token = token.trim_end();
    let why = match read {
        Ok(_) if !token.contains(char::is_control) => {
            return Ok(format!("Authorization: Bearer {token}\r\n"));
        }
        Ok(_) => "the token is not a single line".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(io::Error::other(format!("cannot read --token-file {}: {why}", file.display())))
}

/// A connection of any kind: a trait object, so that the code is compiled once.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Sends the call, with the header of a token or without, and reads until the connection is closed.
fn post(stream: &mut dyn Stream, host: &str, bearer: &str, call: &str) -> io::Result<Vec<u8>> {
    let length = call.len();
    let request = format!(
        "POST /rpc HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
         {bearer}Content-Length: {length}\r\nConnection: close\r\n\r\n{call}"
    );
    // An agent that refuses a call may close the connection before it has read everything, and still send the
    // reason.
    let sent = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let read = stream.take(CLIENT_ANSWER_BYTES + 1).read_to_end(&mut answer);
    if answer.len() as u64 > CLIENT_ANSWER_BYTES {
        return Err(io::Error::other("the response is larger than 64 MiB"));
    }
    match (answer.is_empty(), sent, read) {
        (false, _, Ok(_)) => Ok(answer),
        (true, Err(error), _) | (_, _, Err(error)) if !is_cut(&error) => Err(error),
        _ => Ok(answer),
    }
}

fn is_cut(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Returns the status and the body of a complete response.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; CLIENT_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(answer).ok()? else { return None };
    let status = head.code?;
    let body = &answer[length..];
    let named = headers.iter().find(|header| header.name.eq_ignore_ascii_case("Content-Length"));
    let wanted: usize = std::str::from_utf8(named?.value).ok()?.trim().parse().ok()?;
    (body.len() == wanted).then_some((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(change: impl Fn(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        Client::new(&config).unwrap().rpc.to_string()
    }

    #[test]
    fn the_agent_is_where_its_settings_say() {
        assert_eq!(endpoint(|_| ()), "127.0.0.1:20001");
        let listen = |text: &'static str| {
            move |config: &mut Config| config.listen = vec![text.parse().unwrap()]
        };
        assert_eq!(endpoint(listen("0.0.0.0:7")), "127.0.0.1:7");
        assert_eq!(endpoint(listen("[::]:7")), "[::1]:7");
        assert_eq!(endpoint(listen("192.0.2.1:7")), "192.0.2.1:7");
        let socket = |config: &mut Config| {
            config.socket =
                Some(crate::config::SocketConfig { path: "/run/s".into(), group: None });
        };
        assert_eq!(endpoint(socket), "/run/s");
    }

    #[test]
    fn an_answer_that_was_cut_off_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(split(whole), Some((200, &b"{}"[..])));
        for length in 0..whole.len() {
            assert_eq!(split(&whole[..length]), None, "{length}");
        }
        assert_eq!(split(b"SSH-2.0-OpenSSH_9.2\r\n"), None);
    }
}
