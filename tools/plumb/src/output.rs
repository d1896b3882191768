//! Where everything goes that this program says: the one place that writes to standard output or error.
//!
//! What cannot be written to standard output is an error like any other, so that what a command has begun is
//! ended in order; the macros of the standard library would panic. Who reads no more has seen enough: then the
//! program ends quietly, with the status that shells give to what a closed pipe ended. Notices go to standard
//! error, and if nobody hears them, nothing depends on that.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// 128 and the number of `SIGPIPE`.
const PIPE_CLOSED: u8 = 141;

/// Standard output could not be written.
#[derive(Debug)]
pub struct OutputError(io::Error);

impl std::fmt::Display for OutputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot write to standard output: {}", self.0)
    }
}

impl std::error::Error for OutputError {}

/// Says a line on standard output, as `println!` would.
macro_rules! say {
    () => { $crate::output::line(format_args!("")) };
    ($($words:tt)+) => { $crate::output::line(format_args!($($words)+)) };
}

/// Tells a person something, on standard error: what goes on, or what went wrong.
macro_rules! tell {
    ($($words:tt)*) => { $crate::output::notice(format_args!($($words)*)) };
}

pub(crate) use {say, tell};

/// Writes a line to standard output.
pub fn line(words: Arguments<'_>) -> Result<(), OutputError> {
    let mut output = io::stdout().lock();
    output.write_fmt(words).and_then(|()| output.write_all(b"\n")).map_err(OutputError)
}

/// Writes `bytes` to standard output, and does not keep them back.
pub fn bytes(bytes: &[u8]) -> Result<(), OutputError> {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(OutputError)
}

/// Writes a line to standard error, if that can be written.
pub fn notice(words: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(format_args!("{words}\n"));
}

/// Ends the program as `result` says; errors are told here.
pub fn end(result: anyhow::Result<ExitCode>) -> ExitCode {
    // What was written last and has no end of line.
    let result = result.and_then(|code| bytes(b"").map(|()| code).map_err(Into::into));
    result.unwrap_or_else(|error| {
        let lost = error.chain().find_map(|cause| cause.downcast_ref::<OutputError>());
        if lost.is_some_and(|lost| lost.0.kind() == ErrorKind::BrokenPipe) {
            return ExitCode::from(PIPE_CLOSED);
        }
        tell!("plumb: {}", message(&error));
        ExitCode::FAILURE
    })
}

/// Shows what clap has to say: help and version on standard output, mistakes on standard error.
pub fn show(text: &clap::Error) -> anyhow::Result<ExitCode> {
    let code = ExitCode::from(u8::try_from(text.exit_code()).unwrap_or(u8::MAX));
    match text.print() {
        Err(error) if !text.use_stderr() => Err(OutputError(error).into()),
        _ => Ok(code),
    }
}

/// An error and its causes, leaving out causes that were named already.
fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
