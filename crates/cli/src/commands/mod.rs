//! One file a command.

pub(crate) mod accept;
pub(crate) mod baseline;
pub(crate) mod compare;
pub(crate) mod devices;
pub(crate) mod doctor;
pub(crate) mod list;
pub(crate) mod report;
pub(crate) mod rules;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod simulate;

use crate::exit::{Failure, Outcome};
use crate::store;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Writes to standard output; a reader that went away ends the program quietly.
pub(crate) fn print(text: &str) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure::environment(format!("cannot write to standard output: {e}"))),
        _ => Ok(()),
    }
}

/// Writes to a file, or to standard output where none is named.
pub(crate) fn deliver(text: &str, output: Option<&Path>) -> Outcome<()> {
    match output {
        Some(path) => std::fs::write(path, text).map_err(|e| store::cannot_write(path, &e)),
        None => print(text),
    }
}
