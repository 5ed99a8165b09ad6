//! One file a command.

pub(crate) mod accept;
pub(crate) mod baseline;
pub(crate) mod devices;
pub(crate) mod doctor;
pub(crate) mod list;
pub(crate) mod report;
pub(crate) mod rules;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod simulate;

use crate::exit::{Failure, Outcome};
use std::io::{ErrorKind, Write};

/// Writes to standard output; a reader that went away ends the program quietly.
pub(crate) fn print(text: &str) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure::environment(format!("cannot write to standard output: {e}"))),
        _ => Ok(()),
    }
}
