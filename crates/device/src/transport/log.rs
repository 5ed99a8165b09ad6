//! What the library of GPUs writes of how it connects the ranks: into memory that only this process has, under a name that the library
//! can open. It is read as it grows and given back, since a library that tells of every call writes much.
//!
//! Whoever asks for all of it by NCCL_DEBUG, or names NCCL_DEBUG_FILE, has the library write where they say; a file is read then, and the
//! record says whose it is. Whoever asks for warnings alone gets them as before. A sweep needs more than users ask for, and has its own way.

use super::{MOST, Said};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

/// More is read as soon as a run is over.
const LONG: u64 = 4 << 20;
/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// What a library writes, as far as it was read.
#[derive(Default)]
pub(crate) struct Log {
    /// Where it writes; None where nothing was arranged, or a user did.
    file: Option<File>,
    /// So much of it was read.
    at: u64,
    /// Warnings go to stderr, as the environment asked for.
    passes: bool,
    said: Said,
}

/// What of a line a library writes at the levels WARN and VERSION.
fn asked_for(line: &str) -> Option<&str> {
    if line.contains("NCCL WARN ") { Some(line) } else { line.find("NCCL version ").and_then(|at| line.get(at..)) }
}

impl Log {
    /// Sets what a library reads before its first call: where to write, and whether what it runs, too, for a sweep.
    ///
    /// # Safety
    /// No other thread may run: variables are set.
    pub(crate) unsafe fn begin(swept: bool) -> Self {
        if !swept && Said::by_the_environment().is_some() {
            return Self::default();
        }
        // SAFETY: the name is a string that lives as long as the program.
        let fd = unsafe { libc::memfd_create(c"library's log".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            // Without one there is no more to tell than without this.
            return Self::default();
        }
        // SAFETY: it was just made and is owned here alone.
        let file = unsafe { File::from_raw_fd(fd) };
        let passes = !swept && std::env::var_os("NCCL_DEBUG").is_some_and(|level| !level.is_empty());
        let of = if swept { "INIT,NET,GRAPH,TUNING" } else { "INIT,NET,GRAPH" };
        let path = format!("/proc/self/fd/{fd}");
        for (name, value) in [("NCCL_DEBUG", "INFO"), ("NCCL_DEBUG_SUBSYS", of), ("NCCL_DEBUG_FILE", &path)] {
            // SAFETY: no other thread runs, says the caller.
            unsafe { std::env::set_var(name, value) };
        }
        Self { file: Some(file), passes, ..Self::default() }
    }

    /// Whether a library was given it to write to.
    pub(crate) const fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Reads whole lines of what is new, and gives their memory back.
    fn catch_up(&mut self) {
        let Some(file) = &self.file else { return };
        let length = file.metadata().map_or(0, |about| about.len());
        self.at = self.at.max(length.saturating_sub(MOST));
        let mut piece = vec![0; PIECE.min(length.saturating_sub(self.at) as usize)];
        while let Ok(n @ 1..) = file.read_at(&mut piece, self.at) {
            // A line longer than a piece is none of the library's.
            let end = piece[..n].iter().rposition(|byte| *byte == b'\n').map_or(n / PIECE * n, |at| at + 1);
            if end == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&piece[..end]);
            if self.passes {
                text.lines().filter_map(asked_for).for_each(|line| drop(writeln!(std::io::stderr(), "{line}")));
            }
            self.said.read(&text);
            self.at += end as u64;
        }
        // SAFETY: takes no pointer. The library goes on writing where it was; where this fails the memory stays in use.
        unsafe {
            libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, self.at as libc::off_t)
        };
    }

    /// Reads what is new if it is long.
    pub(crate) fn keep_short(&mut self) {
        let length = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |about| about.len());
        if length.saturating_sub(self.at) > LONG {
            self.catch_up();
        }
    }

    /// What was written so far, here or where the user has it written.
    pub(crate) fn said(&mut self) -> Said {
        self.catch_up();
        match self.file {
            Some(_) => self.said.clone(),
            None => Said::by_the_environment().unwrap_or_default(),
        }
    }

    /// The last warning since this was asked last.
    pub(crate) fn warning(&mut self) -> Option<String> {
        self.catch_up();
        self.said.take_warning()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_read_once_in_whole_lines_and_given_back() {
        let line = |i: usize| format!("n:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via NET/IB/{}/GDRDMA\n", i % 8);
        // SAFETY: as above.
        let file = unsafe { File::from_raw_fd(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)) };
        // As a library opens it, by its path.
        let mut library = File::create(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        let mut log = Log { file: Some(file), ..Log::default() };
        assert_eq!(log.said(), Said::default());
        library.write_all(b"n:1:2 [0] NCCL INFO Using net").unwrap();
        assert_eq!(log.said(), Said::default(), "half a line");
        library.write_all(b"work IB\nn:1:2 [0] NCCL WARN odd\n").unwrap();
        assert_eq!(crate::transport::config(&[log.said()])["network"], "IB");
        assert_eq!((log.warning().as_deref(), log.warning()), (Some("odd"), None));
        let many: String = (0..80_000).map(line).collect();
        library.write_all(many.as_bytes()).unwrap();
        log.keep_short();
        let found = crate::transport::config(&[log.said.clone()]);
        assert_eq!((found["transport"].matches("GDRDMA").count(), found["GPUDirect RDMA"].as_str()), (8, "used"));
        let lines =
            ["n:1:2 [0] NCCL INFO NCCL version 2.30.3", "n:1:2 [0] NCCL WARN odd", "n:1:2 [0] NCCL INFO Using network IB"];
        assert_eq!(lines.map(asked_for), [Some("NCCL version 2.30.3"), Some("n:1:2 [0] NCCL WARN odd"), None]);
        use std::os::unix::fs::MetadataExt;
        let about = log.file.as_ref().unwrap().metadata().unwrap();
        assert!(about.len() as usize > many.len() && about.blocks() * 512 < LONG / 4, "{} blocks", about.blocks());
    }
}
