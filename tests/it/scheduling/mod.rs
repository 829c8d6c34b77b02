//! Lanes, queues and deadlines: no call delays another guest's.

mod lanes;
mod libvirt_calls;
mod pool;
mod queueing;
mod status_cache;
mod stuck;
