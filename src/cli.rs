//! The command line: run · demo · check · hash-password · healthcheck · version.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]

pub mod check;
pub mod hash_password;
pub mod healthcheck;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Decoded;
use crate::config::static_config::Static;
use crate::{config, demo, gateway, observe};

/// Where the static file is looked for, in this order, when no option names it.
const PLACES: [&str; 2] = ["/etc/gantry/gantry.yaml", "./gantry.yaml"];

/// The front door for MRI segmentation model containers.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Args)]
struct RunArgs {
    /// The static configuration. Without it: /etc/gantry/gantry.yaml, then ./gantry.yaml
    #[arg(
        long = "configFile",
        alias = "configfile",
        env = "GANTRY_CONFIGFILE",
        global = true,
        value_name = "FILE"
    )]
    config_file: Option<PathBuf>,
    /// Data-plane workers. Default: one per processor that the process may use
    #[arg(long, env = "GANTRY_WORKERS", global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (what `gantry` does without a command)
    Run,
    /// Show the whole thing on this machine: a front door, two stand-in model servers, metrics
    Demo {
        /// Write a synthetic head phantom (NIfTI-1, gzip if the name ends in .gz) and exit
        #[arg(long, value_name = "FILE")]
        phantom: Option<PathBuf>,
        /// Seed of the phantom
        #[arg(long, default_value_t = 1, requires = "phantom")]
        seed: u64,
    },
    /// Check configuration files, static or dynamic, without serving them
    Check {
        /// Files, or folders of dynamic files; files of one call are checked together
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// How to print what was found
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Hash a password (read from standard input) for `basicAuth`
    HashPassword {
        /// Print `USER:HASH`, ready for `users`
        user: Option<String>,
        /// bcrypt's cost: each step doubles the time
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(4..=16))]
        cost: u32,
    },
    /// Ask a running Gantry's /ping; exit 0 if it serves
    Healthcheck {
        /// The whole URL, where the static file does not tell
        #[arg(long)]
        url: Option<String>,
    },
    /// Print the version
    Version,
}

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None | Some(Command::Run) => run(&cli.run),
        Some(Command::Demo {
            phantom: Some(file),
            seed,
        }) => demo::write_phantom(&file, seed),
        Some(Command::Demo { phantom: None, .. }) => demo::run(cli.run.workers.map(usize::from)),
        Some(Command::Check { files, format }) => return check::run(&files, format),
        Some(Command::HashPassword { user, cost }) => hash_password::run(user.as_deref(), cost),
        Some(Command::Healthcheck { url }) => {
            let file = find_static(cli.run.config_file.as_deref()).ok();
            return healthcheck::run(url.as_deref(), file.as_deref());
        }
        Some(Command::Version) => {
            println!("gantry {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &RunArgs) -> anyhow::Result<()> {
    let file = find_static(args.config_file.as_deref())?;
    let decoded = load_static(&file)?;
    start(decoded.value.clone(), args).map_err(|error| match error.downcast::<gateway::StartError>() {
        Ok(gateway::StartError(diagnostic)) => anyhow::anyhow!("{}", decoded.attach(diagnostic)),
        Err(error) => error,
    })
}

fn start(settings: Static, args: &RunArgs) -> anyhow::Result<()> {
    let log =
        observe::log::init(&(&settings.log).into()).map_err(|e| gateway::startup::unopened("log.filePath", &e))?;
    gateway::run(gateway::Options {
        settings,
        workers: args.workers.map(usize::from),
        log: Some(log),
    })
}

/// The static file that is to be used.
fn find_static(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(file) = named {
        return Ok(file.to_owned());
    }
    PLACES
        .iter()
        .map(PathBuf::from)
        .find(|file| file.is_file())
        .ok_or_else(|| {
            anyhow::anyhow!(
                "error: there is no static configuration: looked for {}\n  = help: name it with --configFile FILE or \
             GANTRY_CONFIGFILE, or see `gantry demo`",
                PLACES.join(" and ")
            )
        })
}

/// Reads and decodes a static file; warnings go to standard error.
fn load_static(file: &Path) -> anyhow::Result<Decoded<Static>> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|e| {
        anyhow::anyhow!("error: cannot read `{name}`: {e}\n  = help: check the path and its permissions (--configFile)")
    })?;
    let decoded = config::decode_static(&name, &text);
    let (errors, warnings): (Vec<_>, Vec<_>) = decoded.diagnostics.iter().partition(|d| d.is_error());
    for warning in warnings {
        eprintln!("{warning}\n");
    }
    if errors.is_empty() {
        return Ok(decoded);
    }
    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
    anyhow::bail!("{}", text.join("\n\n"))
}
