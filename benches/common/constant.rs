//! Servers that answer a constant: what HTTP costs by itself. Each is a process of its own, this
//! benchmark called with other arguments, so that its CPU time can be told from the load's.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

/// The guest of the requests: libvirt's test driver has it.
pub(crate) const GUEST: &str = "test";
/// The answer of every contender to a Status.
pub(crate) const ANSWER: &str =
    "{\"result\":{\"guest\":{\"id\":\"test\",\"state\":\"running\"}},\"error\":null,\"id\":1}\n";
const LOCALHOST: (&str, u16) = ("127.0.0.1", 0);

/// A constant-answer server.
#[derive(Clone, Copy)]
pub(crate) enum Constant {
    /// One thread, one connection after the other: the floor under any HTTP server.
    Floor,
    /// rouille with its own socket server and its own number of threads.
    Rouille,
}

impl Constant {
    /// Returns the argument that starts the server.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Floor => "serve-floor",
            Self::Rouille => "serve-rouille",
        }
    }

    /// Returns the server that an argument names.
    pub(crate) fn from_argument(argument: &str) -> Option<Self> {
        [Self::Floor, Self::Rouille].into_iter().find(|it| it.argument() == argument)
    }

    /// Prints the address and serves until standard input ends, as it does when the parent is gone.
    pub(crate) fn serve(self) {
        let address = match self {
            Self::Floor => floor(),
            Self::Rouille => rouille(),
        };
        println!("{address}");
        // No input arrives; only its end counts.
        let _ = io::stdin().read(&mut [0]);
    }
}

fn rouille() -> SocketAddr {
    let server = rouille::Server::new(LOCALHOST, |_| {
        rouille::Response::from_data("application/json; charset=utf-8", ANSWER)
    });
    // As many threads as `rouille::start_server_with_pool` has by default.
    let threads = 8 * thread::available_parallelism().map_or(1, usize::from);
    let server = server.expect("a free port").pool_size(threads);
    let address = server.server_addr();
    thread::spawn(|| server.run());
    address
}

fn floor() -> SocketAddr {
    let listener = TcpListener::bind(LOCALHOST).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A caller that leaves is the normal end.
            let _ = answer(stream);
        }
    });
    address
}

/// Answers every read: the load writes a request at once, and it is small enough to arrive so.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\
         \r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    let mut request = [0; 4096];
    while stream.read(&mut request)? > 0 {
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}
