//! cuDNN's attention as a provider: its unified operation, every engine that its heuristics name. The library is loaded and started
//! at the first problem that it is asked, since it brings half a gigabyte of code. cuDNN 9.14 has run on an H200 and 9.19, with pages
//! and lengths, on an H100; what came after it (masks, FP8) has made its plans without a GPU and not yet run.

mod numbers;
mod operation;
mod plan;
#[cfg(test)]
mod tests;

use crate::dl::{CallError, Opened};
use crate::gpu::Shared;
use crate::gpu::dnn::{self, Dnn, Run, Started};
use crate::{AttentionKernels, AttentionPlan, AttentionProblem, DeviceError, Result};
pub(crate) use numbers::NUMBERS;
use operation::{CONSTANTS, describe, needs, types};
use plan::{Candidate, Target, candidates};
use ridgepoint_core::Library;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// `92801` is 9.28.1.
pub(crate) fn dotted(version: usize) -> String {
    format!("{}.{}.{}", version / 10000, version / 100 % 100, version % 100)
}

/// What `doctor` says of a version's attention: what it lacks, and which version has that.
pub(crate) fn lacks(version: usize) -> Option<String> {
    let later = [
        (91301, "attention as one operation"),
        (91500, "lengths and pages"),
        (92100, "masks and sinks"),
        (92500, "FP8 attention, and empty sequences in prefill"),
    ];
    let lacking: Vec<String> = later
        .into_iter()
        .filter(|(since, _)| version < *since)
        .map(|(since, what)| format!("{what} (since {})", dotted(since)))
        .collect();
    (!lacking.is_empty()).then(|| format!("lacks {}", lacking.join(", ")))
}

/// cuDNN on one device.
pub(super) struct Cudnn {
    api: Arc<Dnn>,
    version: usize,
    shared: Arc<Shared>,
    /// Where what it needs was found.
    folders: Vec<PathBuf>,
    started: OnceLock<std::result::Result<Arc<Started>, String>>,
}

impl Cudnn {
    /// Nothing is started yet. `folders` are those of the compiler and of the GEMM library.
    pub(super) fn new(api: Arc<Dnn>, shared: Arc<Shared>, folders: Vec<PathBuf>) -> Self {
        // SAFETY: a function of no arguments.
        let version = unsafe { api.version() }.unwrap_or(0);
        Self { api, version, shared, folders, started: OnceLock::new() }
    }

    fn start(&self) -> std::result::Result<Arc<Started>, String> {
        prerequisites(&self.api, &self.folders)?;
        Started::new(&self.api, &self.shared)
    }

    /// What the library says of a problem, as an error of ours.
    fn refusal(&self, error: CallError) -> DeviceError {
        match error.status() {
            // Parameters and problems that it does not take, and parts of it that are not there.
            Some(1000..4000) => {
                DeviceError::unsupported(format!("cuDNN {} does not do this: {}", dotted(self.version), error.meaning()))
            }
            _ => dnn::failure(error),
        }
    }
}

/// Opens what cuDNN opens by bare name; where it finds none it ends the process, so that we look first: by the loader's own means
/// (a library that is open already is found by its name), then where Python's wheels have it, beside cuDNN's folder, then in `folders`.
fn prerequisites(api: &Dnn, folders: &[PathBuf]) -> std::result::Result<(), String> {
    // SAFETY: a function of no arguments.
    let Some(major) = unsafe { api.runtime() }.map(|v| v / 1000) else { return Ok(()) };
    let wheels = api.library.path.parent().and_then(|folder| folder.parent()?.parent());
    for (stem, wheel) in [("libcublasLt.so", "cublas"), ("libnvrtc.so", "cuda_nvrtc")] {
        let file = format!("{stem}.{major}");
        let parts = [format!("{wheel}/lib"), format!("cu{major}/lib")];
        let beside = wheels.iter().flat_map(|wheels| parts.iter().map(|part| wheels.join(part)));
        let files = beside.chain(folders.iter().cloned()).map(|folder| folder.join(&file)).filter(|path| path.exists());
        if !std::iter::once(PathBuf::from(&file)).chain(files).any(|path| Opened::open(&path).is_ok()) {
            return Err(format!("cuDNN needs {file}, which is not here; `ridgepoint doctor` says how to get it"));
        }
    }
    Ok(())
}

impl AttentionKernels for Cudnn {
    fn provider(&self) -> &'static str {
        "cudnn"
    }

    fn library(&self) -> Option<Library> {
        let path = Some(self.api.library.path.display().to_string());
        Some(Library { name: "cuDNN".into(), version: dotted(self.version), path })
    }

    fn plan(&self, p: &AttentionProblem) -> Result<Box<dyn AttentionPlan>> {
        let types = types(p)?;
        let (since, what) = needs(p);
        if self.version < since {
            let (have, since) = (dotted(self.version), dotted(since));
            return Err(DeviceError::unsupported(format!("this is cuDNN {have}; {what} came with {since}")));
        }
        if let Some(symbol) = self.api.absent().first() {
            let path = self.api.library.path.display();
            return Err(DeviceError::unsupported(format!("{path} has no {symbol}: another version of cuDNN is needed")));
        }
        let started =
            self.started.get_or_init(|| self.start()).as_ref().map_err(|reason| DeviceError::unsupported(reason.clone()))?;
        self.shared.ctx.api()?;
        let operation = describe(&self.api, p, types).map_err(|error| self.refusal(error))?;
        let candidates = candidates(&self.api, &Target::Library(started.handle), &operation).map_err(|said| match said {
            Some(error) => self.refusal(error),
            None => DeviceError::unsupported(format!(
                "cuDNN {} has no engine for this attention on {}",
                dotted(self.version),
                self.shared.ctx.facts.target
            )),
        })?;
        let plans = candidates.into_iter().map(Candidate::into_plan).collect();
        Ok(Box::new(Run::new(started, p, operation.sources, &CONSTANTS, plans)?))
    }
}
