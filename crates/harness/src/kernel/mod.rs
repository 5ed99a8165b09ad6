//! A user's kernel under our harness: bring the source and a reference, get verified numbers under their roofs.
//!
//! A [`UserKernel`] is a [`Suite`] of one case. Its description is a [`Spec`], written in Rust or read from a file; its source is
//! CUDA or HIP C++, WGSL or C, or a closure for the CPU; its reference is the description's formulas and files, or a function:
//!
//! ```
//! use ridgepoint_core::kernel::{Operand, Spec};
//! use ridgepoint_core::{Bytes, Dtype, Flops};
//! use ridgepoint_harness::kernel::UserKernel;
//!
//! let n = 1 << 16;
//! let f32s = Dtype::F32;
//! let arrays = vec![Operand::input("a", f32s, n).into(), Operand::output("out", f32s, n).into()];
//! let kernel = UserKernel::new(Spec::new("twice", arrays).doing(Flops(n), Bytes(8 * n)))?
//!     .on_host("closure", |call| {
//!         let a = call.input::<f32>(0);
//!         call.each::<f32>(0, |first, out| out.iter_mut().zip(&a[first..]).for_each(|(out, a)| *out = 2.0 * a));
//!     })
//!     .verified_by(|arrays| vec![arrays.get("a").iter().map(|a| 2.0 * a).collect()]);
//! assert_eq!(kernel.case().id.as_str(), "kernel/twice/f32");
//! # Ok::<(), String>(())
//! ```
//!
//! `examples/fused_add_relu.rs` goes on from here to a roofline.

mod ready;
mod reference;

pub use reference::Arrays;

use crate::{Measured, Policy, Prepared, Scope, Suite, measure};
use reference::Reference;
use ridgepoint_core::kernel::{Argument, Data, Expected, Npy, Role, Scalar, Spec};
use ridgepoint_core::{Backend, Case, Component};
use ridgepoint_device::cpu::{HostCall, host_kernel};
use ridgepoint_device::{Device, DeviceError, Kernel, Program, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A language that a kernel is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// CUDA or HIP C++, compiled at run time: an `extern "C" __global__` function.
    Cpp,
    /// WGSL, for Vulkan: storage buffers in the order of their bindings, and a `var<immediate>` struct that begins with
    /// `grid: vec3<u32>` and goes on with the scalars, a u64 as `vec2<u32>`.
    Wgsl,
    /// C, for the CPU, compiled by the host's own compiler: a function of the arguments and two more, `uint32_t thread` and
    /// `uint32_t threads`, that is called once on each thread.
    C,
}

impl Language {
    /// All of them, with the endings of their files.
    const ENDINGS: [(&str, Self); 4] = [("cu", Self::Cpp), ("hip", Self::Cpp), ("wgsl", Self::Wgsl), ("c", Self::C)];

    /// The language of a file by its name's ending: .cu, .hip, .wgsl or .c.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        let ending = name.rsplit_once('.')?.1;
        Self::ENDINGS.iter().find(|(e, _)| *e == ending).map(|(_, language)| *language)
    }

    /// True if devices of this kind take it.
    #[must_use]
    pub const fn runs_on(self, backend: Backend) -> bool {
        match self {
            Self::Cpp => matches!(backend, Backend::Cuda | Backend::Hip),
            Self::Wgsl => matches!(backend, Backend::Vulkan),
            Self::C => matches!(backend, Backend::Cpu | Backend::Fake),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Cpp => "CUDA or HIP C++",
            Self::Wgsl => "WGSL, for Vulkan",
            Self::C => "C, for the CPU",
        }
    }
}

type Body = Arc<dyn Fn(&mut HostCall<'_>) + Send + Sync>;

/// What does the work.
enum Source {
    Text { language: Language, text: String },
    Host(Body),
}

impl Source {
    fn runs_on(&self, backend: Backend) -> bool {
        match self {
            Self::Text { language, .. } => language.runs_on(backend),
            Self::Host(_) => Language::C.runs_on(backend),
        }
    }
}

/// A kernel of a user's, with all that measuring it takes.
pub struct UserKernel {
    spec: Spec,
    case: Case,
    /// Each with the provider's name that it has in records.
    sources: Vec<(String, Source)>,
    files: BTreeMap<String, Npy>,
    reference: Option<Box<reference::Function>>,
}

impl UserKernel {
    /// A kernel of this description, without a source yet.
    ///
    /// # Errors
    /// One sentence where the description's names cannot be part of an id.
    pub fn new(spec: Spec) -> std::result::Result<Self, String> {
        let case = spec.case()?;
        Ok(Self { spec, case, sources: Vec::new(), files: BTreeMap::new(), reference: None })
    }

    /// With a source in one of the languages that devices compile; `name` is the provider in records, usually the file's name.
    /// Several may be given: each device takes those that it understands.
    #[must_use]
    pub fn source(mut self, name: impl Into<String>, language: Language, text: impl Into<String>) -> Self {
        self.sources.push((name.into(), Source::Text { language, text: text.into() }));
        self
    }

    /// With a closure that does the work on the CPU.
    #[must_use]
    pub fn on_host(mut self, name: impl Into<String>, body: impl Fn(&mut HostCall<'_>) + Send + Sync + 'static) -> Self {
        self.sources.push((name.into(), Source::Host(Arc::new(body))));
        self
    }

    /// With a file that the description names ([`UserKernel::files`] says which).
    #[must_use]
    pub fn file(mut self, name: impl Into<String>, array: Npy) -> Self {
        self.files.insert(name.into(), array);
        self
    }

    /// Names of the .npy files that the description wants.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let inputs = self.spec.operands().filter_map(|operand| match &operand.data {
            Data::File(name) if operand.role != Role::Out => Some(name.as_str()),
            _ => None,
        });
        inputs.chain(self.spec.references.iter().filter_map(|(_, expected)| match expected {
            Expected::File(name) => Some(name.as_str()),
            Expected::Formula(_) => None,
        }))
    }

    /// Verified by a function: given the arrays that are read, in float64, it gives those that are written, in the order of the
    /// arguments.
    #[must_use]
    pub fn verified_by(mut self, reference: impl Fn(&Arrays) -> Vec<Vec<f64>> + Send + Sync + 'static) -> Self {
        self.reference = Some(Box::new(reference));
        self
    }

    /// The case that it is.
    #[must_use]
    pub fn case(&self) -> &Case {
        &self.case
    }

    /// True if one of its sources is for devices of this kind.
    #[must_use]
    pub fn runs_on(&self, backend: Backend) -> bool {
        self.sources.iter().any(|(_, source)| source.runs_on(backend))
    }

    /// Verifies, times and verifies again, on `device`, by the source of this name. [`Measured::record`] completes what comes of it.
    #[must_use]
    pub fn measure(&self, device: &dyn Device, source: &str, policy: &Policy, seed: u64) -> Measured {
        measure(self, &self.case, source, device, policy, seed)
    }

    /// The kernel as `device` compiles it.
    fn compile(&self, device: &dyn Device, provider: &str) -> Result<Kernel> {
        let backend = device.info().backend;
        let source = self.sources.iter().find(|(name, _)| name == provider).map(|(_, source)| source);
        let source = source.ok_or_else(|| DeviceError::invalid(format!("{} has no source '{provider}'", self.spec.name)))?;
        if !source.runs_on(backend) {
            let is = match source {
                Source::Text { language, .. } => language.name(),
                Source::Host(_) => "a closure, for the CPU",
            };
            return Err(DeviceError::unsupported(format!("{provider} is {is}; {} takes none of that", device.info().id)));
        }
        let program = Program { name: &self.spec.name, ..Program::default() };
        match source {
            Source::Host(body) => {
                let written = self.spec.operands().map(|operand| operand.role != Role::In).collect();
                let body = Arc::clone(body);
                Ok(host_kernel(&self.spec.entry, written, move |call| body(call)))
            }
            Source::Text { language: Language::Cpp, text } => {
                device.compile(&Program { cpp: Some(text), ..program }, &self.spec.entry)
            }
            Source::Text { language: Language::Wgsl, text } => {
                device.compile(&Program { wgsl: Some(text), ..program }, &self.spec.entry)
            }
            Source::Text { language: Language::C, text } => {
                device.compile(&Program { c: Some(&callable(&self.spec, provider, text)), ..program }, CALL)
            }
        }
    }
}

/// Entry of the function that unpacks a C function's arguments.
const CALL: &str = "rp_user_kernel";

/// A C source with a function behind it that calls the user's with the arguments that the description says, so that the compiler
/// checks them.
fn callable(spec: &Spec, name: &str, text: &str) -> String {
    let parameters = spec.arguments.iter().enumerate().map(|(i, argument)| match argument {
        Argument::Buffer(_) => format!("*(void *const *)a[{i}]"),
        Argument::Scalar { value: Scalar::U32(_), .. } => format!("*(const uint32_t *)a[{i}]"),
        Argument::Scalar { value: Scalar::I32(_), .. } => format!("*(const int32_t *)a[{i}]"),
        Argument::Scalar { value: Scalar::U64(_), .. } => format!("*(const uint64_t *)a[{i}]"),
        Argument::Scalar { value: Scalar::F32(_), .. } => format!("*(const float *)a[{i}]"),
    });
    let parameters: Vec<String> = parameters.collect();
    let name: String = name.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\').collect();
    format!(
        "#include <stdint.h>\n#line 1 \"{name}\"\n{text}\n#line 1 \"the call of {entry} as described\"\nvoid {CALL}(const void *const *a, \
         uint32_t thread, uint32_t threads) {{ {entry}({}, thread, threads); }}\n",
        parameters.join(", "),
        entry = spec.entry,
    )
}

impl Suite for UserKernel {
    fn component(&self) -> Component {
        Component::Kernel
    }

    fn cases(&self, _scope: &Scope) -> Vec<Case> {
        vec![self.case.clone()]
    }

    fn parse(&self, id: &str) -> Option<Case> {
        (id == self.case.id.as_str()).then(|| self.case.clone())
    }

    /// The sources that the device takes; all of them where it takes none, to be skipped with the reason.
    fn providers(&self, _case: &Case, device: &dyn Device) -> Vec<String> {
        let backend = device.info().backend;
        let names =
            |fits: bool| self.sources.iter().filter(move |(_, s)| !fits || s.runs_on(backend)).map(|(name, _)| name.clone());
        let fitting: Vec<String> = names(true).collect();
        if fitting.is_empty() { names(false).collect() } else { fitting }
    }

    fn prepare<'d>(&self, _case: &Case, provider: &str, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
        let kernel = self.compile(device, provider)?;
        let inputs = reference::inputs(&self.spec, &self.files, seed)?;
        let reference = Reference::new(&self.spec, &self.files, self.reference.as_deref(), &inputs)?;
        let mut prepared = ready::prepare(&self.spec, kernel, inputs, reference, device)?;
        if let Some((_, Source::Text { text, .. })) = self.sources.iter().find(|(name, _)| name == provider) {
            let hash = ridgepoint_core::record::fnv1a(text.as_bytes());
            prepared.config.insert("source".into(), format!("{provider}, fnv1a {hash:016x}"));
        }
        Ok(prepared)
    }
}

#[cfg(test)]
mod tests;
