//! The process: arguments, setup, run, exit status.

use std::process::ExitCode;

use crossbeam_channel::{RecvTimeoutError, bounded};
use log::info;
use mistify_libvirt::cli::{self, Command, Request};
use mistify_libvirt::config::fixed::{OPEN_FILES, STOP_NEWS};
use mistify_libvirt::config::{Config, Store};
use mistify_libvirt::daemon::listen;
use mistify_libvirt::journal::default_state_dir;
use mistify_libvirt::ops::{Libvirt, Stopped};
use mistify_libvirt::os::notify::Notify;
use mistify_libvirt::os::signals::Signals;
use mistify_libvirt::os::{activation, memory, process};
use mistify_libvirt::rpc::Audit;
use mistify_libvirt::{check, client, fetch, libvirt};

fn main() -> ExitCode {
    memory::bound_arenas();
    libvirt::quiet_log();
    // Sets no_new_privs and takes the passed sockets while the process has one thread: later threads and programs must
    // inherit no_new_privs, and must not get the sockets.
    if let Err(error) = process::forgo_new_privileges() {
        return fail(&format!("cannot set no_new_privs: {error}"));
    }
    let passed = activation::take();
    let variable = |name: &str| std::env::var_os(name);
    let (command, options) =
        match cli::parse(std::env::args_os().skip(1), variable, cli::DEFAULT_FILE) {
            Ok(Request::Do(command, options)) => (command, options),
            Ok(Request::Help) => {
                print!("{}", cli::usage());
                return ExitCode::SUCCESS;
            }
            Ok(Request::Fetch(service)) => {
                return fetch::serve(service).map_or_else(|why| fail(&why), |()| ExitCode::SUCCESS);
            }
            Ok(Request::Version) => {
                println!("mistify-libvirt {}", env!("CARGO_PKG_VERSION"));
                return ExitCode::SUCCESS;
            }
            Err(cli::Error::Usage(why)) => {
                eprintln!("mistify-libvirt: {why}\n\n{}", cli::usage());
                return ExitCode::from(2);
            }
            Err(cli::Error::Value { why, log_format }) => {
                eprintln!("{}", cli::fatal_line(&why, log_format));
                return ExitCode::FAILURE;
            }
        };
    if command != Command::Run {
        cli::start_log(&options);
    }
    let config = &options.config;
    let outcome = match command {
        Command::Run => return serve(options, passed),
        Command::CheckConfig => Ok(()),
        Command::Completions(shell) => {
            print!("{}", cli::completions(shell));
            Ok(())
        }
        Command::Check { json } => match check::run(config, json) {
            Ok(true) => return ExitCode::SUCCESS,
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error.to_string()),
        },
        Command::Create { create, json } => return answer(client::create(config, *create, json)),
        Command::Ssh { id, args } => return answer(client::ssh(config, &id, &args)),
        Command::Ask { ask, json } => return answer(client::run(config, &ask, json)),
        Command::StopGuests { wrong } => stop_guests(config, wrong.as_deref()),
        Command::Pull { url, id, sha256 } => cli::import::pull(config, &url, &id, &sha256),
        Command::Import { file, id } => cli::import::run(config, &file, &id),
    };
    outcome.map_or_else(|why| fail(&why), |()| ExitCode::SUCCESS)
}

/// Runs the agent. From here on only the log's own thread writes to standard error, which may block.
fn serve(options: cli::Options, passed: Result<Vec<activation::NamedSocket>, String>) -> ExitCode {
    let log_format = options.log_format;
    let log = cli::Log::start(&options).map_err(|error| format!("cannot start the log: {error}"));
    let (log, passed) = match log.and_then(|log| Ok((log, passed?))) {
        Ok(both) => both,
        Err(why) => {
            eprintln!("{}", cli::fatal_line(&why, log_format));
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = process::raise_open_files(OPEN_FILES) {
        info!("cannot raise the limit of open files: {error}");
    }
    let mut config = options.config;
    let ours = || default_state_dir(|name| std::env::var_os(name), process::user());
    config.state_dir = config.state_dir.or_else(ours);
    match run(&config, passed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log.print(&cli::fatal_line(&why, log_format));
            ExitCode::FAILURE
        }
    }
}

/// Connects the modules and serves until a signal; finishes requests in flight before it returns.
fn run(config: &Config, passed: Vec<activation::NamedSocket>) -> Result<(), String> {
    // First, so that a signal during the start is not lost.
    let signals =
        Signals::install().map_err(|error| format!("cannot install signal handlers: {error}"))?;
    let notify = Notify::from_environment(|name| std::env::var_os(name))
        .map_err(|error| format!("cannot use NOTIFY_SOCKET: {error}"))?;
    let audit = open_audit(config, &signals)?;
    let version = libvirt::start().map_err(|error| error.to_string())?;
    let fronts = listen(config, passed).map_err(|error| error.to_string())?;
    let agent =
        Libvirt::with_config(config).map_err(|error| format!("cannot start workers: {error}"))?;
    info!("libvirt client library {version} started; uri={}", config.host.libvirt_uri);
    agent.serve(fronts, audit, signals, notify).map_err(|error| error.to_string())
}

/// Shuts down all guests, and extends the service manager's timeout while it works.
fn stop_guests(config: &Config, wrong: Option<&str>) -> Result<(), String> {
    if let Some(wrong) = wrong {
        eprintln!("mistify-libvirt: shutting guests down with default settings: {wrong}");
    }
    let notify = Notify::from_environment(|name| std::env::var_os(name))
        .map_err(|error| format!("cannot use NOTIFY_SOCKET: {error}"))?;
    libvirt::start().map_err(|error| error.to_string())?;
    // Neither the journal nor the store of the agent, which may be running.
    let mut config = config.clone();
    (config.state_dir, config.host.store) = (None, Store::None);
    let agent = Libvirt::with_config(&config).map_err(|error| error.to_string())?;
    let (done, is_done) = bounded::<()>(0);
    let stopped = std::thread::scope(|threads| {
        threads.spawn(move || {
            while is_done.recv_timeout(STOP_NEWS) == Err(RecvTimeoutError::Timeout) {
                if let Some(notify) = &notify {
                    // If the message does not arrive, the service manager's timeout ends this program.
                    let _ = notify.send("EXTEND_TIMEOUT_USEC=30000000");
                }
            }
        });
        let stopped = agent.guests.stop_guests();
        drop(done);
        stopped
    });
    match stopped.map_err(|error| format!("cannot shut guests down: {error}"))? {
        Stopped { off, forced, left } if left.is_empty() => {
            println!("guests that are off: {off}, by force: {forced}");
            Ok(())
        }
        Stopped { left, .. } => Err(format!("guests may still run: {}", left.join(", "))),
    }
}

/// Opens the audit. SIGHUP is caught only if there is an audit file to reopen; otherwise it ends the
/// process.
fn open_audit(config: &Config, signals: &Signals) -> Result<Audit, String> {
    let audit = Audit::open(&config.audit).map_err(|error| match &config.audit.log {
        Some(path) => format!("cannot open --audit-log {}: {error}", path.display()),
        None => format!("cannot start the audit: {error}"),
    })?;
    if config.audit.log.is_some() {
        signals
            .catch_hangups()
            .map_err(|error| format!("cannot install signal handlers: {error}"))?;
    }
    Ok(audit)
}

fn answer(outcome: Result<(), client::Error>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    eprintln!("mistify-libvirt: {error}");
    ExitCode::from(error.status())
}

fn fail(why: &str) -> ExitCode {
    eprintln!("mistify-libvirt: {why}");
    ExitCode::FAILURE
}
