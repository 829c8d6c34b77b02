//! What the benchmarks share: the machine, the servers and the guests that are measured, who calls
//! them, samples, the C program, and the report.

pub(crate) mod bed;
pub(crate) mod calls;
pub(crate) mod constant;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod sample;
pub(crate) mod scrape;
pub(crate) mod server;
