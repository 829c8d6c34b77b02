//! The rules of the code: layers, imports, length, language, and what the gates select.

mod bench_compare;
mod english;
mod gates;
mod house;
mod import_cycles;
mod names;
mod rust_source;
