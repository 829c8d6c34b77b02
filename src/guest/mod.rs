//! The room `guest`.
