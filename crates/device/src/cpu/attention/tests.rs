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
            let live = |n: usize| n % width * pages.tokens < lengths[n / width] as usize;
            let used: Vec<i32> = (0..table.len()).filter(|n| live(*n)).map(|n| table[n]).collect();
            // Whatever is read of a page that holds no key of anyone spoils the result.
            for page in (0..pages.pool).filter(|page| !used.contains(&(*page as i32))) {
                for (buffer, columns) in [(&k.0, p.dqk), (&v.0, p.dv)] {
                    let bytes = p.kv.bytes((pages.tokens * p.hkv * columns) as u64).0 as usize;
                    device.upload(buffer, page * bytes, &vec![0xff; bytes]).unwrap();
                }
            }
        }
        let of = |dtype: Dtype, scale: f32| if dtype == Dtype::E4m3 { scale } else { 1.0 };
        let scales = [of(p.dtype, 0.5), of(p.kv, 1.5), of(p.kv, if p.shared_kv { 1.5 } else { 1.25 })];
        let sinks = (0..p.hq).map(|h| 3.0 * data::normal(6, h as u64)).collect();
        Self { q, k, v, lengths, table, sinks, scales }
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
        let place = |j: usize| match p.paged {
            None => (b * p.hkv + h) * p.sk + j,
            Some(pages) => {
                let page = self.table[b * p.sk.div_ceil(pages.tokens) + j / pages.tokens] as usize;
                (page * p.hkv + h) * pages.tokens + j % pages.tokens
            }
        };
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
        let value = |key: usize, c: usize| if p.shared_kv { self.k.1[key * p.dqk + c] } else { self.v.1[key * p.dv + c] };
        let column = |c: usize| keys.iter().zip(&weights).map(|(key, w)| w * sv * value(*key, c)).sum::<f64>() / sum;
        let out = (0..p.dv).map(|c| if keys.is_empty() { 0.0 } else { column(c) }).collect();
        (out, weights.iter().map(|w| w * w).sum::<f64>().sqrt() / sum * sv)
    }
}

/// Runs a plan twice and compares every element with float64. `gain` makes logits large.
fn agrees(device: &CpuDevice, p: &AttentionProblem, plan: &dyn AttentionPlan, gain: f32) {
    let inputs = Inputs::new(device, p, gain);
    let size = p.output.element_bytes().unwrap();
    let o = device.alloc(p.batch * p.hq * p.sq * p.dv * size).unwrap();
    device.fill(&o, 0xff).unwrap();
    inputs.enqueue(device, plan, &o).unwrap();
    inputs.enqueue(device, plan, &o).unwrap();
    let mut bytes = vec![0; o.len()];
    device.download(&o, 0, &mut bytes).unwrap();
    let got: Vec<f64> = bytes.chunks_exact(size).map(|b| p.output.read(b)).collect();
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
        for (c, want) in want.into_iter().enumerate() {
            let got = got[row * p.dv + c];
            // A row that sees nothing is zero to the last bit.
            let right = if want == 0.0 { got == 0.0 } else { (got - want).abs() <= tolerance * scale };
            assert!(right, "{p:?} row {row} column {c}: {got} for {want}, scale {scale:.1e}");
        }
    }
}

fn edges() -> Vec<AttentionProblem> {
    let mut problems = Vec::new();
    for (sq, sk) in [(1, 1), (7, 7), (1, 129), (129, 129), (50, 300), (3, 256), (130, 65), (1, 1000)] {
        for (hq, hkv, dqk, dv) in [(2, 2, 64, 64), (4, 1, 32, 32), (6, 2, 24, 20), (16, 1, 72, 64)] {
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
    use Dtype::{Bf16, E4m3, F16, F32};
    let device = CpuDevice::open().unwrap();
    let flash = Flash::new(&device.pool, &device.allocated);
    let types = [(F32, F32, F32), (Bf16, Bf16, Bf16), (Bf16, E4m3, Bf16), (E4m3, E4m3, Bf16), (F16, F16, F16), (F32, E4m3, F32)];
    for (n, p) in variants().into_iter().enumerate() {
        // Half of the types each, and the other half on the next.
        for (m, (dtype, kv, output)) in types.into_iter().enumerate().skip(n % 2).step_by(2) {
            let p = AttentionProblem { dtype, kv, output, ..p };
            for kernels in device.attention() {
                agrees(&device, &p, kernels.plan(&p).unwrap().as_ref(), 1.0);
            }
            // Every kernel of this CPU, on a share of them.
            if (n + m) % 4 == 0 {
                engines(work(&p)).into_iter().for_each(|e| agrees(&device, &p, &flash.plan_with(&p, e).unwrap(), 1.0));
            }
        }
    }
}

#[test]
fn both_forms_agree_with_f64_at_every_edge() {
    let device = CpuDevice::open().unwrap();
    for p in edges() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let p = p.of(dtype);
            for kernels in device.attention() {
                agrees(&device, &p, kernels.plan(&p).unwrap().as_ref(), 1.0);
            }
        }
    }
}

#[test]
fn every_kernel_of_this_cpu_agrees_with_f64() {
    let device = CpuDevice::open().unwrap();
    let flash = Flash::new(&device.pool, &device.allocated);
    for p in edges() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let p = p.of(dtype);
            for engine in engines(dtype) {
                agrees(&device, &p, &flash.plan_with(&p, engine).unwrap(), 1.0);
            }
        }
    }
}

#[test]
fn huge_logits_stay_finite_and_right() {
    let device = CpuDevice::open().unwrap();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for gain in [30.0, 1000.0] {
            let p = AttentionProblem { causal: true, sinks: true, ..problem(1, 2, 1, 65, 200, 64, 64) }.of(dtype);
            for kernels in device.attention() {
                let plan = kernels.plan(&p).unwrap();
                if gain < 100.0 {
                    agrees(&device, &p, plan.as_ref(), gain);
                    continue;
                }
                let inputs = Inputs::new(&device, &p, gain);
                let o = device.alloc(inputs.q.0.len()).unwrap();
                device.fill(&o, 0xff).unwrap();
                inputs.enqueue(&device, plan.as_ref(), &o).unwrap();
                let mut bytes = vec![0; o.len()];
                device.download(&o, 0, &mut bytes).unwrap();
                let size = dtype.element_bytes().unwrap();
                assert!(bytes.chunks_exact(size).all(|b| dtype.read(b).is_finite()), "{dtype}");
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
