//! Kernels that users bring: what one takes, how it is launched, what it must compute, and what work that is. Written down in a
//! file ([`Spec::parse`]) or in Rust, it is the same description; `ridgepoint-harness` runs it.

mod expression;
mod npy;
mod parse;

pub use expression::Expression;
pub use npy::{Npy, NpyType};

use crate::{Bytes, Cache, Case, CaseId, Component, Distribution, Dtype, Flops, Level, Metric, Work};

/// Most arguments of a kernel.
pub const MAX_ARGUMENTS: usize = 32;
/// Most elements of a buffer.
pub const MAX_ELEMENTS: u64 = 1 << 36;

/// A kernel, described.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Its name in ids and tables: letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// The function's name in its source.
    pub entry: String,
    /// Named sizes: part of the id, so that two sizes are two cases. Names are letters and `_`.
    pub sizes: Vec<(String, u64)>,
    /// What it takes, in this order.
    pub arguments: Vec<Argument>,
    /// How it is launched. A CPU has no use for it: there the function is called once on each thread.
    pub launch: Launch,
    /// What one execution must do.
    pub work: Work,
    /// The figure it is about.
    pub metric: Metric,
    /// Where its operands are at the start.
    pub cache: Cache,
    /// The dtype whose peak bounds its arithmetic.
    pub dtype: Dtype,
    /// The largest error that passes, relative to an element or, for small ones, to the root mean square of the whole; by default
    /// [`Spec::DEFAULT_ROUNDINGS`] roundings of the result's type.
    pub tolerance: Option<f64>,
    /// What each result must be, by its name. Rust gives the reference as a function instead.
    pub references: Vec<(String, Expected)>,
}

/// Blocks and threads of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks (workgroups).
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

/// Something a kernel takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// An array in device memory.
    Buffer(Operand),
    /// A number by value.
    Scalar {
        /// Its name in formulas.
        name: String,
        /// Its value.
        value: Scalar,
    },
}

/// An array.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// Its name in formulas and messages.
    pub name: String,
    /// Type of its elements; at least a byte wide.
    pub dtype: Dtype,
    /// Elements.
    pub elements: u64,
    /// Whether the kernel reads it, writes it, or both.
    pub role: Role,
    /// What it holds at the start; without meaning for a result.
    pub data: Data,
}

/// What a kernel does with an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Only reads it.
    In,
    /// Writes every element and reads none.
    Out,
    /// Reads and writes it. It is as it was before each execution; putting it back is not timed.
    InOut,
}

/// Where an array's values come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// [`crate::data::normal`], of a stream of its own for each seed.
    Normal(u64),
    /// [`crate::data::uniform`], of a stream of its own for each seed.
    Uniform(u64),
    /// One value throughout.
    Constant(f64),
    /// A .npy file of this name.
    File(String),
}

/// A number by value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// 32-bit unsigned.
    U32(u32),
    /// 32-bit signed.
    I32(i32),
    /// 64-bit unsigned.
    U64(u64),
    /// 32-bit float.
    F32(f32),
}

impl Scalar {
    /// As a number in a formula.
    #[must_use]
    pub fn value(self) -> f64 {
        match self {
            Self::U32(x) => f64::from(x),
            Self::I32(x) => f64::from(x),
            Self::U64(x) => x as f64,
            Self::F32(x) => f64::from(x),
        }
    }
}

/// What a result must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// Element by element, a formula over the arrays' elements, the scalars, the sizes and `i`, in the order of
    /// [`Spec::formula_names`].
    Formula(Expression),
    /// A .npy file of this name.
    File(String),
}

impl Spec {
    /// Roundings of the result's type that may lie between a result and its reference.
    pub const DEFAULT_ROUNDINGS: f64 = 4.0;

    /// A description with what can be left out left out: one block of one thread, no work, a bandwidth in f32 from memory.
    #[must_use]
    pub fn new(name: impl Into<String>, arguments: Vec<Argument>) -> Self {
        let name = name.into();
        Self {
            entry: name.clone(),
            name,
            sizes: Vec::new(),
            arguments,
            launch: Launch { grid: [1; 3], block: [1; 3], shared_bytes: 0 },
            work: Work::bytes(Bytes(0)),
            metric: Metric::Bandwidth,
            cache: Cache::Cold,
            dtype: Dtype::F32,
            tolerance: None,
            references: Vec::new(),
        }
    }

    /// Launched in a line of `blocks` blocks of `threads` threads.
    #[must_use]
    pub const fn launched(mut self, blocks: u32, threads: u32) -> Self {
        self.launch = Launch { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0 };
        self
    }

    /// Doing so much work, and about the figure that it is bound by on every device there is: operations where there are more of
    /// them than bytes.
    #[must_use]
    pub fn doing(mut self, flops: Flops, bytes: Bytes) -> Self {
        self.work = Work::arithmetic(flops, bytes);
        self.metric = if flops.0 > bytes.0 { Metric::Arithmetic } else { Metric::Bandwidth };
        self
    }

    /// Its arrays, in the order of the arguments.
    pub fn operands(&self) -> impl Iterator<Item = &Operand> {
        self.arguments.iter().filter_map(|argument| match argument {
            Argument::Buffer(operand) => Some(operand),
            Argument::Scalar { .. } => None,
        })
    }

    /// What a formula may name, in the order in which its values come: the arrays that are read, the scalars, the sizes, and `i`,
    /// the index of the element.
    pub fn formula_names(&self) -> Vec<&str> {
        let arrays = self.operands().filter(|o| o.role != Role::Out).map(|o| o.name.as_str());
        let scalars = self.arguments.iter().filter_map(|argument| match argument {
            Argument::Scalar { name, .. } => Some(name.as_str()),
            Argument::Buffer(_) => None,
        });
        arrays.chain(scalars).chain(self.sizes.iter().map(|(name, _)| name.as_str())).chain(["i"]).collect()
    }

    /// The case that it is: `kernel/fused_add_relu/n16777216/f32`.
    ///
    /// # Errors
    /// One sentence where the name or a size's name cannot be part of an id.
    pub fn case(&self) -> Result<Case, String> {
        let letters = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
        if let Some((name, _)) = self.sizes.iter().find(|(name, _)| !letters(name)) {
            return Err(format!("a size is named by letters and '_', not '{}'", name.escape_debug()));
        }
        if self.name.contains('/') {
            return Err(format!("a kernel's name holds no '/': '{}'", self.name.escape_debug()));
        }
        let sizes: String = self.sizes.iter().map(|(name, value)| format!("{name}{value}")).collect();
        let sizes = if sizes.is_empty() { sizes } else { format!("/{sizes}") };
        let hot = if self.cache == Cache::Hot { "/hot" } else { "" };
        let id = CaseId::new(format!("{}/{}{sizes}/{}{hot}", Component::Kernel, self.name, self.dtype.class()))?;
        let mut inputs = self.operands().filter(|o| o.role != Role::Out).map(|o| match o.data {
            Data::Normal(_) => Distribution::Normal,
            Data::Uniform(_) => Distribution::Uniform,
            Data::Constant(0.0) => Distribution::Zeros,
            Data::Constant(_) => Distribution::Constant,
            Data::File(_) => Distribution::Given,
        });
        let data = inputs
            .next()
            .map_or(Distribution::None, |first| if inputs.all(|d| d == first) { first } else { Distribution::Given });
        Ok(Case {
            id,
            component: Component::Kernel,
            dtype: self.dtype,
            metric: self.metric,
            level: if self.cache == Cache::Hot { Level::Cache } else { Level::Dram },
            work: self.work,
            cache: self.cache,
            data,
        })
    }
}

impl Operand {
    /// An array that is read, filled with [`crate::data::normal`].
    #[must_use]
    pub fn input(name: impl Into<String>, dtype: Dtype, elements: u64) -> Self {
        let name = name.into();
        let seed = crate::record::fnv1a(name.as_bytes());
        Self { name, dtype, elements, role: Role::In, data: Data::Normal(seed) }
    }

    /// An array that is written.
    #[must_use]
    pub fn output(name: impl Into<String>, dtype: Dtype, elements: u64) -> Self {
        Self { role: Role::Out, data: Data::Constant(0.0), ..Self::input(name, dtype, elements) }
    }

    /// Bytes of it.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.dtype.bytes(self.elements)
    }
}

impl From<Operand> for Argument {
    fn from(operand: Operand) -> Self {
        Self::Buffer(operand)
    }
}
