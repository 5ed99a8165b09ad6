//! Going on in a new process. A kernel that faults takes its device from the whole process (CUDA's errors stick to it), and what was
//! still to be measured is worth more than the process: the same command takes its place, goes on with the folder, and leaves alone
//! what the device was lost in.

use super::Session;
use crate::exit::{Failure, Outcome};
use ridgepoint_device::transport::as_found;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Names what devices were lost in: a line of JSON each, of device, case and provider.
const LOST_IN: &str = "RIDGEPOINT_LOST_IN";

/// A measurement by its device, case and provider.
pub(super) type Key = (String, String, String);

/// What the processes before this one lost their devices in.
pub(super) fn lost_in() -> Vec<Key> {
    let text = std::env::var(LOST_IN).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The command's words with another folder to go on with.
fn words(all: impl Iterator<Item = OsString>, folder: &OsStr) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut all = all.skip(1);
    while let Some(word) = all.next() {
        match word.to_str() {
            Some("--out" | "--resume") => drop(all.next()),
            Some(text) if text.starts_with("--out=") || text.starts_with("--resume=") => {}
            _ => words.push(word),
        }
    }
    words.extend(["--resume".into(), folder.to_owned()]);
    words
}

impl Session {
    /// Puts a new process in the place of this one, if it lost a device for good; else gives back why measuring ended. Returns only
    /// where there is no other process to be had.
    ///
    /// # Errors
    /// The failure that it was given, or why no process could be started.
    pub(crate) fn anew<T>(&self, failure: Failure) -> Outcome<T> {
        let Some(key) = &self.lost_in else { return Err(failure) };
        let _ = writeln!(std::io::stderr(), "ridgepoint: {failure}; a new process goes on with the rest");
        let line = serde_json::to_string(key).unwrap_or_default();
        let before = std::env::var(LOST_IN).unwrap_or_default();
        let program = std::env::current_exe().map_err(|e| Failure::environment(format!("cannot find this program: {e}")))?;
        let mut again = Command::new(program);
        as_found(&mut again);
        let refused =
            again.args(words(std::env::args_os(), self.folder.as_os_str())).env(LOST_IN, format!("{before}{line}\n")).exec();
        Err(Failure::environment(format!("{failure}, and no new process could be started: {refused}")))
    }
}

#[cfg(test)]
mod tests {
    use super::words;
    use std::ffi::OsStr;

    #[test]
    fn the_same_command_goes_on_with_its_folder() {
        let of = |text: &str| words(text.split(' ').map(Into::into), OsStr::new("f")).join(OsStr::new(" "));
        assert_eq!(of("ridgepoint run --quick --out a gemm"), "run --quick gemm --resume f");
        assert_eq!(of("ridgepoint run --out=a gemm --resume=b"), "run gemm --resume f");
        assert_eq!(of("ridgepoint run --resume b"), "run --resume f");
    }
}
