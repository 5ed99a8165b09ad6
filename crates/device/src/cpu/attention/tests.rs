//! Both forms against a float64 reference, at every edge of a tile, on every kernel that this CPU can run.

use super::engine::engines;
use super::*;
use crate::cpu::CpuDevice;
use crate::{AttentionPlan, Buffer, Device};
use ridgepoint_core::data;
use ridgepoint_core::minifloat::bf16_bits;

fn problem(batch: usize, hq: usize, hkv: usize, sq: usize, sk: usize, dqk: usize, dv: usize) -> AttentionProblem {
    AttentionProblem { batch, hq, hkv, sq, sk, dqk, dv, ..AttentionProblem::default() }
}

fn encode(dtype: Dtype, x: f32) -> Vec<u8> {
    if dtype == Dtype::F32 { x.to_le_bytes().to_vec() } else { bf16_bits(x).to_le_bytes().to_vec() }
}

fn tensor(device: &CpuDevice, dtype: Dtype, seed: u64, n: usize, gain: f32) -> (Buffer, Vec<f64>) {
    let bytes: Vec<u8> = (0..n).flat_map(|i| encode(dtype, gain * data::normal(seed, i as u64))).collect();
    let buffer = device.alloc(bytes.len()).unwrap();
    device.upload(&buffer, 0, &bytes).unwrap();
    (buffer, bytes.chunks_exact(dtype.element_bytes().unwrap()).map(|b| dtype.read(b)).collect())
}

/// Runs a plan twice and compares every element with float64. `gain` makes logits large.
fn agrees(device: &CpuDevice, p: &AttentionProblem, plan: &dyn AttentionPlan, gain: f32) {
    let q = tensor(device, p.dtype, 1, p.batch * p.hq * p.sq * p.dqk, gain);
    let k = tensor(device, p.dtype, 2, p.batch * p.hkv * p.sk * p.dqk, gain);
    let v = tensor(device, p.dtype, 3, p.batch * p.hkv * p.sk * p.dv, 1.0);
    let size = p.dtype.element_bytes().unwrap();
    let o = device.alloc(p.batch * p.hq * p.sq * p.dv * size).unwrap();
    device.fill(&o, 0xff).unwrap();
    plan.enqueue(&AttentionOperands::new(&q.0, &k.0, &v.0, &o)).unwrap();
    plan.enqueue(&AttentionOperands::new(&q.0, &k.0, &v.0, &o)).unwrap();
    let mut bytes = vec![0; o.len()];
    device.download(&o, 0, &mut bytes).unwrap();
    let got: Vec<f64> = bytes.chunks_exact(size).map(|b| p.dtype.read(b)).collect();
    // Rounding a logit of size L costs L·2⁻²⁴ in the exponent.
    let logit = f64::from(gain * gain) * 8.0;
    let tolerance = if p.dtype == Dtype::F32 { 2e-5 + logit * 2e-7 } else { 0.03 + logit * 2e-7 };
    for row in 0..p.batch * p.hq * p.sq {
        let (head, i) = (row / p.sq, row % p.sq);
        let shared = head / p.hq * p.hkv + head % p.hq / (p.hq / p.hkv);
        let seen = if p.causal { (i + 1 + p.sk).saturating_sub(p.sq).min(p.sk) } else { p.sk };
        let query = &q.1[row * p.dqk..][..p.dqk];
        let dot = |j: usize| query.iter().zip(&k.1[(shared * p.sk + j) * p.dqk..]).map(|(a, b)| a * b).sum::<f64>();
        let logits: Vec<f64> = (0..seen).map(|j| dot(j) / (p.dqk as f64).sqrt()).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logits.iter().map(|x| (x - top).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let norm = weights.iter().map(|w| w * w).sum::<f64>().sqrt() / sum;
        for c in 0..p.dv {
            let value =
                |j: usize| if p.shared_kv { k.1[(shared * p.sk + j) * p.dqk + c] } else { v.1[(shared * p.sk + j) * p.dv + c] };
            let want = if seen == 0 { 0.0 } else { weights.iter().enumerate().map(|(j, w)| w * value(j)).sum::<f64>() / sum };
            let got = got[row * p.dv + c];
            let scale = if seen == 0 { 1.0 } else { norm * f64::from(if p.shared_kv { gain } else { 1.0 }) };
            assert!((got - want).abs() <= tolerance * scale, "{p:?} row {row} column {c}: {got} for {want}, scale {scale:.1e}");
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
            let p = AttentionProblem { causal: true, ..problem(1, 2, 1, 65, 200, 64, 64) }.of(dtype);
            for kernels in device.attention() {
                let plan = kernels.plan(&p).unwrap();
                if gain < 100.0 {
                    agrees(&device, &p, plan.as_ref(), gain);
                    continue;
                }
                let elements = [p.batch * p.hq * p.sq * p.dqk, p.sk * p.dqk, p.sk * p.dv];
                let [q, k, v] = [1, 2, 3].map(|i| tensor(&device, dtype, i, elements[i as usize - 1], gain).0);
                let o = device.alloc(q.len()).unwrap();
                device.fill(&o, 0xff).unwrap();
                plan.enqueue(&AttentionOperands::new(&q, &k, &v, &o)).unwrap();
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
        ] {
            assert!(matches!(kernels.plan(&bad), Err(DeviceError::Invalid(_))), "{bad:?}");
        }
        let fp8 = good.of(Dtype::E4m3);
        assert!(matches!(kernels.plan(&fp8), Err(DeviceError::Unsupported(_))));
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
