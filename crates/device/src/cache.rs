//! Compiled kernels kept between runs.
//!
//! An entry holds its whole key, source included, and is used only where that is equal byte for byte: a collision or a
//! truncated file costs a compilation and never runs the wrong code. Losing the cache is no error, so nothing here fails.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Longest entry: many times the largest kernel.
const LARGEST: u64 = 64 << 20;
/// Entries of a folder.
const MOST_ENTRIES: usize = 4096;

pub(crate) struct Cache {
    dir: PathBuf,
}

const MAGIC: &[u8; 8] = b"RPKCACH1";

impl Cache {
    /// `$RIDGEPOINT_CACHE`, `$XDG_CACHE_HOME/ridgepoint` or `~/.cache/ridgepoint`; none where there is no home.
    pub(crate) fn of_user(folder: &str, env: &dyn Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        let dir = env("RIDGEPOINT_CACHE")
            .or_else(|| env("XDG_CACHE_HOME").filter(|p| p.is_absolute()).map(|p| p.join("ridgepoint")))
            .or_else(|| env("HOME").map(|p| p.join(".cache/ridgepoint")))?;
        Some(Self { dir: dir.join(folder) })
    }

    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let bytes = read(&self.file(key))?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (lengths, rest) = rest.split_at_checked(24)?;
        let word = |i: usize| lengths[i * 8..][..8].try_into().map(u64::from_le_bytes).ok();
        let (key_len, len, sum) = (usize::try_from(word(0)?).ok()?, usize::try_from(word(1)?).ok()?, word(2)?);
        let (stored, value) = rest.split_at_checked(key_len)?;
        (stored == key.as_bytes() && value.len() == len && fnv(value) == sum).then(|| value.to_vec())
    }

    pub(crate) fn put(&self, key: &str, value: &[u8]) {
        self.make_room();
        let mut bytes = MAGIC.to_vec();
        for n in [key.len() as u64, value.len() as u64, fnv(value)] {
            bytes.extend(n.to_le_bytes());
        }
        bytes.extend(key.as_bytes());
        bytes.extend(value);
        let file = self.file(key);
        // Written beside and renamed, so that ranks that start together never read half of it.
        let part = file.with_extension(format!("part{}", std::process::id()));
        let _ = std::fs::create_dir_all(&self.dir);
        if std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, &file)).is_err() {
            let _ = std::fs::remove_file(&part);
        }
    }

    /// Removes the oldest half once there are too many entries: whoever needs one again makes it again.
    fn make_room(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let mut files: Vec<(SystemTime, PathBuf)> =
            entries.filter_map(|e| e.ok()).filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
        if files.len() < MOST_ENTRIES {
            return;
        }
        files.sort();
        for (_, file) in &files[..files.len() / 2] {
            let _ = std::fs::remove_file(file);
        }
    }

    fn file(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{:016x}", fnv(key.as_bytes())))
    }
}

/// A file of at most [`LARGEST`] bytes; nothing for a pipe or a device, which would never end.
fn read(path: &Path) -> Option<Vec<u8>> {
    std::fs::metadata(path).ok().filter(|m| m.is_file() && m.len() <= LARGEST)?;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// FNV-1a: the same on every build, unlike the standard library's hasher.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_key_and_a_damaged_file_are_misses() {
        let dir = std::env::temp_dir().join(format!("rp-cache-{}", std::process::id()));
        let cache = Cache { dir: dir.clone() };
        assert_eq!(cache.get("k"), None);
        cache.put("k", b"code");
        assert_eq!(cache.get("k").as_deref(), Some(&b"code"[..]));
        // The same file under another key, as a collision of the hash would have it.
        std::fs::copy(cache.file("k"), cache.file("other")).unwrap();
        assert_eq!(cache.get("other"), None);
        let mut bytes = std::fs::read(cache.file("k")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(cache.file("k"), &bytes).unwrap();
        assert_eq!(cache.get("k"), None);
        std::fs::write(cache.file("k"), &bytes[..20]).unwrap();
        assert_eq!(cache.get("k"), None);
        // A key that claims to be longer than the file, and a file that is too long to be read.
        let mut lying = MAGIC.to_vec();
        lying.extend([0xff; 24]);
        std::fs::write(cache.file("k"), &lying).unwrap();
        assert_eq!(cache.get("k"), None);
        File::create(cache.file("k")).unwrap().set_len(LARGEST + 1).unwrap();
        assert_eq!(cache.get("k"), None);
        std::fs::remove_file(cache.file("k")).unwrap();
        std::fs::create_dir(cache.file("k")).unwrap();
        assert_eq!(cache.get("k"), None);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
