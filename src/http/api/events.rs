//! `GET /events`: the events as server-sent events (WHATWG HTML, section 9.2), until the listener
//! disconnects.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use rouille::{Request, Response};

use crate::events::{Event, Events};
use crate::http::api::responses::text;
use crate::http::http1::respond::EVENT_STREAM;

/// The path of the events.
pub(super) const PATH: &str = "/events";
/// Events that are sent at once.
const PAGE: usize = 32;

/// Streams the events after the number in `after` or `Last-Event-ID`; without either, new events.
/// `guest` in the query limits the events to those of one guest.
pub(in crate::http) fn stream(events: &Arc<Events>, request: &Request) -> Response {
    // An empty value counts as absent: some clients send it before their first event.
    let last = request.header("Last-Event-ID").map(str::to_owned).filter(|last| !last.is_empty());
    let after = match last.or_else(|| request.get_param("after").filter(|after| !after.is_empty()))
    {
        None => Ok(events.last()),
        Some(number) => number.trim().parse(),
    };
    let Ok(after) = after else {
        return text(400, "events: after and Last-Event-ID must be the number of an event\n");
    };
    let guest = request.get_param("guest").filter(|guest| !guest.is_empty());
    let feed = Feed { events: Arc::clone(events), after, guest, text: Vec::new(), sent: 0 };
    Response {
        status_code: 200,
        headers: vec![
            ("Content-Type".into(), EVENT_STREAM.into()),
            ("Cache-Control".into(), "no-store".into()),
            // nginx would buffer events until its buffer is full.
            ("X-Accel-Buffering".into(), "no".into()),
        ],
        data: rouille::ResponseBody::from_reader(feed),
        upgrade: None,
    }
}

/// One listener's position in the ring, and the text that it is being sent.
struct Feed {
    events: Arc<Events>,
    after: u64,
    guest: Option<String>,
    text: Vec<u8>,
    sent: usize,
}

impl Feed {
    /// Waits for more events to send; returns `false` when there will be none.
    fn refill(&mut self) -> io::Result<bool> {
        let until = Instant::now() + self.events.limits().heartbeat;
        let page = self.events.wait(self.after, self.guest.as_deref(), PAGE, until);
        self.text.clear();
        self.sent = 0;
        if page.gap {
            self.text.extend_from_slice(b"event: gap\ndata: {}\n\n");
        }
        for event in &page.events {
            write_event(&mut self.text, event)?;
        }
        self.after = page.next;
        if self.text.is_empty() {
            if self.events.is_closed() {
                return Ok(false);
            }
            // A comment: its write detects a listener that has disconnected.
            self.text.extend_from_slice(b":\n\n");
        }
        Ok(true)
    }
}

fn write_event(text: &mut Vec<u8>, event: &Event) -> io::Result<()> {
    let head = format!("id: {}\nevent: {}\ndata: ", event.seq, event.what.name());
    text.extend_from_slice(head.as_bytes());
    // The data is one line: JSON has no bare line ends.
    serde_json::to_writer(&mut *text, event)?;
    text.extend_from_slice(b"\n\n");
    Ok(())
}

impl Read for Feed {
    /// Blocks until an event happens, for up to
    /// [`EventLimits::heartbeat`](crate::config::EventLimits::heartbeat).
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.sent == self.text.len() && !self.refill()? {
            return Ok(0);
        }
        let mut rest = self.text.get(self.sent..).unwrap_or_default();
        let count = rest.read(buffer)?;
        self.sent += count;
        Ok(count)
    }
}
