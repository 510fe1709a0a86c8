//! `pyrograph`: one program that is the server, the worker, the engine and the client. This file has the list of
//! commands and the exit code; `commands` implements them.

mod built_in;
mod client;
mod commands;
mod configuration;
mod contact_sheet;
mod failure;
mod installation;
mod key;
mod local_key;
mod log;
mod meter;
mod open_files;
mod output;
mod page_access;
mod picture_files;
mod platform;
mod server;
mod services;
mod signal;
mod table;
mod whole_file;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tracing::Level;

use commands::Outcome;
use failure::Failure;

/// Tensors are large and short-lived. glibc's allocator returns each of them to the system at once, which costs a
/// quarter of the engine's time on the CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Train LoRA adapters and generate images with them, on machines that you own
///
/// Start everything with `pyrograph up`, then run `pyrograph generate "owl on a blue background"` in another terminal.
/// The REST API offers the same; its documentation is at /docs of the running server.
#[derive(Debug, Parser)]
#[command(name = "pyrograph", version, arg_required_else_help = true, after_long_help = help_tables())]
struct Pyrograph {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(commands::up::Up),
    Demo(commands::demo::Demo),
    Generate(commands::generate::Generate),
    Train(commands::train::Train),
    Jobs(commands::jobs::Jobs),
    PictureInfo(commands::picture_info::PictureInfo),
    Generations(commands::generations::Generations),
    Trainings(commands::trainings::Trainings),
    Models(commands::models::Models),
    Datasets(commands::datasets::Datasets),
    Workers(commands::workers::Workers),
    Usage(commands::usage::Usage),
    Keys(commands::keys::Keys),
    Projects(commands::projects::Projects),
    Webhooks(commands::webhooks::Webhooks),
    LoginLink(commands::login_link::LoginLink),
    Serve(commands::serve::Serve),
    Worker(commands::worker::Worker),
    Migrate(commands::migrate::Migrate),
    Sweep(commands::sweep::Sweep),
    Archive(commands::archive::ArchiveCommand),
    Doctor(commands::doctor::Doctor),
    #[command(name = "openapi")]
    OpenApi(commands::openapi::OpenApi),
    #[command(hide = true)]
    Engine(commands::engine::Engine),
    #[command(hide = true)]
    Gauge(bench::Gauge),
}

fn help_tables() -> String {
    format!("{}\n\n{}", configuration::environment_help(), failure::EXIT_CODES)
}

fn main() -> ExitCode {
    signal::ignore_file_size();
    let line = arguments();
    let ended = match Pyrograph::from_arg_matches(&line) {
        Ok(line) => run(line.command),
        Err(error) => error.exit(),
    };
    ended.unwrap_or_else(|failure| {
        log::announce(Level::ERROR, &format!("pyrograph: {failure}"));
        failure.exit_code()
    })
}

/// The arguments. For clap, an option that a variable sets is part of the command line, and the usage of an error would
/// show it as one that has to be given. So an error that is there without the variables is shown as it is without them.
fn arguments() -> clap::ArgMatches {
    let command = configuration::without_empty_variables(Pyrograph::command());
    command.clone().try_get_matches().unwrap_or_else(|error| {
        let has_usage = error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
        match configuration::without_variables(command).try_get_matches() {
            Err(alone) if has_usage && alone.kind() == error.kind() => alone.exit(),
            _ => error.exit(),
        }
    })
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    let server = matches!(command, Command::Up(_) | Command::Serve(_) | Command::Worker(_) | Command::Engine(_));
    log::start(if server { log::SERVER } else { log::CLIENT })?;
    if server {
        open_files::raise_limit();
    }
    configuration::check_outgoing()?;
    let done = match command {
        // These need no runtime: the thread belongs to the device.
        Command::Engine(engine) => return engine.run(),
        Command::Gauge(gauge) => gauge.run().map_err(Failure::from),
        Command::OpenApi(openapi) => openapi.run(),
        Command::Up(up) => wait(up.run()),
        Command::Demo(demo) => wait(demo.run()),
        Command::Generate(generate) => wait(generate.run()),
        Command::Train(train) => wait(train.run()),
        Command::Jobs(jobs) => wait(jobs.run()),
        Command::PictureInfo(picture_info) => wait(picture_info.run()),
        Command::Generations(generations) => wait(generations.run()),
        Command::Trainings(trainings) => wait(trainings.run()),
        Command::Models(models) => wait(models.run()),
        Command::Datasets(datasets) => wait(datasets.run()),
        Command::Workers(workers) => wait(workers.run()),
        Command::Usage(usage) => wait(usage.run()),
        Command::Keys(keys) => wait(keys.run()),
        Command::Projects(projects) => wait(projects.run()),
        Command::Webhooks(webhooks) => wait(webhooks.run()),
        Command::LoginLink(login_link) => wait(login_link.run()),
        Command::Serve(serve) => wait(serve.run()),
        Command::Worker(worker) => wait(worker.run()),
        Command::Migrate(migrate) => wait(migrate.run()),
        Command::Sweep(sweep) => wait(sweep.run()),
        Command::Archive(archive) => wait(archive.run()),
        Command::Doctor(doctor) => wait(doctor.run()),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Runs a command to its end on a new runtime.
fn wait(command: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("could not start")?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Pyrograph::command().debug_assert();
    }

    #[test]
    fn every_flag_explains_itself() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Pyrograph::command());
    }

    #[test]
    fn every_server_is_an_address_of_http() {
        fn check(command: &clap::Command, checked: &mut Vec<String>) {
            command.get_subcommands().for_each(|command| check(command, checked));
            if command.get_arguments().all(|argument| argument.get_id() != "server") {
                return;
            }
            for server in ["ftp://a", "file:///x", "gopher:a", "http://", "a b", ""] {
                let parsed = command.clone().try_get_matches_from([command.get_name(), "--server", server]);
                let kind = parsed.err().map(|error| error.kind());
                let refused = Some(clap::error::ErrorKind::ValueValidation);
                assert_eq!(kind, refused, "{} --server '{server}'", command.get_name());
            }
            checked.push(command.get_name().to_owned());
        }
        let mut checked = Vec::new();
        check(&Pyrograph::command(), &mut checked);
        for name in ["generate", "list", "login-link", "doctor"] {
            assert!(checked.iter().any(|checked| checked == name), "{checked:?}");
        }
    }

    #[test]
    fn the_help_holds_both_tables() {
        let help = Pyrograph::command().render_long_help().to_string();
        for word in ["DATABASE_URL", "PYROGRAPH_S3_SECRET_ACCESS_KEY", "Exit codes:"] {
            assert!(help.contains(word), "{word}");
        }
    }
}
