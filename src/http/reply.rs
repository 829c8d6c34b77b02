//! The answer to a request that no handler has.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use super::Shortcut;
use super::exchange::Exchange;
use super::handlers::{self, Job, Shared};
use super::parse::{Persistence, Request, Version};
use super::respond::{self, Encoded, Wanted};
use crate::threads::panic_text;

/// What a request waits for whose shortcut has taken it. Dropped, it is 500 without a word.
pub struct Reply {
    exchange: Arc<Exchange>,
    shared: Arc<Shared>,
    version: Version,
    persistence: Persistence,
    wanted: Wanted,
    is_sent: bool,
}

impl Reply {
    /// Sends what the socket takes at once; the front sends the rest.
    pub fn send(mut self, response: rouille::Response) {
        let bytes_max = self.shared.limits.response_bytes;
        let encoded = respond::encode(response, self.wanted, self.persistence(), bytes_max);
        self.deliver(encoded.unwrap_or_else(|error| {
            log::error!("answer {}: unusable response: {error}", self.exchange.caller);
            respond::encode_failure(self.persistence())
        }));
    }

    /// Asked late: what led to the answer may have taken long.
    fn persistence(&self) -> Persistence {
        if self.shared.is_stopping() { Persistence::Close } else { self.persistence }
    }

    fn deliver(&mut self, encoded: Encoded) {
        self.is_sent = true;
        handlers::deliver(encoded, self.version, &self.exchange, &self.shared);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_sent {
            if thread::panicking() {
                self.shared.tally.count_panic();
            }
            self.deliver(respond::encode_failure(self.persistence()));
        }
    }
}

/// Offers a request to the shortcut; whether it has taken it. A panic before it has done so leaves the
/// request to a handler.
pub(super) fn offer(shortcut: &Shortcut, job: &Job, shared: &Arc<Shared>) -> bool {
    let Job { request, exchange } = job;
    let mut is_taken = false;
    let mut take = || {
        is_taken = true;
        reply(request, exchange, shared)
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| shortcut(request, &exchange.caller, &mut take)));
    if let Err(payload) = outcome {
        // Where it was taken, its reply counts the panic.
        if !is_taken {
            shared.tally.count_panic();
        }
        let (method, target, text) = (&request.method, &request.target, panic_text(payload));
        log::error!("take {method} {target}: panic: {text}");
    }
    is_taken
}

fn reply(request: &Request, exchange: &Arc<Exchange>, shared: &Arc<Shared>) -> Reply {
    Reply {
        exchange: Arc::clone(exchange),
        shared: Arc::clone(shared),
        version: request.version,
        persistence: request.persistence,
        wanted: if request.method == "HEAD" { Wanted::Head } else { Wanted::All },
        is_sent: false,
    }
}
