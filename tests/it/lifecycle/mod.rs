//! A guest's life: create, run, freeze, shut down, delete, and guests that other tools made.

mod clones;
mod creates;
mod freezes;
mod host;
mod made_elsewhere;
mod qemu;
mod saved;
mod settings;
mod shutdown;
mod states;
mod stopped_systems;
