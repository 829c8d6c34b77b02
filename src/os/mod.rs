//! The room `os`.
