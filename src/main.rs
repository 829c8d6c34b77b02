//! The agent's process: arguments, wiring, run, exit status.

use std::process::ExitCode;

use log::info;
use mistify_libvirt::config::Config;
use mistify_libvirt::http::listen;
use mistify_libvirt::journal::default_state_dir;
use mistify_libvirt::ops::Libvirt;
use mistify_libvirt::os::{activation, memory, process, signals::Signals};
use mistify_libvirt::{cli, libvirt};

fn main() -> ExitCode {
    memory::bound_arenas();
    // Both while there is one thread: what it forgoes, and what it takes, is for all that come.
    if let Err(error) = process::forgo_new_privileges() {
        return fail(&format!("forgo new privileges: {error}"));
    }
    let passed = match activation::take() {
        Ok(passed) => passed,
        Err(why) => return fail(&why),
    };
    let request = match cli::parse(std::env::args_os().skip(1)) {
        Ok(request) => request,
        Err(cli::Error::Usage(why)) => {
            eprintln!("mistify-libvirt: {why}\n\n{}", cli::USAGE);
            return ExitCode::from(2);
        }
        Err(cli::Error::Value(why)) => return fail(&why),
    };
    let outcome = match request {
        cli::Request::Help => {
            print!("{}", cli::USAGE);
            return ExitCode::SUCCESS;
        }
        cli::Request::Version => {
            println!("mistify-libvirt {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        cli::Request::Run { mut config, log_level } => {
            cli::start_log(log_level);
            let ours = || default_state_dir(|name| std::env::var_os(name), process::user());
            config.state_dir = config.state_dir.or_else(ours);
            run(&config, passed)
        }
        cli::Request::Import { config, file, id, log_level } => {
            cli::start_log(log_level);
            cli::import::run(&config, &file, &id)
        }
    };
    outcome.map_or_else(|why| fail(&why), |()| ExitCode::SUCCESS)
}

/// Wires the rooms and serves until a signal; everything in flight is finished before it returns.
fn run(config: &Config, passed: Vec<activation::Named>) -> Result<(), String> {
    // Before anything else: a signal that comes while the agent starts must not be lost.
    let signals =
        Signals::install().map_err(|error| format!("install signal handlers: {error}"))?;
    let version = libvirt::start().map_err(|error| error.to_string())?;
    let fronts = listen(config, passed).map_err(|error| error.to_string())?;
    let agent = Libvirt::with_config(config).map_err(|error| format!("start workers: {error}"))?;
    info!("libvirt {version}, {}", config.host.libvirt_uri);
    agent.serve(fronts, signals).map_err(|error| error.to_string())
}

fn fail(why: &str) -> ExitCode {
    eprintln!("mistify-libvirt: {why}");
    ExitCode::FAILURE
}
