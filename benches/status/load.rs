//! The load of Status calls on a server.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::common::constant::{ANSWER, GUEST};
use crate::common::http::{self, Answer};
use crate::common::load::{self, Repeat};
use crate::common::sample::Sample;
use crate::common::server::Server;

/// A server under load, and the number of requests that it has answered in all rounds.
pub(crate) struct Asked {
    pub(crate) server: Server,
    served: Cell<usize>,
}

/// Returns a Status call as the orchestrator sends it.
pub(crate) fn request(address: SocketAddr) -> Vec<u8> {
    http::call(address, "Status", &json!({ "guest": { "id": GUEST } }))
}

/// Returns whether this is the answer to [`request`].
pub(crate) fn is_answer(answer: &Answer<'_>) -> bool {
    answer.status == 200 && *answer.body == *ANSWER.as_bytes()
}

impl Asked {
    pub(crate) fn new(server: Server) -> Self {
        Self { server, served: Cell::new(0) }
    }

    /// Runs one round of load on the server.
    pub(crate) fn round(&self, connections: usize, length: Duration) -> Sample {
        let work = vec![vec![request(self.server.address())]; connections];
        let before = self.server.cpu();
        let mut sample = load::run(self.server.address(), &work, Repeat::For(length), is_answer);
        sample.cpu = self.server.cpu() - before;
        self.served.set(self.served.get() + sample.answered);
        sample
    }

    /// Returns the number of requests that the server has answered in all rounds.
    pub(crate) fn served(&self) -> usize {
        self.served.get()
    }
}
