//! The load: each thread has a persistent connection, and sends the next request after each answer.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::http::{Answer, Connection};
use super::sample::Sample;

/// Unmeasured requests before a load with [`Repeat::For`], all connections together, and at least two on each: the
/// server opens its own connections on first use.
const WARM_UP: usize = 20;
const WARM_UP_EACH: usize = 2;
/// The pause between a `busy` answer and the next try. Each further `busy` for the same request doubles it, up to the
/// longest.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// How often each connection sends its requests.
#[derive(Clone, Copy)]
pub(crate) enum Repeat {
    /// Each request once, as for a CreateGuest.
    Once,
    /// All requests in turn, again and again, for this time.
    For(Duration),
}

/// Sends each of these lists of requests on a connection of its own. Each answer must be right or
/// `busy`. A refused request is sent again, and its latency counts from the first try. The caller
/// sets the CPU time of the sample.
///
/// Each connection gets its first answers before the next one opens. If connections open at once,
/// rouille's own server may serve only the first four until these close.
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
            // The server may still count connections of the previous load.
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
