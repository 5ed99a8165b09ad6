//! Small libraries, built by a test, that stand where a vendor's would; the test binary is started again to find them. What is at
//! stake is what a broken, old or whole machine does, on one that has no GPU.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// A folder of libraries, removed at the end.
pub(crate) struct Machine {
    pub(crate) dir: PathBuf,
    /// Names the folder to the finder.
    variable: &'static str,
}

impl Machine {
    pub(crate) fn new(name: &str, variable: &'static str) -> Self {
        let dir = std::env::temp_dir().join(format!("rp-stubs-{}-{variable}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir, variable }
    }

    /// With a library made of C text. None where there is no compiler.
    pub(crate) fn with(self, library: &str, source: &str, options: &[&str]) -> Option<Self> {
        let file = self.dir.join(format!("{library}.c"));
        std::fs::write(&file, source).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-w", "-O1"])
            .arg(&file)
            .args(options)
            .arg("-lm")
            .arg("-o")
            .arg(self.dir.join(library))
            .output();
        let Ok(built) = built else {
            println!("SKIP: host compiler: cc is not installed (apt-get install gcc)");
            return None;
        };
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Some(self)
    }

    /// With the kernels of stubs/kernels.cpp, and what links another library with them. None where there is no compiler.
    pub(crate) fn with_kernels(self) -> Option<(Self, Vec<String>)> {
        // They take longest to build, and are the same for all.
        static BUILT: OnceLock<Option<Vec<u8>>> = OnceLock::new();
        let library = self.dir.join("libkernels.so");
        let build = || {
            let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cuda/stubs/kernels.cpp");
            let built = Command::new("g++")
                .args(["-shared", "-fPIC", "-w", "-O1", "-std=c++17", own])
                .args(["-I", concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernels"), "-o"])
                .arg(&library)
                .output();
            let Ok(built) = built else {
                println!("SKIP: host compiler: g++ is not installed (apt-get install g++)");
                return None;
            };
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            Some(std::fs::read(&library).unwrap())
        };
        std::fs::write(&library, BUILT.get_or_init(build).as_ref()?).unwrap();
        let dir = self.dir.display();
        let linked = vec!["-DKERNELS".into(), format!("-L{dir}"), format!("-Wl,-rpath,{dir}"), "-l:libkernels.so".into()];
        Some((self, linked))
    }

    /// What tests of this binary print there.
    pub(crate) fn run(&self, tests: &str) -> String {
        self.run_with(tests, &[])
    }

    /// With further variables.
    pub(crate) fn run_with(&self, tests: &str, variables: &[(&str, &str)]) -> String {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([tests, "--include-ignored", "--test-threads=1", "--nocapture"])
            // A stub knows kernels by name and not by their definitions; tests/fibres.rs runs this one's source.
            .args(["--skip", "makes_each_kind_of_data_as_the_host"])
            .env(self.variable, &self.dir)
            // The tests' own environment may hold a real library of the vendor's.
            .env("VIRTUAL_ENV", &self.dir)
            .env("RIDGEPOINT_CACHE", self.dir.join("cache"))
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What a backend finds, printed for the test that started this one.
pub(crate) fn say_what_is_found(probe: &crate::Probe) {
    let found = (probe.discover)();
    println!("\nabsent: {}", found.absent.unwrap_or_default());
    for device in found.devices {
        println!("device {}: {}, {}", device.id, device.name, device.detail);
    }
    for f in (probe.doctor)() {
        println!("{} {}: {} [{}]", if f.ok { "ok" } else { "not ok" }, f.what, f.detail, f.remedy.unwrap_or_default());
    }
    if let Err(error) = (probe.open)(0) {
        println!("open: {error}");
    }
}

/// What a stub was told, its addresses left out: `5=@7f00a0 6=1` is `5=@ 6=1`.
pub(crate) fn without_addresses(text: &str) -> String {
    let mut parts = text.split('@');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + "@" + part.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
}
