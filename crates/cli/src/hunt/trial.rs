//! A short trial of a case, ended early where it cannot reach the best so far, and the file that keeps what trials showed, so that a
//! hunt goes on where it was ended. What a trial shows is a reason to measure a case, and no result: nothing of it reaches a record.

use crate::exit::Outcome;
use crate::store::cannot_write;
use ridgepoint_core::{Case, Seconds};
use ridgepoint_device::{Device, Result};
use ridgepoint_harness::Suite;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// A single run slower than the best by so much more is not looked at again.
const HOPELESS: f64 = 1.5;
/// Nor is one that is slower by so much over a few runs.
const BEHIND: f64 = 1.05;
/// Runs are timed together until they last this long …
const LONG_ENOUGH: f64 = 5e-3;
/// … so many of them at most.
const MOST_RUNS: usize = 64;

/// Seconds of one execution, as far as it was looked at. `enough` is what the best rate so far would take.
///
/// # Errors
/// That of making it ready, or of the device.
pub(crate) fn trial(
    suite: &dyn Suite,
    case: &Case,
    provider: &str,
    device: &dyn Device,
    seed: u64,
    enough: Option<Seconds>,
) -> Result<Seconds> {
    let mut ready = suite.prepare(case, provider, device, seed)?.ready;
    let turns = ready.turns();
    let mut turn = 0;
    let mut run = |times: usize| -> Result<f64> {
        let start = device.record()?;
        for _ in 0..times {
            ready.enqueue(turn % turns)?;
            turn += 1;
        }
        let end = device.record()?;
        Ok(device.elapsed(&start, &end)?.0 / times as f64)
    };
    run(1)?;
    let enough = enough.map_or(f64::INFINITY, |e| e.0);
    let mut least = run(1)?;
    if least > HOPELESS * enough {
        return Ok(Seconds(least));
    }
    for _ in 0..3 {
        let times = (LONG_ENOUGH / least.max(1e-9)).ceil().clamp(1.0, MOST_RUNS as f64) as usize;
        least = least.min(run(times)?);
        if least > BEHIND * enough {
            break;
        }
    }
    Ok(Seconds(least))
}

/// Device, case, provider.
type Key = (String, String, String);

/// One line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    device: String,
    case: String,
    provider: String,
    /// None where it could not be tried.
    seconds: Option<f64>,
}

/// What was tried, kept in a file beside the records.
pub(crate) struct Trials {
    file: File,
    path: PathBuf,
    known: BTreeMap<Key, Option<Seconds>>,
}

/// The file's name.
const NAME: &str = "trials.jsonl";
/// Longest line, and most of them.
const MAX_LINE: u64 = 4096;
const MAX_LINES: usize = 1_000_000;

impl Trials {
    /// Those in `folder`, which is there; lines that are none are passed over.
    pub(crate) fn open(folder: &Path) -> Outcome<Self> {
        let path = folder.join(NAME);
        let failed = |e: std::io::Error| cannot_write(&path, &e);
        let known = File::open(&path).map(read).unwrap_or_default();
        let mut file = OpenOptions::new().append(true).create(true).open(&path).map_err(failed)?;
        // What a kill cut off must not spoil the line after it.
        if !known.is_empty() {
            file.write_all(b"\n").map_err(failed)?;
        }
        Ok(Self { file, path, known })
    }

    /// What a trial showed, if there was one.
    pub(crate) fn get(&self, device: &str, case: &str, provider: &str) -> Option<Option<Seconds>> {
        self.known.get(&(device.to_owned(), case.to_owned(), provider.to_owned())).copied()
    }

    /// Keeps what one showed.
    pub(crate) fn keep(&mut self, device: &str, case: &str, provider: &str, seconds: Option<Seconds>) -> Outcome<()> {
        let line = Line { device: device.into(), case: case.into(), provider: provider.into(), seconds: seconds.map(|s| s.0) };
        let text = serde_json::to_string(&line).unwrap_or_default() + "\n";
        self.file.write_all(text.as_bytes()).map_err(|e| cannot_write(&self.path, &e))?;
        self.known.insert((line.device, line.case, line.provider), seconds);
        Ok(())
    }
}

fn read(file: File) -> BTreeMap<Key, Option<Seconds>> {
    let mut reader = BufReader::new(file);
    let mut known = BTreeMap::new();
    for _ in 0..MAX_LINES {
        let mut line = Vec::new();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(length) if length > 0 => {}
            _ => break,
        }
        if let Ok(Line { device, case, provider, seconds }) = serde_json::from_slice(&line) {
            known.insert((device, case, provider), seconds.filter(|s| s.is_finite() && *s > 0.0).map(Seconds));
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_are_kept_and_what_is_no_trial_is_passed_over() {
        let folder = std::env::temp_dir().join(format!("ridgepoint-trials-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut trials = Trials::open(&folder).unwrap();
        trials.keep("cpu:0", "gemm/m1n1k1/f32", "native", Some(Seconds(0.5))).unwrap();
        trials.keep("cpu:0", "gemm/m1n1k2/f32", "native", None).unwrap();
        drop(trials);
        let mut file = OpenOptions::new().append(true).open(folder.join(NAME)).unwrap();
        file.write_all(b"\xff\xff\n{\"device\":1}\n[[[[\n{\"device\":\"cpu:0\",\"case\":\"cut").unwrap();
        let mut trials = Trials::open(&folder).unwrap();
        trials.keep("cpu:0", "gemm/m1n1k3/f32", "native", Some(Seconds(2.0))).unwrap();
        let trials = Trials::open(&folder).unwrap();
        let get = |case| trials.get("cpu:0", case, "native");
        assert_eq!(get("gemm/m1n1k1/f32"), Some(Some(Seconds(0.5))));
        assert_eq!(get("gemm/m1n1k2/f32"), Some(None));
        assert_eq!(get("gemm/m1n1k3/f32"), Some(Some(Seconds(2.0))));
        assert_eq!((get("gemm/m1n1k4/f32"), trials.get("cpu:1", "gemm/m1n1k1/f32", "native")), (None, None));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
