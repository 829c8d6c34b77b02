//! The load: a thread for each connection, which is kept; the next request after the answer.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::http::{Answer, Connection};
use super::sample::Sample;

/// Unmeasured requests of those who ask for a while, all connections together, of which each has
/// two at least: they open what is opened when first needed.
const WARM_UP: usize = 20;
const WARM_UP_EACH: usize = 2;
/// Between a refusal for lack of room and the next try; each of the same request doubles it, up to the
/// longest.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// How often a connection asks for what it has to ask for.
#[derive(Clone, Copy)]
pub(crate) enum Repeat {
    /// All requests once: a guest is created once.
    Once,
    /// One after the other and from the beginning again, for so long.
    For(Duration),
}

/// Has a connection for each of these lists of requests, whose answers have to be right or a
/// refusal for lack of room (`busy`). What was refused is asked for again, and its latency is
/// counted from the first try; the CPU time is left to the caller.
///
/// Each connection has its first answers before the next is opened: of connections that come at
/// once rouille's own server may leave all but the first four unserved until those are closed.
pub(crate) fn run(
    address: SocketAddr,
    work: &[Vec<Vec<u8>>],
    repeat: Repeat,
    is_right: fn(&Answer<'_>) -> bool,
) -> Sample {
    let warm_up = match repeat {
        Repeat::Once => 0,
        Repeat::For(_) => WARM_UP.div_ceil(work.len()).max(WARM_UP_EACH),
    };
    let open = |requests| {
        let connection = connect(address);
        let mut caller =
            Caller { address, connection, requests, is_right, taken: Sample::default() };
        requests.iter().cycle().take(warm_up).for_each(|request| caller.ask(request));
        (caller.taken.latencies, caller.taken.refused) = (Vec::new(), 0);
        caller
    };
    let callers: Vec<_> = work.iter().map(Vec::as_slice).map(open).collect();
    let barrier = &Barrier::new(callers.len() + 1);
    thread::scope(|scope| {
        let start = |caller| {
            let mut caller: Caller<'_> = caller;
            scope.spawn(move || {
                let requests = caller.requests.iter();
                barrier.wait();
                let begin = Instant::now();
                match repeat {
                    Repeat::Once => requests.for_each(|request| caller.ask(request)),
                    Repeat::For(length) => requests
                        .cycle()
                        .take_while(|_| begin.elapsed() < length)
                        .for_each(|request| caller.ask(request)),
                }
                caller.taken
            })
        };
        let threads: Vec<_> = callers.into_iter().map(start).collect();
        barrier.wait();
        let begin = Instant::now();
        let mut sample = Sample::default();
        threads.into_iter().for_each(|it| sample.add(it.join().expect("a whole load")));
        sample.elapsed = begin.elapsed();
        sample
    })
}

fn connect(address: SocketAddr) -> Connection {
    Connection::open(address).expect("the server takes connections")
}

struct Caller<'a> {
    address: SocketAddr,
    connection: Connection,
    requests: &'a [Vec<u8>],
    is_right: fn(&Answer<'_>) -> bool,
    taken: Sample,
}

impl Caller<'_> {
    fn ask(&mut self, request: &[u8]) {
        let begin = Instant::now();
        let mut pause = PAUSE;
        loop {
            let answer = self.connection.exchange(request).expect("an answer");
            if (self.is_right)(&answer) {
                break;
            }
            let text = answer.text();
            // The server may still count connections of the load before.
            let is_turned_away = answer.status == 503 && text.contains("too many connections");
            let is_busy = is_turned_away || text.contains("\"error\":\"busy: ");
            assert!(is_busy, "{} {text}", answer.status);
            self.taken.refused += 1;
            thread::sleep(pause);
            if is_turned_away {
                self.connection = connect(self.address);
            }
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
        self.taken.latencies.push(begin.elapsed());
        self.taken.answered += 1;
    }
}
