//! The service of systemd, and the installation by the documents.

mod new_user;
mod service;
