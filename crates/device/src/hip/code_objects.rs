//! Code objects that clang built ahead, for a node without hipRTC.
//!
//! `RIDGEPOINT_CODE_OBJECTS` names a folder. A kernel that is wanted and not there leaves its source (`<key>.hip`) and options
//! (`<key>.args`) in it; `scripts/code-objects DIR` compiles all of them with clang, on any machine; the next run finds
//! `<key>.co`. Nothing is looked for anywhere else, and nothing is taken that stands beside another source than ours.

use crate::gpu::rtc::Request;
use ridgepoint_core::record::fnv1a;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The folder's variable.
pub(crate) const VARIABLE: &str = "RIDGEPOINT_CODE_OBJECTS";

/// More than any kernel of ours has; a larger file is no code object.
const MOST_BYTES: u64 = 64 << 20;

/// A folder of code objects.
pub(crate) struct CodeObjects(PathBuf);

impl CodeObjects {
    /// The folder that the user named, if one was named.
    pub(crate) fn of_user(env: &dyn Fn(&str) -> Option<OsString>) -> Option<Self> {
        env(VARIABLE).filter(|folder| !folder.is_empty()).map(|folder| Self(folder.into()))
    }

    /// The code object of a request.
    ///
    /// # Errors
    /// One sentence that says what to do; the request then lies in the folder.
    pub(crate) fn get(&self, request: &Request<'_>) -> Result<Vec<u8>, String> {
        let (source, arguments) = (whole(request), request.options.join("\n") + "\n");
        let key = fnv1a(format!("{arguments}\n{source}").as_bytes());
        let file = |kind: &str| self.0.join(format!("{key:016x}.{kind}"));
        let same = |kind: &str, text: &str| std::fs::read(file(kind)).is_ok_and(|bytes| bytes == text.as_bytes());
        if same("hip", &source) && same("args", &arguments) && file("co").is_file() {
            return read(&file("co"));
        }
        let written = std::fs::create_dir_all(&self.0)
            .and_then(|()| std::fs::write(file("hip"), &source))
            .and_then(|()| std::fs::write(file("args"), &arguments));
        let folder = self.0.display();
        Err(match written {
            Ok(()) => format!(
                "no code object of {} for {}: run scripts/code-objects {folder}, then this again",
                request.name, request.arch
            ),
            Err(error) => format!("no code object of {}, and its source cannot be left in {folder}: {error}", request.name),
        })
    }
}

/// The source with its headers in their places, so that a compiler needs no other file.
fn whole(request: &Request<'_>) -> String {
    request.headers.iter().fold(request.source.to_owned(), |source, (name, text)| {
        source.replace(&format!("#include \"{name}\""), &text.replace("#pragma once", ""))
    })
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let large = |bytes: u64| format!("{} is too large to be a code object ({bytes} bytes)", file.display());
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let bytes = std::fs::metadata(file).map_err(failed)?.len();
    if bytes > MOST_BYTES {
        return Err(large(bytes));
    }
    let code = std::fs::read(file).map_err(failed)?;
    if !code.starts_with(b"\x7fELF") {
        return Err(format!("{} is no code object; delete it and run scripts/code-objects again", file.display()));
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_asked_for_and_what_does_not_match_is_not_taken() {
        let dir = std::env::temp_dir().join(format!("rp-objects-{}", std::process::id()));
        let objects = CodeObjects::of_user(&|key| (key == VARIABLE).then(|| dir.clone().into())).unwrap();
        let headers = [("../common/rp.h", "#pragma once\nint header;\n")];
        let source = "#include \"../common/rp.h\"\nint body;\n";
        let options = vec!["--offload-arch=gfx90a".to_owned(), "-DA=1".to_owned()];
        let request = Request { name: "mine.hip", source, headers: &headers, arch: "gfx90a", options };
        let reason = objects.get(&request).unwrap_err();
        assert!(reason.contains("no code object of mine.hip for gfx90a: run scripts/code-objects"), "{reason}");
        let named = |kind: &str| {
            let all = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path());
            all.filter(|p| p.extension().is_some_and(|e| e == kind)).collect::<Vec<_>>()
        };
        assert_eq!(std::fs::read_to_string(&named("hip")[0]).unwrap(), "\nint header;\n\nint body;\n");
        assert_eq!(std::fs::read_to_string(&named("args")[0]).unwrap(), "--offload-arch=gfx90a\n-DA=1\n");

        let object = named("hip")[0].with_extension("co");
        std::fs::write(&object, "not ELF").unwrap();
        assert!(objects.get(&request).unwrap_err().contains("is no code object"));
        std::fs::write(&object, b"\x7fELF code").unwrap();
        assert_eq!(objects.get(&request).unwrap(), b"\x7fELF code");
        // Another definition is another kernel, and a source that was changed is not ours.
        let other = Request { options: vec!["--offload-arch=gfx90a".into(), "-DA=2".into()], ..request.clone() };
        assert!(objects.get(&other).is_err());
        std::fs::write(object.with_extension("hip"), "changed").unwrap();
        assert!(objects.get(&request).is_err());
        assert!(CodeObjects::of_user(&|_| None).is_none());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
