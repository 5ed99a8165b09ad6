//! Is the output right? Every element is scanned for poison, every row for a norm that no average of random values has, and rows
//! are compared with float64: all of them where that is little work, else rows at the edges (the first queries, where one key
//! more or less changes everything, the last, the ends of tiles) and others by chance, over all heads.
//!
//! The error of a row is ‖o − reference‖ / ‖reference‖: entries of a long row are small, and each is a sum over all keys.

use crate::cases::{Kind, Shape};
use ridgepoint_core::{Dtype, Verification, data};
use ridgepoint_harness::verify::{Comparison, in_chunks};

/// Multiply-adds up to which all rows are computed.
const FULL: u64 = 1 << 26;
/// Rows of a large problem, at least; more where a row is little work.
const ROWS: u64 = 24;
/// Rows of a large problem, at most.
const MOST_ROWS: u64 = 256;
/// Multiply-adds that are spent on them where that gives more than the least: each provider has its own reference.
const SAMPLED: u64 = 1 << 24;

/// A row of the output: sequence, query head, query.
type Row = (u64, u64, u64);

/// The rows to compare, and what they must be; a fully masked row is zero.
pub(crate) struct Reference {
    rows: Vec<(Row, Vec<f64>)>,
    full: bool,
}

/// Largest error of a row. bf16 and f16 kernels round P and O to their type, each by a quarter of a percent for bf16: four times
/// that. For f32 the sums over keys and an approximate exponential count.
pub(crate) fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Bf16 => 1e-2,
        Dtype::F16 => 2e-3,
        _ => 2e-5,
    }
}

/// An operand as the counter makes it: element `i`, rounded to the dtype.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub(crate) seed: u64,
    pub(crate) dtype: Dtype,
}

impl Operand {
    pub(crate) fn at(self, i: u64) -> f64 {
        let x = data::normal(self.seed, i);
        match self.dtype {
            // The common case without the general conversion: whole caches of keys are made of it.
            Dtype::Bf16 => f64::from(f32::from_bits(u32::from(ridgepoint_core::minifloat::bf16_bits(x)) << 16)),
            other => other.round(f64::from(x)),
        }
    }
}

impl Reference {
    pub(crate) fn new(shape: Shape, [q, k, v]: [Operand; 3]) -> Self {
        let all = shape.b * shape.hq * shape.sq;
        let full = all * shape.sk * (shape.dqk + shape.dv) <= FULL;
        let rows: Vec<Row> = if full { (0..all).map(|r| split(shape, r)).collect() } else { sample(shape) };
        let compute = |range: std::ops::Range<u64>| -> Vec<(Row, Vec<f64>)> {
            range.map(|i| rows[i as usize]).map(|r| (r, row(shape, r, q, k, v))).collect()
        };
        // A row is much work: one a part, whatever the count.
        let threads = std::thread::available_parallelism().map_or(1, |p| p.get() as u64).min(rows.len() as u64).max(1);
        let n = rows.len() as u64;
        let computed = std::thread::scope(|scope| {
            let compute = &compute;
            let handles: Vec<_> =
                (0..threads).map(|t| scope.spawn(move || compute(n * t / threads..n * (t + 1) / threads))).collect();
            handles.into_iter().filter_map(|h| h.join().ok()).flatten().collect()
        });
        Self { rows: computed, full }
    }

    /// Compares the output, as raw bytes.
    pub(crate) fn check(&self, shape: Shape, out: &[u8], total: &mut Comparison) {
        let size = shape.dtype.element_bytes().unwrap_or(4);
        let dv = shape.dv as usize;
        for ((b, h, i), want) in &self.rows {
            let first = (((b * shape.hq + h) * shape.sq + i) * shape.dv) as usize;
            let got = (0..dv).map(|c| shape.dtype.read(&out[(first + c) * size..(first + c + 1) * size]));
            let (error, scale) =
                got.zip(want).fold((0.0, 0.0), |(e, s), (got, want)| (e + (got - want).powi(2), s + want * want));
            // A fully masked row must be zero to the last bit.
            total.push(error.sqrt(), 0.0, if scale > 0.0 { scale.sqrt() } else { f64::MIN_POSITIVE });
        }
    }

    /// What was done.
    pub(crate) fn method(&self) -> String {
        let rows =
            if self.full { "every row".to_owned() } else { format!("scan for poison and norms, {} rows", self.rows.len()) };
        format!("{rows} against f64, relative L2 of a row")
    }
}

/// Scans every element for poison.
pub(crate) fn scan(shape: Shape, out: &[u8], total: &mut Comparison) {
    let size = shape.dtype.element_bytes().unwrap_or(4);
    let n = (out.len() / size) as u64;
    let poisoned = in_chunks(n, |r| {
        out[r.start as usize * size..r.end as usize * size].chunks_exact(size).filter(|e| e.iter().all(|b| *b == 0xff)).count()
            as u64
    });
    total.scanned(n, poisoned.into_iter().sum());
    total.scanned(0, norms(shape, out));
}

/// Rows whose root mean square cannot be right: left at zero, not divided by the sum of weights, of a buffer's last use.
///
/// A row is Σ p·v over n keys with Σ p = 1 and v of variance 1, so its mean square is Σ p²: at least 1/n, about e/n for logits of
/// variance 1, and a few hundred times that for the one row in a million whose query met a key like itself. Where K and V are
/// one, the weights also draw the average towards q/√d.
fn norms(shape: Shape, out: &[u8]) -> u64 {
    let (size, dv) = (shape.dtype.element_bytes().unwrap_or(4), shape.dv as usize);
    if shape.dqk < 64 || dv < 64 {
        return 0;
    }
    let drawn = if shape.kind == Kind::MlaDecode { 4.0 / (shape.dqk as f64).sqrt() } else { 0.0 };
    let wrong = |r: u64| {
        let n = shape.visible(r % shape.sq) as f64;
        if n < 64.0 {
            return false;
        }
        let row = &out[r as usize * dv * size..(r as usize + 1) * dv * size];
        let rms = (row.chunks_exact(size).map(|e| shape.dtype.read(e).powi(2)).sum::<f64>() / dv as f64).sqrt();
        !(0.25 / n.sqrt()..=(24.0 / n.sqrt()).min(1.5) + drawn).contains(&rms)
    };
    in_chunks(shape.b * shape.hq * shape.sq, |rows| rows.filter(|r| wrong(*r)).count() as u64).into_iter().sum()
}

/// The verdict over what was pushed.
pub(crate) fn finish(reference: &Reference, total: Comparison) -> Verification {
    total.finish(reference.method())
}

fn split(shape: Shape, r: u64) -> Row {
    (r / (shape.hq * shape.sq), r / shape.sq % shape.hq, r % shape.sq)
}

fn sample(shape: Shape) -> Vec<Row> {
    let edges = [0, 1, 63, 64, 127, 128, shape.sq / 2, shape.sq - 1];
    let edge = edges.into_iter().filter(|i| *i < shape.sq).enumerate().map(|(n, i)| {
        let at = data::hash(11, n as u64);
        (at % shape.b, at >> 20 & 0xfffff, i)
    });
    let rows = (SAMPLED / (shape.sk * (shape.dqk + shape.dv))).clamp(ROWS, MOST_ROWS);
    let random = (0..rows - 8).map(|n| {
        let at = data::hash(13, n);
        (at % shape.b, at >> 20 & 0xfffff, (at >> 40) % shape.sq)
    });
    let mut rows: Vec<Row> = edge.chain(random).map(|(b, h, i)| (b, h % shape.hq, i)).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// One row of the output in float64, by the definition.
fn row(shape: Shape, (b, h, i): Row, q: Operand, k: Operand, v: Operand) -> Vec<f64> {
    let (dqk, dv) = (shape.dqk, shape.dv);
    let hkv = h / (shape.hq / shape.hkv);
    let visible = shape.visible(i);
    let mut out = vec![0.0; dv as usize];
    if visible == 0 {
        return out;
    }
    let query: Vec<f64> = (0..dqk).map(|c| q.at(((b * shape.hq + h) * shape.sq + i) * dqk + c)).collect();
    let scale = 1.0 / (dqk as f64).sqrt();
    let keys = (b * shape.hkv + hkv) * shape.sk;
    let latent = shape.kind == Kind::MlaDecode;
    let logits: Vec<f64> =
        (0..visible).map(|j| scale * (0..dqk).map(|c| query[c as usize] * k.at((keys + j) * dqk + c)).sum::<f64>()).collect();
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|l| (l - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    for (j, weight) in weights.iter().enumerate() {
        let at = keys + j as u64;
        for (c, o) in out.iter_mut().enumerate() {
            let value = if latent { k.at(at * dqk + c as u64) } else { v.at(at * dv + c as u64) };
            *o += weight / sum * value;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operands(dtype: Dtype) -> [Operand; 3] {
        [1, 2, 3].map(|seed| Operand { seed, dtype })
    }

    fn bytes(rows: &[(Row, Vec<f64>)]) -> Vec<u8> {
        rows.iter().flat_map(|(_, r)| r.iter().flat_map(|x| (*x as f32).to_le_bytes())).collect()
    }

    #[test]
    fn a_mask_off_by_one_a_wrong_head_and_poison_are_found() {
        let right = Shape::parse("attention/prefill/b2hq4hkv2sq9sk12d16/f32/causal").unwrap();
        let reference = Reference::new(right, operands(Dtype::F32));
        assert_eq!(reference.rows.len(), 2 * 4 * 9);
        let verdict = |out: &[u8]| {
            let mut total = Comparison::new(tolerance(Dtype::F32));
            reference.check(right, out, &mut total);
            scan(right, out, &mut total);
            finish(&reference, total).passed()
        };
        let good = bytes(&reference.rows);
        assert!(verdict(&good));
        let mut unwritten = good.clone();
        unwritten[400..404].fill(0xff);
        assert!(!verdict(&unwritten));
        // One key less for each query.
        let shifted = Shape { sk: 11, ..right };
        let rows: Vec<_> = reference.rows.iter().map(|(r, _)| (*r, row_of(right, shifted, *r))).collect();
        assert!(!verdict(&bytes(&rows)));
        // Key heads taken in turn instead of in groups.
        let swapped: Vec<_> = reference
            .rows
            .iter()
            .map(|((b, h, i), _)| {
                (
                    (*b, *h, *i),
                    row(right, (*b, (h + 2) % 4, *i), operands(Dtype::F32)[0], operands(Dtype::F32)[1], operands(Dtype::F32)[2]),
                )
            })
            .collect();
        assert!(!verdict(&bytes(&swapped)));
    }

    /// Row `r` of `right`'s operands under `masked`'s mask.
    fn row_of(right: Shape, masked: Shape, r: Row) -> Vec<f64> {
        let fewer = masked.visible(r.2);
        let [q, k, v] = operands(Dtype::F32);
        // `visible` of the narrower problem applied to the wider one: cut the keys, not the layout.
        let cut = Shape { causal: false, ..right };
        let (b, h, i) = r;
        let hkv = h / (right.hq / right.hkv);
        let keys = (b * right.hkv + hkv) * right.sk;
        let query: Vec<f64> = (0..cut.dqk).map(|c| q.at(((b * right.hq + h) * right.sq + i) * cut.dqk + c)).collect();
        let logits: Vec<f64> = (0..fewer)
            .map(|j| (0..cut.dqk).map(|c| query[c as usize] * k.at((keys + j) * cut.dqk + c)).sum::<f64>() / 4.0)
            .collect();
        let sum: f64 = logits.iter().map(|l| l.exp()).sum();
        (0..cut.dv)
            .map(|c| logits.iter().enumerate().map(|(j, l)| l.exp() / sum * v.at((keys + j as u64) * cut.dv + c)).sum())
            .collect()
    }

    #[test]
    fn the_norms_of_a_right_output_pass_and_a_row_of_another_size_does_not() {
        for id in [
            "attention/prefill/b2hq3hkv3sq70sk140d64/f32/causal",
            "attention/decode/b64hq8hkv2sq1sk1000d64/f32",
            "attention/mla-decode/b4hq16hkv1sq1sk300d576v512/f32",
            "attention/mla-prefill/b1hq2hkv2sq64sk128d192v128/f32",
        ] {
            let shape = Shape::parse(id).unwrap();
            let [q, k, v] = operands(Dtype::F32);
            let all = shape.b * shape.hq * shape.sq;
            let rows: Vec<(Row, Vec<f64>)> = (0..all).map(|r| split(shape, r)).map(|r| (r, row(shape, r, q, k, v))).collect();
            let out = bytes(&rows);
            assert_eq!(norms(shape, &out), 0, "{id}");
            for factor in [0.0, 0.1, 100.0, f64::NAN] {
                let mut rows = rows.clone();
                rows[all as usize - 1].1.iter_mut().for_each(|x| *x *= factor);
                assert_eq!(norms(shape, &bytes(&rows)), 1, "{id} with a row times {factor}");
            }
        }
    }

    #[test]
    fn a_row_that_sees_nothing_is_zero() {
        let shape = Shape::parse("attention/prefill/b1hq1hkv1sq4sk2d8/f32/causal").unwrap();
        let [q, k, v] = operands(Dtype::F32);
        assert_eq!(row(shape, (0, 0, 0), q, k, v), vec![0.0; 8]);
        assert_ne!(row(shape, (0, 0, 2), q, k, v), vec![0.0; 8]);
    }
}
