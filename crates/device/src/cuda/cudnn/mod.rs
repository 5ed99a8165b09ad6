//! cuDNN's attention as a provider: its unified operation, every engine that its heuristics name. The library is loaded and started
//! at the first problem that it is asked, since it brings half a gigabyte of code. cuDNN 9.14 has run on an
//! H200; what came after it (pages, masks, FP8) has made its plans without a GPU and not yet run.

mod graph;
mod numbers;
mod operation;
mod plan;
#[cfg(test)]
mod tests;

use crate::dl::{CallError, Opened};
use crate::gpu::Shared;
use crate::gpu::driver::Buffer as Memory;
use crate::gpu::sys::{Handle, Ptr};
use crate::{AttentionKernels, AttentionOperands, AttentionPlan, AttentionProblem, Buffer, DeviceError, Result};
pub(crate) use graph::Dnn;
use graph::{Builder, Descriptor};
use numbers::{attribute, kind};
use operation::{CONSTANTS, Operation, Source, describe, needs, types};
use plan::{Candidate, Target, candidates};
use ridgepoint_core::{Dtype, Library};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
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
        (92500, "FP8 attention"),
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

/// A handle of the library, whose work goes to our stream.
struct Started {
    api: Arc<Dnn>,
    handle: Handle,
    shared: Arc<Shared>,
}

// SAFETY: the handle is used by the thread that has the device, one at a time.
unsafe impl Send for Started {}
// SAFETY: as above.
unsafe impl Sync for Started {}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.shared.ctx.api();
        // SAFETY: made in `start`, destroyed once, and its context, made current, lives as long.
        let _ = unsafe { self.api.destroy(self.handle) };
    }
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
        self.shared.ctx.api().map_err(|error| error.to_string())?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle, for the context that was just made current.
        unsafe { self.api.create(&mut handle) }.map_err(|error| error.to_string())?;
        let started = Started { api: Arc::clone(&self.api), handle, shared: Arc::clone(&self.shared) };
        // SAFETY: both are alive.
        unsafe { self.api.set_stream(handle, self.shared.stream.handle) }.map_err(|error| error.to_string())?;
        Ok(Arc::new(started))
    }

    /// What the library says of a problem, as an error of ours.
    fn refusal(&self, error: CallError) -> DeviceError {
        match error.status() {
            // Parameters and problems that it does not take, and parts of it that are not there.
            Some(1000..4000) => {
                DeviceError::unsupported(format!("cuDNN {} does not do this: {}", dotted(self.version), error.meaning()))
            }
            _ => error.into(),
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
        let workspace = candidates.iter().map(|c| c.workspace).max().unwrap_or(0);
        let [queries, keys] = own_lengths(p);
        let own = CONSTANTS.iter().flat_map(|c| c.to_ne_bytes()).chain(numbers(&queries)).chain(numbers(&keys));
        Ok(Box::new(Run {
            own: self.shared.holding(&own.collect::<Vec<u8>>())?,
            workspace: Memory::new(&self.shared.ctx, workspace)?,
            hosts: operation.sources.iter().map(|(_, source)| host(*source)).collect(),
            packs: RefCell::default(),
            started: Arc::clone(started),
            shared: Arc::clone(&self.shared),
            problem: *p,
            operation,
            candidates,
            index: 0,
        }))
    }
}

/// Queries and keys of each sequence, filled up to whole 16 bytes.
fn own_lengths(p: &AttentionProblem) -> [Vec<i32>; 2] {
    [p.sq, p.sk].map(|length| vec![length as i32; p.batch.next_multiple_of(4)])
}

fn numbers(values: &[i32]) -> impl Iterator<Item = u8> {
    values.iter().flat_map(|v| v.to_ne_bytes())
}

/// The bits of a value that the library reads from the host.
fn host(source: Source) -> u32 {
    match source {
        Source::Float(value) => value.to_bits(),
        Source::Whole(value) => value as u32,
        _ => 0,
    }
}

struct Run {
    candidates: Vec<Candidate>,
    index: usize,
    operation: Operation,
    /// A word for each source: those that are read from the host.
    hosts: Box<[u32]>,
    /// Constants, then queries and keys of each sequence.
    own: Memory,
    workspace: Memory,
    /// Packs by the operands' addresses: describing one costs more than a short launch.
    packs: RefCell<HashMap<Vec<Ptr>, Descriptor>>,
    problem: AttentionProblem,
    started: Arc<Started>,
    shared: Arc<Shared>,
}

impl Run {
    /// Where a source is: its operand, the plan's own memory, or the host's.
    fn address(&self, index: usize, source: Source, operands: &AttentionOperands<'_>) -> Option<Ptr> {
        let queries = 4 * CONSTANTS.len() as Ptr;
        let keys = queries + 4 * self.problem.batch.next_multiple_of(4) as Ptr;
        match source {
            Source::Constant(at) => Some(self.own.ptr + 4 * at as Ptr),
            Source::Queries => Some(self.own.ptr + queries),
            Source::Lengths if !self.problem.ragged => Some(self.own.ptr + keys),
            Source::Float(_) | Source::Whole(_) => Some((&raw const self.hosts[index]) as Ptr),
            operand => operand.address(operands),
        }
    }

    /// Every operand is there, of this device, and long enough.
    fn check(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let p = &self.problem;
        let blocks = p.paged.map_or(p.batch * p.sk, |pages| pages.pool * pages.tokens) * p.hkv;
        let table = p.paged.map_or(0, |pages| 4 * p.batch * p.sk.div_ceil(pages.tokens));
        let bytes = |dtype: Dtype, elements: usize| dtype.bytes(elements as u64).0;
        let narrow = [p.dtype, p.kv].iter().any(|d| matches!(d, Dtype::E4m3 | Dtype::E5m2));
        let wanted = [
            ("Q", Some(operands.q), true, bytes(p.dtype, p.batch * p.hq * p.sq * p.dqk)),
            ("K", Some(operands.k), true, bytes(p.kv, blocks * p.dqk)),
            ("V", Some(operands.v), !p.shared_kv, bytes(p.kv, blocks * p.dv)),
            ("O", Some(operands.o), true, bytes(p.output, p.batch * p.hq * p.sq * p.dv)),
            ("lengths", operands.lengths, p.ragged, 4 * p.batch as u64),
            ("pages", operands.pages, p.paged.is_some(), table as u64),
            ("sinks", operands.sinks, p.sinks, 4 * p.hq as u64),
            ("scales", operands.scales, narrow, 12),
        ];
        for (name, buffer, needed, bytes) in wanted {
            let fits = |b: &Buffer| b.len() as u64 >= bytes && b.owner::<Memory>().is_some();
            if needed && !buffer.is_some_and(fits) {
                return Err(DeviceError::invalid(format!("{name} is missing, too short, or another device's")));
            }
        }
        Ok(())
    }

    fn pack(&self, operands: &AttentionOperands<'_>) -> Result<Descriptor> {
        let sources = &self.operation.sources;
        let addresses = sources.iter().enumerate().map(|(i, (_, source))| self.address(i, *source, operands));
        let addresses: Vec<Ptr> =
            addresses.collect::<Option<_>>().ok_or_else(|| DeviceError::invalid("an operand is missing"))?;
        if let Some(pack) = self.packs.borrow().get(&addresses) {
            return Ok(pack.clone());
        }
        let ids: Vec<i64> = sources.iter().map(|(id, _)| *id).collect();
        let pointers: Vec<*mut c_void> = addresses.iter().map(|a| *a as *mut c_void).collect();
        let pack = Builder::new(&self.started.api, kind::VARIANT_PACK)
            .numbers(attribute::PACK_IDS, &ids)
            .pointers(attribute::PACK_POINTERS, &pointers)
            .pointers(attribute::PACK_WORKSPACE, &[self.workspace.ptr as *mut c_void])
            .finish()?;
        self.packs.borrow_mut().insert(addresses, pack.clone());
        Ok(pack)
    }
}

impl AttentionPlan for Run {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        self.check(operands)?;
        let pack = self.pack(operands)?;
        self.shared.ctx.api()?;
        let plan = self.candidates[self.index].plan.handle();
        // SAFETY: the buffers hold the operands (above), the workspace has the largest candidate's size, and stream and buffers
        // belong to the context that was just made current.
        unsafe { self.started.api.execute(self.started.handle, plan, pack.handle()) }?;
        Ok(())
    }

    fn candidates(&self) -> usize {
        self.candidates.len()
    }

    fn select(&mut self, index: usize) -> Result<()> {
        if index >= self.candidates.len() {
            return Err(DeviceError::invalid(format!("engine {index} of {}", self.candidates.len())));
        }
        self.index = index;
        Ok(())
    }

    fn config(&self) -> BTreeMap<String, String> {
        let (rank, engine) = (self.index, self.candidates[self.index].describe());
        BTreeMap::from([("engine".into(), format!("number {rank} of the library's ranking: {engine}"))])
    }
}
