//! Both forms against a float64 reference, at every edge of a tile, on every kernel that this CPU can run.

use super::engine::engines;
use super::*;
use crate::cpu::CpuDevice;
use crate::{AttentionOperands, AttentionPlan, Buffer, Device, Paged};
use ridgepoint_core::data;

fn problem(batch: usize, hq: usize, hkv: usize, sq: usize, sk: usize, dqk: usize, dv: usize) -> AttentionProblem {
    AttentionProblem { batch, hq, hkv, sq, sk, dqk, dv, ..AttentionProblem::default() }
}

/// The same with K and V in pages of so many keys, and more pages than they fill.
fn paged(p: AttentionProblem, tokens: usize) -> AttentionProblem {
    AttentionProblem { paged: Some(Paged { tokens, pool: p.batch * p.sk.div_ceil(tokens) + 2 }), ..p }
}

fn upload(device: &CpuDevice, bytes: &[u8]) -> Buffer {
    let buffer = device.alloc(bytes.len()).unwrap();
    device.upload(&buffer, 0, bytes).unwrap();
    buffer
}

fn tensor(device: &CpuDevice, dtype: Dtype, seed: u64, n: usize, gain: f32) -> (Buffer, Vec<f64>) {
    let size = dtype.element_bytes().unwrap();
    let mut bytes = vec![0; n * size];
    let element = |(i, to): (usize, &mut [u8])| dtype.write(f64::from(gain * data::normal(seed, i as u64)), to);
    bytes.chunks_exact_mut(size).enumerate().for_each(element);
    (upload(device, &bytes), bytes.chunks_exact(size).map(|b| dtype.read(b)).collect())
}

/// Operands of a problem and what they mean.
struct Inputs {
    q: (Buffer, Vec<f64>),
    k: (Buffer, Vec<f64>),
    v: (Buffer, Vec<f64>),
    lengths: Vec<i32>,
    table: Vec<i32>,
    sinks: Vec<f32>,
    scales: [f32; 3],
}

impl Inputs {
    fn new(device: &CpuDevice, p: &AttentionProblem, gain: f32) -> Self {
        let rows = given::rows(p).unwrap();
        let q = tensor(device, p.dtype, 1, p.batch * p.hq * p.sq * p.dqk, gain);
        let k = tensor(device, p.kv, 2, rows * p.dqk, gain);
        let v = tensor(device, p.kv, 3, rows * p.dv, 1.0);
        // All keys, none, one, and then any number.
        let length = |b: usize| [p.sk, 0, 1].get(b).copied().unwrap_or(data::hash(4, b as u64) as usize % (p.sk + 1)) as i32;
        let lengths: Vec<i32> = (0..p.batch).map(|b| if p.ragged { length(b) } else { p.sk as i32 }).collect();
        let mut table = Vec::new();
        if let Some(pages) = p.paged {
            let width = p.sk.div_ceil(pages.tokens);
            table = (0..p.batch * width).map(|n| data::permuted(5, n as u64, pages.pool as u64) as i32).collect();
        }
        let of = |dtype: Dtype, scale: f32| if dtype == Dtype::E4m3 { scale } else { 1.0 };
        let scales = [of(p.dtype, 0.5), of(p.kv, 1.5), of(p.kv, if p.shared_kv { 1.5 } else { 1.25 })];
        let sinks = (0..p.hq).map(|h| 3.0 * data::normal(6, h as u64)).collect();
        let inputs = Self { q, k, v, lengths, table, sinks, scales };
        // Whatever is read where no key of anyone lies spoils the result.
        let mut keyless = vec![true; rows];
        for (b, h) in (0..p.batch).flat_map(|b| (0..p.hkv).map(move |h| (b, h))) {
            (0..inputs.lengths[b] as usize).for_each(|j| keyless[inputs.place(p, b, h, j)] = false);
        }
        for row in (0..rows).filter(|row| keyless[*row]) {
            for (buffer, columns) in [(&inputs.k.0, p.dqk), (&inputs.v.0, p.dv)] {
                let bytes = p.kv.bytes(columns as u64).0 as usize;
                device.upload(buffer, row * bytes, &vec![0xff; bytes]).unwrap();
            }
        }
        inputs
    }

    /// Which row of K and V holds a key.
    fn place(&self, p: &AttentionProblem, b: usize, h: usize, j: usize) -> usize {
        match p.paged {
            None => (b * p.hkv + h) * p.sk + j,
            Some(pages) => {
                let page = self.table[b * p.sk.div_ceil(pages.tokens) + j / pages.tokens] as usize;
                (page * p.hkv + h) * pages.tokens + j % pages.tokens
            }
        }
    }

    fn enqueue(&self, device: &CpuDevice, plan: &dyn AttentionPlan, o: &Buffer) -> Result<()> {
        let ints = |x: &[i32]| upload(device, &x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        let floats = |x: &[f32]| upload(device, &x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        plan.enqueue(&AttentionOperands {
            lengths: Some(&ints(&self.lengths)),
            pages: Some(&ints(&self.table)),
            sinks: Some(&floats(&self.sinks)),
            scales: Some(&floats(&self.scales)),
            ..AttentionOperands::new(&self.q.0, &self.k.0, &self.v.0, o)
        })
    }

    /// One row of the output, and the typical size of its elements.
    fn row(&self, p: &AttentionProblem, row: usize) -> (Vec<f64>, f64) {
        let (b, head, i) = (row / (p.hq * p.sq), row / p.sq % p.hq, row % p.sq);
        let (h, length) = (head / (p.hq / p.hkv), self.lengths[b] as usize);
        let place = |j| self.place(p, b, h, j);
        let sees = |j: &usize| !p.causal || (j + p.sq <= i + length && p.window.is_none_or(|w| j + p.sq + w > i + length));
        let keys: Vec<usize> = (0..length).filter(sees).map(place).collect();
        let [sq, sk, sv] = self.scales.map(f64::from);
        let query = &self.q.1[row * p.dqk..][..p.dqk];
        let dot = |key: &usize| query.iter().zip(&self.k.1[key * p.dqk..]).map(|(a, b)| a * b).sum::<f64>();
        let logits: Vec<f64> = keys.iter().map(|key| dot(key) * sq * sk * p.softmax_scale()).collect();
        let sink = p.sinks.then(|| f64::from(self.sinks[head]));
        let top = logits.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logits.iter().map(|x| (x - top).exp()).collect();
        let sum = weights.iter().sum::<f64>() + sink.map_or(0.0, |s| (s - top).exp());
        let (values, stride) = if p.shared_kv { (&self.k.1, p.dqk) } else { (&self.v.1, p.dv) };
        let mut out = vec![0.0; p.dv];
        for (key, weight) in keys.iter().zip(&weights) {
            out.iter_mut().zip(&values[key * stride..]).for_each(|(o, v)| *o += weight / sum * sv * v);
        }
        (out, weights.iter().map(|w| w * w).sum::<f64>().sqrt() / sum * sv)
    }
}

/// Types of Q, of K and V, and of O.
const TYPES: [(Dtype, Dtype, Dtype); 6] = {
    use Dtype::{Bf16, E4m3, F16, F32};
    [(F32, F32, F32), (Bf16, Bf16, Bf16), (F16, F16, F16), (E4m3, E4m3, Bf16), (Bf16, E4m3, Bf16), (F32, E4m3, F32)]
};

type Plans = Vec<Box<dyn AttentionPlan>>;

/// A plan of each form.
fn forms(device: &CpuDevice, p: &AttentionProblem) -> Plans {
    device.attention().into_iter().map(|kernels| kernels.plan(p).unwrap()).collect()
}

/// A plan of flash attention by each kernel that this CPU can run.
fn kernels(device: &CpuDevice, p: &AttentionProblem) -> Plans {
    let flash = Flash::new(&device.pool, &device.allocated);
    engines(work(p)).into_iter().map(|engine| Box::new(flash.plan_with(p, engine).unwrap()) as _).collect()
}

/// Runs each plan twice and compares every element with float64. `gain` makes logits large.
fn agree(device: &CpuDevice, p: &AttentionProblem, plans: &[Box<dyn AttentionPlan>], gain: f32) {
    let inputs = Inputs::new(device, p, gain);
    let size = p.output.element_bytes().unwrap();
    let o = device.alloc(p.batch * p.hq * p.sq * p.dv * size).unwrap();
    let run = |plan: &dyn AttentionPlan| -> Vec<f64> {
        device.fill(&o, 0xff).unwrap();
        inputs.enqueue(device, plan, &o).unwrap();
        inputs.enqueue(device, plan, &o).unwrap();
        let mut bytes = vec![0; o.len()];
        device.download(&o, 0, &mut bytes).unwrap();
        bytes.chunks_exact(size).map(|b| p.output.read(b)).collect()
    };
    let results: Vec<Vec<f64>> = plans.iter().map(|plan| run(plan.as_ref())).collect();
    // Rounding a logit of size L costs L·2⁻²⁴ in the exponent.
    let logit = f64::from(gain * gain) * 8.0 * 2e-7;
    let tolerance = logit
        + match p.output {
            Dtype::F32 => 2e-5,
            Dtype::F16 => 4e-3,
            _ => 0.03,
        };
    for row in 0..p.batch * p.hq * p.sq {
        let (want, scale) = inputs.row(p, row);
        let scale = scale * f64::from(if p.shared_kv { gain } else { 1.0 });
        for (n, got) in results.iter().enumerate() {
            for (c, (got, want)) in got[row * p.dv..].iter().zip(&want).enumerate() {
                // A row that sees nothing is zero to the last bit.
                let right = if *want == 0.0 { *got == 0.0 } else { (got - want).abs() <= tolerance * scale };
                assert!(right, "{p:?} plan {n} row {row} column {c}: {got} for {want}, scale {scale:.1e}");
            }
        }
    }
}

fn edges() -> Vec<AttentionProblem> {
    let mut problems = Vec::new();
    for (sq, sk) in [(1, 1), (7, 7), (1, 129), (129, 129), (50, 300), (3, 256), (130, 65), (1, 1000)] {
        for (hq, hkv, dqk, dv) in
            [(2, 2, 64, 64), (4, 1, 32, 32), (6, 2, 24, 20), (16, 1, 72, 64), (2, 1, 128, 128), (1, 1, 256, 256)]
        {
            for causal in [false, true] {
                problems.push(AttentionProblem { causal, ..problem(2, hq, hkv, sq, sk, dqk, dv) });
            }
        }
    }
    // Multi-head latent attention: prefill with its own sizes, and absorbed decoding where V is part of K.
    problems.push(AttentionProblem { causal: true, ..problem(1, 2, 2, 100, 100, 192, 128) });
    problems.extend([1, 2].map(|sq| AttentionProblem {
        shared_kv: true,
        causal: sq > 1,
        ..problem(2, 16, 1, sq, 600, 576, 512)
    }));
    problems
}

/// Windows, pages, sinks, lengths, each by itself and together, where blocks, tiles, pages and parts end.
fn variants() -> Vec<AttentionProblem> {
    let mut problems = Vec::new();
    let window = |w: usize, p| AttentionProblem { causal: true, window: Some(w), ..p };
    for (batch, hq, hkv, sq, sk, d) in
        [(4, 4, 2, 1, 300, 64), (2, 2, 2, 130, 130, 64), (3, 2, 1, 40, 400, 24), (1, 8, 1, 3, 1000, 96)]
    {
        let p = problem(batch, hq, hkv, sq, sk, d, d);
        problems.extend([1, 2, 100, 128, 129].map(|w| window(w, p)));
        problems.extend([1, 16, 64, 100].map(|tokens| paged(p, tokens)));
        problems.push(AttentionProblem { sinks: true, ..p });
        for causal in [false, true] {
            let ragged = AttentionProblem { ragged: true, causal, ..p };
            problems.extend([ragged, paged(ragged, 16), AttentionProblem { sinks: true, ..paged(ragged, 64) }]);
        }
        problems.push(AttentionProblem { sinks: true, ragged: true, ..paged(window(70, p), 16) });
        problems.push(AttentionProblem { sinks: true, ..window(33, p) });
    }
    problems.push(AttentionProblem { ragged: true, ..window(7, problem(3, 2, 2, 50, 20, 64, 64)) });
    problems.push(paged(AttentionProblem { ragged: true, causal: true, ..problem(3, 2, 2, 65, 65, 192, 128) }, 16));
    let latent = AttentionProblem { shared_kv: true, ragged: true, ..problem(3, 16, 1, 1, 200, 576, 512) };
    problems.extend([latent, paged(latent, 64), AttentionProblem { sinks: true, ..paged(latent, 16) }]);
    problems
}

#[test]
fn variants_in_every_type_agree_with_f64() {
    let device = CpuDevice::open().unwrap();
    for (n, p) in variants().into_iter().enumerate() {
        for (m, (dtype, kv, output)) in TYPES.into_iter().enumerate() {
            let p = AttentionProblem { dtype, kv, output, ..p };
            let mut plans = forms(&device, &p);
            // Every kernel of this CPU, on a share of them.
            if (n + m) % 4 == 0 {
                plans.extend(kernels(&device, &p));
            }
            agree(&device, &p, &plans, 1.0);
        }
    }
}

#[test]
fn both_forms_by_every_kernel_agree_with_f64_at_every_edge() {
    let device = CpuDevice::open().unwrap();
    for (n, p) in edges().into_iter().enumerate() {
        for (m, (dtype, kv, output)) in TYPES.into_iter().take(4).enumerate() {
            let p = AttentionProblem { dtype, kv, output, ..p };
            let mut plans = forms(&device, &p);
            // What is narrow is widened to f32, for which the kernels are the same.
            if m < 2 {
                plans.extend(kernels(&device, &p));
            } else if n % 2 != m % 2 {
                continue;
            }
            agree(&device, &p, &plans, 1.0);
        }
    }
}

#[test]
fn huge_logits_stay_finite_and_right() {
    let device = CpuDevice::open().unwrap();
    for (dtype, kv, output) in TYPES {
        // The largest e4m3 is 448.
        for gain in [30.0, if kv == Dtype::E4m3 { 120.0 } else { 1000.0 }] {
            let p = problem(1, 2, 1, 65, 200, 64, 64);
            let p = AttentionProblem { causal: true, sinks: true, dtype, kv, output, ..p };
            let plans = forms(&device, &p);
            if gain < 100.0 {
                agree(&device, &p, &plans, gain);
                continue;
            }
            let inputs = Inputs::new(&device, &p, gain);
            for plan in plans {
                let size = output.element_bytes().unwrap();
                let o = device.alloc(2 * 65 * 64 * size).unwrap();
                device.fill(&o, 0xff).unwrap();
                inputs.enqueue(&device, plan.as_ref(), &o).unwrap();
                let mut bytes = vec![0; o.len()];
                device.download(&o, 0, &mut bytes).unwrap();
                assert!(bytes.chunks_exact(size).all(|b| output.read(b).is_finite()), "{p:?}");
            }
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let device = CpuDevice::open().unwrap();
    let good = problem(1, 4, 2, 8, 8, 16, 16);
    for kernels in device.attention() {
        for bad in [
            AttentionProblem { hkv: 3, ..good },
            AttentionProblem { sk: 0, ..good },
            AttentionProblem { shared_kv: true, dv: 32, ..good },
            AttentionProblem { batch: usize::MAX / 2, ..good },
            AttentionProblem { window: Some(3), ..good },
            AttentionProblem { window: Some(0), causal: true, ..good },
            AttentionProblem { paged: Some(Paged { tokens: 0, pool: 4 }), ..good },
            AttentionProblem { paged: Some(Paged { tokens: usize::MAX / 2, pool: 4 }), ..good },
        ] {
            assert!(matches!(kernels.plan(&bad), Err(DeviceError::Invalid(_))), "{bad:?}");
        }
        assert!(matches!(kernels.plan(&good.of(Dtype::I8)), Err(DeviceError::Unsupported(_))));
        assert!(matches!(kernels.plan(&good.of(Dtype::E4m3fnuz)), Err(DeviceError::Unsupported(_))));
        let plan = kernels.plan(&good).unwrap();
        let right = [4 * 8 * 16, 2 * 8 * 16, 2 * 8 * 16, 4 * 8 * 16].map(|n| device.alloc(n * 4).unwrap());
        plan.enqueue(&AttentionOperands::new(&right[0], &right[1], &right[2], &right[3])).unwrap();
        for short in 0..4 {
            let mut buffers = right.clone();
            buffers[short] = device.alloc(right[short].len() - 1).unwrap();
            let [q, k, v, o] = &buffers;
            assert!(
                matches!(plan.enqueue(&AttentionOperands::new(q, k, v, o)), Err(DeviceError::Invalid(_))),
                "operand {short} too short"
            );
        }
        assert!(
            plan.enqueue(&AttentionOperands::new(&right[0], &right[1], &right[2], &right[0])).is_err(),
            "output on top of an operand"
        );
    }
}

#[test]
fn lengths_pages_and_scales_that_name_what_there_is_not_are_refused() {
    let device = CpuDevice::open().unwrap();
    let p = AttentionProblem { ragged: true, sinks: true, ..paged(problem(3, 4, 2, 1, 40, 16, 16), 16) };
    let p = AttentionProblem { kv: Dtype::E4m3, ..p };
    let o = device.alloc(3 * 4 * 16 * 4).unwrap();
    for kernels in device.attention() {
        let plan = kernels.plan(&p).unwrap();
        let refused = |change: &dyn Fn(&mut Inputs)| {
            let mut inputs = Inputs::new(&device, &p, 1.0);
            change(&mut inputs);
            matches!(inputs.enqueue(&device, plan.as_ref(), &o), Err(DeviceError::Invalid(_)))
        };
        assert!(!refused(&|_| {}));
        assert!(refused(&|x| x.lengths[1] = 41));
        assert!(refused(&|x| x.lengths[1] = -1));
        assert!(refused(&|x| x.lengths.truncate(2)));
        assert!(refused(&|x| x.table[0] = 11));
        assert!(refused(&|x| x.table[2] = -1));
        assert!(!refused(&|x| x.table[3] = -1), "what stands behind an empty sequence's end is not read");
        assert!(refused(&|x| x.table.truncate(8)));
        assert!(refused(&|x| x.sinks.truncate(3)));
        assert!(refused(&|x| x.scales = [1.0, f32::NAN, 1.0]));
        assert!(refused(&|x| x.scales = [1.0, -1.0, 1.0]));
        let inputs = Inputs::new(&device, &p, 1.0);
        let missing = plan.enqueue(&AttentionOperands::new(&inputs.q.0, &inputs.k.0, &inputs.v.0, &o));
        assert!(matches!(missing, Err(DeviceError::Invalid(_))));
    }
}
