//! Problems and operands for the tests of both libraries: a stub computes what it was told of, and this is what it should be.

use crate::{AttentionOperands, AttentionProblem, Buffer, Device, Paged};
use ridgepoint_core::{Dtype, data};

/// Where the stubs find what they do alike.
pub(crate) const INCLUDE: &str = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/src/gpu/stubs");

pub(crate) fn plain() -> AttentionProblem {
    AttentionProblem { hq: 4, hkv: 2, sq: 5, sk: 9, dqk: 16, dv: 16, ..AttentionProblem::default() }.of(Dtype::Bf16)
}

/// Every variant, small, in the types that cuDNN has.
pub(crate) fn variants() -> Vec<AttentionProblem> {
    let paged = Some(Paged { tokens: 4, pool: 8 });
    let p = plain();
    vec![
        p,
        AttentionProblem { dqk: 24, dv: 16, ..p.of(Dtype::F16) },
        AttentionProblem { causal: true, ..p },
        AttentionProblem { causal: true, window: Some(3), ..p },
        AttentionProblem { causal: true, window: Some(3), batch: 3, ragged: true, ..p },
        AttentionProblem { batch: 3, sq: 1, ragged: true, ..p },
        AttentionProblem { batch: 2, sq: 1, paged, ..p },
        AttentionProblem { batch: 2, causal: true, paged, ragged: true, sinks: true, ..p },
        AttentionProblem { sinks: true, ..p },
        AttentionProblem { batch: 2, hq: 4, hkv: 1, sq: 1, dqk: 24, dv: 16, shared_kv: true, ..p },
        AttentionProblem { batch: 2, hq: 4, hkv: 1, sq: 2, causal: true, dqk: 24, dv: 16, shared_kv: true, paged, ..p },
        AttentionProblem { causal: true, ..p.of(Dtype::E4m3) },
    ]
}

/// Operands of a problem, and their values.
pub(crate) struct Operands {
    q: (Buffer, Vec<f64>),
    k: (Buffer, Vec<f64>),
    v: (Buffer, Vec<f64>),
    pub(crate) o: Buffer,
    lengths: (Buffer, Vec<usize>),
    pages: (Buffer, Vec<usize>),
    sinks: (Buffer, Vec<f64>),
    scales: Buffer,
}

/// What stored values of Q, K and V are multiplied by where they are FP8.
const SCALES: [f32; 3] = [0.5, 2.0, 0.25];

impl Operands {
    pub(crate) fn new(device: &dyn Device, p: &AttentionProblem) -> Self {
        let upload = |bytes: &[u8]| {
            let buffer = device.alloc(bytes.len().max(1)).unwrap();
            device.upload(&buffer, 0, bytes).unwrap();
            buffer
        };
        let tensor = |dtype: Dtype, seed: u64, n: usize, factor: f32| {
            let size = dtype.element_bytes().unwrap();
            let mut bytes = vec![0; n * size];
            for (i, element) in bytes.chunks_exact_mut(size).enumerate() {
                dtype.write(f64::from(data::normal(seed, i as u64)), element);
            }
            let values = bytes.chunks_exact(size).map(|b| dtype.read(b) * f64::from(factor)).collect();
            (upload(&bytes), values)
        };
        let whole =
            |values: Vec<usize>| (upload(&values.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect::<Vec<_>>()), values);
        let factor = |i: usize| if [p.dtype, p.kv, p.kv][i].bits() == 8 { SCALES[i] } else { 1.0 };
        let blocks = p.hkv * p.paged.map_or(p.batch * p.sk, |pages| pages.pool * pages.tokens);
        let sinks: Vec<f32> = (0..p.hq).map(|h| data::normal(9, h as u64)).collect();
        let table = p.paged.map_or(0, |pages| p.batch * p.sk.div_ceil(pages.tokens));
        Self {
            q: tensor(p.dtype, 1, p.batch * p.hq * p.sq * p.dqk, factor(0)),
            k: tensor(p.kv, 2, blocks * p.dqk, factor(1)),
            v: tensor(p.kv, 3, blocks * p.dv, factor(2)),
            o: device.alloc(p.output.bytes((p.batch * p.hq * p.sq * p.dv) as u64).0 as usize).unwrap(),
            lengths: whole((0..p.batch).map(|b| if p.ragged { [p.sk, 0, p.sk - 3][b % 3] } else { p.sk }).collect()),
            pages: whole((0..table).map(|i| (i * 5 + 3) % 8).collect()),
            sinks: (
                upload(&sinks.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>()),
                sinks.iter().map(|s| f64::from(*s)).collect(),
            ),
            scales: upload(&[0, 1, 2].map(factor).iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>()),
        }
    }

    pub(crate) fn operands(&self) -> AttentionOperands<'_> {
        AttentionOperands {
            lengths: Some(&self.lengths.0),
            pages: Some(&self.pages.0),
            sinks: Some(&self.sinks.0),
            scales: Some(&self.scales),
            ..AttentionOperands::new(&self.q.0, &self.k.0, &self.v.0, &self.o)
        }
    }

    /// The output against the definition.
    pub(crate) fn compare(&self, device: &dyn Device, p: &AttentionProblem) {
        let size = p.output.element_bytes().unwrap();
        let mut bytes = vec![0; self.o.len()];
        device.download(&self.o, 0, &mut bytes).unwrap();
        let got: Vec<f64> = bytes.chunks_exact(size).map(|b| p.output.read(b)).collect();
        for row in 0..p.batch * p.hq * p.sq {
            let (b, head, i) = (row / p.sq / p.hq, row / p.sq % p.hq, row % p.sq);
            let length = self.lengths.1[b];
            // The key's row within K and V.
            let place = |j: usize| match p.paged {
                Some(pages) => {
                    let page = self.pages.1[b * p.sk.div_ceil(pages.tokens) + j / pages.tokens];
                    (page * p.hkv + head / (p.hq / p.hkv)) * pages.tokens + j % pages.tokens
                }
                None => (b * p.hkv + head / (p.hq / p.hkv)) * p.sk + j,
            };
            let end = if p.causal { (i + 1 + length).saturating_sub(p.sq) } else { length };
            let start = p.window.map_or(0, |window| end.saturating_sub(window));
            let seen: Vec<usize> = (start..end.min(length)).collect();
            let logit = |j: &usize| {
                let key = &self.k.1[place(*j) * p.dqk..][..p.dqk];
                self.q.1[row * p.dqk..].iter().zip(key).map(|(a, b)| a * b).sum::<f64>() * p.softmax_scale()
            };
            let weights: Vec<f64> = seen.iter().map(|j| logit(j).exp()).collect();
            let sum = weights.iter().sum::<f64>() + if p.sinks { self.sinks.1[head].exp() } else { 0.0 };
            for c in 0..p.dv {
                let value = |j: usize| if p.shared_kv { self.k.1[place(j) * p.dqk + c] } else { self.v.1[place(j) * p.dv + c] };
                let want: f64 = seen.iter().zip(&weights).map(|(j, w)| w * value(*j)).sum::<f64>() / sum.max(1e-300);
                let (got, limit) = (got[row * p.dv + c], if size == 1 { 0.07 } else { 0.01 });
                assert!((got - want).abs() <= limit * want.abs().max(0.1), "{p:?} row {row} column {c}: {got} for {want}");
            }
        }
    }
}
