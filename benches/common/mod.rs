//! Code that the benchmarks share: the machine, the measured servers and guests, the clients,
//! samples, the C program, and the report.

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
