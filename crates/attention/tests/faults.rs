//! The suite and the harness on an attention that is wrong on purpose: each of the usual mistakes of a flash kernel must come
//! out as Wrong, on a problem small enough to be compared in full and on one of which rows are sampled.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use ridgepoint_attention::Attention;
use ridgepoint_core::record::Clock;
use ridgepoint_core::{Bytes, CacheLevel, DeviceInfo, Dtype, Outcome};
use ridgepoint_device::cpu::CpuDevice;
use ridgepoint_device::{
    AttentionKernels, AttentionOperands, AttentionPlan, AttentionProblem, Buffer, Device, Kernel, Program, Result,
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
    /// The window holds one key more.
    WindowOffByOne,
    /// A sequence's last keys are taken from the page before theirs.
    StalePage,
    /// The sinks are left out of the sum.
    DroppedSink,
    /// What stored values of Q, of K or of V are multiplied by is left out.
    DroppedScale(usize),
    /// Ragged sequences are taken to be all of the same length.
    LengthIgnored,
    /// Keys are found as if they did not lie in pages.
    PagesIgnored,
}

/// Those that any attention may have.
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
    /// With a small cache, so that few sets of operands make a case cold: these kernels are slow.
    info: DeviceInfo,
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

/// A sequence's keys and values of one head, in order.
struct Keys {
    k: Vec<f32>,
    v: Vec<f32>,
    n: usize,
}

impl Plan {
    fn bytes(&self, buffer: &Buffer) -> Result<Vec<u8>> {
        let mut bytes = vec![0; buffer.len()];
        self.memory.lock().unwrap().download(buffer, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// A tensor, its values times their scale.
    fn read(&self, buffer: &Buffer, dtype: Dtype, scale: f32) -> Result<Vec<f32>> {
        let size = dtype.element_bytes().unwrap();
        Ok(self.bytes(buffer)?.chunks_exact(size).map(|b| dtype.read(b) as f32 * scale).collect())
    }

    fn numbers(&self, buffer: Option<&Buffer>) -> Result<Vec<usize>> {
        let bytes = buffer.map_or(Ok(Vec::new()), |b| self.bytes(b))?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize).collect())
    }

    /// Collects what lies in pages, or not.
    fn keys(&self, (k, v): (&[f32], &[f32]), (b, h): (usize, usize), table: &[usize], n: usize) -> Keys {
        let (p, fault) = (&self.problem, self.fault);
        let row = |j: usize| match p.paged {
            Some(pages) if fault != Fault::PagesIgnored => {
                let stale =
                    usize::from(fault == Fault::StalePage && j / pages.tokens > 0 && j / pages.tokens == (n - 1) / pages.tokens);
                let page = table[b * p.sk.div_ceil(pages.tokens) + j / pages.tokens - stale];
                (page * p.hkv + h) * pages.tokens + j % pages.tokens
            }
            _ => (b * p.hkv + h) * p.sk + j,
        };
        // A pool is shorter than the rows that one who ignores it would find.
        let collect = |x: &[f32], d: usize| (0..n).flat_map(|j| x[row(j) % (x.len() / d) * d..][..d].to_vec()).collect();
        Keys { k: collect(k, p.dqk), v: collect(v, p.dv), n }
    }

    /// Keys `keys` of one row, sixteen at a time.
    fn row(&self, query: &[f32], k: &[f32], v: &[f32], keys: std::ops::Range<usize>) -> Row {
        const TILE: usize = 16;
        let (p, fault) = (&self.problem, self.fault);
        let scale = if fault == Fault::WrongScale { 1.0 / p.dqk as f32 } else { p.softmax_scale() as f32 };
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

    /// One row of the output, from two halves of the keys and the head's sink.
    fn output(&self, i: usize, query: &[f32], keys: &Keys, sink: Option<f32>) -> Vec<f32> {
        let (p, Keys { k, v, n }) = (&self.problem, keys);
        let more = usize::from(self.fault == Fault::MaskOffByOne);
        let end = if p.causal { (i + 1 + more + n).saturating_sub(p.sq).min(*n) } else { *n };
        let wider = usize::from(self.fault == Fault::WindowOffByOne);
        let first = p.window.map_or(0, |w| end.saturating_sub(w + wider));
        let middle = first.midpoint(end);
        let (mut a, b) = (self.row(query, k, v, first..middle), self.row(query, k, v, middle..end));
        let sink = sink.filter(|_| self.fault != Fault::DroppedSink && first < end);
        let max = a.max.max(b.max).max(sink.unwrap_or(f32::MIN));
        let combine = self.fault != Fault::WrongCombine;
        let [fa, fb] = [&a, &b].map(|r| if combine { (r.max - max).exp() } else { 1.0 / r.sum.max(f32::MIN_POSITIVE) });
        let all = fa * a.sum + fb * b.sum + sink.map_or(0.0, |s| (s - max).exp());
        let sum = if self.fault == Fault::NotNormalised { 1.0 } else { all };
        a.out.iter_mut().zip(&b.out).for_each(|(x, y)| *x = if sum == 0.0 { 0.0 } else { (fa * *x + fb * y) / sum });
        a.out
    }
}

impl AttentionPlan for Plan {
    fn enqueue(&self, operands: &AttentionOperands<'_>) -> Result<()> {
        let (p, o) = (&self.problem, operands.o);
        let mut scales = operands.scales.map_or(Ok(vec![1.0; 3]), |b| self.read(b, Dtype::F32, 1.0))?;
        if let Fault::DroppedScale(which) = self.fault {
            scales[which] = 1.0;
        }
        let queries = self.read(operands.q, p.dtype, scales[0])?;
        let (k, v) = (self.read(operands.k, p.kv, scales[1])?, self.read(operands.v, p.kv, scales[2])?);
        let (lengths, table) = (self.numbers(operands.lengths)?, self.numbers(operands.pages)?);
        let sinks = operands.sinks.map_or(Ok(Vec::new()), |b| self.read(b, Dtype::F32, 1.0))?;
        for (head, queries) in queries.chunks_exact(p.sq * p.dqk).enumerate() {
            let (batch, head_of) = (head / p.hq, head % p.hq);
            let shared = if self.fault == Fault::WrongGroup { head_of % p.hkv } else { head_of / (p.hq / p.hkv) };
            let n = lengths.get(batch).filter(|_| self.fault != Fault::LengthIgnored).map_or(p.sk, |n| *n);
            let keys = self.keys((&k, &v), (batch, shared), &table, n);
            for (i, query) in queries.chunks_exact(p.dqk).enumerate() {
                let mut row = self.output(i, query, &keys, sinks.get(head_of).copied());
                if self.fault == Fault::ZeroRow && head * p.sq + i == 3 * p.sq / 2 {
                    row.fill(0.0);
                }
                let written = p.dv - usize::from(self.fault == Fault::Unwritten);
                let size = p.output.element_bytes().unwrap();
                let mut bytes = vec![0; written * size];
                row.iter().zip(bytes.chunks_exact_mut(size)).for_each(|(x, to)| p.output.write(f64::from(*x), to));
                self.memory.lock().unwrap().upload(o, (head * p.sq + i) * p.dv * size, &bytes)?;
            }
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
        &self.info
    }
    ridgepoint_device::leave_to!(cpu);
    fn compile(&self, program: &Program<'_>, entry: &str) -> Result<Kernel> {
        self.cpu.compile(program, entry)
    }
    fn clock(&self) -> Clock {
        self.cpu.clock()
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
    let mut device = faulty();
    for (id, method) in [
        ("attention/prefill/b1hq4hkv2sq40sk56d32/f32/causal", "every row"),
        ("attention/prefill/b1hq4hkv2sq140sk1001d64/f32/causal", "rows against"),
    ] {
        finds(&mut device, id, method, &FAULTS);
    }
}

#[test]
fn every_usual_mistake_with_windows_pages_sinks_lengths_and_scales_is_found() {
    use Fault::{
        DroppedScale, DroppedSink, LengthIgnored, MaskOffByOne, MissingRescale, PagesIgnored, StalePage, WindowOffByOne,
        WrongCombine,
    };
    let mut device = faulty();
    let all = [WindowOffByOne, StalePage, DroppedSink, LengthIgnored, PagesIgnored, MaskOffByOne, WrongCombine];
    finds(&mut device, "attention/prefill/b4hq4hkv2sq20sk56d32/f32/causal/w17/page8/sinks/ragged", "every row", &all);
    let narrow = [StalePage, DroppedSink, LengthIgnored, DroppedScale(1), DroppedScale(2), MissingRescale, WrongCombine];
    finds(&mut device, "attention/decode/b5hq8hkv2sq1sk700d64/bf16/kv=e4m3/page16/sinks/ragged", "every row", &narrow);
    let fp8 = [DroppedScale(0), DroppedScale(1), DroppedScale(2), MaskOffByOne, MissingRescale];
    finds(&mut device, "attention/prefill/b1hq4hkv2sq40sk70d32/e4m3/causal", "every row", &fp8);
}

fn faulty() -> Faulty {
    let open = || CpuDevice::open().unwrap();
    let kernels = Kernels { memory: Arc::new(Mutex::new(open())), fault: Fault::None };
    let cpu = open();
    let caches = vec![CacheLevel { name: "L2".into(), bytes: Bytes::kib(64), instances: 1 }];
    let info = DeviceInfo { caches, ..cpu.info().clone() };
    Faulty { cpu, info, kernels }
}

/// A right kernel passes, checked by `method`; each of the faults comes out as Wrong.
fn finds(device: &mut Faulty, id: &str, method: &str, faults: &[Fault]) {
    let right = outcome(device, Fault::None, id);
    let Outcome::Measured { verification, .. } = &right else { panic!("{id} without a fault: {right:?}") };
    assert!(verification.method.contains(method), "{verification:?}");
    for fault in faults {
        let wrong = outcome(device, *fault, id);
        assert!(matches!(wrong, Outcome::Wrong { .. }), "{id} with {fault:?}: {wrong:?}");
    }
}
