//! Access patterns that inference cares for: pages of a KV cache and rows of an embedding gathered by a table, elements a stride
//! apart, and atomic adds. By kernels/memory/gather.cu; by the host's threads on a CPU, which has no atomics worth the name here.

use crate::chase::shuffled;
use crate::climb::bits_of;
use ridgepoint_core::{
    Backend, Bytes, Cache, Case, CaseId, Component, Distribution, Dtype, Level, Metric, Verification, Work, data,
};
use ridgepoint_device::{Arg, Buffer, Device, DeviceError, Geometry, Kernel, Program, Result};
use ridgepoint_harness::verify::{Comparison, in_chunks};
use ridgepoint_harness::{Prepared, Ready, random};
use std::collections::BTreeMap;

/// Bytes of a token in a page of K or of V: 8 heads of 128 numbers in 16 bits.
const TOKEN: u64 = 2048;
/// Threads that add atomically.
const ADDERS: u64 = 1 << 17;

/// Which addresses atomic adds go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// All to one.
    One,
    /// Each lane of a warp to its own in one cache line.
    Line,
    /// Each thread to its own, neighbours side by side.
    Each,
}

impl Spread {
    pub(crate) const ALL: [Self; 3] = [Self::One, Self::Line, Self::Each];

    const fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Line => "line",
            Self::Each => "each",
        }
    }

    const fn addresses(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Line => 32,
            Self::Each => ADDERS,
        }
    }
}

/// A pattern and how much it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// All pages of an array of so many bytes, in random order, into another; so many tokens a page.
    Pages(Bytes, u64),
    /// The same with rows of so many bytes.
    Rows(Bytes, Bytes),
    /// Every so-many-th float of an array.
    Strided(Bytes, u64),
    /// Adds of 4 bytes each, in all so many bytes.
    Atomics(Bytes, Spread),
}

impl Pattern {
    pub(crate) fn id(self) -> String {
        match self {
            Self::Pages(array, tokens) => format!("memory/kvpages/{array}/tokens{tokens}"),
            Self::Rows(array, row) => format!("memory/rows/{array}/row{row}"),
            Self::Strided(array, stride) => format!("memory/strided/{array}/f32/stride{stride}"),
            Self::Atomics(adds, spread) => format!("memory/atomics/{adds}/f32/{}", spread.name()),
        }
    }

    /// The pattern of an id's parts; the caller holds it to the canonical spelling.
    pub(crate) fn parse(name: &str, size: Bytes, rest: &[&str]) -> Option<Self> {
        let number = |text: &str, prefix: &str| text.strip_prefix(prefix)?.parse::<u64>().ok();
        let pattern = match (name, rest) {
            ("kvpages", [tokens]) => Self::Pages(size, number(tokens, "tokens").filter(|n| (1..=4096).contains(n))?),
            ("rows", [row]) => Self::Rows(size, row.strip_prefix("row")?.parse().ok()?),
            ("strided", ["f32", stride]) => Self::Strided(size, number(stride, "stride").filter(|n| (1..=1 << 20).contains(n))?),
            ("atomics", ["f32", name]) => Self::Atomics(size, Spread::ALL.into_iter().find(|s| s.name() == *name)?),
            _ => return None,
        };
        pattern.sane().then_some(pattern)
    }

    /// Whole pages, rows and strides; adds that a float counts exactly.
    fn sane(self) -> bool {
        match self {
            Self::Pages(..) | Self::Rows(..) => {
                let row = self.row();
                row.is_multiple_of(16)
                    && (16..=1 << 30).contains(&row)
                    && self.size().0.is_multiple_of(row)
                    && self.size().0 / row < 1 << 32
            }
            Self::Strided(array, stride) => array.0.is_multiple_of(4 * stride),
            Self::Atomics(adds, spread) => adds.0.is_multiple_of(4 * ADDERS) && adds.0 / 4 / spread.addresses() < 1 << 24,
        }
    }

    const fn size(self) -> Bytes {
        match self {
            Self::Pages(size, _) | Self::Rows(size, _) | Self::Strided(size, _) | Self::Atomics(size, _) => size,
        }
    }

    /// Bytes of a page or row.
    const fn row(self) -> u64 {
        match self {
            Self::Pages(_, tokens) => tokens * TOKEN,
            Self::Rows(_, row) => row.0,
            Self::Strided(..) | Self::Atomics(..) => 0,
        }
    }

    pub(crate) fn case(self) -> Option<Case> {
        let (work, level, cache, data) = match self {
            // Read and written; what the table holds is not counted.
            Self::Pages(array, _) | Self::Rows(array, _) => {
                (Work::bytes(array * 2), Level::Dram, Cache::Cold, Distribution::Normal)
            }
            // What is asked for, whatever the sectors around it cost.
            Self::Strided(array, stride) => {
                (Work::bytes(Bytes(array.0 / stride)), Level::Dram, Cache::Cold, Distribution::Normal)
            }
            Self::Atomics(adds, _) => {
                (Work { steps: adds.0 / 4, ..Work::bytes(adds) }, Level::Cache, Cache::Hot, Distribution::Constant)
            }
        };
        Some(Case {
            id: CaseId::new(self.id()).ok()?,
            component: Component::Memory,
            dtype: Dtype::F32,
            metric: Metric::Bandwidth,
            level,
            work,
            cache,
            data,
        })
    }
}

/// Threads of a block (RP_BLOCK), 16-byte loads in flight (RP_UNROLL), blocks a unit: the best of a search on an H100.
const BLOCK: u32 = 256;
const UNROLL: u32 = 4;
const PER_UNIT: u32 = 128;

pub(crate) fn prepare<'d>(pattern: Pattern, device: &'d dyn Device, seed: u64) -> Result<Prepared<'d>> {
    let (backend, info) = (device.info().backend, device.info());
    let native = matches!(backend, Backend::Cpu | Backend::Fake);
    if native && matches!(pattern, Pattern::Atomics(..)) {
        return Err(DeviceError::unsupported("a CPU adds floats atomically by comparing and swapping: no pattern of inference"));
    }
    let entry = match pattern {
        Pattern::Pages(..) => "rp_gather_pages",
        Pattern::Rows(..) => "rp_gather_rows",
        Pattern::Strided(..) => "rp_read_strided",
        Pattern::Atomics(..) => "rp_add_atomic",
    };
    let defines = [("RP_BLOCK", BLOCK.to_string()), ("RP_UNROLL", UNROLL.to_string())];
    let kernel = device.compile(&Program { name: "memory/gather", defines: &defines, ..Program::default() }, entry)?;
    let blocks = match pattern {
        Pattern::Atomics(..) => ADDERS as u32 / BLOCK,
        _ => info.units.max(1) * PER_UNIT,
    };
    let size = pattern.size();
    let seed = data::operand_seed(seed, 0);
    let x = match pattern {
        Pattern::Atomics(..) => device.alloc(16)?,
        _ => random(device, Dtype::F32, seed, size.0 / 4)?,
    };
    let (mut table, mut order) = (None, Vec::new());
    let out = match pattern {
        Pattern::Pages(..) | Pattern::Rows(..) => {
            order = shuffled((size.0 / pattern.row()) as u32, seed)?;
            let bytes: Vec<u8> = order.iter().flat_map(|row| row.to_le_bytes()).collect();
            let buffer = device.alloc(bytes.len())?;
            device.upload(&buffer, 0, &bytes)?;
            table = Some(buffer);
            device.alloc(size.0 as usize)?
        }
        Pattern::Strided(..) => device.alloc(4 * if native { info.units.max(1) } else { blocks } as usize)?,
        Pattern::Atomics(_, spread) => device.alloc(4 * spread.addresses() as usize)?,
    };
    device.synchronize()?;
    let mut config = BTreeMap::new();
    if !native {
        config.insert("launch".into(), format!("{blocks} blocks of {BLOCK}, {UNROLL} in flight"));
    }
    if let Pattern::Strided(_, stride) = pattern {
        config.insert("of what lines are touched".into(), format!("a float in {}", stride.min(if native { 16 } else { 8 })));
    }
    let ready = Run { device, pattern, kernel, blocks, x, table, order, out, seed };
    Ok(Prepared { ready: Box::new(ready), config, labels: vec![], dtype: Dtype::F32 })
}

struct Run<'d> {
    device: &'d dyn Device,
    pattern: Pattern,
    kernel: Kernel,
    blocks: u32,
    x: Buffer,
    /// Which page or row of `x` comes next, for the device and for the host.
    table: Option<Buffer>,
    order: Vec<u32>,
    out: Buffer,
    seed: u64,
}

impl Ready for Run<'_> {
    fn cold_by_itself(&self) -> bool {
        self.x.len() as u64 > 2 * self.device.info().last_level_cache().0
    }

    fn enqueue(&mut self, _turn: usize) -> Result<()> {
        let (x, out) = (Arg::Buffer(&self.x, 0), Arg::Buffer(&self.out, 0));
        let geometry = Geometry::linear(self.blocks, BLOCK);
        match (self.pattern, &self.table) {
            (Pattern::Strided(array, stride), _) => {
                self.device.launch(&self.kernel, geometry, &[x, out, Arg::U64(array.0 / 4 / stride), Arg::U64(stride)])
            }
            (Pattern::Atomics(adds, spread), _) => {
                self.device.fill(&self.out, 0)?;
                let each = (adds.0 / 4 / ADDERS) as u32;
                let args = [out, Arg::U32(spread.addresses() as u32), Arg::U32(1), Arg::U32(each)];
                self.device.launch(&self.kernel, geometry, &args)
            }
            (_, Some(table)) => {
                let rows = Arg::U64(self.order.len() as u64);
                let args = [x, Arg::Buffer(table, 0), out, rows, Arg::U32(self.pattern.row() as u32)];
                self.device.launch(&self.kernel, geometry, &args)
            }
            (_, None) => Err(DeviceError::invalid("pages without a table")),
        }
    }

    fn poison(&mut self) -> Result<()> {
        // Sums that no thread leaves must not count: a sum is poisoned by being short.
        self.device.fill(&self.out, if matches!(self.pattern, Pattern::Strided(..)) { 0 } else { 0xff })
    }

    fn check(&mut self) -> Result<Verification> {
        let mut comparison = Comparison::new(0.0);
        match self.pattern {
            Pattern::Pages(..) | Pattern::Rows(..) => {
                self.check_rows(&mut comparison)?;
                Ok(comparison.finish("every element against the table, exact"))
            }
            Pattern::Strided(array, stride) => {
                let mut sums = vec![0; self.out.len()];
                self.device.download(&self.out, 0, &mut sums)?;
                let got = words(&sums).fold(0u32, u32::wrapping_add);
                let count = array.0 / 4 / stride;
                let seed = self.seed;
                let want = bits_of(count, &|i| data::normal(seed, i * stride));
                comparison.push(f64::from(got), f64::from(want), 1.0);
                comparison.scanned(count - 1, 0);
                Ok(comparison.finish("sum of bits, exact"))
            }
            Pattern::Atomics(adds, spread) => {
                let mut sums = vec![0; self.out.len()];
                self.device.download(&self.out, 0, &mut sums)?;
                let each = (adds.0 / 4 / spread.addresses()) as f64;
                words(&sums).for_each(|w| comparison.push(f64::from(f32::from_bits(w)), each, 1.0));
                Ok(comparison.finish("what each address counted, exact"))
            }
        }
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap_or_default()))
}

impl Run<'_> {
    /// Row `i` of the result is row `order[i]` of the source.
    fn check_rows(&self, comparison: &mut Comparison) -> Result<()> {
        let row = self.pattern.row() as usize;
        let rows = (CHUNK / row).max(1);
        let mut bytes = vec![0; rows.min(self.order.len()) * row];
        for (chunk, order) in self.order.chunks(rows).enumerate() {
            let got = &mut bytes[..order.len() * row];
            self.device.download(&self.out, chunk * rows * row, got)?;
            let (got, seed) = (&*got, self.seed);
            let wrong = in_chunks(order.len() as u64, |range| {
                let wrong = |i: u64| {
                    let first = u64::from(order[i as usize]) * row as u64 / 4;
                    let own = words(&got[i as usize * row..][..row]);
                    own.zip(first..).filter(|(word, at)| *word != data::normal(seed, *at).to_bits()).count() as u64
                };
                range.map(wrong).sum::<u64>()
            });
            comparison.scanned((order.len() * row / 4) as u64, wrong.into_iter().sum());
        }
        Ok(())
    }
}

/// Bytes brought to the host at once for the check.
const CHUNK: usize = 64 << 20;
