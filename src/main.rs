//! mistify-libvirt.
fn main() {}
