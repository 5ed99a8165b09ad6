//! One file a command.

pub(crate) mod accept;
pub(crate) mod baseline;
pub(crate) mod bench_kernel;
pub(crate) mod burn;
pub(crate) mod collectives;
pub(crate) mod compare;
pub(crate) mod devices;
pub(crate) mod doctor;
pub(crate) mod list;
pub(crate) mod pairs;
pub(crate) mod report;
pub(crate) mod rules;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod search;
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
        Some(path) => replace(path, text).map_err(|e| store::cannot_write(path, &e)),
        None => print(text),
    }
}

/// Puts a new file in the place of an old one at once, so that whoever watches it (a collector of metrics) never sees half of it.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let ordinary = path.symlink_metadata().map_or(true, |m| m.is_file());
    let Some(name) = path.file_name().filter(|_| ordinary) else { return std::fs::write(path, text) };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let hidden = path.with_file_name(hidden);
    let written = std::fs::write(&hidden, text).and_then(|()| std::fs::rename(&hidden, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&hidden);
    }
    written
}
