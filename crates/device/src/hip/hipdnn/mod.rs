//! hipDNN's attention as a provider. It computes nothing by itself: engines do, in plugins that lie beside it, and which graphs have
//! one is known when they are asked. So a problem is described and the library's answer is the reason of a skip. Written from AMD's
//! headers and run against a stub; not yet run on hardware, nor against the real library.

mod engines;
mod numbers;
mod operation;
#[cfg(test)]
pub(super) mod tests;

use crate::dl::{CallError, text};
use crate::gpu::Shared;
use crate::gpu::dnn::{self, Dnn, Run, Started};
use crate::{AttentionKernels, AttentionPlan, AttentionProblem, DeviceError, Result};
use engines::{Engine, plans};
pub(super) use engines::{FOLDER, PLUGINS};
pub(super) use numbers::NUMBERS;
use operation::{describe, types};
use ridgepoint_core::Library;
use std::sync::{Arc, OnceLock};

/// The major version whose numbers are known: another may number anew.
const KNOWN: &str = "1";
/// Functions that a plan can do without.
const OPTIONAL: [&str; 3] = ["hipdnnGetEngineCount_ext", "hipdnnGetEngineInfo_ext", "hipdnnVersionString_ext"];

/// What the library says its version is.
pub(super) fn version(api: &Dnn) -> Option<String> {
    // SAFETY: a function of no arguments, whose text is static.
    let version = unsafe { api.version_text().map(|p| text(p)) };
    version.filter(|version| !version.is_empty())
}

/// Why a version is not asked for attention.
pub(super) fn refused(version: Option<&str>) -> Option<String> {
    let major = version?.split('.').next()?;
    (major != KNOWN).then(|| format!("attention is asked of {KNOWN}.x, whose numbers are known"))
}

/// The library started, and the engines of its plugins where it tells them.
type Loaded = (Arc<Started>, Option<Vec<Engine>>);

/// hipDNN on one device.
pub(super) struct Hipdnn {
    api: Arc<Dnn>,
    version: Option<String>,
    shared: Arc<Shared>,
    started: OnceLock<std::result::Result<Loaded, String>>,
}

impl Hipdnn {
    /// Nothing is started yet: it opens every plugin then.
    pub(super) fn new(api: Arc<Dnn>, shared: Arc<Shared>) -> Self {
        let version = version(&api);
        Self { api, version, shared, started: OnceLock::new() }
    }

    /// `hipDNN 1.3.0`.
    fn name(&self) -> String {
        self.version.as_ref().map_or_else(|| "hipDNN".to_owned(), |version| format!("hipDNN {version}"))
    }

    fn start(&self) -> std::result::Result<Loaded, String> {
        let started = Started::new(&self.api, &self.shared)?;
        let engines = Engine::all(&started);
        Ok((started, engines))
    }

    /// What the library says of a problem, as an error of ours.
    fn refusal(&self, error: CallError) -> DeviceError {
        match error.status() {
            Some(code) if numbers::REFUSALS.contains(&code) => {
                DeviceError::unsupported(format!("{} does not do this: {}", self.name(), error.meaning()))
            }
            _ => dnn::failure(error),
        }
    }
}

impl AttentionKernels for Hipdnn {
    fn provider(&self) -> &'static str {
        "hipdnn"
    }

    fn library(&self) -> Option<Library> {
        let path = Some(self.api.library.path.display().to_string());
        Some(Library {
            name: "hipDNN".into(),
            version: self.version.clone().unwrap_or_else(|| "of unknown version".into()),
            path,
        })
    }

    fn plan(&self, p: &AttentionProblem) -> Result<Box<dyn AttentionPlan>> {
        let types = types(p)?;
        if let Some(symbol) = self.api.absent().into_iter().find(|symbol| !OPTIONAL.contains(symbol)) {
            let path = self.api.library.path.display();
            return Err(DeviceError::unsupported(format!("{path} has no {symbol}: another version of hipDNN is needed")));
        }
        if let Some(why) = refused(self.version.as_deref()) {
            return Err(DeviceError::unsupported(format!("this is {}; {why}", self.name())));
        }
        let (started, engines) =
            self.started.get_or_init(|| self.start()).as_ref().map_err(|reason| DeviceError::unsupported(reason.clone()))?;
        self.shared.ctx.api()?;
        let (graph, sources) = describe(&self.api, started.handle, p, types).map_err(|error| self.refusal(error))?;
        let engines = engines.as_deref();
        let plans = plans(&self.api, &graph, engines).map_err(|said| match said {
            Some(error) => self.refusal(error),
            None => DeviceError::unsupported(format!(
                "{} has no engine for this attention on {}; {}",
                self.name(),
                self.shared.ctx.facts.target,
                Engine::list(engines)
            )),
        })?;
        Ok(Box::new(Run::new(started, p, sources, &[], plans)?))
    }
}
