//! Who asks for content and who fetches it: one line each way over a Unix socket, and with the first the file
//! that is to be filled.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hop::fetch;
use crate::config::fixed::{FETCH_KILL, FETCH_ORDER, FETCH_TIME};
use crate::os::poll::{Interest, PollSet};
use crate::os::rights;

/// Where `mistify-libvirt-fetch.socket` listens, for root and the agent's user.
pub const SOCKET: &str = "/run/mistify-libvirt-fetch.sock";
/// Longest line either way, in bytes: a URL, and what is wrong with it.
const LINE_BYTES_MAX: usize = 8192;

/// What is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// From where.
    pub url: String,
    /// The host that may have a private address and speak http: the image service of this agent.
    pub service: Option<String>,
    /// How many bytes it may have.
    pub bytes_max: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Bytes(u64),
    Error(String),
}

/// Has the order carried out, by the unit where systemd listens for it, else by a child of this process; how
/// many bytes it is.
///
/// # Errors
/// As [`fetch`]; when nobody can be asked.
///
/// # Blocking
/// Somewhat longer than [`fetch`] may.
pub fn ask(order: &Order, target: &File) -> Result<u64, String> {
    if Path::new(SOCKET).exists() {
        let asked = UnixStream::connect(SOCKET).and_then(|stream| talk(stream, order, target));
        return answer(asked.map_err(|error| format!("{SOCKET}: {error}"))?);
    }
    let text = |error: io::Error| format!("fetch by a child: {error}");
    let (ours, theirs) = UnixStream::pair().map_err(text)?;
    let mut command = Command::new(env::current_exe().map_err(text)?);
    command.arg("fetch").stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
    let mut child = command.spawn().map_err(text)?;
    // The command has a copy of the socket, which must not stay open here.
    drop(command);
    let asked = talk(ours, order, target);
    // It has ended, or it ends at once as nobody is at the other end.
    if asked.is_err() {
        let _ = child.kill();
    }
    child.wait().map_err(text)?;
    answer(asked.map_err(text)?)
}

fn answer(answer: Answer) -> Result<u64, String> {
    match answer {
        Answer::Bytes(bytes) => Ok(bytes),
        Answer::Error(error) => Err(error),
    }
}

fn talk(mut stream: UnixStream, order: &Order, target: &File) -> io::Result<Answer> {
    stream.set_write_timeout(Some(FETCH_ORDER))?;
    stream.set_read_timeout(Some(FETCH_TIME + FETCH_KILL + FETCH_ORDER))?;
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    let sent = rights::send(&stream, &line, target)?;
    stream.write_all(line.get(sent..).unwrap_or_default())?;
    read_line(&stream)
}

/// Carries out the order that comes by the socket on this standard input: what `mistify-libvirt fetch` does.
///
/// # Errors
/// When no order comes, or nobody waits for the answer. That something cannot be fetched is an answer.
///
/// # Blocking
/// As [`fetch`].
pub fn serve() -> Result<(), String> {
    let text = |error: io::Error| format!("fetch: {error}");
    let stream = io::stdin().as_fd().try_clone_to_owned().map_err(text)?;
    serve_on(&UnixStream::from(stream)).map_err(text)
}

fn serve_on(mut stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(FETCH_ORDER))?;
    stream.set_write_timeout(Some(FETCH_ORDER))?;
    let (order, target) = receive(stream)?;
    let answer = match fetch(&order, &target, &|| has_left(stream)) {
        Ok(bytes) => Answer::Bytes(bytes),
        Err(error) => Answer::Error(error),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Whether the other end has closed its side: after its order it sends nothing.
fn has_left(stream: &UnixStream) -> bool {
    let mut set = PollSet::default();
    let index = set.add(stream, Interest::Read);
    set.wait(Some(Duration::ZERO)).is_ok() && set.is_ready(index)
}

fn receive(stream: &UnixStream) -> io::Result<(Order, File)> {
    let mut bytes = [0; LINE_BYTES_MAX];
    let (count, target) = rights::receive(stream, &mut bytes)?;
    let target = target
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "no file came with the order"))?;
    let begun = bytes.get(..count).unwrap_or_default();
    let order = read_line(begun.chain(stream))?;
    Ok((order, target))
}

fn read_line<T: for<'de> Deserialize<'de>>(from: impl Read) -> io::Result<T> {
    let most = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    BufReader::new(from.take(most)).read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\n") {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the other end has left"));
    }
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::os::files;

    fn order(url: &str) -> Order {
        Order { url: url.to_owned(), service: None, bytes_max: 100 }
    }

    #[test]
    fn an_order_is_answered_by_what_went_wrong() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = files::nameless(&env::temp_dir()).unwrap();
        thread::scope(|scope| {
            let server = scope.spawn(move || serve_on(&theirs));
            let said = talk(ours, &order("https://127.0.0.1/"), &file).unwrap();
            let error = answer(said).unwrap_err();
            assert!(error.contains("no public address"), "{error}");
            server.join().unwrap().unwrap();
        });
    }

    #[test]
    fn an_order_without_a_file_or_cut_off_is_none() {
        for (line, why) in [
            ("{\"url\":\"https://a.example/\",\"service\":null,\"bytes_max\":1}\n", "no file"),
            ("", "no file"),
        ] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(line.as_bytes()).unwrap();
            drop(ours);
            let error = serve_on(&theirs).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = files::nameless(&env::temp_dir()).unwrap();
        rights::send(&ours, b"{\"url\":", &file).unwrap();
        drop(ours);
        let error = serve_on(&theirs).unwrap_err().to_string();
        assert!(error.contains("has left"), "{error}");
    }
}
