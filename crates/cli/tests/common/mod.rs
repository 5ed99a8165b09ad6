//! What several tests of the binary need: running it, a folder of one's own, a Python with a wheel, a browser to drive.
#![expect(clippy::print_stdout, reason = "a skip says why")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test takes what it needs")]

#[cfg(target_os = "linux")]
pub(crate) mod running;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

pub(crate) fn ridgepoint(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ridgepoint")).args(args).output().unwrap()
}

/// An empty folder of this test's own.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ridgepoint-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Code, standard output and error; never a panic.
pub(crate) fn outcome(output: &Output) -> (i32, String, String) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code().unwrap(), out, err)
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A folder with a CUDA driver of eight GPUs whose memory is the host's and an NCCL that really reduces, between processes too; our
/// kernels run there from their own source. None where there is no compiler.
pub(crate) fn stub_gpus(name: &str, nccl: &[&str]) -> Option<PathBuf> {
    let (folder, stubs) = (scratch(name), root().join("crates/device/src/cuda/stubs"));
    let (search, path) = (format!("-L{}", text(&folder)), format!("-Wl,-rpath,{}", text(&folder)));
    let includes = format!("-I{}", text(&root().join("kernels")));
    let build = |compiler: &str, source: &str, library: &str, options: &[&str]| {
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-w", "-O1"]).arg(stubs.join(source)).args(options).arg("-o").arg(folder.join(library));
        let Ok(built) = command.output() else {
            println!("SKIP: host compiler: {compiler} is not installed (apt-get install {compiler})");
            return None;
        };
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Some(std::fs::read(folder.join(library)).unwrap())
    };
    // The kernels take longest to build, and are the same for all.
    static KERNELS: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let kernels = KERNELS.get_or_init(|| build("g++", "kernels.cpp", "libkernels.so", &["-std=c++17", &includes]));
    std::fs::write(folder.join("libkernels.so"), kernels.as_ref()?).unwrap();
    build("cc", "driver.c", "libcuda.so.1", &["-DDEVICES=8", "-DKERNELS", &search, &path, "-l:libkernels.so", "-lm"])?;
    build("cc", "nccl.c", "libnccl.so.2", &[&["-DVERSION=23203", "-lm"], nccl].concat())?;
    Some(folder)
}

/// A Python that has `module`, or None with the reason printed.
pub(crate) fn python(module: &str) -> Option<PathBuf> {
    let own = root().join("target/python/bin/python3");
    let candidates = std::env::var_os("RIDGEPOINT_PYTHON").map(PathBuf::from).into_iter().chain([own, "python3".into()]);
    let has = |p: &PathBuf| Command::new(p).args(["-c", &format!("import {module}")]).output().is_ok_and(|o| o.status.success());
    let found = candidates.into_iter().find(has);
    if found.is_none() {
        println!("SKIP: {module}: no python3 here has it (scripts/test installs it)");
    }
    found
}

/// Runs a Python script with `args`; it must end well.
pub(crate) fn passes(python: &Path, script: &str, args: &[&Path]) {
    let output = Command::new(python).args(["-c", script]).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// A browser, or None with the reason printed.
pub(crate) fn chromium() -> Option<&'static str> {
    let known = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
    let paths = ["/usr/bin/chromium-headless-shell", "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    let found = paths.into_iter().find(|p| Path::new(p).exists());
    if found.is_none() {
        println!("SKIP: chromium: none of {} is installed (apt-get install {})", known.join(", "), known[0]);
    }
    found
}

/// Loads `page` and runs the body of an async function in it, which acts as a reader would and returns what it saw.
/// Nothing may appear on the console.
pub(crate) fn drive(chromium: &str, page: &Path, script: &str) -> serde_json::Value {
    // The result leaves in hexadecimal: neither HTML nor the dump can change it. Timers run on virtual time.
    let driver = format!(
        "<script>(async () => {{ const wait = () => new Promise(r => setTimeout(r, 50)); let said;
        try {{ said = await (async () => {{ {script} }})(); }} catch (e) {{ said = {{ error: String(e.stack) }}; }}
        const bytes = new TextEncoder().encode(JSON.stringify(said ?? null));
        document.documentElement.setAttribute('data-said', [...bytes].map(b => b.toString(16).padStart(2, '0')).join('')); }})()</script>"
    );
    let copy = page.with_extension("driven.html");
    std::fs::write(&copy, std::fs::read_to_string(page).unwrap().replace("</body>", &(driver + "</body>"))).unwrap();
    let profile = page.with_extension("profile");
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .args(["--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0", "--dump-dom"])
        .args(["--virtual-time-budget=60000", "--window-size=1300,1000"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", copy.display()))
        .output()
        .unwrap();
    let (html, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!log.contains("CONSOLE"), "{log}");
    let start = html.find("data-said=\"").unwrap_or_else(|| panic!("the script did not end: {log}")) + "data-said=\"".len();
    let hex = &html[start..start + html[start..].find('"').unwrap()];
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
    let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert!(said["error"].is_null(), "{said}");
    said
}
