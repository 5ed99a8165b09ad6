//! What is measured: a case, its identity and its work. Pure, so that every case can be listed with no device present.

use crate::{Bytes, Dtype, Flops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The part of the machine that a suite measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Component {
    /// Device memory, caches, on-chip SRAM, host links.
    Memory,
    /// Matrix units.
    Gemm,
    /// Attention kernels.
    Attention,
    /// Communication between ranks.
    Collectives,
    /// What it costs to launch work at all.
    Launch,
    /// Loads kept up for a long time: heat, throttling, and results that are wrong now and then.
    Soak,
    /// A kernel that a user brought.
    Kernel,
}

impl Component {
    /// In the order in which they are run and reported.
    pub const ALL: [Self; 7] =
        [Self::Memory, Self::Gemm, Self::Attention, Self::Collectives, Self::Launch, Self::Soak, Self::Kernel];

    /// The first segment of every CaseId of the component.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Gemm => "gemm",
            Self::Attention => "attention",
            Self::Collectives => "collectives",
            Self::Launch => "launch",
            Self::Soak => "soak",
            Self::Kernel => "kernel",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One string that names a case on every device and in every file: `gemm/m4096n4096k4096/bf16`.
///
/// It holds op, shape, dtype class and, where they are not the default, layout, output type, scale mode, data and cache
/// policy. Segments are separated by `/` and made of `[A-Za-z0-9._=x+-]`; at most [`CaseId::MAX_LEN`] characters. The
/// provider and the dtype's encoding are fields beside it, so that two vendors' records join on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct CaseId(String);

impl CaseId {
    /// Longest id accepted from a file.
    pub const MAX_LEN: usize = 200;

    /// Checks `text` and makes it an id.
    ///
    /// # Errors
    /// One sentence when it is empty, too long, or holds a character that an id never has.
    pub fn new(text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._=+-".contains(c);
        if text.len() > Self::MAX_LEN {
            return Err(format!("a case id has at most {} characters; this one has {}", Self::MAX_LEN, text.len()));
        }
        // A segment of dots alone would mean a folder to whoever makes a path of an id.
        let bad = |segment: &str| segment.chars().all(|c| c == '.') || !segment.chars().all(allowed);
        if text.split('/').any(bad) {
            return Err(format!("'{}' is no case id; one looks like gemm/m4096n4096k4096/bf16", text.escape_debug()));
        }
        Ok(Self(text))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for CaseId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Where the operands are when a timed run starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// Not in any cache: operands rotate over more than twice the last-level cache, or it is flushed.
    Cold,
    /// As the run before left them.
    Hot,
}

/// How input values are distributed. Recorded with every number, since data that toggles few bits runs faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Mean 0, variance 1; see [`crate::data::normal`].
    Normal,
    /// Uniform in [-1, 1); see [`crate::data::uniform`].
    Uniform,
    /// All zero.
    Zeros,
    /// All one value; [`crate::data::CONSTANT`].
    Constant,
    /// A sine wave; see [`crate::data::trigonometric`].
    Trigonometric,
    /// Values that a user brought, or inputs of several kinds.
    Given,
    /// No operand values matter (a latency chain, say).
    None,
}

impl Distribution {
    /// Those that a device makes by itself, the default first.
    pub const GENERATED: [Self; 5] = [Self::Normal, Self::Uniform, Self::Zeros, Self::Constant, Self::Trigonometric];

    /// The word for it in an id (`data=trig`) and in tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Uniform => "uniform",
            Self::Zeros => "zeros",
            Self::Constant => "constant",
            Self::Trigonometric => "trig",
            Self::Given => "given",
            Self::None => "none",
        }
    }

    /// The one of [`Self::GENERATED`] with this word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::GENERATED.into_iter().find(|d| d.word() == word)
    }

    /// How the fill kernels number those of [`Self::GENERATED`] (RP_DATA); the others have no fill.
    #[must_use]
    pub fn number(self) -> Option<usize> {
        Self::GENERATED.iter().position(|d| *d == self)
    }
}

/// The part of the memory or network hierarchy whose roof bounds the case's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Device memory: HBM, GDDR, or a CPU's DRAM.
    Dram,
    /// A cache; which one follows from the working set.
    Cache,
    /// Shared memory (LDS, workgroup memory).
    Shared,
    /// The link to the host: PCIe, C2C.
    Host,
    /// The links between ranks: NVLink, xGMI, network, or a CPU's own memory.
    Peer,
}

/// Which figure a case is about; the others are shown where they mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Bytes per second, GB/s.
    Bandwidth,
    /// Operations per second, TFLOP/s.
    Arithmetic,
    /// Seconds per dependent step, ns.
    Latency,
    /// busbw of nccl-tests, GB/s.
    BusBandwidth,
}

/// What one execution of a case must do, counted as in docs/conventions.md. Declared by the suite beside the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Work {
    /// Operations; a fused multiply-add counts two.
    pub flops: Flops,
    /// Bytes that must cross `level`, each input read once and each output written once. For collectives S of nccl-tests.
    pub bytes: Bytes,
    /// Dependent steps (a pointer chase's loads); 0 where latency is not the point.
    #[serde(default)]
    pub steps: u64,
    /// busbw / algbw of nccl-tests, for collectives alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus_factor: Option<f64>,
    /// Directions of links that carry the bytes at once, where it is more than one: 2 for both ways, the number of devices for a
    /// host that feeds them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<u32>,
}

impl Work {
    /// Only bytes move.
    #[must_use]
    pub const fn bytes(bytes: Bytes) -> Self {
        Self { flops: Flops(0), bytes, steps: 0, bus_factor: None, links: None }
    }

    /// Operations on operands of so many bytes.
    #[must_use]
    pub const fn arithmetic(flops: Flops, bytes: Bytes) -> Self {
        Self { flops, bytes, steps: 0, bus_factor: None, links: None }
    }

    /// FLOPs per byte; None where no bytes are counted.
    #[must_use]
    pub fn intensity(self) -> Option<f64> {
        (self.bytes.0 > 0).then(|| self.flops.0 as f64 / self.bytes.0 as f64)
    }
}

/// One thing to measure, complete without a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its name everywhere.
    pub id: CaseId,
    /// The suite it belongs to.
    pub component: Component,
    /// Dtype class of the inputs.
    pub dtype: Dtype,
    /// The figure it is about.
    pub metric: Metric,
    /// The roof that bounds its bytes.
    pub level: Level,
    /// What one execution must do.
    pub work: Work,
    /// Where operands are at the start.
    pub cache: Cache,
    /// How input values are distributed.
    pub data: Distribution,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_checked_where_they_enter() {
        assert!(CaseId::new("gemm/m4096n4096k4096/bf16").is_ok());
        for bad in ["", "/", "gemm//bf16", "gemm/<b>", "a b", "gemm/../x", ".", "gemm/x\n", &"x".repeat(201)] {
            assert!(CaseId::new(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<CaseId>("\"a//b\"").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_an_id_or_an_error(text in ".{0,64}") {
            if let Ok(id) = CaseId::new(text.clone()) {
                prop_assert_eq!(id.as_str(), text);
            }
        }
    }
}
