//! Record files and streams taken in for judging: read in blocks of whole lines, parsed side by side, kept as sixty bytes a
//! record. A line that is no record is a problem and not the end; nothing in a folder is followed out of it.

use crate::exit::{Failure, Outcome};
use ridgepoint_core::record::SCHEMA_VERSION;
use ridgepoint_core::verdict::{Fleet, Source, read_line};
use ridgepoint_core::{Environment, Line};
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes after which a block is handed on, at the next end of a line: a node's five hundred records are about this.
const BLOCK: usize = 1 << 20;
/// Longest line accepted, as in store.rs.
const MAX_LINE: usize = 8 << 20;
/// Deepest folder searched.
const MAX_DEPTH: usize = 8;
/// Bytes of records kept until their environment turns up.
const MAX_ORPHANS: usize = 256 << 20;

/// Lines of one file.
struct Block {
    file: Arc<str>,
    /// Number of the first line.
    line: u32,
    bytes: Vec<u8>,
}

/// What the workers share.
#[derive(Default)]
struct Shared {
    environments: Mutex<HashMap<String, Arc<Environment>>>,
    orphans: Mutex<Orphans>,
}

/// Records whose environment has not been seen yet.
#[derive(Default)]
struct Orphans {
    lines: Vec<(Arc<str>, u32, Vec<u8>)>,
    bytes: usize,
    left_out: u64,
}

/// Takes in files, folders (every `.jsonl` below them) and, for `-`, standard input.
pub(crate) fn take_in(sources: &[PathBuf]) -> Outcome<Fleet> {
    let shared = Shared::default();
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().min(16));
    let (sender, receiver) = sync_channel::<Block>(2 * workers);
    let receiver = Mutex::new(receiver);
    let (read, fleets) = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(|| work(&receiver, &shared))).collect();
        let read = read_all(sources, sender);
        let fleets: Vec<Fleet> = handles.into_iter().filter_map(|h| h.join().ok()).collect();
        (read, fleets)
    });
    let problems = read?;
    if fleets.len() < workers {
        return Err(Failure::environment("a reading thread ended early; the records were not judged"));
    }
    let mut fleet = Fleet::default();
    for part in fleets {
        fleet.merge(part);
    }
    for (file, line, text) in problems {
        fleet.problem(&file, line, text);
    }
    adopt(&mut fleet, shared);
    fleet.finish();
    Ok(fleet)
}

/// Last, the records that came before their environment, or have none.
fn adopt(fleet: &mut Fleet, shared: Shared) {
    let environments = shared.environments.into_inner().unwrap_or_else(PoisonError::into_inner);
    let orphans = shared.orphans.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (file, line, bytes) in orphans.lines {
        let Ok(Line::Record(record)) = read_line(&bytes) else { continue };
        if let Some(environment) = environments.get(&record.environment) {
            let _ = fleet.add_environment(environment);
        }
        let source = Source { file: fleet.file(&file), line };
        if !fleet.add_record(&record, source) {
            let hash: String = record.environment.escape_debug().take(64).collect();
            fleet.problem(&file, line.into(), format!("no environment {hash} in any of the files; the record is left out"));
        }
    }
    if orphans.left_out > 0 {
        fleet.problem("", 0, format!("{} records came before their environment and were too many to keep", orphans.left_out));
    }
}

fn work(receiver: &Mutex<Receiver<Block>>, shared: &Shared) -> Fleet {
    let mut fleet = Fleet::default();
    loop {
        let block = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(block) = block else { return fleet };
        let mut line = block.line;
        for bytes in block.bytes.split(|b| *b == b'\n') {
            if !bytes.iter().all(u8::is_ascii_whitespace) {
                take_line(&mut fleet, shared, &block, line, bytes);
            }
            line = line.saturating_add(1);
        }
    }
}

fn take_line(fleet: &mut Fleet, shared: &Shared, block: &Block, line: u32, bytes: &[u8]) {
    let at = u64::from(line);
    match read_line(bytes) {
        Err(e) => fleet.problem(&block.file, at, format!("not a record: {}", plain(&e.to_string()))),
        Ok(Line::Environment(e)) if e.schema > SCHEMA_VERSION => fleet.problem(
            &block.file,
            at,
            format!("schema {} is newer than this ridgepoint reads ({SCHEMA_VERSION}); use a newer one", e.schema),
        ),
        Ok(Line::Environment(environment)) => {
            if let Err(e) = fleet.add_environment(&environment) {
                fleet.problem(&block.file, at, e);
            }
            let mut known = shared.environments.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(environment.hash.clone()).or_insert_with(|| Arc::from(environment));
        }
        Ok(Line::Record(record)) => {
            let source = Source { file: fleet.file(&block.file), line };
            if fleet.add_record(&record, source) {
                return;
            }
            let known = shared.environments.lock().unwrap_or_else(PoisonError::into_inner).get(&record.environment).cloned();
            if let Some(environment) = known
                && fleet.add_environment(&environment).is_ok()
            {
                fleet.add_record(&record, source);
                return;
            }
            let mut orphans = shared.orphans.lock().unwrap_or_else(PoisonError::into_inner);
            if orphans.bytes + bytes.len() > MAX_ORPHANS {
                orphans.left_out += 1;
                return;
            }
            orphans.bytes += bytes.len();
            orphans.lines.push((Arc::clone(&block.file), line, bytes.to_vec()));
        }
    }
}

/// A problem found by the reader: file, line, sentence.
type Problem = (String, u64, String);

/// Reads all sources into blocks. A file that is named and cannot be opened ends the command; one found in a folder is a problem.
fn read_all(sources: &[PathBuf], sender: SyncSender<Block>) -> Outcome<Vec<Problem>> {
    let mut problems = Vec::new();
    for source in sources {
        if source.as_os_str() == "-" {
            read(&mut std::io::stdin().lock(), "standard input", &sender, &mut problems)?;
            continue;
        }
        let cannot = |e: std::io::Error| Failure::environment(format!("cannot read {}: {e}", source.display()));
        if source.metadata().map_err(cannot)?.is_dir() {
            let mut files = Vec::new();
            search(source, 0, &mut files, &mut problems);
            if files.is_empty() {
                return Err(Failure::environment(format!("there is no .jsonl file in {}", source.display())));
            }
            files.sort();
            for path in files {
                let shown = shown(&path);
                match File::open(&path) {
                    Ok(mut file) => read(&mut file, &shown, &sender, &mut problems)?,
                    Err(e) => problems.push((shown, 0, format!("cannot be opened: {e}"))),
                }
            }
        } else {
            read(&mut File::open(source).map_err(cannot)?, &shown(source), &sender, &mut problems)?;
        }
    }
    Ok(problems)
}

/// Every record file below `folder` in order, and what was not read, a sentence each.
pub(crate) fn below(folder: &Path) -> (Vec<PathBuf>, Vec<String>) {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    search(folder, 0, &mut files, &mut problems);
    files.sort();
    (files, problems.into_iter().map(|(file, _, text)| format!("{file}: {text}")).collect())
}

/// Every regular `.jsonl` file below `folder`. Links are not followed: a folder of records has no business outside itself.
fn search(folder: &Path, depth: usize, files: &mut Vec<PathBuf>, problems: &mut Vec<Problem>) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => return problems.push((shown(folder), 0, format!("cannot be listed: {e}"))),
    };
    for entry in entries.flatten() {
        let (Ok(kind), path) = (entry.file_type(), entry.path()) else { continue };
        let record_file = path.extension().is_some_and(|e| e == "jsonl");
        if kind.is_dir() && depth < MAX_DEPTH {
            search(&path, depth + 1, files, problems);
        } else if kind.is_dir() {
            problems.push((shown(&path), 0, format!("is more than {MAX_DEPTH} folders deep and was not searched")));
        } else if kind.is_file() && record_file {
            files.push(path);
        } else if record_file {
            problems.push((shown(&path), 0, "is a link or no regular file and was not read; name it to have it read".into()));
        }
    }
}

/// Cuts what `from` gives into blocks of whole lines.
fn read(from: &mut impl Read, file: &str, sender: &SyncSender<Block>, problems: &mut Vec<Problem>) -> Outcome<()> {
    let name: Arc<str> = file.into();
    let mut line = 1u32;
    let mut bytes: Vec<u8> = Vec::new();
    let mut chunk = vec![0u8; 1 << 18];
    loop {
        let n = match from.read(&mut chunk) {
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(Failure::environment(format!("cannot read {file}: {e}"))),
        };
        bytes.extend_from_slice(&chunk[..n]);
        if n > 0 && bytes.len() < BLOCK {
            continue;
        }
        let cut = if n == 0 { Some(bytes.len()) } else { last_whole(&bytes) };
        let Some(cut) = cut else {
            if bytes.len() <= MAX_LINE {
                continue;
            }
            let text = format!("a line of over {} MiB is no record; the rest is not read", MAX_LINE >> 20);
            problems.push((file.into(), line.into(), text));
            return Ok(());
        };
        let rest = bytes.split_off(cut);
        let lines = bytes.iter().filter(|b| **b == b'\n').count();
        let block = Block { file: Arc::clone(&name), line, bytes: std::mem::replace(&mut bytes, rest) };
        line = line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        if sender.send(block).is_err() {
            return Err(Failure::environment("the reading threads have ended"));
        }
        if n == 0 {
            return Ok(());
        }
    }
}

/// Where to cut: before the last environment that begins in the block, so that it stays with its records, else after the last
/// line; None where not even one line is whole.
fn last_whole(bytes: &[u8]) -> Option<usize> {
    const START: &[u8] = b"\n{\"kind\":\"environment\"";
    let environment = bytes.windows(START.len()).rposition(|w| w == START).map(|i| i + 1);
    environment.or_else(|| bytes.iter().rposition(|b| *b == b'\n').map(|i| i + 1))
}

fn shown(path: &Path) -> String {
    plain(&path.display().to_string())
}

/// Text from a file or its name without control characters.
fn plain(text: &str) -> String {
    text.chars().take(400).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
