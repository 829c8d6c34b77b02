//! What the benchmarks share: the machine, samples, the C program, and the report.

pub(crate) mod calls;
pub(crate) mod host;
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod sample;
