//! Record files: written a line at a time so that a killed run keeps what it had, read with limits so that no file can hurt.

use crate::exit::{Failure, Outcome};
use ridgepoint_core::record::SCHEMA_VERSION;
use ridgepoint_core::roofline::place;
use ridgepoint_core::specs::Specs;
use ridgepoint_core::{DeviceInfo, Environment, Line, Record};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// The name of the record file in a run's folder.
pub(crate) const RAW: &str = "raw.jsonl";

/// Longest line accepted: 2000 samples of 25 digits and an environment of many devices fit many times over.
const MAX_LINE: u64 = 8 << 20;
/// Most lines accepted of one file.
const MAX_LINES: usize = 5_000_000;

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    pub(crate) environments: Vec<Environment>,
    pub(crate) records: Vec<Record>,
    /// Lines that could not be read, one sentence each.
    pub(crate) problems: Vec<String>,
    /// Bytes up to the end of the last whole line.
    pub(crate) whole: u64,
}

/// Reads a record file, or the one in a folder. A line that is no record becomes a problem, not the end.
pub(crate) fn read(path: &Path) -> Outcome<Records> {
    let path = if path.is_dir() { path.join(RAW) } else { path.to_owned() };
    let shown = path.display();
    let file = File::open(&path).map_err(|e| Failure::environment(format!("cannot read {shown}: {e}")))?;
    let mut reader = BufReader::new(file);
    let mut found = Records::default();
    for number in 1..=MAX_LINES {
        let mut line = Vec::new();
        let length = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        let length = length.map_err(|e| Failure::environment(format!("cannot read {shown}: {e}")))?;
        if length == 0 {
            return Ok(found);
        }
        let ended = line.last() == Some(&b'\n');
        if !ended && length as u64 == MAX_LINE {
            found.problems.push(format!(
                "{shown}:{number}: a line of over {} MiB is no record; the rest of the file is not read",
                MAX_LINE >> 20
            ));
            return Ok(found);
        }
        if ended {
            found.whole += length as u64;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice::<Line>(&line) {
            Ok(Line::Environment(e)) if e.schema > SCHEMA_VERSION => found.problems.push(format!(
                "{shown}:{number}: schema {} is newer than this ridgepoint reads ({SCHEMA_VERSION}); use the version that wrote it ({}) or a newer one",
                e.schema, e.version
            )),
            Ok(Line::Environment(e)) => found.environments.push(*e),
            Ok(Line::Record(r)) => found.records.push(*r),
            Err(_) if !ended => {
                found.problems.push(format!("{shown}:{number}: the last record is cut off (was the run killed?); it is left out"));
            }
            Err(e) => found.problems.push(format!("{shown}:{number}: not a record: {e}")),
        }
    }
    found.problems.push(format!("{shown}: more than {MAX_LINES} lines; the rest is not read"));
    Ok(found)
}

/// A record file being written.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    path: PathBuf,
}

impl Writer {
    /// Starts a new file in `folder`, which is made if need be and must hold no records yet.
    pub(crate) fn create(folder: &Path) -> Outcome<Self> {
        std::fs::create_dir_all(folder).map_err(|e| cannot_write(folder, &e))?;
        let path = folder.join(RAW);
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(|e| cannot_write(&path, &e))?;
        if file.metadata().is_ok_and(|m| m.len() > 0) {
            return Err(Failure::usage(format!(
                "{} already holds records; go on with --resume {} or name another --out",
                path.display(),
                folder.display()
            )));
        }
        Ok(Self { file, path })
    }

    /// Goes on with the file in `folder`: a line cut off at its end is dropped, and what is there is returned.
    pub(crate) fn resume(folder: &Path) -> Outcome<(Self, Records)> {
        let path = folder.join(RAW);
        if !path.is_file() {
            return Err(Failure::usage(format!("there is no run to go on with: {} does not exist", path.display())));
        }
        let found = read(&path)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| cannot_write(&path, &e))?;
        if file.metadata().is_ok_and(|m| m.len() > found.whole) {
            file.set_len(found.whole).map_err(|e| cannot_write(&path, &e))?;
        }
        Ok((Self { file, path }, found))
    }

    /// Appends one line, in one write, so that a kill cuts off at most the line in flight.
    pub(crate) fn append(&mut self, line: &Line) -> Outcome<()> {
        let mut text = serde_json::to_vec(line).map_err(|e| Failure::environment(format!("cannot encode a record: {e}")))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(|e| cannot_write(&self.path, &e))
    }
}

/// One sentence for a failed write.
pub(crate) fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    let advice = match error.kind() {
        std::io::ErrorKind::StorageFull => "; free some space (a run goes on with --resume)",
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            "; name a folder you may write to with --out"
        }
        _ => "",
    };
    Failure::environment(format!("cannot write {}: {error}{advice}", path.display()))
}

/// What has been measured or skipped already, so that a resumed run leaves it alone. Failed and wrong cases run again, and what has no
/// figure, since its device or its samples are not in the file.
pub(crate) fn done(found: &Records) -> BTreeSet<(String, String, String)> {
    let device = |r: &Record| {
        let environment = found.environments.iter().find(|e| e.hash == r.environment)?;
        environment.devices.iter().find(|d| d.id == r.device)
    };
    let usable = |r: &&Record| match &r.outcome {
        ridgepoint_core::Outcome::Measured { verification, .. } => {
            verification.passed() && device(r).is_some_and(|info| place(r, info, Specs::built_in()).is_some())
        }
        _ => true,
    };
    found.records.iter().filter(usable).filter_map(settled).collect()
}

/// Refuses to go on with a run of another machine: its figures would stand as this one's. A device with a uuid is the same wherever its
/// host's name comes from; another is where the host's name and its own are.
///
/// # Errors
/// One sentence that names both.
pub(crate) fn same_machine(found: &Records, here: &Environment) -> Outcome<()> {
    let named = |e: &Environment, d: &DeviceInfo| format!("{} ({} of {})", d.id, d.name, e.host);
    for (environment, device) in found.environments.iter().flat_map(|e| e.devices.iter().map(move |d| (e, d))) {
        let Some(now) = here.devices.iter().find(|d| d.id == device.id) else { continue };
        let same = match (&device.uuid, &now.uuid) {
            (Some(then), Some(now)) => then == now,
            _ => environment.host == here.host && device.name == now.name,
        };
        if !same {
            return Err(Failure::usage(format!(
                "the run to go on with was made on {}, and here is {}: go on there, or begin a run of its own with --out",
                named(environment, device),
                named(here, now)
            )));
        }
    }
    Ok(())
}

/// Device, case and provider of a record that need not be made again.
pub(crate) fn settled(record: &Record) -> Option<(String, String, String)> {
    use ridgepoint_core::Outcome as O;
    let settled = matches!(record.outcome, O::Measured { .. } | O::Skipped { .. });
    settled.then(|| (record.device.clone(), record.case.as_str().to_owned(), record.provider.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str, content: &[u8]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("ridgepoint-store-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(RAW), content).unwrap();
        folder
    }

    #[test]
    fn hostile_files_are_problems_and_never_panics() {
        let deep = "[".repeat(100_000) + "\n";
        for (name, content) in [
            ("cut", &b"{\"kind\":\"record\",\"case\":\"gem"[..]),
            ("deep", deep.as_bytes()),
            ("binary", &[0xff, 0xfe, 0, b'\n'][..]),
            ("wrong", b"{\"kind\":\"record\"}\n"),
            ("newer", b"{\"kind\":\"environment\",\"schema\":99,\"hash\":\"\",\"version\":\"9\",\"method\":1,\"host\":\"\",\"os\":\"\",\"cpu\":\"\",\"command\":[],\"profile\":\"\",\"seed\":1,\"started\":\"\",\"devices\":[]}\n"),
        ] {
            let folder = scratch(name, content);
            let found = read(&folder).unwrap();
            assert_eq!((found.records.len(), found.environments.len(), found.problems.len()), (0, 0, 1), "{name}: {:?}", found.problems);
            std::fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn a_resumed_file_loses_its_cut_line_and_nothing_else() {
        let folder = scratch("resume", b"{\"kind\":\"nonsense\"}\n{\"kind\":\"rec");
        let (_writer, found) = Writer::resume(&folder).unwrap();
        assert_eq!(found.problems.len(), 2);
        assert_eq!(std::fs::read(folder.join(RAW)).unwrap(), b"{\"kind\":\"nonsense\"}\n");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_with_records_is_not_written_over() {
        let folder = scratch("full", b"{}\n");
        let failure = Writer::create(&folder).unwrap_err();
        assert!(failure.message.contains("--resume"), "{failure}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
