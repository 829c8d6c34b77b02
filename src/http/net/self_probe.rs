//! A request of the agent to its own front, which shows whether the front answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{self as unix, UnixStream};
use std::time::Duration;

use crate::os::local::reachable;

/// Any response is good; this request needs neither libvirt nor the store.
const REQUEST: &[u8] = b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 ";

/// An address at which this process can send the front a request.
#[derive(Clone, Debug)]
pub(crate) enum SelfProbe {
    Tcp(SocketAddr),
    Unix(unix::SocketAddr),
}

impl SelfProbe {
    /// Sends a request and reads the beginning of the response; `patience` bounds a TCP connect and
    /// each read.
    pub(crate) fn probe(&self, patience: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(&reachable(*address), patience)?;
                stream.set_read_timeout(Some(patience))?;
                ask(stream)
            }
            // A connect to a full backlog of this listener blocks; the backlog is as long as the
            // system allows.
            Self::Unix(address) => {
                let stream = UnixStream::connect_addr(address)?;
                stream.set_read_timeout(Some(patience))?;
                ask(stream)
            }
        }
    }
}

fn ask(mut stream: impl Read + Write) -> io::Result<()> {
    stream.write_all(REQUEST)?;
    let mut begin = [0; ANSWER.len()];
    stream.read_exact(&mut begin)?;
    match begin == ANSWER {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}
