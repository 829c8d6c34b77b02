//! The integration tests: one binary, a module a subject.

mod agent;
mod boot_sector;
mod conformance;
mod displays;
mod golden;
mod harness;
mod house;
mod http_front;
mod lab;
mod lanes;
mod local;
mod nwfilter;
mod odd;
mod openvswitch;
mod original;
mod owner;
mod pool;
mod process;
mod qemu;
mod skip;
mod stack;
mod states;
mod storage;
mod support;
mod verbs;
mod volumes;
