//! The metrics of guests and of the agent: samples from libvirt, the kernel's counters, and their
//! text.
//!
//! - There are two tiers. The fast one uses values that libvirt knows itself, and the kernel for
//!   the rest; it cannot hang on an emulator. The slow one queries emulators, rarely, and leaves
//!   out guests that hang.
//! - Each series has one source, so that a counter never jumps between two that disagree.
//! - A scrape requests new samples, waits for them briefly, and writes the values in memory. Without
//!   scrapes there are no samples and no wake-ups.

mod agent_stats;
mod calls;
mod families;
mod fast;
mod files;
mod guests;
mod kernel;
mod latest;
mod lazy_connection;
mod sample;
mod sampler;
mod slow;
mod text;

#[cfg(test)]
mod tests;

pub use agent_stats::{AgentStats, GuestInside, GuestVolume, Listener, MountedSize};
pub use calls::{Calls, Counts};
pub use latest::{GuestView, Omission, Slow, View};
pub use lazy_connection::Open;
pub use sample::{Cpu, Device, Disk, Fast, FastGuest, SlowGuest, SlowVcpu, Vcpu};
pub use sample::{disks, interfaces};
pub use sampler::Sampler;
pub use slow::{Changing, StuckCallback};
pub use text::Format;

/// A text takes some 8 KB for the agent itself and as much for each guest.
const BYTES_EACH: usize = 8 * 1024;

/// Writes all metrics as one text. `metadata` are the names of the metadata values that the view has
/// of each guest.
pub fn write(view: &View, own: &AgentStats, metadata: &[String], format: Format) -> String {
    let guests = view.fast.as_ref().map_or(0, |fast| fast.guests.len());
    let mut text = text::Text::new(format, BYTES_EACH * (guests + 1));
    guests::write(&mut text, view, metadata);
    agent_stats::write(&mut text, view, own);
    text.end()
}
