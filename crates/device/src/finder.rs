//! Where a vendor library is on this machine.
//!
//! Containers keep CUDA in at least five layouts: the loader's path, a toolkit under /usr/local, the distribution's
//! folder, the driver mount of the container runtime, and the `nvidia/*` folders of Python wheels; ROCm is in /opt/rocm*, in
//! the distribution's folder or in `_rocm_sdk_*` of the wheels. The search is by file name alone (no interpreter is started),
//! and keeps what it tried so that `doctor` can say it.

use crate::dl::Opened;
use crate::probe::Finding;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The value of a layout's variable that turns the search off.
const NONE: &str = "none";

/// Where a vendor puts its libraries.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Names folders to look in before all others, or is [`NONE`].
    pub(crate) variable: &'static str,
    /// Variables that name a toolkit.
    pub(crate) homes: &'static [&'static str],
    /// Folders of a toolkit that hold libraries.
    pub(crate) parts: &'static [&'static str],
    /// The toolkit's own folder, and the folder and prefix of its versions.
    pub(crate) toolkit: &'static str,
    pub(crate) versions: (&'static str, &'static str),
    /// Further folders of the system.
    pub(crate) system: &'static [&'static str],
    /// Library folders of a Python site-packages.
    pub(crate) site: fn(&Path) -> Vec<PathBuf>,
}

/// What to look for: names in order of preference, and a symbol that proves the library is the right one.
pub(crate) struct Wanted {
    pub(crate) stem: &'static str,
    pub(crate) sonames: &'static [&'static str],
    pub(crate) proof: &'static str,
    /// Files of the same folder that the library opens by bare name, opened first so that it finds them.
    pub(crate) siblings: &'static [&'static str],
    /// Comes with the kernel driver: a Python wheel or a toolkit never holds the right one.
    pub(crate) of_driver: bool,
    /// How to get it: for a driver of this major version or newer, the last that applies.
    pub(crate) get: &'static [(i32, &'static str)],
}

impl Wanted {
    /// What to do where it is missing. Without a driver's version: what the newest driver wants.
    pub(crate) fn remedy(&self, driver: Option<i32>) -> &'static str {
        let fits = |(since, _): &&(i32, &'static str)| driver.is_none_or(|major| *since <= major);
        self.get.iter().rev().find(fits).map_or("", |(_, command)| command)
    }
}

/// The outcome of a search.
pub(crate) struct Search {
    pub(crate) found: Option<Opened>,
    /// Each thing that was opened in vain, with the loader's or our own reason.
    pub(crate) failed: Vec<(PathBuf, String)>,
    /// The folders that were looked through.
    pub(crate) looked_in: Vec<PathBuf>,
    /// The user wants none, by this variable.
    pub(crate) turned_off: Option<&'static str>,
}

impl Search {
    /// Why it is not there.
    pub(crate) fn reason(&self) -> String {
        if let Some(variable) = self.turned_off {
            return format!("{variable} is '{NONE}'");
        }
        match self.failed.iter().find(|(p, _)| p.is_absolute()) {
            Some((p, why)) => format!("{} was found but {why}", p.display()),
            None => format!("not on the loader's path nor in {} folders", self.looked_in.len()),
        }
    }

    /// One sentence for a report.
    pub(crate) fn sentence(&self, wanted: &Wanted, driver: Option<i32>) -> String {
        match &self.found {
            Some(o) => format!("{}: {}", wanted.stem, o.path.display()),
            None if self.turned_off.is_some() => format!("{}: {}", wanted.stem, self.reason()),
            None => format!("{}: {}. To get it: {}", wanted.stem, self.reason(), wanted.remedy(driver)),
        }
    }

    /// One line of `doctor`.
    pub(crate) fn finding(&self, wanted: &Wanted, driver: Option<i32>, version: Option<String>) -> Finding {
        let (detail, remedy) = match &self.found {
            Some(opened) => {
                (version.map_or_else(String::new, |v| format!("{v} from ")) + &opened.path.display().to_string(), None)
            }
            None => (self.reason(), self.turned_off.is_none().then(|| wanted.remedy(driver).to_owned())),
        };
        Finding { what: wanted.stem.into(), ok: self.found.is_some(), detail, remedy }
    }
}

/// Finds and opens a library. `fits` may refuse one that opened (too new for the driver, say) with its reason,
/// and the search goes on; the last resort is none at all, never the wrong one.
pub(crate) fn find(wanted: &Wanted, places: &Places, fits: &dyn Fn(&Opened) -> Result<(), String>) -> Search {
    let mut search = Search { found: None, failed: Vec::new(), looked_in: Vec::new(), turned_off: places.turned_off };
    if places.turned_off.is_some() {
        return search;
    }
    let attempt = |path: &Path, search: &mut Search| -> bool {
        if path.is_absolute() {
            open_siblings(wanted, path);
        }
        let outcome = Opened::open(path).and_then(|mut o| {
            if o.address(&[wanted.proof]).is_none() {
                return Err(format!("it has no {}", wanted.proof));
            }
            o.settle_path(wanted.proof);
            fits(&o).map(|()| o)
        });
        match outcome {
            Ok(o) => search.found = Some(o),
            Err(why) => search.failed.push((path.to_owned(), why)),
        }
        search.found.is_some()
    };
    for dir in &places.asked_for {
        search.looked_in.push(dir.clone());
        for file in files_of(dir, wanted) {
            if attempt(&file, &mut search) {
                return search;
            }
        }
    }
    // A library that was asked for is used or reported, never replaced by another.
    if !search.failed.is_empty() {
        return search;
    }
    for dir in &places.beside {
        search.looked_in.push(dir.clone());
        for file in files_of(dir, wanted) {
            if attempt(&file, &mut search) {
                return search;
            }
        }
    }
    for name in wanted.sonames {
        if attempt(Path::new(name), &mut search) {
            return search;
        }
    }
    let wheels: &[PathBuf] = if wanted.of_driver { &[] } else { &places.wheels };
    for dir in places.system.iter().chain(wheels) {
        search.looked_in.push(dir.clone());
        for file in files_of(dir, wanted) {
            if attempt(&file, &mut search) {
                return search;
            }
        }
    }
    search
}

/// NVRTC opens its builtins by bare name. Opened by path first, they answer to that name.
fn open_siblings(wanted: &Wanted, path: &Path) {
    let Some(dir) = path.parent() else { return };
    for stem in wanted.siblings {
        for file in named(dir, stem) {
            let _ = Opened::open(&file);
        }
    }
}

/// The library's files in a folder, preferred names first, then whatever else begins with the stem.
pub(crate) fn files_of(dir: &Path, wanted: &Wanted) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = wanted.sonames.iter().map(|n| dir.join(n)).filter(|p| p.is_file()).collect();
    for f in named(dir, wanted.stem) {
        if !files.contains(&f) {
            files.push(f);
        }
    }
    files
}

/// Files of a folder whose name is the stem, or the stem and a version.
fn named(dir: &Path, stem: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .filter(|e| {
            e.file_name().to_str().and_then(|n| n.strip_prefix(stem)).is_some_and(|rest| {
                rest.is_empty() || (rest.starts_with('.') && rest[1..].chars().all(|c| c.is_ascii_digit() || c == '.'))
            })
        })
        .map(|e| e.path())
        .collect();
    files.sort_by(|a, b| b.cmp(a));
    files
}

/// The folders of this machine, gathered once.
#[derive(Debug, Default, Clone)]
pub(crate) struct Places {
    /// From the environment: what the user asked for comes before all else.
    pub(crate) asked_for: Vec<PathBuf>,
    /// The user asked for no vendor library at all, by this variable.
    pub(crate) turned_off: Option<&'static str>,
    /// Where another library was found that these should be of one installation with.
    pub(crate) beside: Vec<PathBuf>,
    pub(crate) system: Vec<PathBuf>,
    pub(crate) wheels: Vec<PathBuf>,
}

impl Places {
    pub(crate) fn of_this_machine(layout: &Layout) -> Self {
        Self::from_env(layout, &|k| std::env::var_os(k).map(PathBuf::from), Path::new("/"))
    }

    /// With the environment and the root folder given, so that a test can build a machine in a folder.
    pub(crate) fn from_env(layout: &Layout, env: &dyn Fn(&str) -> Option<PathBuf>, root: &Path) -> Self {
        let mut asked_for = Vec::new();
        let asked = env(layout.variable);
        let turned_off = (asked.as_deref() == Some(Path::new(NONE))).then_some(layout.variable);
        if let Some(list) = asked.filter(|_| turned_off.is_none()) {
            for p in std::env::split_paths(&list) {
                asked_for.extend([p.clone(), p.join("lib64"), p.join("lib")]);
            }
        }
        let at = |p: &str| root.join(p);
        let parts = |toolkit: &Path| layout.parts.iter().map(|part| toolkit.join(part)).collect::<Vec<_>>();
        let mut system: Vec<PathBuf> = layout.homes.iter().filter_map(|key| env(key)).flat_map(|p| parts(&p)).collect();
        if let Some(list) = env("LD_LIBRARY_PATH") {
            system.extend(std::env::split_paths(&list));
        }
        system.extend(parts(&at(layout.toolkit)));
        let (folder, prefix) = layout.versions;
        system.extend(matching(&at(folder), prefix).iter().flat_map(|toolkit| parts(toolkit)));
        system.extend(["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/local/lib"].map(at));
        system.extend(layout.system.iter().map(|p| at(p)));
        let wheels = wheel_folders(layout.site, env, root);
        let mut seen = BTreeSet::new();
        let mut keep = |v: Vec<PathBuf>| -> Vec<PathBuf> {
            v.into_iter().filter(|p| p.is_dir() && seen.insert(p.canonicalize().unwrap_or_else(|_| p.clone()))).collect()
        };
        Self { asked_for: keep(asked_for), turned_off, beside: vec![], system: keep(system), wheels: keep(wheels) }
    }
}

/// The libraries in site-packages of every Python that is on PATH, in a virtual environment or in the usual homes.
fn wheel_folders(of_site: fn(&Path) -> Vec<PathBuf>, env: &dyn Fn(&str) -> Option<PathBuf>, root: &Path) -> Vec<PathBuf> {
    let mut prefixes: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|k| env(k)).collect();
    if let Some(path) = env("PATH") {
        for bin in std::env::split_paths(&path) {
            for python in ["python3", "python"] {
                // Each hop of a chain of links may be a virtual environment of its own.
                let mut exe = bin.join(python);
                for _ in 0..8 {
                    if !exe.exists() {
                        break;
                    }
                    if let Some(prefix) = exe.parent().and_then(Path::parent) {
                        prefixes.push(prefix.to_owned());
                    }
                    match std::fs::read_link(&exe) {
                        Ok(next) if next.is_absolute() => exe = next,
                        Ok(next) => exe = exe.parent().map(|d| d.join(&next)).unwrap_or(next),
                        Err(_) => break,
                    }
                }
            }
        }
    }
    if let Some(home) = env("HOME") {
        prefixes.push(home.join(".local"));
        prefixes.extend(matching(&home.join(".pyenv/versions"), ""));
    }
    prefixes.extend(["usr/local", "usr", "opt/conda", "opt/venv", "venv"].map(|p| root.join(p)));
    for opt in matching(&root.join("opt"), "") {
        prefixes.extend([opt.clone(), opt.join(".venv"), opt.join("venv")]);
    }
    let mut sites: Vec<PathBuf> = env("PYTHONPATH").map(|l| std::env::split_paths(&l).collect()).unwrap_or_default();
    for prefix in &prefixes {
        for lib in [prefix.join("lib"), prefix.join("lib64"), prefix.join("local/lib")] {
            for version in matching(&lib, "python3") {
                sites.extend([version.join("site-packages"), version.join("dist-packages")]);
            }
        }
    }
    let mut folders = Vec::new();
    for site in sites {
        folders.extend(of_site(&site));
        folders.push(site.join("torch/lib"));
    }
    // Conda puts the libraries of its packages into the environment itself.
    folders.extend(prefixes.iter().filter(|p| p.join("conda-meta").is_dir()).map(|p| p.join("lib")));
    folders
}

/// Entries of a folder whose name begins so, the highest name first.
pub(crate) fn matching(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut v: Vec<PathBuf> =
        entries.flatten().filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(prefix))).map(|e| e.path()).collect();
    v.sort_by(|a, b| b.cmp(a));
    v
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{CUDA, LAYOUT};

    #[test]
    fn folders_are_found_in_order_and_once() {
        let root = std::env::temp_dir().join(format!("rp-finder-{}", std::process::id()));
        let at = |p: &str| root.join(p);
        let folders = [
            "usr/local/cuda-12.4/lib64",
            "usr/local/cuda-13.0/lib64",
            "mine/lib64",
            "venv/lib/python3.12/site-packages/nvidia/cu13/lib",
            "venv/lib/python3.12/site-packages/nvidia/cublas/lib",
        ];
        folders.iter().for_each(|f| std::fs::create_dir_all(at(f)).unwrap());
        std::os::unix::fs::symlink("cuda-13.0", at("usr/local/cuda")).unwrap();
        let env = |key: &str| match key {
            "RIDGEPOINT_CUDA_PATH" => Some(at("mine")),
            "LD_LIBRARY_PATH" => Some(at("usr/local/cuda-13.0/lib64")),
            _ => None,
        };
        let places = Places::from_env(&LAYOUT, &env, &root);
        assert_eq!(places.asked_for, [at("mine"), at("mine/lib64")]);
        // The toolkit appears once, though it has three names here.
        assert_eq!(places.system, [at("usr/local/cuda-13.0/lib64"), at("usr/local/cuda-12.4/lib64")]);
        let site = "venv/lib/python3.12/site-packages/nvidia";
        assert_eq!(places.wheels, [at(&format!("{site}/cublas/lib")), at(&format!("{site}/cu13/lib"))]);
        let off = Places::from_env(&LAYOUT, &|key| (key == LAYOUT.variable).then(|| PathBuf::from(NONE)), &root);
        let search = find(&CUDA, &off, &|_| Ok(()));
        assert_eq!(search.sentence(&CUDA, None), "libcuda.so: RIDGEPOINT_CUDA_PATH is 'none'");
        std::fs::remove_dir_all(root).unwrap();
    }
}
