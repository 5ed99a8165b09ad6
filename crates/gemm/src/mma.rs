//! Our own kernel on warp-level tensor instructions (kernels/gemm/mma_sm80.cu) as a provider, from sm_80 on: 128 × 128 tiles, a
//! ring of four stages, mma.sync. Not yet run on hardware as a provider.

use crate::cases::Shape;
use crate::split::{self, Parts};
use ridgepoint_core::{Backend, Dtype};
use ridgepoint_device::{Arg, Device, DeviceError, GemmOperands, GemmPlan, Geometry, Kernel, Program, Result};
use std::collections::BTreeMap;

/// Rows and columns of a tile (RP_BN, as many threads), and stages of the ring (RP_STAGES).
const ROWS: u64 = 128;
const COLUMNS: u32 = 128;
const STAGES: u32 = 4;
/// Dynamic shared memory, by the kernel's host contract.
const SHARED: u32 = STAGES * (128 + COLUMNS) * 64;

/// The provider's name.
pub(crate) const PROVIDER: &str = "mma-sync";

/// True where the chip has such instructions for the dtype in hardware: FP8 is emulated in f16 on data centre chips.
pub(crate) fn fits(shape: Shape, device: &dyn Device) -> bool {
    let info = device.info();
    let chip = info.sm().unwrap_or(0);
    info.backend == Backend::Cuda
        && Shape { batch: 1, output: shape.usual_output(), ..shape }.plain()
        && match shape.dtype {
            Dtype::Bf16 | Dtype::F16 | Dtype::Tf32 => chip >= 80,
            Dtype::E4m3 | Dtype::E5m2 => chip == 89 || chip >= 120,
            _ => false,
        }
}

/// The kernel for one shape, whole and with its sums cut along K.
pub(crate) struct Plan<'d> {
    device: &'d dyn Device,
    shape: Shape,
    /// Kernels, and in how many parts each cuts K; 1 for the one that does not.
    forms: Vec<(Kernel, u64)>,
    parts: Option<Parts<'d>>,
    chosen: usize,
}

/// Compiles it.
///
/// # Errors
/// `Unsupported` for a dtype or chip without such instructions, or for rows that are no multiple of 16 bytes.
pub(crate) fn plan(device: &dyn Device, shape: Shape) -> Result<Plan<'_>> {
    if !fits(shape, device) {
        return Err(DeviceError::unsupported(format!("mma.sync has no {} on {}", shape.dtype, device.info().arch)));
    }
    let whole = |dtype: Dtype, elements: u64| dtype.bytes(elements).0.is_multiple_of(16);
    if !whole(shape.dtype, shape.k) || !whole(shape.output, shape.n) {
        return Err(DeviceError::unsupported("rows must be multiples of 16 bytes for the mma.sync kernel"));
    }
    if i32::try_from(tiles(shape)).is_err() {
        return Err(DeviceError::unsupported("more tiles than a launch has blocks"));
    }
    let mut plan = Plan { device, shape, forms: vec![(compile(device, shape, false)?, 1)], parts: None, chosen: 0 };
    let steps = shape.dtype.bytes(shape.k).0.div_ceil(64);
    let units = u64::from(device.info().units);
    let counts = if shape.batch == 1 { split::counts(tiles(shape), steps, units) } else { Vec::new() };
    let most = counts.iter().copied().max().unwrap_or(0);
    // A gain and no need: a node without a compiler does without.
    let made =
        || Ok::<_, DeviceError>((compile(device, shape, true)?, Parts::new(device, shape.output, shape.m * shape.n, most)?));
    if most > 0
        && let Ok((kernel, parts)) = made()
    {
        plan.forms.extend(counts.into_iter().map(|count| (kernel.clone(), count)));
        plan.parts = Some(parts);
    }
    Ok(plan)
}

/// Tiles of all products.
fn tiles(shape: Shape) -> u64 {
    shape.batch * shape.m.div_ceil(ROWS) * shape.n.div_ceil(u64::from(COLUMNS))
}

fn compile(device: &dyn Device, shape: Shape, split: bool) -> Result<Kernel> {
    let mut defines =
        vec![("RP_DTYPE", shape.dtype.name().to_owned()), ("RP_BN", COLUMNS.to_string()), ("RP_STAGES", STAGES.to_string())];
    if split {
        defines.extend([("RP_SPLIT", "1".to_owned()), ("RP_OUT", "f32".to_owned())]);
    } else if shape.output != shape.usual_output() {
        defines.push(("RP_OUT", shape.output.name().to_owned()));
    }
    let program = Program { name: "gemm/mma_sm80", defines: &defines, ..Program::default() };
    device.compile(&program, "rp_gemm_mma")
}

impl GemmPlan for Plan<'_> {
    fn enqueue(&self, &GemmOperands { a, b, c, factor, .. }: &GemmOperands<'_>) -> Result<()> {
        let Shape { m, n, k, .. } = self.shape;
        let (kernel, count) = &self.forms[self.chosen];
        let parts = self.parts.as_ref().filter(|_| self.chosen > 0);
        let args = [
            Arg::Buffer(a, 0),
            Arg::Buffer(b, 0),
            Arg::Buffer(parts.map_or(c, |parts| &parts.buffer), 0),
            Arg::I32(m as i32),
            Arg::I32(n as i32),
            Arg::I32(k as i32),
            Arg::F32(if parts.is_some() { 1.0 } else { factor }),
            Arg::I32(*count as i32),
        ];
        // How many parts there are is asked by the form alone that makes them.
        let args = if parts.is_some() { &args[..] } else { &args[..7] };
        let geometry = Geometry::linear((tiles(self.shape) * count) as u32, COLUMNS).with_shared(SHARED);
        self.device.launch(kernel, geometry, args)?;
        parts.map_or(Ok(()), |parts| parts.join(c, *count, factor))
    }

    fn candidates(&self) -> usize {
        self.forms.len()
    }

    fn name(&self, index: usize) -> String {
        let tile = format!("{ROWS}×{COLUMNS}, {STAGES} stages");
        self.forms
            .get(index)
            .filter(|(_, count)| *count > 1)
            .map_or(tile.clone(), |(_, count)| format!("{tile}, K in {count} parts"))
    }

    fn select(&mut self, index: usize) -> Result<()> {
        if index >= self.forms.len() {
            return Err(DeviceError::invalid(format!("there is no form {index}")));
        }
        self.chosen = index;
        Ok(())
    }

    fn fast_accumulation(&self) -> bool {
        matches!(self.shape.dtype, Dtype::E4m3 | Dtype::E5m2)
    }

    fn config(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("tile".into(), self.name(self.chosen))])
    }
}
