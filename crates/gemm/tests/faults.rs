//! The suite and the harness on products of every kind of type and scale, right and wrong on purpose: each usual mistake must come
//! out as Wrong, on a problem small enough to be compared in full and on one of which rows are sampled.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use ridgepoint_core::record::Clock;
use ridgepoint_core::{Bytes, CacheLevel, DeviceInfo, Dtype, Outcome, Seconds};
use ridgepoint_device::cpu::CpuDevice;
use ridgepoint_device::{Blas, Buffer, Device, GemmOperands, GemmPlan, GemmProblem, Kernel, Program, Result, ScaleType, Scales};
use ridgepoint_gemm::Gemm;
use ridgepoint_harness::{Policy, Profile, Suite, measure};
use std::cell::Cell;
use std::sync::{Arc, Mutex};

/// What is wrong with a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A, which is square, is read as its transpose.
    Transposed,
    /// The last 16 of K are left out.
    TailOfK,
    /// All scales are taken for 1, those of whole tensors, too.
    NoScales,
    /// B's scales are taken for 1.
    NoScalesOfB,
    /// The last scale of A is taken for 1.
    LastScale,
    /// Each scale of A stands one place from where it should.
    Misplaced,
    /// The scale of the tensors is not applied.
    NoFactor,
    /// The first two products have each other's A.
    SwappedBatch,
    /// C is stored in another type.
    OtherOutput,
    /// Only the first execution writes C.
    Stale,
    /// Only the first product of a batch is computed.
    OneOfBatch,
}

use Fault::{
    LastScale, Misplaced, NoFactor, NoScales, NoScalesOfB, OneOfBatch, OtherOutput, Stale, SwappedBatch, TailOfK, Transposed,
};

/// Another handle on this host's memory, through which plans reach their operands.
type Memory = Arc<Mutex<CpuDevice>>;

/// A CPU whose only GEMM has a fault.
struct Faulty {
    cpu: CpuDevice,
    /// With a small cache: a few sets of operands are then enough.
    info: DeviceInfo,
    blas: Products,
}

struct Products {
    memory: Memory,
    fault: Fault,
}

struct Plan {
    memory: Memory,
    fault: Fault,
    problem: GemmProblem,
    right: Box<dyn GemmPlan>,
    runs: Cell<usize>,
}

impl Blas for Products {
    fn provider(&self) -> &'static str {
        "faulty"
    }

    fn plan(&self, problem: &GemmProblem) -> Result<Box<dyn GemmPlan>> {
        let output = match (self.fault, problem.output) {
            (OtherOutput, Dtype::Bf16) => Dtype::F16,
            (OtherOutput, _) => Dtype::Bf16,
            (_, output) => output,
        };
        let batch = if self.fault == OneOfBatch { 1 } else { problem.batch };
        let right = self.memory.lock().unwrap().blas()[0].plan(&GemmProblem { output, batch, ..*problem })?;
        Ok(Box::new(Plan { memory: Arc::clone(&self.memory), fault: self.fault, problem: *problem, right, runs: Cell::new(0) }))
    }
}

impl Plan {
    /// A copy of a buffer with something changed.
    fn changed(&self, buffer: &Buffer, change: impl Fn(&mut Vec<u8>)) -> Result<Buffer> {
        let mut bytes = vec![0; buffer.len()];
        let memory = self.memory.lock().unwrap();
        memory.download(buffer, 0, &mut bytes)?;
        change(&mut bytes);
        let copy = memory.alloc(bytes.len())?;
        memory.upload(&copy, 0, &bytes)?;
        Ok(copy)
    }

    fn a(&self, buffer: &Buffer) -> Result<Buffer> {
        let p = &self.problem;
        let bits = p.a.dtype.element().bits() as usize;
        self.changed(buffer, |bytes| match self.fault {
            Transposed => {
                let (size, old) = (bits / 8, bytes.clone());
                for (i, j) in (0..p.m).flat_map(|i| (0..p.k).map(move |j| (i, j))) {
                    bytes[(i * p.k + j) * size..][..size].copy_from_slice(&old[(j * p.k + i) * size..][..size]);
                }
            }
            TailOfK => {
                let tail = 16 * bits / 8;
                bytes.chunks_exact_mut(p.k * bits / 8).for_each(|row| row.rchunks_mut(tail).next().unwrap().fill(0));
            }
            SwappedBatch => bytes[..2 * p.m * p.k * bits / 8].rotate_left(p.m * p.k * bits / 8),
            _ => {}
        })
    }

    /// The scales of A or B.
    fn scales(&self, buffer: Option<&Buffer>, of: ScaleType, is_b: bool) -> Result<Option<Buffer>> {
        let one: Vec<u8> = match of {
            ScaleType::F32 => 1f32.to_le_bytes().into(),
            ScaleType::E8m0 => vec![127],
            ScaleType::E4m3 => vec![0x38],
        };
        let change = |bytes: &mut Vec<u8>| {
            let size = one.len();
            let last = bytes.len() - size;
            match self.fault {
                NoScales => bytes.chunks_exact_mut(size).for_each(|scale| scale.copy_from_slice(&one)),
                NoScalesOfB if is_b => bytes.chunks_exact_mut(size).for_each(|scale| scale.copy_from_slice(&one)),
                LastScale if !is_b => bytes[last..].copy_from_slice(&one),
                Misplaced if !is_b => bytes.rotate_left(size),
                _ => {}
            }
        };
        buffer.map(|buffer| self.changed(buffer, change)).transpose()
    }
}

impl GemmPlan for Plan {
    fn enqueue(&self, operands: &GemmOperands<'_>) -> Result<()> {
        self.runs.set(self.runs.get() + 1);
        if self.fault == Stale && self.runs.get() > 1 {
            return Ok(());
        }
        if self.fault == Fault::None {
            return self.right.enqueue(operands);
        }
        let a = self.a(operands.a)?;
        let of = Scales::of(&self.problem).map_or(ScaleType::F32, |both| both[0].of);
        let scale_a = self.scales(operands.scale_a, of, false)?;
        let scale_b = self.scales(operands.scale_b, of, true)?;
        let factor = if matches!(self.fault, NoScales | NoFactor) { 1.0 } else { operands.factor };
        let wrong = GemmOperands { a: &a, scale_a: scale_a.as_ref(), scale_b: scale_b.as_ref(), factor, ..*operands };
        self.right.enqueue(&wrong)
    }
}

/// Everything but products is the CPU's own.
impl Device for Faulty {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    ridgepoint_device::leave_to!(cpu);
    fn compile(&self, program: &Program<'_>, entry: &str) -> Result<Kernel> {
        self.cpu.compile(program, entry)
    }
    fn clock(&self) -> Clock {
        self.cpu.clock()
    }
    fn blas(&self) -> Vec<&dyn Blas> {
        vec![&self.blas]
    }
}

fn outcome(device: &mut Faulty, fault: Fault, id: &str) -> Outcome {
    device.blas.fault = fault;
    let case = Gemm.parse(id).unwrap();
    assert_eq!(Gemm.providers(&case, device), ["faulty"]);
    // Nothing is learnt from how long it takes.
    let short =
        Policy { warmup: Seconds(0.0), warmup_limit: Seconds(0.0), time_limit: Seconds(0.0), ..Policy::of(Profile::Quick) };
    measure(&Gemm, &case, "faulty", device, &short, 1).outcome
}

#[test]
fn every_type_and_scale_is_verified_and_every_usual_mistake_found() {
    let open = || CpuDevice::open().unwrap();
    let caches = vec![CacheLevel { name: "L2".into(), bytes: Bytes(1), instances: 1 }];
    let info = DeviceInfo { caches, ..open().info().clone() };
    let mut device = Faulty { cpu: open(), info, blas: Products { memory: Arc::new(Mutex::new(open())), fault: Fault::None } };
    // Products of more than 2²⁸ steps are sampled.
    let cases: [(&str, &[Fault]); 22] = [
        ("gemm/m96n80k96/f32", &[Transposed, TailOfK, Stale, OtherOutput]),
        ("gemm/m640n700k640/f32", &[Transposed, TailOfK, Stale]),
        ("gemm/m40n72k100/f16", &[TailOfK, OtherOutput]),
        ("gemm/m48n72k160/bf16", &[TailOfK, Stale, OtherOutput]),
        ("gemm/m48n72k160/bf16/out=f32", &[TailOfK, OtherOutput]),
        ("gemm/m40n48k64/i8", &[TailOfK, Stale]),
        ("gemm/b3m40n56k64/bf16", &[SwappedBatch, OneOfBatch, TailOfK]),
        ("gemm/b4m512n256k520/f32", &[SwappedBatch, OneOfBatch, TailOfK]),
        ("gemm/m96n48k96/e4m3", &[Transposed, NoScales, NoScalesOfB, LastScale, TailOfK, OtherOutput]),
        ("gemm/m640n700k640/e4m3", &[Transposed, NoScales, NoScalesOfB, LastScale, TailOfK]),
        ("gemm/m64n48k96/e5m2", &[NoScales, NoScalesOfB, TailOfK]),
        ("gemm/m64n48k96/e4m3xe5m2/out=f32", &[NoScales, NoScalesOfB, TailOfK, OtherOutput]),
        ("gemm/m64n48k96/e5m2xe4m3/out=f16", &[NoScales, NoScalesOfB, TailOfK]),
        ("gemm/m64n48k96/e4m3/scale=row", &[NoScales, NoScalesOfB, LastScale, Misplaced]),
        ("gemm/m640n700k640/e4m3/scale=row", &[NoScales, NoScalesOfB, LastScale, Misplaced]),
        ("gemm/m30n200k300/e4m3xe5m2/scale=block128", &[NoScales, NoScalesOfB, LastScale, Misplaced, TailOfK]),
        ("gemm/b2m30n200k300/e4m3/scale=block128", &[NoScales, SwappedBatch, OneOfBatch, LastScale]),
        ("gemm/m48n40k96/mxfp8", &[NoScales, NoScalesOfB, LastScale, Misplaced, TailOfK]),
        ("gemm/m48n40k96/mxfp4", &[NoScales, NoScalesOfB, LastScale, Misplaced, TailOfK]),
        ("gemm/m48n40k96/nvfp4", &[NoScales, NoScalesOfB, LastScale, Misplaced, NoFactor, TailOfK]),
        ("gemm/m640n700k640/nvfp4/out=f32", &[NoScales, NoScalesOfB, Misplaced, NoFactor, TailOfK]),
        ("gemm/b3m48n40k64/mxfp8/out=f32", &[NoScales, Misplaced, SwappedBatch, OneOfBatch]),
    ];
    for (id, faults) in cases {
        let right = outcome(&mut device, Fault::None, id);
        let Outcome::Measured { verification, .. } = &right else { panic!("{id} without a fault: {right:?}") };
        assert!(verification.error < 0.7 * verification.tolerance || verification.error == 0.0, "{id}: {verification:?}");
        for fault in faults {
            let wrong = outcome(&mut device, *fault, id);
            assert!(matches!(wrong, Outcome::Wrong { .. }), "{id} with {fault:?}: {wrong:?}");
        }
    }
}
