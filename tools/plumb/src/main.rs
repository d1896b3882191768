//! `plumb`: one program for everything a person does with Plumb.
//!
//! Each subcommand is a module. The daemons are subcommands too (`plumb flowman`, `plumb driver`), and so
//! are the processes that a lab and the demo are made of; those are not shown in the help.

#![forbid(unsafe_code)]

mod bench;
mod cli;
mod daemons;
mod demo;
mod doctor;
mod experiment;
mod flows;
mod lab;
mod nc;
mod output;
mod ping;
mod process;
mod roles;
mod signals;
mod soak;
mod supervise;
mod top;
mod trace;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::cli::{Cli, Command, Hidden};

fn main() -> ExitCode {
    output::end(match Cli::try_parse() {
        Ok(words) => run(words.command),
        Err(error) => output::show(&error),
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Lab(arguments) => lab::run(&arguments),
        Command::Up(arguments) => up::run(&arguments),
        Command::Flowman(arguments) => daemons::flowman(&arguments),
        Command::Driver(arguments) => daemons::driver(&arguments),
        Command::Flows(arguments) => flows::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Experiment(arguments) => experiment::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Nc(arguments) => nc::run(&arguments),
        Command::Ping(arguments) => ping::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Completions { shell } => cli::completions(shell),
        Command::Hidden(hidden) => match hidden {
            Hidden::Peer(arguments) => lab::peer::hold(&arguments),
            Hidden::Keeper(arguments) => daemons::keeper(&arguments),
            Hidden::BenchEnd(arguments) => bench::end::run(&arguments),
            Hidden::SoakServer(arguments) => soak::server::run(&arguments),
            Hidden::SoakClients(arguments) => soak::clients::run(&arguments),
            Hidden::Wire(arguments) => lab::wire::run(&arguments),
            Hidden::InPeer { pid, command } => lab::peer::enter(pid, &command),
            Hidden::Run { command } => lab::run_and_die_with_it(&command),
            Hidden::Sender(arguments) => roles::sender::run(&arguments),
            Hidden::Capture(arguments) => roles::capture::run(&arguments),
            Hidden::Source(arguments) => roles::source::run(&arguments),
            Hidden::Reader(arguments) => roles::reader::run(&arguments),
            Hidden::Work => roles::work::run(),
            Hidden::Sink(arguments) => demo::sink::run(&arguments),
        },
    }
}
