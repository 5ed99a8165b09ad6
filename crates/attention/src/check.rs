//! Is the output right? Every element is scanned for poison, every row for a norm that no average of random values has, and rows
//! are compared with float64: all of them where that is little work, else rows at the edges (the first queries, where one key
//! more or less changes everything, the last, the ends of tiles) and others by chance, over all heads.
//!
//! The error of a row is ‖o − reference‖ / ‖reference‖: entries of a long row are small, and each is a sum over all keys.

use crate::reference::{Operands, Row, reach, scales};
use crate::shape::{Kind, Shape};
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

/// The rows to compare, and what they must be; a fully masked row is zero.
pub(crate) struct Reference {
    rows: Vec<(Row, Vec<f64>)>,
    full: bool,
}

/// Largest error of a row. bf16 and f16 kernels round P and O to their type, each by a quarter of a percent for bf16: four times
/// that. FP8 kernels round P to e4m3, by a fortieth in the mean of its squares: three times that. For f32 the sums over keys and
/// an approximate exponential count.
pub(crate) fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::E4m3 => 8e-2,
        Dtype::Bf16 => 1e-2,
        Dtype::F16 => 2e-3,
        _ => 2e-5,
    }
}

impl Reference {
    pub(crate) fn new(shape: Shape, operands: &Operands) -> Self {
        let all = shape.b * shape.hq * shape.sq;
        let full = all * shape.sk * (shape.dqk + shape.dv) <= FULL;
        let rows: Vec<Row> = if full { (0..all).map(|r| split(shape, r)).collect() } else { sample(shape) };
        let kept = (full && shape.elements().iter().sum::<u64>() <= FULL).then(|| operands.kept(shape));
        let operands = kept.as_ref().unwrap_or(operands);
        let compute = |range: std::ops::Range<u64>| -> Vec<(Row, Vec<f64>)> {
            range.map(|i| rows[i as usize]).map(|r| (r, operands.row(shape, r))).collect()
        };
        // A row is much work: one a part, whatever the count.
        let threads = std::thread::available_parallelism().map_or(1, |p| p.get() as u64).min(rows.len() as u64).max(1);
        let n = rows.len() as u64;
        let computed = std::thread::scope(|scope| {
            let compute = &compute;
            let handles: Vec<_> =
                (0..threads).map(|t| scope.spawn(move || compute(n * t / threads..n * (t + 1) / threads))).collect();
            handles.into_iter().flat_map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        Self { rows: computed, full }
    }

    /// Compares the output, as raw bytes.
    pub(crate) fn check(&self, shape: Shape, out: &[u8], total: &mut Comparison) {
        let dtype = shape.output();
        let size = dtype.element_bytes().unwrap_or(4);
        let dv = shape.dv as usize;
        for ((b, h, i), want) in &self.rows {
            let first = (((b * shape.hq + h) * shape.sq + i) * shape.dv) as usize;
            let got = (0..dv).map(|c| dtype.read(&out[(first + c) * size..(first + c + 1) * size]));
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
    let size = shape.output().element_bytes().unwrap_or(4);
    let n = (out.len() / size) as u64;
    let poisoned = in_chunks(n, |r| {
        out[r.start as usize * size..r.end as usize * size].chunks_exact(size).filter(|e| e.iter().all(|b| *b == 0xff)).count()
            as u64
    });
    total.scanned(n, poisoned.into_iter().sum());
    total.scanned(0, norms(shape, out));
}

/// Rows whose root mean square cannot be right: left at zero, not divided by the sum of weights, of a buffer's last use; and rows
/// that see no key and are not zero.
///
/// A row is Σ p·v over n keys with Σ p = 1 and v of variance 1, so its mean square is Σ p²: at least 1/n, about e/n for logits of
/// variance 1 (MLA's have 3), and a few hundred times that for the one row in a million whose query met a key like itself. A sink may weigh as
/// much as all keys that a row could see. FP8 scales make v larger. Where K and V are one, the weights also draw the average
/// towards q times the softmax's scale.
fn norms(shape: Shape, out: &[u8]) -> u64 {
    let (dtype, dv) = (shape.output(), shape.dv as usize);
    let size = dtype.element_bytes().unwrap_or(4);
    let known = shape.dqk >= 64 && dv >= 64;
    let v = f64::from(scales(shape)[2]);
    let scale = shape.problem().softmax_scale();
    let drawn = if shape.kind == Kind::MlaDecode { 4.0 * scale } else { 0.0 };
    // A row's size grows with the variance s of its logits as e^(s/2), until one key has most of the weight.
    let [q, k, _] = scales(shape).map(f64::from);
    let variance = shape.dqk as f64 * (scale * q * k).powi(2);
    let [low, high] = [variance.clamp(1.0, 3.0), variance.max(1.0)].map(|s| ((s - 1.0) / 2.0).exp());
    let wrong = |r: u64| {
        let keys = shape.keys(r / (shape.hq * shape.sq), r % shape.sq);
        let row = out[r as usize * dv * size..(r as usize + 1) * dv * size].chunks_exact(size).map(|e| dtype.read(e));
        let n = (keys.end - keys.start) as f64;
        if keys.is_empty() {
            return row.into_iter().any(|x| x != 0.0);
        }
        if !known || n < 64.0 {
            return false;
        }
        let rms = (row.map(|x| x.powi(2)).sum::<f64>() / dv as f64).sqrt() / v;
        let share = if shape.sinks { n / (n + reach(shape) as f64) } else { 1.0 };
        !(0.25 * low * share / n.sqrt()..=(24.0 * high / n.sqrt()).min(1.5) + drawn).contains(&rms)
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
    // Ragged: the sequence with all keys and the one with none.
    let ends = [(0, 0, shape.sq - 1), (shape.b - 1, shape.hq - 1, 0)];
    let mut rows: Vec<Row> = edge.chain(random).chain(ends).map(|(b, h, i)| (b, h % shape.hq, i)).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operands(shape: Shape) -> Operands {
        Operands::new(shape, [1, 2, 3, 4], [shape.dtype, shape.kv])
    }

    fn bytes(shape: Shape, rows: &[(Row, Vec<f64>)]) -> Vec<u8> {
        let size = shape.output().element_bytes().unwrap();
        let element = |x: &f64| {
            let mut bytes = vec![0; size];
            shape.output().write(*x, &mut bytes);
            bytes
        };
        rows.iter().flat_map(|(_, r)| r.iter().flat_map(element)).collect()
    }

    #[test]
    fn a_mask_off_by_one_a_wrong_head_and_poison_are_found() {
        let right = Shape::parse("attention/prefill/b2hq4hkv2sq9sk12d16/f32/causal").unwrap();
        let given = operands(right);
        let reference = Reference::new(right, &given);
        assert_eq!(reference.rows.len(), 2 * 4 * 9);
        let verdict = |out: &[u8]| {
            let mut total = Comparison::new(tolerance(Dtype::F32));
            reference.check(right, out, &mut total);
            scan(right, out, &mut total);
            finish(&reference, total).passed()
        };
        let good = bytes(right, &reference.rows);
        assert!(verdict(&good));
        let mut unwritten = good.clone();
        unwritten[400..404].fill(0xff);
        assert!(!verdict(&unwritten));
        // The whole output made of rows that `other` would give at the place that `at` says.
        let made = |other: Shape, at: &dyn Fn(Row) -> Row| {
            let rows: Vec<_> = reference.rows.iter().map(|(r, _)| (*r, given.row(other, at(*r)))).collect();
            verdict(&bytes(right, &rows))
        };
        assert!(made(right, &|r| r));
        assert!(!made(Shape { window: Some(11), ..right }, &|r| r), "one key less for the last query alone");
        assert!(!made(Shape { sk: 11, ..right }, &|r| r), "one key less for each query");
        assert!(!made(right, &|(b, h, i)| (b, (h + 2) % 4, i)), "another head");
    }

    #[test]
    fn the_norms_of_a_right_output_pass_and_a_row_of_another_size_does_not() {
        for id in [
            "attention/prefill/b2hq3hkv3sq70sk140d64/f32/causal",
            "attention/decode/b64hq8hkv2sq1sk1000d64/f32",
            "attention/mla-decode/b4hq16hkv1sq1sk300d576v512/f32",
            "attention/mla-prefill/b1hq2hkv2sq64sk128d192v128/f32",
            "attention/prefill/b1hq2hkv1sq100sk200d64/bf16/kv=e4m3/causal/w70",
            "attention/decode/b16hq8hkv2sq1sk300d64/e4m3/page16/sinks",
            "attention/mla-decode/b4hq16hkv1sq1sk300d576v512/bf16/kv=e4m3",
        ] {
            let shape = Shape::parse(id).unwrap();
            let operands = operands(shape);
            let all = shape.b * shape.hq * shape.sq;
            let rows: Vec<(Row, Vec<f64>)> = (0..all).map(|r| split(shape, r)).map(|r| (r, operands.row(shape, r))).collect();
            assert_eq!(norms(shape, &bytes(shape, &rows)), 0, "{id}");
            for factor in [0.0, 0.05, 100.0, f64::NAN] {
                let mut rows = rows.clone();
                rows[all as usize - 1].1.iter_mut().for_each(|x| *x *= factor);
                assert_eq!(norms(shape, &bytes(shape, &rows)), 1, "{id} with a row times {factor}");
            }
        }
    }

    #[test]
    fn rows_that_see_no_key_must_be_zero() {
        let shape = Shape::parse("attention/decode/b3hq2hkv1sq1sk5d8/f32/ragged").unwrap();
        let operands = operands(shape);
        let mut rows: Vec<(Row, Vec<f64>)> = (0..6).map(|r| split(shape, r)).map(|r| (r, operands.row(shape, r))).collect();
        assert_eq!(norms(shape, &bytes(shape, &rows)), 0);
        rows[5].1[3] = 1e-30;
        assert_eq!(norms(shape, &bytes(shape, &rows)), 1);
    }
}
