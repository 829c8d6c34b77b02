//! The room `libvirt`.
