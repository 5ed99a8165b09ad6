//! The suite and the harness on an attention that is wrong on purpose: each of the usual mistakes of a flash kernel must come
//! out as Wrong, on a problem small enough to be compared in full and on one of which rows are sampled.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use ridgepoint_attention::Attention;
use ridgepoint_core::record::Clock;
use ridgepoint_core::{DeviceInfo, Outcome, Seconds};
use ridgepoint_device::cpu::CpuDevice;
use ridgepoint_device::{
    Arg, AttentionKernels, AttentionOperands, AttentionPlan, AttentionProblem, Buffer, Device, Event, Geometry, Kernel, Program,
    Result,
};
use ridgepoint_harness::{Policy, Profile, Suite, measure};
use std::sync::{Arc, Mutex};

/// What is wrong with a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Queries see one key more.
    MaskOffByOne,
    /// What was summed before a new maximum is not scaled down to it.
    MissingRescale,
    /// The keys behind the last whole tile are left out.
    LastTileDropped,
    /// Logits are divided by d and not by its root.
    WrongScale,
    /// Key heads are taken in turn, and not each for a group of neighbours.
    WrongGroup,
    /// The output is not divided by the sum of weights.
    NotNormalised,
    /// Two halves of the keys are combined as if their weights added up to the same.
    WrongCombine,
    /// The last column of each row is left as it was.
    Unwritten,
    /// One row of the whole output is zero.
    ZeroRow,
}

const FAULTS: [Fault; 9] = [
    Fault::MaskOffByOne,
    Fault::MissingRescale,
    Fault::LastTileDropped,
    Fault::WrongScale,
    Fault::WrongGroup,
    Fault::NotNormalised,
    Fault::WrongCombine,
    Fault::Unwritten,
    Fault::ZeroRow,
];

/// A CPU whose only attention has a fault.
struct Faulty {
    cpu: CpuDevice,
    kernels: Kernels,
}

/// Another handle on this host's memory, through which plans reach their operands.
type Memory = Arc<Mutex<CpuDevice>>;

struct Kernels {
    memory: Memory,
    fault: Fault,
}

struct Plan {
    memory: Memory,
    fault: Fault,
    problem: AttentionProblem,
}

/// Running state of a row, as flash attention keeps it.
struct Row {
    max: f32,
    sum: f32,
    out: Vec<f32>,
}

impl Plan {
    fn read(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        let mut bytes = vec![0; buffer.len()];
        self.memory.lock().unwrap().download(buffer, 0, &mut bytes)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Keys `keys` of one row, sixteen at a time.
    fn row(&self, query: &[f32], k: &[f32], v: &[f32], keys: std::ops::Range<usize>) -> Row {
        const TILE: usize = 16;
        let (p, fault) = (&self.problem, self.fault);
        let scale = if fault == Fault::WrongScale { 1.0 / p.dqk as f32 } else { 1.0 / (p.dqk as f32).sqrt() };
        let mut row = Row { max: f32::MIN, sum: 0.0, out: vec![0.0; p.dv] };
        for first in keys.clone().step_by(TILE) {
            if fault == Fault::LastTileDropped && first + TILE > keys.end {
                break;
            }
            let tile = first..(first + TILE).min(keys.end);
            let dot = |j: usize| scale * query.iter().zip(&k[j * p.dqk..]).map(|(a, b)| a * b).sum::<f32>();
            let logits: Vec<f32> = tile.clone().map(dot).collect();
            let max = logits.iter().copied().fold(row.max, f32::max);
            let rescale = if fault == Fault::MissingRescale { 1.0 } else { (row.max - max).exp() };
            row.sum *= rescale;
            row.out.iter_mut().for_each(|o| *o *= rescale);
            for (j, logit) in tile.zip(logits) {
                let weight = (logit - max).exp();
                row.sum += weight;
                row.out.iter_mut().zip(&v[j * p.dv..]).for_each(|(o, v)| *o += weight * v);
            }
            row.max = max;
        }
        row
    }

    /// One row of the output, from two halves of the keys.
    fn output(&self, i: usize, query: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let p = &self.problem;
        let more = usize::from(self.fault == Fault::MaskOffByOne);
        let seen = if p.causal { (i + 1 + more + p.sk).saturating_sub(p.sq).min(p.sk) } else { p.sk };
        let (mut a, b) = (self.row(query, k, v, 0..seen / 2), self.row(query, k, v, seen / 2..seen));
        let max = a.max.max(b.max);
        let combine = self.fault != Fault::WrongCombine;
        let [fa, fb] = [&a, &b].map(|r| if combine { (r.max - max).exp() } else { 1.0 / r.sum.max(f32::MIN_POSITIVE) });
        let sum = if self.fault == Fault::NotNormalised { 1.0 } else { fa * a.sum + fb * b.sum };
        a.out.iter_mut().zip(&b.out).for_each(|(x, y)| *x = if sum == 0.0 { 0.0 } else { (fa * *x + fb * y) / sum });
        a.out
    }
}

impl AttentionPlan for Plan {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let AttentionOperands { q, k, v, o, .. } = *operands;
        let p = &self.problem;
        let (queries, k, v) = (self.read(q)?, self.read(k)?, self.read(v)?);
        for (index, query) in queries.chunks_exact(p.dqk).enumerate() {
            let (batch, head, i) = (index / (p.hq * p.sq), index / p.sq % p.hq, index % p.sq);
            let shared = if self.fault == Fault::WrongGroup { head % p.hkv } else { head / (p.hq / p.hkv) };
            let at = (batch * p.hkv + shared) * p.sk;
            let mut row = self.output(i, query, &k[at * p.dqk..], &v[at * p.dv..]);
            if self.fault == Fault::ZeroRow && index == 3 * p.sq / 2 {
                row.fill(0.0);
            }
            let written = p.dv - usize::from(self.fault == Fault::Unwritten);
            let bytes: Vec<u8> = row[..written].iter().flat_map(|x| x.to_le_bytes()).collect();
            self.memory.lock().unwrap().upload(o, index * p.dv * 4, &bytes)?;
        }
        Ok(())
    }
}

impl AttentionKernels for Kernels {
    fn provider(&self) -> &'static str {
        "faulty"
    }

    fn plan(&self, problem: &AttentionProblem) -> Result<Box<dyn AttentionPlan>> {
        Ok(Box::new(Plan { memory: Arc::clone(&self.memory), fault: self.fault, problem: *problem }))
    }
}

/// Everything but attention is the CPU's own.
impl Device for Faulty {
    fn info(&self) -> &DeviceInfo {
        self.cpu.info()
    }
    fn alloc(&self, len: usize) -> Result<Buffer> {
        self.cpu.alloc(len)
    }
    fn upload(&self, dst: &Buffer, offset: usize, src: &[u8]) -> Result<()> {
        self.cpu.upload(dst, offset, src)
    }
    fn download(&self, src: &Buffer, offset: usize, dst: &mut [u8]) -> Result<()> {
        self.cpu.download(src, offset, dst)
    }
    fn copy(&self, src: &Buffer, src_offset: usize, dst: &Buffer, dst_offset: usize, len: usize) -> Result<()> {
        self.cpu.copy(src, src_offset, dst, dst_offset, len)
    }
    fn fill(&self, dst: &Buffer, byte: u8) -> Result<()> {
        self.cpu.fill(dst, byte)
    }
    fn compile(&self, program: &Program<'_>, entry: &str) -> Result<Kernel> {
        self.cpu.compile(program, entry)
    }
    fn launch(&self, kernel: &Kernel, geometry: Geometry, args: &[Arg<'_>]) -> Result<()> {
        self.cpu.launch(kernel, geometry, args)
    }
    fn synchronize(&self) -> Result<()> {
        self.cpu.synchronize()
    }
    fn record(&self) -> Result<Event> {
        self.cpu.record()
    }
    fn elapsed(&self, start: &Event, end: &Event) -> Result<Seconds> {
        self.cpu.elapsed(start, end)
    }
    fn clock(&self) -> Clock {
        self.cpu.clock()
    }
    fn evict(&self) -> Result<()> {
        self.cpu.evict()
    }
    fn attention(&self) -> Vec<&dyn AttentionKernels> {
        vec![&self.kernels]
    }
}

fn outcome(device: &mut Faulty, fault: Fault, id: &str) -> Outcome {
    device.kernels.fault = fault;
    let case = Attention.parse(id).unwrap();
    assert_eq!(Attention.providers(&case, device), ["faulty"]);
    measure(&Attention, &case, "faulty", device, &Policy::of(Profile::Quick), 1).outcome
}

#[test]
fn every_usual_mistake_of_a_flash_kernel_is_found() {
    let open = || CpuDevice::open().unwrap();
    let kernels = Kernels { memory: Arc::new(Mutex::new(open())), fault: Fault::None };
    let mut device = Faulty { cpu: open(), kernels };
    for (id, method) in [
        ("attention/prefill/b1hq4hkv2sq40sk56d32/f32/causal", "every row"),
        ("attention/prefill/b1hq4hkv2sq140sk1001d64/f32/causal", "rows against"),
    ] {
        let right = outcome(&mut device, Fault::None, id);
        let Outcome::Measured { verification, .. } = &right else { panic!("{id} without a fault: {right:?}") };
        assert!(verification.method.contains(method), "{verification:?}");
        for fault in FAULTS {
            let wrong = outcome(&mut device, fault, id);
            assert!(matches!(wrong, Outcome::Wrong { .. }), "{id} with {fault:?}: {wrong:?}");
        }
    }
}
